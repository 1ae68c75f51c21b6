from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.algorithms.dpo import DPO, DPOConfig, dpo_loss
from agents.algorithms.preference_pairs import PairBatches, TokenPair, pairs_from_trajectories, tokenize_comparisons
from agents.learning.protocols import Agent
from agents.policy import CausalLMPolicy
from reward_models.labels import Comparison
from tests.agents.groups import variation
from tests.agents.tabular import TabularPolicy
from tests.agents.worlds import in_parallel
from textenv.envs import toy
from textenv.errors import CheckpointError, ConfigError, DataError, RunCheckError
from textenv.runs import Run

WORDS = ["good", "very good", "fine", "bad", "very bad", "new"]
COMPARISONS = [
    Comparison(f"the {a} film is", chosen, rejected)
    for a in ("old", "new", "long")
    for chosen in WORDS[:3]
    for rejected in WORDS[3:]
]
CONFIG = DPOConfig(learning_rate=1e-3, warmup_steps=2, batch_size=6, micro_batch_size=4, beta=0.5)


def test_loss_hand_worked():
    """Margins 0.5·((−1 − −2) − (−3 − −1)) = 1.5 and 0.5·(0 − 2) = −1."""
    logprobs = torch.tensor([[-1.0, -3.0], [-2.0, -2.0]])
    ref_logprobs = torch.tensor([[-2.0, -1.0], [-2.0, -4.0]])
    found = dpo_loss(logprobs, ref_logprobs, beta=0.5)
    each = [math.log(1 + math.exp(-1.5)), math.log(1 + math.exp(1.0))]
    assert found.loss.item() == pytest.approx(sum(each) / 2)
    assert found.chosen.tolist() == [0.5, 0.0]
    assert found.rejected.tolist() == [-1.0, 1.0]
    weighted = dpo_loss(logprobs, ref_logprobs, beta=0.5, weights=torch.tensor([3.0, 1.0]))
    assert weighted.loss.item() == pytest.approx((3 * each[0] + each[1]) / 4)
    apart = dpo_loss(logprobs, ref_logprobs, beta=0.5, margin=torch.tensor([1.5, -1.0]))
    assert apart.loss.item() == pytest.approx(math.log(2))


