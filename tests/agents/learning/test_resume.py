"""A resumed run is the run that was never stopped, bit by bit; and what a run leaves on disk."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from agents.algorithms.ppo import PPO, PPOConfig, ppo_loss
from agents.learning.held_out import HeldOut
from agents.learning.recording import StoreRecorder
from agents.policy import CausalLMPolicy
from tests.agents.algorithms.test_ppo_options import make_text
from tests.agents.tasks import CONFIG, make_envs, variety
from textenv.errors import CheckpointError, RewardError
from textenv.runs import Run
from textenv.trajectories import TrajectoryStore
from textenv.wrappers.vector import KLPenalty, WhitenReward

ROOT = Path(__file__).parents[3]
Build = Callable[[Run], PPO]


@pytest.fixture
def folder(make_policy, tmp_path: Path) -> Path:
    policy = make_policy(3)
    policy.model.save_pretrained(tmp_path / "lm")
    policy.tokenizer.save_pretrained(tmp_path / "lm")
    return tmp_path / "lm"


class Batches:
    """Batches of text that can only be gone through in order."""

    def __iter__(self) -> Iterator[Any]:
        return (make_text(n) for n in (1, 2, 3))


class Counter:
    """A callback with a state."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, agent: PPO, metrics: dict[str, float]) -> None:
        self.calls += 1
        metrics["mine/calls"] = float(self.calls)

    def get_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_state(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]


def builders(folder: Path, tokenizer: Any) -> dict[str, Build]:
    def build(run: Run, config: PPOConfig = CONFIG, *, wrap: Any = None, agent: Any = None, **policy: Any) -> PPO:
        torch.manual_seed(0)  # peft draws an adapter's first weights from the global generator
        envs = make_envs(tokenizer, variety)
        made = CausalLMPolicy.from_pretrained(folder, **policy)
        return PPO(made, wrap(envs) if wrap else envs, config=config, run=run, **(agent or {}))

    def lora(run: Run) -> PPO:
        peft = pytest.importorskip("peft")
        return build(run, lora=peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))

    def extras(run: Run) -> PPO:
        held_out = HeldOut(["the old", "a new film"], n=2)
        agent = {"ptx": Batches(), "held_out": held_out, "callbacks": [Counter()]}
        config = replace(CONFIG, ptx_coef=0.5, eval_every=2, group_size=2, lr_schedule="cosine", ent_coef=0.01)
        return build(run, config, wrap=WhitenReward, agent=agent)

    moving = replace(CONFIG, kl_target=0.5, reference_update="ema", reference_decay=0.5)
    return {
        "full": build,
        "adaptive KL, moving reference": lambda run: build(run, moving),
        "separate critic, bfloat16": lambda run: build(run, critic="separate", dtype="bfloat16"),
        "LoRA": lora,
        "groups, PTX, held-out prompts, wrappers, callbacks": extras,
    }


