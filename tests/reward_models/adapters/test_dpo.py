from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from reward_models.adapters.dpo import DPOReward
from reward_models.adapters.logprobs import CausalLogprobs
from tests.reward_models.tiny import tiny_llama, word_tokenizer
from textenv.errors import ConfigError, RewardError, ShapeError
from textenv.protocols import LogprobFn

TOKENIZER = word_tokenizer(["the film is a great and moving story user assistant ."], encoder=False)
PROMPTS = ["the film", "the", "a great story", "the film is"]
RESPONSES = [" is great", "", " and moving . the story is a film and a film", " a"]


def lm(seed: int) -> Any:
    model = tiny_llama(TOKENIZER)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    return model


POLICY, REFERENCE = lm(1), lm(2)


def slow_logprobs(model: Any, prompt: str, response: str) -> list[float]:
    """One token at a time, one forward pass each."""
    ids, answer = TOKENIZER.encode(prompt), TOKENIZER.encode(response, add_special_tokens=False)
    found = []
    for token in answer:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double()
        found.append(float(logits[token] - logits.logsumexp(0)))
        ids = [*ids, token]
    return found


def ratios(index: int) -> list[float]:
    pairs = zip(*(slow_logprobs(m, PROMPTS[index], RESPONSES[index]) for m in (POLICY, REFERENCE)), strict=True)
    return [own - ref for own, ref in pairs]


def test_sum_and_average_equal_token_by_token() -> None:
    rm = DPOReward(POLICY, REFERENCE, TOKENIZER)
    expected = [ratios(index) for index in range(4)]
    np.testing.assert_allclose(rm.score(PROMPTS, RESPONSES), [sum(row) for row in expected], atol=1e-5)
    mean = DPOReward(POLICY, REFERENCE, TOKENIZER, variant="average", beta=0.1)
    np.testing.assert_allclose(
        mean.score(PROMPTS, RESPONSES), [0.1 * sum(row) / max(1, len(row)) for row in expected], atol=1e-5
    )
    for row, own in zip(rm.token_rewards(PROMPTS, RESPONSES), expected, strict=True):
        np.testing.assert_allclose(row, own, atol=1e-5)
    assert rm.score([], []).shape == (0,)


def test_reference_free_variants() -> None:
    own = [slow_logprobs(POLICY, prompt, response) for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    found = DPOReward(POLICY, None, TOKENIZER).score(PROMPTS, RESPONSES)
    np.testing.assert_allclose(found, [sum(row) for row in own], atol=1e-5)
    found = DPOReward(POLICY, None, TOKENIZER, variant="norm").score(PROMPTS, RESPONSES)
    np.testing.assert_allclose(found, [-float(np.linalg.norm(row)) for row in own], atol=1e-5)


def test_policy_against_itself_is_zero_and_order_changes_nothing() -> None:
    assert DPOReward(POLICY, POLICY, TOKENIZER).score(PROMPTS, RESPONSES).tolist() == [0.0] * 4
    rm = DPOReward(POLICY, REFERENCE, TOKENIZER)
    np.testing.assert_allclose(rm.score(PROMPTS[::-1], RESPONSES[::-1])[::-1], rm.score(PROMPTS, RESPONSES), atol=1e-5)


def test_any_logprob_function_will_do() -> None:
    calls: list[list[list[int]]] = []

    def halves(prompt_ids: list[list[int]], response_ids: list[list[int]]) -> list[Any]:
        calls.append(response_ids)
        return [np.full(len(ids), -0.5, np.float32) for ids in response_ids]

    assert isinstance(CausalLogprobs(POLICY), LogprobFn)
    rm = DPOReward(CausalLogprobs(POLICY), halves, TOKENIZER, append_eos=False)
    expected = [sum(slow_logprobs(POLICY, "the film", " is great")) + 1.0]
    np.testing.assert_allclose(rm.score(["the film"], [" is great"]), expected, atol=1e-5)
    assert calls == [[TOKENIZER.encode("is great")]]


def test_end_of_text_token_counts_where_asked() -> None:
    tokenizer = word_tokenizer(["the film is a great and moving story user assistant ."], encoder=False)
    tokenizer.eos_token = "[SEP]"
    with_end = DPOReward(POLICY, REFERENCE, tokenizer, append_eos=True).token_rewards(["the"], [" film"])
    assert len(with_end[0]) == 2


def test_chat_template_turns() -> None:
    tokenizer = word_tokenizer(["the film is a great and moving story user assistant ."], encoder=False)
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} . {% endfor %}"
    rm = DPOReward(POLICY, None, tokenizer, template="chat")
    expected = sum(slow_logprobs(POLICY, "user the film . ", "assistant is great . "))
    np.testing.assert_allclose(rm.score(["the film"], ["is great"]), [expected], atol=1e-5)
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    with pytest.raises(RewardError, match="changes the user's turn once the assistant has answered"):
        rm.score(["the film"], ["is great"])


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(RewardError, match="prompt and response have 81 tokens; the model reads 64"):
        DPOReward(POLICY, None, TOKENIZER).score(["the"], [" film" * 80])
    with pytest.raises(RewardError, match="a prompt has no tokens"):
        DPOReward(POLICY, None, TOKENIZER).score([""], [" film"])
    with pytest.raises(ShapeError, match="got 1 prompts for 2 responses"):
        DPOReward(POLICY, None, TOKENIZER).score(["a"], ["b", "c"])


@pytest.mark.parametrize(
    ("reference", "options", "message"),
    [
        (None, {"variant": "max"}, "`variant` must be one of sum, average, norm"),
        (REFERENCE, {"variant": "norm"}, "is for rewards without a reference"),
        (None, {"template": "x"}, '`template` must be "text" or "chat"'),
        (None, {"beta": 0.0}, "`beta` must be positive and finite, got 0.0"),
        (None, {"append_eos": True, "template": "chat"}, "`append_eos` needs"),
    ],
)
def test_unusable_settings_are_config_errors(reference: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DPOReward(POLICY, reference, TOKENIZER, **options)