def test_loss_is_the_slow_loop():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(6, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    slow = 0.0
    for (a, b), (c, d) in zip(ours.tolist(), theirs.tolist(), strict=True):
        h = 0.3 * ((a - c) - (b - d))
        slow -= (0.9 * math.log(1 / (1 + math.exp(-h))) + 0.1 * math.log(1 / (1 + math.exp(h)))) / 6
    assert dpo_loss(ours, theirs, beta=0.3, label_smoothing=0.1).loss.item() == pytest.approx(slow)


def test_gradient_of_the_loss_is_that_of_the_paper():
    """−β·σ(−margin)·(∇ log π(chosen) − ∇ log π(rejected)); eq. 7's gradient."""
    logprobs = torch.tensor([[-1.0, -3.0]], requires_grad=True)
    dpo_loss(logprobs, torch.tensor([[-2.0, -1.0]]), beta=0.5).loss.backward()
    wrong = 1 / (1 + math.exp(1.5))
    assert logprobs.grad is not None
    assert logprobs.grad.tolist()[0] == pytest.approx([-0.5 * wrong, 0.5 * wrong])


# --- exact Bradley-Terry preferences on a toy problem -----------------------------------------------------------------


def exact_preferences(mdp: toy.ToyMDP) -> list[TokenPair]:
    """Every ordered pair of answers to each prompt, weighted by how often people prefer the first."""
    paid = {answer: sum(mdp.token_rewards(*answer)) for answer in mdp.answers()}
    return [
        TokenPair((prompt + 1,), a, b, weight=1 / (1 + math.exp(paid[prompt, b] - paid[prompt, a])))
        for prompt, a in paid
        for other, b in paid
        if prompt == other and a != b
    ]


def make_toy(mdp: toy.ToyMDP, logits: Any = None, **settings: Any) -> Any:
    pairs = exact_preferences(mdp)
    config = DPOConfig(**{"batch_size": len(pairs), "micro_batch_size": len(pairs), "max_grad_norm": 1e9} | settings)
    return DPO(TabularPolicy(mdp, logits), pairs, reference=TabularPolicy(mdp), config=config)


@pytest.mark.parametrize("dense", [False, True], ids=["score at the end", "dense"])
def test_gradient_of_exact_preferences_is_zero_at_the_optimum_and_nowhere_near(dense: bool, monkeypatch):
    mdp, beta = toy.ToyMDP.random(np.random.default_rng(3), 3, 3, dense=dense), 0.7
    best = toy.solve(mdp, beta)
    norms = {}
    for name, logits in {"optimum": np.log(best.policy), "reference": np.log(mdp.ref_probs)}.items():
        agent = make_toy(mdp, logits, beta=beta)
        monkeypatch.setattr(agent.optimizer, "step", lambda: None)
        norms[name] = agent.iterate(1e-3)["policy/grad_norm"]
    assert norms["optimum"] < 1e-9
    assert norms["reference"] > 1e-2


@pytest.mark.parametrize("beta", [0.3, 1.0, 3.0])
def test_optimum_of_exact_preferences_is_the_regularised_optimum(beta: float):
    mdp = toy.ToyMDP.random(np.random.default_rng(4), 3, 2)
    agent = make_toy(mdp, beta=beta, learning_rate=0.2, lr_schedule="linear", warmup_steps=0)
    assert isinstance(agent.learn(2 * agent.config.batch_size * 150), Agent)
    best, found = toy.solve(mdp, beta), toy.evaluate(mdp, agent.policy.probabilities, beta)
    wanted = toy.answer_distribution(mdp, best.policy)
    assert found.objective > best.objective - 0.01 * abs(best.objective)
    assert variation(mdp, agent.policy.probabilities, wanted) < 0.01
    assert variation(mdp, mdp.ref_probs, wanted) > 0.03


def test_one_preference_for_certain_has_no_optimum():
    """Where an answer always wins, its implicit reward grows without end: only finite data keep DPO near."""
    mdp = toy.ToyMDP.random(np.random.default_rng(4), 3, 1, num_prompts=1)
    config = DPOConfig(learning_rate=0.2, warmup_steps=0, batch_size=1, max_grad_norm=1e9)
    agent: Any = DPO(TabularPolicy(mdp), [TokenPair((1,), (1,), (2,))], config=config)
    margins: list[float] = []
    agent.learn(200, callback=lambda a, m: margins.append(m["dpo/margin"]))
    assert all(b > a for a, b in itertools.pairwise(margins))


# --- the learner ------------------------------------------------------------------------------------------------------


def test_comparisons_are_tokenised_as_the_policy_answers(policy):
    (pair,) = tokenize_comparisons([Comparison("the old film is", "good", "very bad", 0.5, 2.0)], policy)
    encode = policy.tokenizer.encode
    assert pair.prompt_ids == tuple(policy.encode_prompt("the old film is"))
    assert pair.chosen_ids == (*encode("good", add_special_tokens=False), policy.tokenizer.eos_token_id)
    assert pair.rejected_ids == (*encode("very bad", add_special_tokens=False), policy.tokenizer.eos_token_id)
    assert (pair.margin, pair.weight) == (0.5, 2.0)


def test_pairs_of_trajectories_are_the_best_and_the_worst_with_the_tokens_that_were_drawn(policy):
    trajectories = policy.generate(["the old film", "a"], n=4, seed=1)
    for i, trajectory in enumerate(trajectories):
        trajectory.score = [0.0, 3.0, 1.0, -2.0, 5.0, 5.0, 5.0, 5.0][i]
    (pair,) = pairs_from_trajectories(trajectories)
    assert pair.prompt_ids == tuple(trajectories[0].prompt_ids)
    assert pair.chosen_ids == tuple(trajectories[1].token_ids)
    assert pair.rejected_ids == tuple(trajectories[3].token_ids)
    trajectories[2].score = None
    with pytest.raises(DataError, match="trajectory 2 has no score"):
        pairs_from_trajectories(trajectories)


def test_batches_go_through_all_pairs_before_any_comes_again():
    batches = PairBatches(7, 3, seed=0)
    drawn = np.concatenate([batches.batch(step) for step in range(7)]).tolist()
    assert [sorted(drawn[i : i + 7]) for i in (0, 7, 14)] == [list(range(7))] * 3
    assert drawn[:7] != drawn[7:14]
    assert PairBatches(2, 5, seed=0).batch(1).shape == (5,)


def test_first_iteration_hand_worked(policy):
    """Policy and reference agree: the loss is log 2, no answer is ahead, all language-model weights move."""
    agent = DPO(policy, COMPARISONS, config=CONFIG)
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    measured = agent.iterate(1e-3)
    assert measured["loss/policy"] == pytest.approx(math.log(2), abs=1e-5)
    assert measured["dpo/margin"] == pytest.approx(0, abs=1e-4)
    assert agent.episodes == measured["rollout/episodes"] == 12
    assert agent.checks == {"KL(reference‖reference) is 0": True}
    unmoved = [name for name, p in policy.named_parameters() if (p == before[name]).all()]
    assert unmoved == ["value_head.weight", "value_head.bias"]


def test_figures_are_those_of_the_batch_whatever_the_micro_batches(make_policy):
    def step(size: int) -> dict[str, float]:
        comparisons = [replace(c, weight=1.0 + i % 3) for i, c in enumerate(COMPARISONS)]
        config = replace(CONFIG, micro_batch_size=size, label_smoothing=0.1)
        agent = DPO(make_policy(), comparisons, reference=make_policy(7), config=config)
        agent.iterate(1e-3)
        return {k: v for k, v in agent.iterate(1e-3).items() if not k.startswith("time/")}

    whole, pieces = step(6), step(1)
    assert whole == pytest.approx(pieces, abs=2e-4)
    assert whole["dpo/margin"] == pytest.approx(whole["dpo/reward_chosen"] - whole["dpo/reward_rejected"], abs=1e-4)
    assert 0 < whole["dpo/accuracy"] < 1


def test_learns_the_labels_and_measures_held_out_ones(make_policy):
    held_out = [c for c in COMPARISONS if "long" in c.prompt]
    seen: list[dict[str, float]] = []
    train = [c for c in COMPARISONS if "long" not in c.prompt]
    agent = DPO(make_policy(), train, config=replace(CONFIG, eval_every=10), validation=held_out)
    agent.learn(12 * 25, callback=lambda a, m: seen.append(m))
    assert seen[-1]["loss/policy"] < 0.3 < seen[0]["loss/policy"]
    assert seen[-1]["dpo/accuracy"] == 1.0
    assert [i + 1 for i, m in enumerate(seen) if "eval/accuracy" in m] == [10, 20, 25]
    assert seen[-1]["eval/accuracy"] > 0.9
    assert seen[-1]["eval/loss"] < math.log(2)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "LoRA", "another reference"])