def figures(folder: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if not k.startswith(("time/", "seconds"))} for r in records]


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "full" else pytest.mark.slow) for kind in builders(Path(), None)]
)
def test_resumed_run_is_the_uninterrupted_one(kind: str, folder: Path, tokenizer, tmp_path: Path):
    def train(where: str, *, stop_after: int | None = None) -> PPO:
        def stop(agent, metrics):
            if agent.iteration == stop_after:
                raise KeyboardInterrupt

        run = Run(tmp_path / where, tensorboard=False)
        return builders(folder, tokenizer)[kind](run).learn(40, callback=stop)

    whole = train("whole")
    for stop in (2, 4):  # the second resume starts from a checkpoint of the first
        with pytest.raises(KeyboardInterrupt):
            train("cut", stop_after=stop)
    resumed = train("cut")
    for (name, a), b in zip(whole.policy.named_parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(a, b), name
    if whole.reference.model is not None and resumed.reference.model is not None:
        for a, b in zip(whole.reference.model.parameters(), resumed.reference.model.parameters(), strict=True):
            assert torch.equal(a, b)
    assert figures(tmp_path / "whole") == figures(tmp_path / "cut")
    assert len(figures(tmp_path / "whole")) == 5
    assert whole.kl.coef == resumed.kl.coef


def test_saved_agent_is_loaded_with_the_hooks_that_it_had(make_policy, tokenizer, tmp_path: Path):
    config = replace(CONFIG, ptx_coef=0.5)

    def loss(new, old, config):
        return ppo_loss(new, old._replace(importance=0.5 * old.importance), config)

    hooks: dict[str, Any] = {"ptx": [make_text(2), make_text(3)], "loss": loss}
    whole = PPO(make_policy(), make_envs(tokenizer, variety), config=config, callbacks=[Counter()], **hooks)
    whole.learn(16)
    whole.save(tmp_path)
    resumed = PPO.load(tmp_path, make_envs(tokenizer, variety), callbacks=[counter := Counter()], **hooks)
    assert counter.calls == 2
    expected, found = whole.iterate(1e-3), resumed.iterate(1e-3)
    assert {k: v for k, v in found.items() if "time/" not in k} == {
        k: v for k, v in expected.items() if "time/" not in k
    }
    with pytest.raises(CheckpointError, match=r"the state of 1 callbacks part\(s\), this agent has 0"):
        PPO.load(tmp_path, make_envs(tokenizer, variety), **hooks)


def test_last_checkpoints_and_the_best_policy_stay(make_policy, tokenizer, tmp_path: Path):
    scores = iter([1.0, 3.0, 2.0, 2.5])

    def reward(prompts, responses):
        return [next(scores)] * len(responses)

    run = Run(tmp_path, tensorboard=False)
    config = replace(CONFIG, keep_checkpoints=3, eval_every=1, checkpoint_every=1)
    agent = PPO(make_policy(), make_envs(tokenizer, variety), config=config, run=run, held_out=HeldOut(["the"], reward))
    after: list[dict[str, torch.Tensor]] = []
    agent.learn(32, callback=lambda a, m: after.append({k: v.clone() for k, v in a.policy.model.state_dict().items()}))
    assert [f.name for f in sorted((tmp_path / "ppo" / "checkpoints").iterdir())] == [
        "step-00000002",
        "step-00000003",
        "step-00000004",
    ]
    (best,) = (tmp_path / "ppo" / "best").iterdir()
    assert best.name == "step-00000002"
    assert json.loads((best / "score.json").read_text()) == {"iteration": 2, "eval/reward": 3.0}
    for name, p in AutoModelForCausalLM.from_pretrained(best).state_dict().items():
        assert torch.equal(p, after[1][name])
    logged = figures(tmp_path)
    assert [r["eval/score"] for r in logged] == [1.0, 3.0, 2.0, 2.5]
    assert [r["eval/best_reward"] for r in logged] == [1.0, 3.0, 3.0, 3.0]
    run.finish("ppo", {})
    assert best.exists()


def test_held_out_prompts_are_measured_when_asked_and_at_the_end(make_policy, tokenizer):
    seen: list[int] = []
    config = replace(CONFIG, eval_every=2)
    agent = PPO(make_policy(), make_envs(tokenizer, variety), config=config, held_out=HeldOut(["the old film"], n=3))
    agent.learn(24, callback=lambda a, m: seen.append(a.iteration) if "eval/kl" in m else None)
    assert seen == [2, 3]


def test_wrappers_and_callbacks_must_be_those_of_the_checkpoint(make_policy, tokenizer, tmp_path: Path):
    def build(envs: Any, **options: Any) -> PPO:
        return PPO(make_policy(), envs, config=CONFIG, run=Run(tmp_path, tensorboard=False), **options)

    build(WhitenReward(make_envs(tokenizer, variety))).learn(16)
    with pytest.raises(CheckpointError, match=r"the state of 1 environment part\(s\), this agent has 0; give it"):
        build(make_envs(tokenizer, variety)).learn(24)


def test_store_holds_every_episode_once_also_after_a_kill_between_store_and_checkpoint(
    make_policy, tokenizer, tmp_path: Path
):
    def train(where: str, *, stop_after: int | None = None) -> TrajectoryStore:
        store = TrajectoryStore(tmp_path / where / "store")

        def stop(agent, metrics):
            if agent.iteration == stop_after:
                raise KeyboardInterrupt  # recorded, not yet saved

        recorder = StoreRecorder(store, "ppo")
        config = replace(CONFIG, group_size=2)
        run = Run(tmp_path / where, tensorboard=False)
        agent = PPO(
            make_policy(value_noise=1.0), make_envs(tokenizer, variety), config=config, run=run, callbacks=[recorder]
        )
        agent.learn(32, callback=stop)
        return store

    whole = list(train("whole"))
    with pytest.raises(KeyboardInterrupt):
        train("cut", stop_after=3)
    cut = list(train("cut"))
    assert [t.traj_id for t in cut] == [t.traj_id for t in whole] == [f"ppo-{i:010d}" for i in range(32)]
    for a, b in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(a.token_ids, b.token_ids)
        for name in ("logprobs", "ref_logprobs", "behaviour_logprobs", "values", "returns", "advantages", "rewards"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    first = whole[0]
    assert first.score == pytest.approx(variety([], [first.response])[0])
    assert first.returns is not None
    assert first.values is not None
    assert [t.group_id for t in whole[:4]] == ["ppo-0-0", "ppo-0-0", "ppo-0-1", "ppo-0-1"]
    assert [t.sample_index for t in whole[:4]] == [0, 1, 0, 1]
    assert whole[0].prompt == whole[1].prompt
    assert whole[-1].policy_version == 3


def test_store_leaves_log_probs_of_another_temperature_unknown(make_policy, tokenizer, tmp_path: Path):
    recorder = StoreRecorder(store := TrajectoryStore(tmp_path), "hot")
    config = replace(CONFIG, temperature=1.5)
    PPO(make_policy(), make_envs(tokenizer, variety), config=config, callbacks=[recorder]).learn(8)
    found = store[0]
    assert np.isnan(found.logprobs).all()
    assert found.ref_logprobs is None
    assert found.knows_behaviour
    assert found.sampling["temperature"] == 1.5


@pytest.mark.slow
@pytest.mark.parametrize("task", ["toy", "lm"])
def test_killed_twenty_times_at_random_moments_ends_with_the_same_numbers(task: str, tmp_path: Path):
    command = [sys.executable, "-m", "tests.agents.kill_runs", task, str(tmp_path), "20", "1"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600).stdout
    found = json.loads(printed.splitlines()[-1])
    assert found["status"] == 0, found["errors"]
    assert found["errors"] == []
    assert len(set(found["places"])) > 4, "the kills came too close together to mean anything"
    assert {name: value for name, value in found.items() if name.startswith("same_") and not value} == {}


def weights(agent: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in agent.policy.parameters()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_finished_training_can_be_extended(folder: Path, tokenizer, tmp_path: Path):
    def train(where: str, *totals: int) -> PPO:
        trained: list[PPO] = []
        for total in totals:
            run = Run(tmp_path / where, tensorboard=False)
            made = CausalLMPolicy.from_pretrained(folder)
            config = replace(CONFIG, lr_schedule="constant", checkpoint_every=100)
            agent = PPO(made, make_envs(tokenizer, variety), config=config, run=run)
            seen: list[int] = []
            agent.learn(total, callback=lambda agent, measured, seen=seen: seen.append(agent.iteration))
            assert agent.episodes == total
            trained.append(agent)
        return trained[-1]

    whole, extended = train("whole", 32), train("extended", 16, 16, 32)
    assert same(weights(whole), weights(extended))
    assert figures(tmp_path / "whole") == figures(tmp_path / "extended")
    together = PPO(
        CausalLMPolicy.from_pretrained(folder),
        make_envs(tokenizer, variety),
        config=replace(CONFIG, lr_schedule="constant"),
    )
    assert same(weights(together.learn(16).learn(32)), weights(whole))


def test_episodes_are_counted_whatever_the_number_of_slots(make_policy, tokenizer, tmp_path: Path):
    config = replace(CONFIG, lr_schedule="linear")
    half = PPO(make_policy(), make_envs(tokenizer, variety), config=config, run=Run(tmp_path, tensorboard=False))

    def stop(agent: PPO, measured: dict[str, float]) -> None:
        if agent.episodes == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half.learn(64, callback=stop)  # the checkpoint holds 32 episodes
    rates: list[tuple[int, float]] = []
    resumed = PPO(
        make_policy(), make_envs(tokenizer, variety, num_envs=16), config=config, run=Run(tmp_path, tensorboard=False)
    )
    resumed.learn(64, callback=lambda agent, m: rates.append((agent.episodes, m["policy/learning_rate"])))
    assert rates == [(48, pytest.approx(1e-3 * 32 / 64)), (64, pytest.approx(1e-3 * 16 / 64))]


def test_changed_coefficient_counts_after_a_resume(make_policy, tokenizer, tmp_path: Path):
    def train(total: int, **changes: Any) -> PPO:
        def wrap(envs: Any) -> Any:
            return KLPenalty(envs, lambda tokens, lengths: np.zeros((len(tokens), 280)), same_for_all, coef=paid)

        def same_for_all(tokens: Any, lengths: Any) -> Any:
            return np.zeros((len(tokens), 280))

        paid = changes.pop("paid", 0.1)
        envs = wrap(make_envs(tokenizer, variety))
        run = Run(tmp_path, tensorboard=False)
        agent = PPO(make_policy(), envs, config=replace(CONFIG, **changes), run=run)
        return agent.learn(total)

    assert train(8, kl_coef=0.1).kl.coef == 0.1
    changed = train(16, kl_coef=0.3, paid=0.2)
    assert (changed.kl.coef, changed.experience.kl_coef, changed.envs.coef) == (0.3, 0.3, 0.2)  # pyright: ignore
    adapting = train(24, kl_coef=0.3, kl_target=0.01, kl_horizon=10)
    assert adapting.kl.coef != 0.3
    assert train(24, kl_coef=0.3, kl_target=0.01, kl_horizon=10).kl.coef == adapting.kl.coef


class Fragile:
    """A reward that fails once, after it has been asked a number of times."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.asked, self.fails_at = 0, fails_at

    def __call__(self, prompts: list[str], responses: list[str]) -> list[float]:
        self.asked += 1
        if self.asked == self.fails_at:
            raise OSError("the server is away")
        return variety(prompts, responses)


@pytest.mark.parametrize(("fails_at", "groups"), [(1, 1), (4, 2)])
def test_training_goes_on_after_a_reward_error_as_if_nothing_had_happened(
    fails_at: int, groups: int, make_policy, tokenizer, tmp_path: Path
):
    config = replace(CONFIG, group_size=groups, kl_target=0.5)
    # Episodes end at different times, so that some have been scored before the reward fails.
    stop: dict[str, Any] = {"stop": ["a", "e", "i"]}

    def make(where: str, reward: Any) -> PPO:
        envs = WhitenReward(make_envs(tokenizer, reward, **stop))
        return PPO(make_policy(), envs, config=config, run=Run(tmp_path / where, tensorboard=False))

    whole = make("whole", variety).learn(24)
    broken = make("broken", Fragile(fails_at))
    with pytest.raises(RewardError, match="the server is away"):
        broken.learn(24)
    if fails_at > 2:  # and what is saved then goes on as well
        broken.save(tmp_path / "saved")
        loaded = PPO.load(tmp_path / "saved", WhitenReward(make_envs(tokenizer, variety, **stop)))
        assert same(weights(loaded.learn(24)), weights(whole))
    broken.learn(24)
    assert same(weights(broken), weights(whole))
    assert figures(tmp_path / "broken") == figures(tmp_path / "whole")
    assert broken.envs.hook.get_state() == whole.envs.hook.get_state()  # pyright: ignore[reportAttributeAccessIssue]


def test_held_out_evaluation_that_fails_is_made_up_for(make_policy, tokenizer, tmp_path: Path):
    def make(where: str, reward: Any) -> PPO:
        held_out = HeldOut(["the old", "a new film"], reward)
        config = replace(CONFIG, eval_every=1)
        run = Run(tmp_path / where, tensorboard=False)
        return PPO(make_policy(), make_envs(tokenizer, variety), config=config, held_out=held_out, run=run)

    make("whole", variety).learn(24)
    broken = make("broken", Fragile(2))
    with pytest.raises(RewardError):
        broken.learn(24)
    broken.learn(24)
    assert figures(tmp_path / "broken") == figures(tmp_path / "whole")
    assert len(figures(tmp_path / "whole")) == 3
