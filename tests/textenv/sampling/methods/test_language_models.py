"""Every method on tiny language models: plumbing, reproducibility, costs, beam search against transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agents.evaluation import sequence_logprobs
from agents.policy import CausalLMPolicy
from agents.policy.forward import SequenceBatch
from tests.textenv.sampling.methods.conftest import Toy
from textenv.envs.tokenizers import ToyTokenizer
from textenv.errors import ConfigError, DataError, RewardError, ShapeError
from textenv.sampling import SamplingParams, methods
from textenv.sampling.methods import (
    BeamSearch,
    BestOfN,
    BranchingTree,
    MethodResult,
    PowerSampling,
    RejectionSampling,
    SequentialMonteCarlo,
    Vine,
    prefix_returns,
)

PROMPTS = ["ab", "hello there", "c"]
PARAMS = SamplingParams(max_new_tokens=6)


def tiny(seed: int = 0, eos_bias: float = 0.0) -> CausalLMPolicy:
    tokenizer = ToyTokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight[1] *= 1 + eos_bias
    return CausalLMPolicy(model, tokenizer)


@pytest.fixture(scope="module")
def policy() -> CausalLMPolicy:
    return tiny()


def score(prompts: list[str], responses: list[str]) -> list[float]:
    return [sum(c in "aeiou" for c in r) + 0.1 * len(r) for r in responses]


METHODS: dict[str, Any] = {
    "best of n": BestOfN(3),
    "rejection": RejectionSampling(1.0, max_tries=6, round_size=2),
    "beam": BeamSearch(3, num_return=2),
    "diverse beam": BeamSearch(4, num_groups=2, diversity_penalty=1.0, num_return=3),
    "vine": Vine(2, every=2),
    "tree": BranchingTree(budget_tokens=30, segment_tokens=2, width=2),
    "smc": SequentialMonteCarlo(6, 0.5, score, ess_threshold=0.9),
    "power": PowerSampling(2.0, steps=4, chains=2),
}


def answers(result: MethodResult[Any]) -> list[tuple[int, list[int]]]:
    return [(int(i), t.token_ids.tolist()) for i, t in zip(result.prompt_indices, result.trajectories, strict=True)]


@pytest.mark.parametrize("name", METHODS)
def test_method_gives_scored_trajectories_with_true_logprobs(name: str, policy: CausalLMPolicy):
    result = METHODS[name].sample(policy, PROMPTS, score, seed=4, params=PARAMS)
    assert len(result.details) == len(PROMPTS)
    assert set(result.prompt_indices.tolist()) == {0, 1, 2}
    full = sequence_logprobs(policy, result.trajectories, temperature=1.0)
    for trajectory, logprobs, i in zip(result.trajectories, full, result.prompt_indices, strict=True):
        assert trajectory.prompt == PROMPTS[i]
        assert 1 <= len(trajectory) <= 6
        assert (trajectory.finish_reason == "eos") == (trajectory.token_ids[-1] == 1)
        assert trajectory.score == pytest.approx(score([""], [trajectory.response])[0])
        np.testing.assert_allclose(trajectory.logprobs, logprobs, atol=1e-4)
    assert result.cost.generated_tokens >= sum(len(t) for t in result.trajectories if name != "tree")
    assert result.cost.fed_tokens > sum(len(policy.encode_prompt(p)) for p in PROMPTS)
    assert result.cost.reward_calls >= len(result.trajectories)


@pytest.mark.parametrize("name", METHODS)
def test_method_does_not_depend_on_the_batch_around(name: str, policy: CausalLMPolicy):
    method = METHODS[name]
    together = method.sample(policy, PROMPTS, score, seed=7, params=PARAMS)
    first = method.sample(policy, PROMPTS[:1], score, seed=7, params=PARAMS)
    assert answers(first) == [a for a in answers(together) if a[0] == 0]
    for one, again in zip(first.details[0], together.details[0], strict=True):
        if isinstance(one, np.ndarray):
            np.testing.assert_allclose(one, again, atol=1e-5)
    other = method.sample(policy, PROMPTS, score, seed=8, params=PARAMS)
    assert (answers(other) == answers(together)) == ("beam" in name)
    if hasattr(method, "max_batch"):
        apart = dataclasses.replace(method, max_batch=1).sample(policy, PROMPTS, score, seed=7, params=PARAMS)
        assert answers(apart) == answers(together)
        assert apart.cost.generated_tokens == together.cost.generated_tokens


@pytest.mark.parametrize("name", METHODS)
def test_method_reads_only_what_a_cache_leaves_new(name: str, policy: CausalLMPolicy):
    """No method reads more than its prompts once and each of its tokens once, forks and rewinds included."""
    result = METHODS[name].sample(policy, ["hello there"], score, seed=4, params=PARAMS)
    prompt = len(policy.encode_prompt("hello there"))
    spare = {"power": 8 * 2, "vine": 30 * 3 + 2 * prompt * 3}.get(name, 0) + 8 * 2
    assert result.cost.fed_tokens <= 3 * prompt + result.cost.generated_tokens + spare


class Critic:
    """The policy's own critic as a twist."""

    def __init__(self, policy: CausalLMPolicy) -> None:
        self.policy = policy
        self.asked: list[list[int]] = []

    def prefix_values(self, prompt_ids: list[list[int]], response_ids: list[list[int]]) -> list[float]:
        self.asked += response_ids
        with torch.no_grad():
            return self.policy.evaluate(SequenceBatch.from_ids(prompt_ids, response_ids)).last_values.tolist()


