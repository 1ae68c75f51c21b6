"""``textenv improve``: one round of training on what people said since the last one, to a new version of the policy.

Written answers fine-tune the policy, all ratings, comparisons and rankings so far train the reward model, PPO follows
it, and both versions answer the same held-out prompts. The new version is registered in the store, where a running
``textenv serve`` finds it; if it is worse than the one before (the whole interval below zero) it is kept, not served.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from agents.algorithms.ppo import PPOConfig
from agents.lm.finetuning import SFTConfig
from agents.lm.in_memory import LMConfig
from reward_models import load_reward_model
from reward_models.active import EnsembleDisagreement
from reward_models.labels import Label, labels_from_store, split_labels
from reward_models.training import RewardModelConfig
from textenv.answers import as_text
from textenv.cli import stages
from textenv.cli.base import RunCommand, RunName, check_db
from textenv.cli.configs import PPOStageConfig, RewardStageConfig, check_sft
from textenv.cli.data import RatedData
from textenv.datasets.rated_texts import split_of
from textenv.errors import DataError
from textenv.feedback.formats import demonstration_row
from textenv.feedback.store import FeedbackStore, PolicyVersion, Round
from textenv.report import write_report
from textenv.runs import Run
from textenv.sampling.params import SamplingParams
from textenv.settings import PositiveInt, refuse_unused
from textenv.trajectories import bootstrap_interval

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
        ConfigError: If the policy's folder is missing.
        DataError: If too little was collected since the last round.
    """
    name, _, path = config.policy.rpartition("=")
    folder = stages.check_folder("policy", path).resolve()
    check_db(config.db)
    with FeedbackStore(config.db) as store:
        _check_enough(store, config.min_labels)
        run = config.open(console, resume=resume)
        try:
            return _Improvement(store, config, run, _served_version(store, name or folder.name, folder)).work()
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


def _served_version(store: FeedbackStore, name: str, folder: Path) -> PolicyVersion:
    """The newest version of the policy that is still there; registered as it stands where the store knows none."""
    for version in reversed(store.policies(name)):
        if Path(version.path).is_dir():
            return version
    first = PolicyVersion(name, "0", str(folder))
    store.register_policy(first)
    return first


class Written(NamedTuple):
    """A prompt and the answer that somebody wrote."""

    prompt: str
    response: str


class _Improvement:
    """One round under way: what was collected, and the stages on it."""

    def __init__(self, store: FeedbackStore, config: ImproveCommand, run: Run, before: PolicyVersion) -> None:
        self.store, self.config, self.run, self.before = store, config, run, before
        self.round: Round = store.begin_round()
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
            data = RatedData("human", (), labels=split_labels(labels), file=f"rounds 1 to {self.round.number}")
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
            train, held_out = self.prompts()
            settings = {"policy_folder": start, "reward": scorer, "seed": config.seed}
            done["ppo"] = stages.once(run, "ppo", stages.ppo_on_prompts, train, held_out, config.ppo, **settings)
            done["evaluate"] = stages.once(run, "evaluate", self.compare, start, scorer, held_out)
        return self.finish(done, run.stage("ppo" if labels else "sft"))

    def demonstrations(self) -> list[Written]:
        """Answers that people wrote since the last round."""
        labelled = self.store.labels(
            after=self.round.after, upto=self.round.upto, kind="demonstrate", include_gold=False
        )
        rows = [row for entry in labelled if (row := demonstration_row(entry))]
        return [Written(as_text(row["prompt"], "prompt"), as_text(row["completion"], "completion")) for row in rows]

    def labels(self) -> list[Label]:
        """What people thought of answers, in all rounds so far."""
        return list(labels_from_store(self.store, upto=self.round.upto))

    def prompts(self) -> tuple[list[str], list[str]]:
        """Prompts to train on, and held-out ones, of what was collected; a prompt stays on its side in every round.

        Raises:
            DataError: If there are too few.
        """
        known = [prompt.text for prompt in self.store.prompts() if not prompt.messages]
        known += [item.prompt for item in self.store.items(gold=False)]
        unique = list(dict.fromkeys(known))
        train = [prompt for prompt in unique if split_of(prompt) == "train"]
        held_out = [prompt for prompt in unique if split_of(prompt) != "train"]
        if min(len(train), len(held_out)) < _FEWEST_PROMPTS:
            raise DataError(
                f"the store holds {len(unique)} prompts ({len(held_out)} of them held out); PPO needs at least "
                f"{_FEWEST_PROMPTS} on either side, some 60 in all"
            )
        return train, held_out[: self.config.evaluation_prompts]

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
        count, splits = self.config.members - 1, split_labels(labels)
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
        return {name: evaluation.summary for name, evaluation in evaluations.items()} | {"gain": _gain(gain)}

    def finish(self, done: dict[str, dict[str, Any]], made: Path) -> dict[str, Any]:
        """Summary and report; the new version is registered unless it is surely worse; the round ends."""
        gain = done.get("evaluate", {}).get("gain")
        worse = gain is not None and gain["interval"][1] < 0
        figures: dict[str, Any] = {
            "before": self.before.version,
            "version": f"round-{self.round.number}",
            "path": str(made.resolve()),
            "served": not worse,
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
            policies = {name: x for name, x in done["evaluate"].items() if name not in ("seconds", "gain")}
            summary |= {"policy": policies, "reward_model": done["reward"]["reward_model"]}
            summary["ppo"] = {name: done["ppo"][name] for name in ("episodes", "tokens", "kl_coef")}
            figures["policy"] = policies
        summary["seconds"] = figures["seconds"] | {"total": round(sum(figures["seconds"].values()), 1)}
        self.run.write_json("summary.json", summary)
        if not worse:
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


def _gain(differences: NDArray[np.float64]) -> dict[str, Any]:
    """Paired score differences, new minus before: mean with its interval, share of prompts that got better."""
    low, high = bootstrap_interval(differences, np.random.default_rng(0))
    wins = float(((differences > 0) + 0.5 * (differences == 0)).mean())
    return {"mean": float(differences.mean()), "interval": [low, high], "wins": wins, "prompts": len(differences)}


def _accuracy(reward_model: dict[str, Any]) -> str:
    """How often the reward model is right about held-out labels, and what to think where that may be chance."""
    low, high = reward_model["intervals"].get("accuracy", (0.0, 1.0))
    verdict = f"right about {reward_model['accuracy']:.0%} [{low:.0%}, {high:.0%}] of held-out labels"
    if low > 0.5:
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
    table.add_row("served", "", "yes" if figures["served"] else "no: worse than before")
    return table