def test_resumed_run_is_the_uninterrupted_one(kind: str, make_policy, tmp_path: Path):
    make_policy(3).save_pretrained(tmp_path / "lm")

    def train(where: str, *, stop_after: int | None = None) -> DPO:
        torch.manual_seed(0)  # peft draws an adapter's first weights from the global generator
        options: dict[str, Any] = {"dtype": "bfloat16"} if kind == "bfloat16" else {}
        if kind == "LoRA":
            peft = pytest.importorskip("peft")
            options["lora"] = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])

        def stop(agent: DPO, metrics: dict[str, float]) -> None:
            if agent.iteration == stop_after:
                raise KeyboardInterrupt

        config = replace(CONFIG, checkpoint_every=1, eval_every=2)
        policy = CausalLMPolicy.from_pretrained(tmp_path / "lm", **options)
        reference = make_policy(7) if kind == "another reference" else None
        run = Run(tmp_path / where, tensorboard=False)
        agent = DPO(policy, COMPARISONS[6:], reference=reference, config=config, validation=COMPARISONS[:6], run=run)
        return agent.learn(12 * 6, callback=stop)

    def figures(where: str) -> list[dict[str, Any]]:
        records = [json.loads(line) for line in (tmp_path / where / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in r.items() if not k.startswith(("time/", "seconds"))} for r in records]

    whole = train("whole")
    for stop in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            train("cut", stop_after=stop)
    resumed = train("cut")
    for (name, a), b in zip(whole.policy.named_parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert figures("whole") == figures("cut")
    assert [r["step"] for r in figures("cut")] == [1, 2, 3, 4, 5, 6]
    assert {r["stage"] for r in figures("cut")} == {"dpo"}


def test_save_and_load_go_on_with_the_same_numbers(make_policy, tmp_path: Path):
    whole = DPO(make_policy(), COMPARISONS, config=CONFIG).learn(12 * 4)
    half = DPO(make_policy(), COMPARISONS, config=CONFIG)
    for _ in range(2):
        half.iterate(CONFIG.learning_rate_at(half.iteration, 4))
    half.save(tmp_path)
    resumed = DPO.load(tmp_path, COMPARISONS).learn(12 * 4)
    assert resumed.iteration == 4
    for a, b, c in zip(
        whole.policy.model.parameters(), resumed.policy.model.parameters(), half.policy.model.parameters(), strict=True
    ):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    with pytest.raises(CheckpointError, match="was trained on other comparisons; resume it with the same ones"):
        DPO.load(tmp_path, COMPARISONS[1:])


def test_several_processes_make_the_update_of_one(make_policy):
    def work(world: Any, policy: Any) -> DPO:
        agent = DPO(policy, COMPARISONS, config=replace(CONFIG, batch_size=5), validation=COMPARISONS[:3], world=world)
        return agent.learn(10 * 3)

    alone = DPO(make_policy(), COMPARISONS, config=replace(CONFIG, batch_size=5)).learn(10 * 3)
    for agent in in_parallel(lambda rank: make_policy(), 2, work):
        assert alone.ref_logprobs is not None
        torch.testing.assert_close(agent.ref_logprobs[: len(COMPARISONS)], alone.ref_logprobs, atol=1e-5, rtol=1e-5)
        for a, b in zip(alone.policy.model.parameters(), agent.policy.model.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_nan_stops_with_the_comparisons_and_leaves_the_weights(make_policy, monkeypatch):
    policy = make_policy()
    agent = DPO(policy, COMPARISONS, reference=make_policy(7), config=CONFIG)
    agent.prepare()[int(agent.batches.batch(0)[0]), 0] = torch.nan
    before = [p.detach().clone() for p in policy.parameters()]
    with pytest.raises(RunCheckError, match=r"update of step 0: loss/policy.* is not finite, in comparisons \d+"):
        agent.iterate(1e-3)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_start_check_fires_where_the_reference_log_probs_are_those_of_another_policy(make_policy):
    agent = DPO(make_policy(), COMPARISONS, config=CONFIG)
    agent.ref_logprobs = agent.prepare() - 3.0
    with pytest.raises(RunCheckError, match="before the first step policy and reference must agree"):
        agent.iterate(1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 0.0}, "`beta` must be positive, got 0.0"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be a finite number"),
        ({"label_smoothing": 0.5}, r"`label_smoothing` must lie in \[0, 0.5\), got 0.5"),
        ({"warmup_steps": -1}, "`warmup_steps` must be ≥ 0, got -1"),
        ({"lr_schedule": "step"}, "`lr_schedule` must be one of 'linear', .*, got 'step'"),
    ],
)
def test_config_refuses_nonsense(change, message):
    with pytest.raises(ConfigError, match=message):
        DPOConfig(**change)