def test_smc_takes_a_critic_as_its_twist(policy: CausalLMPolicy):
    critic = Critic(policy)
    method = SequentialMonteCarlo(4, 0.5, critic, twist_every=2)
    result = method.sample(policy, PROMPTS, score, params=PARAMS)
    assert {len(tokens) for tokens in critic.asked} == {2, 4}
    assert result.cost.twist_calls == len(critic.asked)


def test_smc_twist_that_is_not_finite_is_refused(policy: CausalLMPolicy):
    class Broken:
        def prefix_values(self, prompt_ids: list[list[int]], response_ids: list[list[int]]) -> list[float]:
            return [float("nan")] * len(response_ids)

    with pytest.raises(RewardError, match="expected one finite value each"):
        SequentialMonteCarlo(4, 0.5, Broken()).sample(policy, PROMPTS, score, params=PARAMS)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_beam_search_equals_transformers(seed: int, penalty: float):
    policy = tiny(seed, eos_bias=0.6)
    ours = BeamSearch(4, length_penalty=penalty, num_return=4).sample(
        policy, PROMPTS, params=SamplingParams(max_new_tokens=8)
    )
    for i, prompt in enumerate(PROMPTS):
        ids = torch.tensor([policy.encode_prompt(prompt)])
        theirs = policy.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            num_beams=4,
            num_return_sequences=4,
            max_new_tokens=8,
            do_sample=False,
            length_penalty=penalty,
            early_stopping="never",
            output_scores=True,
            return_dict_in_generate=True,
        )
        for trajectory, found, sequence, expected in zip(
            ours.answers_to(i),
            ours.details[i].beam_scores,
            theirs.sequences[:, ids.shape[1] :],
            theirs.sequences_scores,
            strict=True,
        ):
            assert trajectory.token_ids.tolist() == sequence[: len(trajectory)].tolist()
            assert set(sequence[len(trajectory) :].tolist()) <= {1}  # it fills up with the end-of-text id
            assert found == pytest.approx(expected.item(), abs=1e-4)


