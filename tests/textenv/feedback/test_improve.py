"""``textenv improve`` on a store that simulated people filled: a new version, resumed rounds, and what it refuses."""

from __future__ import annotations

import json
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
from textenv.cli.improve import ImproveCommand, _accuracy, improve
from textenv.cli.serve import ServeConfig, _find_selector
from textenv.datasets import builtin_ratings, demonstrations
from textenv.errors import ConfigError, DataError
from textenv.feedback.store import Answer, FeedbackStore, Item, Label
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
