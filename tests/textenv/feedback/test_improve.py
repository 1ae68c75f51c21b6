"""``textenv improve`` on a store that simulated people filled: a new version, resumed rounds, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agents.algorithms.ppo import PPOConfig
from agents.policy import CausalLMPolicy
from reward_models import Lexicon
from reward_models.active import EnsembleDisagreement
from reward_models.simulation import Rater, SimulatedPerson
from reward_models.training import RewardModelConfig
from textenv.cli.configs import PPOStageConfig, RewardStageConfig
from textenv.cli.improve import ImproveCommand, _accuracy, _against, _Improvement, improve
from textenv.cli.serve import ServeConfig, _find_selector
from textenv.datasets import builtin_ratings, demonstrations
from textenv.errors import CheckpointError, ConfigError, DataError
from textenv.feedback.store import Answer, FeedbackStore, Item, Label, PolicyVersion
from textenv.runs import Run
from textenv.sampling.params import SamplingParams

CONSOLE = Console(quiet=True)


def config(folder: Path, policy: Path) -> ImproveCommand:
    return ImproveCommand(
        runs_dir=str(folder / "runs"),
        db=str(folder / "people.sqlite"),
        policy=str(policy),
        evaluation_prompts=16,
        reward=RewardStageConfig(
            trunk="policy", normalization_samples=16, training=RewardModelConfig(epochs=0.5, batch_size=16)
        ),
        ppo=PPOStageConfig(
            total_episodes=32,
            num_envs=16,
            max_new_tokens=6,
            eval_every=1,
            eval_prompts=8,
            dtype="float32",
            training=PPOConfig(epochs=1, num_minibatches=2),
        ),
    )


def collect(store: FeedbackStore, policy_folder: Path, *, seed: int = 0, prompts: int = 80) -> None:
    """Answers of the policy, compared by three people; some people also write."""
    policy = CausalLMPolicy.from_pretrained(policy_folder)
    texts = builtin_ratings(n=600, seed=5)
    asked = list(dict.fromkeys(d.prompt for d in demonstrations(texts)))[:prompts]
    version = next((known.version for known in reversed(store.policies(policy_folder.name))), "")
    drawn = policy.generate(asked, SamplingParams(max_new_tokens=6), n=2, seed=seed)
    pairs = zip(drawn[::2], drawn[1::2], strict=True)
    items = [
        Item("compare", a.prompt, tuple(Answer(t.response, policy_folder.name, version, seed=seed) for t in (a, b)))
        for a, b in pairs
    ]
    items += [Item("demonstrate", prompt, instructions=f"Draw {seed}.") for prompt in asked[:12]]
    store.add_items(items)
    people = [SimulatedPerson(Rater(f"p{i}", noise=0.1), Lexicon(), write=lambda _: " lovely.", seed=i) for i in (1, 2)]
    for number, item in enumerate(items):
        person = people[number % 2]
        payload = person.judge({"kind": item.kind, "prompt": item.prompt, "answers": [a.text for a in item.answers]})
        assert payload is not None
        store.save_label(Label(f"{seed}-{number}", item.id, person.rater.name, payload))


@pytest.fixture(scope="module")
def improved(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("improve")
    policy = finished / "runs" / "tiny" / "sft"
    with FeedbackStore(folder / "people.sqlite") as store:
        collect(store, policy)
    return folder, improve(config(folder, policy), CONSOLE)


def test_a_round_makes_a_new_version_that_the_store_knows(improved: tuple[Path, dict[str, Any]]):
    folder, figures = improved
    with FeedbackStore(folder / "people.sqlite") as store:
        (round_,) = store.rounds()
        assert round_.finished is not None
        assert round_.figures["version"] == figures["version"] == "round-1"
        assert set(figures["policy"]) == {"base", "sft", "ppo"}
        assert len(figures["gain"]["interval"]) == 2
        versions = [version.version for version in store.policies("sft")]
        assert versions == (["0", "round-1"] if figures["served"] else ["0"])
    CausalLMPolicy.from_pretrained(figures["path"])
    run = folder / "runs" / "improve"
    assert (run / "report.html").exists()
    sample = json.loads((run / "samples.jsonl").read_text().splitlines()[0])
    assert set(sample) == {"prompt", "base", "sft", "ppo"}


@pytest.mark.parametrize(("low", "chance"), [(0.49, True), (0.5, True), (0.51, False)])
def test_a_reward_model_that_may_know_nothing_is_named_so(low: float, chance: bool):
    said = _accuracy({"accuracy": 0.7, "intervals": {"accuracy": [low, 0.9]}, "pairs": {"accuracy": 13}})
    assert said.startswith(f"right about 70% [{low:.0%}, 90%] of held-out labels")
    assert ("may be chance" in said) == chance
    assert "[0%, 100%]" in _accuracy({"accuracy": 0.7, "intervals": {}, "pairs": {"accuracy": 1}})


def test_a_round_needs_new_labels(improved: tuple[Path, dict[str, Any]], finished: Path):
    folder, _ = improved
    policy = finished / "runs" / "tiny" / "sft"
    with pytest.raises(DataError, match=r"0 labels were collected since round 1, a round needs 50"):
        improve(config(folder, policy), CONSOLE)


@pytest.mark.slow
def test_the_next_round_starts_from_the_version_before(improved: tuple[Path, dict[str, Any]], finished: Path):
    folder, _ = improved
    policy = finished / "runs" / "tiny" / "sft"
    with FeedbackStore(folder / "people.sqlite") as store:
        collect(store, policy, seed=9)
        served = store.policies("sft")[-1].version
        labels = max(each.label.number for each in store.labels())
        store.add_items([Item("compare", f"p{n}", (Answer("good"), Answer(f"bad {n}"))) for n in range(20)])
        before = [item.id for item in store.open_items()]
    figures = improve(replace(config(folder, policy), members=2), CONSOLE)
    assert figures["before"] == served
    assert figures["version"] == "round-2"
    assert [Path(member).parent.name for member in figures["members"]] == [Path(figures["path"]).parent.name, "members"]
    find = _find_selector(ServeConfig(select="ensemble"))
    assert find is not None
    with FeedbackStore(folder / "people.sqlite") as store:
        assert sorted(item.id for item in store.open_items()) == sorted(before)
        assert [item.id for item in store.open_items()] != before
        selector = find(store)
        assert isinstance(selector, EnsembleDisagreement)
        assert find(store) is selector
        assert store.rounds()[-1].upto == labels
        assert store.rounds()[-1].after == store.rounds()[0].upto


def test_an_interrupted_round_goes_on_where_it_was(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    policy = finished / "runs" / "tiny" / "sft"
    with FeedbackStore(tmp_path / "people.sqlite") as store:
        collect(store, policy)
    settings = config(tmp_path, policy)

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("textenv.cli.stages.ppo_on_prompts", stop)
        with pytest.raises(KeyboardInterrupt):
            improve(settings, CONSOLE)
    with FeedbackStore(tmp_path / "people.sqlite") as store:
        collect(store, policy, seed=3)  # labels that come meanwhile belong to the next round
        assert store.rounds()[-1].finished is None
    figures = improve(settings, CONSOLE, resume=True)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["improve"]
    with FeedbackStore(tmp_path / "people.sqlite") as store:
        (round_,) = store.rounds()
        assert round_.upto < max(each.label.number for each in store.labels())
        assert round_.figures["version"] == figures["version"]


def test_what_is_missing_is_said(tmp_path: Path, finished: Path):
    settings = config(tmp_path, finished / "runs" / "tiny" / "sft")
    with pytest.raises(ConfigError, match=r"`--db .*people.sqlite`: there is no such file"):
        improve(settings, CONSOLE)
    with pytest.raises(ConfigError, match="`--policy` is needed"):
        improve(replace(settings, policy=""), CONSOLE)
    with pytest.raises(ConfigError, match="`min_labels` must be ≥ 1"):
        replace(settings, min_labels=0)
    with FeedbackStore(tmp_path / "people.sqlite") as store:
        store.add_items([Item("demonstrate", "Q?")])
    with pytest.raises(DataError, match="0 labels were collected since the beginning"):
        improve(settings, CONSOLE)


def refused(folder: Path, policy: Path, said: str, **changes: Any) -> None:
    """A round that cannot be trained is not opened, and leaves neither a run nor a version."""
    with pytest.raises((ConfigError, DataError, CheckpointError), match=said):
        improve(replace(config(folder, policy), **changes), CONSOLE)
    with FeedbackStore(folder / "people.sqlite") as store:
        assert store.rounds() == []
        assert store.policies() == []
    assert not (folder / "runs" / "improve").exists()


def compared(folder: Path, prompts: int, *, ties: bool = False) -> None:
    with FeedbackStore(folder / "people.sqlite") as store:
        items = [Item("compare", f"The prompt {n}", (Answer(" good"), Answer(f" bad {n}"))) for n in range(prompts)]
        store.add_items(items)
        for number, item in enumerate(items):
            store.save_label(Label(f"l{number}", item.id, "ann", {"preferred": None if ties else 0}))


def test_a_round_with_too_few_prompts_is_not_opened(tmp_path: Path, finished: Path):
    compared(tmp_path, 30)
    refused(tmp_path, finished / "runs" / "tiny" / "sft", "PPO needs at least 8 on either side", min_labels=20)


def test_a_round_whose_labels_measure_nothing_is_not_opened(tmp_path: Path, finished: Path):
    compared(tmp_path, 120, ties=True)
    refused(
        tmp_path, finished / "runs" / "tiny" / "sft", "of the validation part cannot measure a reward model: .*ties"
    )


def test_a_round_is_not_opened_where_nothing_can_be_written_or_loaded(tmp_path: Path, finished: Path):
    policy = finished / "runs" / "tiny" / "sft"
    compared(tmp_path, 120)
    (tmp_path / "file").write_text("")
    refused(tmp_path, policy, "cannot be written", runs_dir=str(tmp_path / "file"))
    refused(tmp_path, policy, "the prompt .* exceeds the policy's context", ppo=PPOStageConfig(max_new_tokens=100_000))
    refused(tmp_path, policy, "judge", judge=str(tmp_path / "nobody"))
    broken = tmp_path / "broken"
    shutil.copytree(policy, broken)
    (broken / "model.safetensors").write_bytes(b"")
    refused(tmp_path, broken, "broken")


def test_a_round_without_a_reward_model_takes_labels_that_came_since(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    policy = finished / "runs" / "tiny" / "sft"
    compared(tmp_path, 120)
    settings = config(tmp_path, policy)
    seen: list[int] = []

    def stop(_run: Any, data: Any, *_: Any, **__: Any) -> None:
        seen.append(sum(len(part) for part in data.labels))
        raise KeyboardInterrupt

    monkeypatch.setattr("textenv.cli.stages.reward_stage", stop)
    with pytest.raises(KeyboardInterrupt):
        improve(settings, CONSOLE)
    with FeedbackStore(tmp_path / "people.sqlite") as store:
        (begun,) = store.rounds()
        late = [Item("compare", f"Late {n}", (Answer(" good"), Answer(f" worse {n}"))) for n in range(5)]
        store.add_items([*late, Item("demonstrate", "Write.")])
        for number, item in enumerate(late):
            store.save_label(Label(f"late{number}", item.id, "bob", {"preferred": 0}))
    for resume in (True, False):
        with pytest.raises(KeyboardInterrupt):
            improve(settings, CONSOLE, resume=resume)
    assert seen == [120, 125, 125]
    with FeedbackStore(tmp_path / "people.sqlite") as store:
        (round_,) = store.rounds()
        assert (round_.number, round_.after, round_.finished) == (1, 0, None)
        assert round_.upto == begun.upto + 5
        store.finish_round(1, {})
        with pytest.raises(DataError, match="no round 1 under way"):
            store.extend_round(1, 999)


def test_after_fine_tuning_an_open_round_takes_labels_up_to_the_next_demonstration(tmp_path: Path):
    with FeedbackStore(tmp_path / "people.sqlite") as store:
        items = [Item("demonstrate", f"Write {n}.") for n in range(2)]
        pairs = [Item("compare", f"p{n}", (Answer("good"), Answer("bad"))) for n in range(3)]
        store.add_items([*items, *pairs])

        def say(item: Item, payload: dict[str, Any]) -> None:
            store.save_label(Label(item.id, item.id, "ann", payload))

        say(items[0], {"text": "one"})
        store.begin_round()
        say(pairs[0], {"preferred": 0})
        say(pairs[1], {"preferred": 0})
        say(items[1], {"text": "two"})
        say(pairs[2], {"preferred": 0})
        run = Run(tmp_path / "run")
        run.finish("sft", {"seconds": 0.0})
        before = PolicyVersion("sft", "0", str(tmp_path))
        settings = ImproveCommand(db=str(tmp_path / "people.sqlite"), policy=str(tmp_path))
        assert _Improvement(store, settings, run, before, None).round.upto == 3
        run.finish("reward", {"seconds": 0.0})
        assert _Improvement(store, settings, run, before, None).round.upto == 3
        run.close()


@pytest.mark.parametrize(
    ("accuracy", "measured", "said"),
    [
        ([0.6, 0.8], {"gain": {"interval": [0.1, 0.3]}}, []),
        ([0.45, 0.8], {"gain": {"interval": [0.1, 0.3]}}, ["its reward model may be at chance"]),
        (None, {}, ["its reward model may be at chance"]),
        ([0.6, 0.8], {"gain": {"interval": [-0.3, -0.1]}}, ["its reward model finds it worse than before"]),
        ([0.6, 0.8], {"judge_gain": {"interval": [-0.3, -0.1]}}, ["the judge finds it worse than before"]),
        ([0.6, 0.8], {"judge_gain": {"interval": [-0.3, 0.1]}, "people": {"interval": [0.3, 0.6]}}, []),
        ([0.6, 0.8], {"people": {"interval": [0.1, 0.4]}}, ["it moved away from the answers that people prefer"]),
    ],
)
def test_what_speaks_against_a_version(accuracy: list[float] | None, measured: dict[str, Any], said: list[str]):
    intervals = {} if accuracy is None else {"accuracy": accuracy}
    done = {"reward": {"reward_model": {"accuracy": 0.7, "intervals": intervals}}, "evaluate": measured}
    found = _against(done)
    assert len(found) == len(said)
    assert all(reason.startswith(begin) for reason, begin in zip(found, said, strict=True))


@pytest.mark.parametrize("anyway", [False, True])
def test_a_version_of_a_reward_model_at_chance_is_kept_and_served_only_if_told_to(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyway: bool
):
    policy = finished / "runs" / "tiny" / "sft"
    compared(tmp_path, 120)
    judge = tmp_path / "judge"
    shutil.copytree(finished / "runs" / "tiny" / "reward", judge)
    monkeypatch.setattr("textenv.cli.improve._may_be_chance", lambda _: True)
    figures = improve(replace(config(tmp_path, policy), judge=str(judge), serve_anyway=anyway), CONSOLE)
    assert "its reward model may be at chance" in figures["against"]
    assert figures["served"] == anyway
    assert len(figures["judge_gain"]["interval"]) == 2
    assert figures["people"]["comparisons"] > 0
    CausalLMPolicy.from_pretrained(figures["path"])
    with FeedbackStore(tmp_path / "people.sqlite") as store:
        assert [version.version for version in store.policies("sft")] == (["0", "round-1"] if anyway else ["0"])
        assert store.rounds()[0].figures["against"] == figures["against"]