def test_beam_search_ends_some_answers_early():
    found = BeamSearch(4, length_penalty=1.0, num_return=4).sample(tiny(0, 0.6), PROMPTS, params=PARAMS)
    assert {t.finish_reason for t in found.trajectories} == {"eos", "length"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BestOfN(0), "`n` must be ≥ 1, got 0"),
        (lambda: RejectionSampling(max_tries=0), "`max_tries` must be ≥ 1"),
        (lambda: BeamSearch(4, num_groups=3), "`num_groups` = 3 must divide `num_beams` = 4"),
        (lambda: BeamSearch(2, num_return=3), "`num_return` = 3 must not exceed `num_beams` = 2"),
        (lambda: BeamSearch(2, diversity_penalty=-1), "`diversity_penalty` must be ≥ 0"),
        (lambda: Vine(every=0), "`every` must be ≥ 1"),
        (lambda: BranchingTree(width=0), "`width` must be ≥ 1"),
        (lambda: SequentialMonteCarlo(beta=0.0), "`beta` must be positive"),
        (lambda: SequentialMonteCarlo(ess_threshold=2.0), r"`ess_threshold` must lie in \[0, 1\]"),
        (lambda: PowerSampling(alpha=-1.0), "`alpha` must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], Any], message: str):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("name", [name for name in METHODS if "beam" not in name and name != "power"])
def test_missing_reward_function_is_named(name: str, toy: Toy):
    with pytest.raises(ConfigError, match="needs `score`"):
        METHODS[name].sample(toy.policy, toy.prompts, params=toy.params)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("smc", {"top_k": 2}, "sequential Monte Carlo weighs draws by ratios"),
        ("power", {"deny_tokens": (2,)}, "power sampling weighs draws by ratios"),
        ("beam", {"temperature": 0.5}, "beam search ranks answers by the policy's own log-probs"),
        ("tree", {"max_new_tokens": 31}, "`budget_tokens` = 30 is less than one answer"),
    ],
)
def test_settings_that_do_not_fit_are_refused(name: str, changes: dict[str, Any], message: str, policy: CausalLMPolicy):
    with pytest.raises(ConfigError, match=message):
        METHODS[name].sample(policy, PROMPTS, score, params=dataclasses.replace(PARAMS, **changes))


@pytest.mark.parametrize("name", METHODS)
def test_bad_prompts_are_named(name: str, policy: CausalLMPolicy):
    with pytest.raises(DataError, match="prompt 1 has no tokens"):
        METHODS[name].sample(policy, [[5], []], score, params=PARAMS)
    with pytest.raises(DataError, match="prompt 0 has 60 tokens; with 6 new ones it exceeds"):
        METHODS[name].sample(policy, [[5] * 60], score, params=PARAMS)
    with pytest.raises(DataError, match="there are no prompts"):
        METHODS[name].sample(policy, [], score, params=PARAMS)


def test_failing_reward_names_prompt_and_response(policy: CausalLMPolicy):
    def broken(prompts: list[str], responses: list[str]) -> list[float]:
        return [float("nan")] * len(prompts)

    with pytest.raises(RewardError, match="hello there"):
        BestOfN(2).sample(policy, ["hello there"], broken, params=PARAMS)


def test_prefixes_that_cannot_go_on_are_refused(policy: CausalLMPolicy):
    with pytest.raises(DataError, match="1 prompts but 2 prefixes"):
        prefix_returns(policy, ["a"], [[3], [4]], score, params=PARAMS)
    with pytest.raises(DataError, match=r"the prefix \[3, 1\] is an answer that has ended"):
        prefix_returns(policy, ["a"], [[3, 1]], score, params=PARAMS)
    with pytest.raises(DataError, match="is an answer that has ended"):
        prefix_returns(policy, ["a"], [[3] * 6], score, params=PARAMS)


def test_toy_policy_refuses_to_go_on_after_the_end(toy: Toy):
    model = toy.policy.slot_engine(1, 4)
    with pytest.raises(ShapeError, match="row 0 has ended"):
        model.logits(np.array([[1, 0, 2]]), np.array([3]), np.array([0]))


def test_every_method_is_reachable_from_textenv_sampling():
    import textenv.sampling as room

    for name in ("BestOfN", "RejectionSampling", "BeamSearch", "Vine", "BranchingTree", "PowerSampling"):
        assert getattr(room, name) is getattr(methods, name)