def test_unusable_comparisons_are_explained(policy):
    with pytest.raises(DataError, match="there are no comparisons to learn from"):
        DPO(policy, [])
    with pytest.raises(DataError, match=r"comparison 1 has \d+ tokens, the policy's context 48; leave it out"):
        DPO(policy, [COMPARISONS[0], Comparison("the", "good", "bad " * 60)])
    with pytest.raises(DataError, match="`chosen_ids` must hold at least one token"):
        TokenPair((1,), (), (2,))
    with pytest.raises(DataError, match=r"`weight` finite and ≥ 0, got 0\.0 and -1\.0"):
        TokenPair((1,), (1,), (2,), weight=-1.0)


def test_finished_training_is_extended_with_the_same_batches(make_policy, tmp_path: Path):
    def train(total: int, where: str = "run", **changes: Any) -> DPO:
        run = Run(tmp_path / where, tensorboard=False)
        config = replace(CONFIG, lr_schedule="constant", checkpoint_every=100, **changes)
        return DPO(make_policy(), COMPARISONS, config=config, run=run).learn(total)

    step = 2 * CONFIG.batch_size
    train(step)
    extended, whole = train(2 * step), train(2 * step, "whole")
    for a, b in zip(extended.policy.model.parameters(), whole.policy.model.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(CheckpointError, match=rf"was trained with `batch_size` {CONFIG.batch_size}; resume"):
        train(3 * step, batch_size=CONFIG.batch_size + 1)
