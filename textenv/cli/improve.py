"""``textenv improve``: one round of training on what people said since the last one, to a new version of the policy.

Written answers fine-tune the policy, all ratings, comparisons and rankings so far train the reward model, PPO follows
it, and both versions answer the same held-out prompts. The new version is registered in the store, where a running
``textenv serve`` finds it. It is kept but not served where the reward model may be at chance, or where that model, a
second one (`judge`) or the held-out comparisons find it worse than the one before (the whole interval on that side).

Whatever can be checked is checked before a round is opened: one that cannot be trained is not begun.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from agents.algorithms.ppo import PPOConfig
from agents.evaluation import answer_logprobs
from agents.lm.finetuning import SFTConfig
from agents.lm.in_memory import LMConfig
from agents.policy import CausalLMPolicy
from reward_models import load_reward_model
from reward_models.active import EnsembleDisagreement
from reward_models.labels import Comparison, Label, labels_from_store, split_labels
from reward_models.training import RewardModelConfig, evaluate
from textenv.answers import as_text
from textenv.cli import stages
from textenv.cli.base import RunCommand, RunName, check_db
from textenv.cli.configs import PPOStageConfig, RewardStageConfig, check_sft
from textenv.cli.data import RatedData
from textenv.datasets.rated_texts import split_of
from textenv.errors import ConfigError, DataError
from textenv.feedback.formats import demonstration_row
from textenv.feedback.store import FeedbackStore, PolicyVersion, Round
from textenv.report import write_report
from textenv.runs import Run
from textenv.sampling.params import SamplingParams
from textenv.settings import PositiveInt, refuse_unused
from textenv.statistics import clustered_share, mean_estimate

_FEWEST_PROMPTS = 8


def _sft() -> SFTConfig:
    return SFTConfig(training=LMConfig(batch_size=16, learning_rate=1e-4, warmup_steps=4, eval_every=0))


def _reward() -> RewardStageConfig:
    # Some hundred labels: small batches, several passes. The weights that are best on held-out labels are kept, but
    # training does not stop early: the loss of so few labels stands still for a while before anything is learned.
    return RewardStageConfig(training=RewardModelConfig(epochs=4, batch_size=8, patience=10))


def _ppo() -> PPOStageConfig:
    return PPOStageConfig(
        total_episodes=3200,
        num_envs=64,
        training=PPOConfig(learning_rate=1e-4, warmup_steps=3, epochs=2, num_minibatches=2, temperature=0.8),
    )


@dataclass(frozen=True)
class ImproveCommand(RunCommand):
    """``textenv improve``: train on what people said since the last round; a new version of the policy.

    Attributes:
        db: The store that ``textenv serve`` writes, a file or a URL.
        policy: Folder of the policy that is served, as ``textenv serve --policy`` has it (``NAME=FOLDER`` where it
            has another name than its folder). Where the store knows a newer version of it, that one is improved.
        min_labels: Fewest new labels and demonstrations, together, that a round is begun for.
        members: Reward models that are trained; from 2 on, people are asked first what these disagree about, and a
            server with ``--select ensemble`` goes on asking so. PPO follows the first one alone.
        demonstration_epochs: How often the new demonstrations are gone through.
        evaluation_prompts: Most held-out prompts that both versions answer.
        judge: Folder of a second reward model that no policy is trained on: where it finds the new version worse, that
            is not served.
        serve_anyway: Serve the new version whatever speaks against it.
        sft: The stage that learns from demonstrations; its ``training.steps`` follow from the epochs.
        reward: The reward model's stage.
        ppo: The policy's stage.
    """

    name: RunName = "improve"
    db: str = "feedback.db"
    policy: str = ""
    min_labels: PositiveInt = 50
    members: PositiveInt = 1
    demonstration_epochs: PositiveInt = 3
    evaluation_prompts: PositiveInt = 256
    judge: str = ""
    serve_anyway: bool = False
    sft: SFTConfig = field(default_factory=_sft)
    reward: RewardStageConfig = field(default_factory=_reward)
    ppo: PPOStageConfig = field(default_factory=_ppo)

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unused(self, "here: set `demonstration_epochs`, which the steps follow from", "sft.training.steps")
        refuse_unused(
            self, "on what people said here, which is of one kind: leave it out", "reward.domains", "ppo.domain"
        )
        check_sft(self, grouped=False)


def improve(config: ImproveCommand, console: Console, *, resume: bool = False) -> dict[str, Any]:
    """Do one round; returns its figures, which the store keeps too.

    Raises:
        ConfigError: If the policy's folder is missing, or the runs' folder cannot be written.
        DataError: If too little was collected since the last round, or nothing can be trained or measured on it.
        CheckpointError: If the policy, the reward model's trunk or the judge cannot be loaded.
    """
    name, _, path = config.policy.rpartition("=")
    folder = stages.check_folder("policy", path).resolve()
    judge = stages.check_folder("judge", config.judge).resolve() if config.judge else None
    check_db(config.db)
    with FeedbackStore(config.db) as store:
        _check_enough(store, config.min_labels)
        _check_writable(Path(config.runs_dir))
        before = _served_version(store, name or folder.name, folder)
        _check_trainable(store, config, Path(before.path), judge)
        run = config.open(console, resume=resume)
        try:
            store.register_policy(before)  # as it stands, where the store does not know it
            return _Improvement(store, config, run, before, judge).work()
        finally:
            run.close()


def _check_enough(store: FeedbackStore, least: int) -> None:
    rounds = store.rounds()
    if rounds and rounds[-1].finished is None:
        return  # was begun and goes on
    after = rounds[-1].upto if rounds else 0
    count = sum(1 for _ in store.labels(after=after, include_gold=False))
    if count < least:
        raise DataError(
            f"{count} labels were collected since {f'round {rounds[-1].number}' if rounds else 'the beginning'}, a "
            f"round needs {least}; collect more, or lower `--min_labels`"
        )


def _check_writable(runs: Path) -> None:
    """Refuse a folder that nothing can be written into, before anything is trained."""
    try:
        runs.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=runs) as file:
            file.write(b"0")
            file.flush()
    except OSError as error:
        raise ConfigError(f"`--runs_dir {runs}` cannot be written: {error.strerror or error}") from error


def _check_trainable(store: FeedbackStore, config: ImproveCommand, policy_folder: Path, judge: Path | None) -> None:
    """Load what will be trained and measure nothing on the labels: whatever fails, fails before a round is opened."""
    policy = CausalLMPolicy.from_pretrained(policy_folder)
    rounds = store.rounds()
    under_way = rounds[-1] if rounds and rounds[-1].finished is None else None
    labels = list(labels_from_store(store))
    if not labels:
        after = under_way.after if under_way else rounds[-1].upto if rounds else 0
        if not _demonstrations(store, after=after, upto=None):
            raise DataError("what was collected holds neither an opinion nor a written answer: skips teach nothing")
        return
    splits = split_labels(labels)
    for part, held_out in (("validation", splits.validation), ("test", splits.test)):
        try:
            evaluate(_Indifferent(), held_out)
        except DataError as error:
            raise DataError(
                f"the {len(held_out)} labels of the {part} part cannot measure a reward model: {error} Collect more"
            ) from error
    train, held_out = _prompts(store, config.evaluation_prompts)
    context, room = policy.context_length, config.ppo.max_new_tokens
    longest = max([*train, *held_out], key=len)
    length = len(policy.answers.encode_prompt(longest).ids)
    if context is not None and length + room > context:
        raise DataError(
            f"the prompt {longest[:60]!r} has {length} tokens; with `--ppo.max_new_tokens` {room} it exceeds the "
            f"policy's context of {context}; lower it, or take the prompt out of the store"
        )
    del policy
    stages.start_reward_model(config.reward, policy_folder, auto="minilm", seed=config.seed)
    if judge is not None:
        load_reward_model(judge)


class _Indifferent:
    """A reward model that likes everything alike: what it can be measured on, any can."""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [0.0] * len(prompts)


def _served_version(store: FeedbackStore, name: str, folder: Path) -> PolicyVersion:
    """The newest version of the policy that is still there, or the folder as it stands where the store knows none."""
    for version in reversed(store.policies(name)):
        if Path(version.path).is_dir():
            return version
    return PolicyVersion(name, "0", str(folder))


class Written(NamedTuple):
    """A prompt and the answer that somebody wrote."""

    prompt: str
    response: str


def _demonstrations(store: FeedbackStore, *, after: int, upto: int | None) -> list[Written]:
    """Answers that people wrote, by the numbers of their labels."""
    rows = (
        demonstration_row(entry)
        for entry in store.labels(after=after, upto=upto, kind="demonstrate", include_gold=False)
    )
    return [Written(as_text(row["prompt"], "prompt"), as_text(row["completion"], "completion")) for row in rows if row]


def _prompts(store: FeedbackStore, most: int) -> tuple[list[str], list[str]]:
    """Prompts to train on, and held-out ones, of what was collected; a prompt stays on its side in every round.

    Raises:
        DataError: If there are too few.
    """
    known = [prompt.text for prompt in store.prompts() if not prompt.messages]
    known += [item.prompt for item in store.items(gold=False)]
    unique = list(dict.fromkeys(known))
    train = [prompt for prompt in unique if split_of(prompt) == "train"]
    held_out = [prompt for prompt in unique if split_of(prompt) != "train"]
    if min(len(train), len(held_out)) < _FEWEST_PROMPTS:
        raise DataError(
            f"the store holds {len(unique)} prompts ({len(held_out)} of them held out); PPO needs at least "
            f"{_FEWEST_PROMPTS} on either side, some 60 in all"
        )
    return train, held_out[:most]


class _Improvement:
    """One round under way: what was collected, and the stages on it."""

    def __init__(
        self, store: FeedbackStore, config: ImproveCommand, run: Run, before: PolicyVersion, judge: Path | None
    ) -> None:
        self.store, self.config, self.run, self.before, self.judge = store, config, run, before, judge
        self.round: Round = self.extended(store.begin_round())
        self.sampling = SamplingParams(config.ppo.training.temperature, max_new_tokens=config.ppo.max_new_tokens)

    def work(self) -> dict[str, Any]:
        """All stages, then the new version is registered and the round finished."""
        config, run = self.config, self.run
        shown, labels = self.demonstrations(), self.labels()
        run.say(
            f"round {self.round.number} of {self.before.name} (version {self.before.version}): {len(shown)} new "
            f"demonstrations, {len(labels)} labels so far -> {run.path}"
        )
        start = Path(self.before.path)
        done: dict[str, dict[str, Any]] = {}
        if shown:
            done["sft"] = stages.once(run, "sft", self.fine_tune, shown, start)
            start = run.stage("sft")
        if labels:
            data = RatedData(
                "human", (), labels=split_labels(labels, "prompt"), file=f"rounds 1 to {self.round.number}"
            )
            done["reward"] = stages.once(
                run,
                "reward",
                stages.reward_stage,
                data,
                config.reward,
                trunk_folder=start,
                policy_folder=start,
                domain="",
                sampling=self.sampling,
                seed=config.seed,
            )
            if config.members > 1:
                done["members"] = stages.once(run, "members", self.learn_members, labels, start)
            run.say(f"{'reward':<12} {_accuracy(done['reward']['reward_model'])}")
            scorer = stages.load_reward(run.stage("reward"))
            train, held_out = _prompts(self.store, config.evaluation_prompts)
            settings = {"policy_folder": start, "reward": scorer, "seed": config.seed}
            done["ppo"] = stages.once(run, "ppo", stages.ppo_on_prompts, train, held_out, config.ppo, **settings)
            done["evaluate"] = stages.once(run, "evaluate", self.compare, start, scorer, held_out)
        return self.finish(done, run.stage("ppo" if labels else "sft"))

    def extended(self, begun: Round) -> Round:
        """The round with the labels that came since it was begun, unless its reward model has them no more to learn.

        Where its demonstrations are learned already, labels from the next new demonstration on wait for the next round.
        """
        if self.has_begun("reward"):
            return begun
        newer = [entry for entry in self.store.labels(after=begun.upto)]
        if self.has_begun("sft"):
            written = [entry.label.number for entry in newer if entry.item.kind == "demonstrate"]
            newer = [entry for entry in newer if entry.label.number < min(written, default=math.inf)]
        if not newer:
            return begun
        self.run.say(f"round {begun.number} has no reward model yet: it takes {len(newer)} labels that came since")
        return self.store.extend_round(begun.number, newer[-1].label.number)

    def has_begun(self, stage: str) -> bool:
        """Whether a stage of this run is done or under way."""
        return self.run.finished(stage) is not None or self.run.checkpoints(stage).latest() is not None

    def demonstrations(self) -> list[Written]:
        """Answers that people wrote since the last round."""
        return _demonstrations(self.store, after=self.round.after, upto=self.round.upto)

    def labels(self) -> list[Label]:
        """What people thought of answers, in all rounds so far."""
        return list(labels_from_store(self.store, upto=self.round.upto))

    def fine_tune(self, run: Run, shown: Sequence[Written], start: Path) -> dict[str, Any]:
        """Writes ``sft/``: the policy after the new demonstrations."""
        train = [d for d in shown if split_of(d.prompt) == "train"] or list(shown)
        held_out = [d for d in shown if split_of(d.prompt) != "train"] or train
        training = self.config.sft.training
        size = min(training.batch_size, len(train))
        steps = self.config.demonstration_epochs * math.ceil(len(train) / size)
        training = replace(training, steps=steps, batch_size=size, warmup_steps=min(training.warmup_steps, steps))
        settings = replace(self.config.sft, training=training)
        summary = stages.fine_tune(run, train, held_out, settings, start, self.config.seed, by_task=False)
        return summary | {"demonstrations": len(train)}

    def learn_members(self, run: Run, labels: list[Label], policy: Path) -> dict[str, Any]:
        """Writes ``members/``: the rest of an ensemble; what it disagrees about is asked first from now on."""
        count, splits = self.config.members - 1, split_labels(labels, "prompt")
        made = stages.member_stage(
            run, splits, self.config.reward, count=count, trunk_folder=policy, seed=self.config.seed
        )
        folders = [str(run.stage("reward").resolve()), *made["folders"]]
        ordered = self.store.reprioritise(EnsembleDisagreement([load_reward_model(folder) for folder in folders]))
        run.say(f"{'members':<12} {ordered} open items in the order of their disagreement")
        return {"folders": folders, "ordered": ordered}

    def compare(self, run: Run, start: Path, reward: Any, held_out: Sequence[str]) -> dict[str, Any]:
        """The version before, the one after demonstrations and the new one on held-out prompts; ``samples.jsonl``."""
        folders = {"base": Path(self.before.path), "sft": start, "ppo": run.stage("ppo")}
        if folders["base"] == start:
            del folders["base"]
        evaluations = stages.evaluate_policies(
            run, folders, held_out, reward, sampling=self.sampling, seed=self.config.seed + 1
        )
        first, last = (evaluations[name].trajectories for name in (next(iter(folders)), "ppo"))
        gain = np.array([(b.score or 0.0) - (a.score or 0.0) for a, b in zip(first, last, strict=True)])
        found: dict[str, Any] = {name: evaluation.summary for name, evaluation in evaluations.items()}
        found["gain"] = _gain(gain)
        if self.judge is not None:
            judge = load_reward_model(self.judge)
            old, new = (judge.score([t.prompt for t in x], [t.response for t in x]) for x in (first, last))
            found["judge_gain"] = _gain(np.asarray(new, np.float64) - np.asarray(old, np.float64))
        people = self.people_prefer(Path(self.before.path), run.stage("ppo"))
        return found | ({"people": people} if people else {})

    def people_prefer(self, before: Path, after: Path) -> dict[str, Any] | None:
        """How often the new version moved towards the answer that people preferred; None without such comparisons.

        Of held-out comparisons, which no reward model was trained on: whether the new version raised the
        log-probability of the preferred answer by more than that of the other. It needs nobody's opinion of new
        answers, and no reward model.
        """
        pairs = [x for x in split_labels(self.labels()).test if isinstance(x, Comparison) and not x.tie]
        if not pairs:
            return None
        rises = [
            answer_logprobs(CausalLMPolicy.from_pretrained(folder), _both_sides(pairs)) for folder in (after, before)
        ]
        rise = (np.array(rises[0]) - np.array(rises[1])).reshape(-1, 2)
        right = 0.5 * (np.sign(rise[:, 0] - rise[:, 1]) + 1)
        share = clustered_share(right, np.array([pair.prompt for pair in pairs], object))
        return {"share": share.value, "interval": [share.low, share.high], "comparisons": share.n}

    def finish(self, done: dict[str, dict[str, Any]], made: Path) -> dict[str, Any]:
        """Summary and report; the new version is registered unless it is surely worse; the round ends."""
        gain = done.get("evaluate", {}).get("gain")
        against = _against(done)
        served = not against or self.config.serve_anyway
        figures: dict[str, Any] = {
            "before": self.before.version,
            "version": f"round-{self.round.number}",
            "path": str(made.resolve()),
            "served": served,
            "against": against,
            "gain": gain,
            "seconds": {name: stage["seconds"] for name, stage in done.items()},
        }
        if "reward" in done:
            figures["reward_model"] = done["reward"]["reward_model"]
        if "members" in done:
            figures["members"] = done["members"]["folders"]
        summary: dict[str, Any] = {
            "name": self.run.path.name,
            "seed": self.config.seed,
            "data": f"feedback, rounds 1 to {self.round.number}",
            "versions": stages.versions(),
            "round": figures,
        }
        if "evaluate" in done:
            apart = ("seconds", "gain", "judge_gain", "people")
            policies = {name: x for name, x in done["evaluate"].items() if name not in apart}
            figures |= {name: done["evaluate"][name] for name in apart[2:] if name in done["evaluate"]}
            summary |= {"policy": policies, "reward_model": done["reward"]["reward_model"]}
            summary["ppo"] = {name: done["ppo"][name] for name in ("episodes", "tokens", "kl_coef")}
            figures["policy"] = policies
        summary["seconds"] = figures["seconds"] | {"total": round(sum(figures["seconds"].values()), 1)}
        self.run.write_json("summary.json", summary)
        if served:
            self.store.register_policy(
                PolicyVersion(
                    self.before.name,
                    figures["version"],
                    figures["path"],
                    round=self.round.number,
                    figures={"gain": gain},
                )
            )
        self.store.finish_round(self.round.number, figures)
        self.run.close()
        report = write_report(self.run.path)
        if self.run.console is not None:
            self.run.console.print(_table(figures))
        self.run.say(f"report: {report}")
        return figures


def _both_sides(pairs: Sequence[Comparison]) -> list[tuple[str, str]]:
    """Prompt and answer, the preferred one and the other in turn."""
    return [(pair.prompt, text) for pair in pairs for text in (pair.chosen, pair.rejected)]


def _gain(differences: NDArray[np.float64]) -> dict[str, Any]:
    """Paired score differences, new minus before: mean with its interval, share of prompts that got better."""
    found = mean_estimate(differences).interval()
    wins = float(((differences > 0) + 0.5 * (differences == 0)).mean())
    ends = [found.low, found.high] if math.isfinite(found.low) else [found.value, found.value]
    return {"mean": found.value, "interval": ends, "wins": wins, "prompts": len(differences)}


def _against(done: dict[str, dict[str, Any]]) -> list[str]:
    """What speaks against serving the new version."""
    found = []
    if "reward" in done and _may_be_chance(done["reward"]["reward_model"]):
        found.append("its reward model may be at chance")
    measured = done.get("evaluate", {})
    for name, who in (("gain", "its reward model"), ("judge_gain", "the judge")):
        if name in measured and measured[name]["interval"][1] < 0:
            found.append(f"{who} finds it worse than before")
    if "people" in measured and measured["people"]["interval"][1] < 0.5:
        found.append("it moved away from the answers that people prefer in held-out comparisons")
    return found


def _may_be_chance(reward_model: dict[str, Any]) -> bool:
    """Whether one half lies in the interval of the held-out accuracy, or none is known."""
    return reward_model["intervals"].get("accuracy", (0.0, 1.0))[0] <= 0.5


def _accuracy(reward_model: dict[str, Any]) -> str:
    """How often the reward model is right about held-out labels, and what to think where that may be chance."""
    low, high = reward_model["intervals"].get("accuracy", (0.0, 1.0))
    verdict = f"right about {reward_model['accuracy']:.0%} [{low:.0%}, {high:.0%}] of held-out labels"
    if not _may_be_chance(reward_model):
        return verdict
    return verdict + ", which may be chance: what PPO gains by it need not be what people like; collect more labels"


def _table(figures: dict[str, Any]) -> Table:
    """What the round brought."""
    table = Table(title=f"Version {figures['version']} against {figures['before']}", title_justify="left")
    for name in ("", "before", "after"):
        table.add_column(name, justify="left" if not name else "right")
    policies = figures.get("policy")
    if policies:
        first, last = next(iter(policies.values())), policies["ppo"]
        rows: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
            ("reward model's score", lambda p: f"{p['reward_mean']:+.2f}"),
            ("tokens per answer", lambda p: f"{p['response_tokens']:.1f}"),
            ("distinct 2-grams", lambda p: f"{p['distinct_2']:.2f}"),
        ]
        for title, show in rows:
            table.add_row(title, show(first), show(last))
        gain = figures["gain"]
        low, high = gain["interval"]
        table.add_row("gain (95 %)", "", f"{gain['mean']:+.2f} [{low:+.2f}, {high:+.2f}]")
        table.add_row(f"better on {gain['prompts']} prompts", "", f"{gain['wins']:.0%}")
        table.add_row("KL from before PPO, nats", "", f"{last['kl']:.1f}")
        table.caption, table.caption_justify = f"The reward model is {_accuracy(figures['reward_model'])}.", "left"
    if "judge_gain" in figures:
        low, high = figures["judge_gain"]["interval"]
        table.add_row("judge's gain (95 %)", "", f"{figures['judge_gain']['mean']:+.2f} [{low:+.2f}, {high:+.2f}]")
    if "people" in figures:
        (low, high), share = figures["people"]["interval"], figures["people"]["share"]
        table.add_row("towards what people prefer", "", f"{share:.0%} [{low:.0%}, {high:.0%}]")
    reasons = "; ".join(figures["against"])
    table.add_row(
        "served", "", ("yes" if not reasons else f"yes, although {reasons}") if figures["served"] else f"no: {reasons}"
    )
    return table
