from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from tests.textenv.sampling.models import CONTEXT, MODELS, VOCAB
from textenv.errors import ConfigError, DataError
from textenv.sampling import SamplingParams, SlotEngine, generate, stream
from textenv.sampling.encoder_decoder import EncoderDecoderEngine


class Letters:
    """A tokenizer that names tokens by their numbers."""

    def __init__(self, eos_token_id: int | None = 2) -> None:
        self.eos_token_id = eos_token_id

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Any, *, skip_special_tokens: bool = False) -> str:
        return " ".join(str(int(i)) for i in ids)


class Policy:
    context_length: int | None = CONTEXT
    vocab_size = VOCAB

    def __init__(self, model: Any, eos_token_id: int | None = 2) -> None:
        self.model, self.tokenizer = model, Letters(eos_token_id)
        self.engines: list[tuple[int, int]] = []

    def encode_prompt(self, prompt: str) -> list[int]:
        return self.tokenizer.encode(prompt)

    def slot_engine(self, num_slots: int, max_length: int) -> SlotEngine:
        self.engines.append((num_slots, max_length))
        return SlotEngine(self.model, num_slots, max_length)


def prompts(count: int) -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(3, VOCAB, size).tolist() for size in rng.integers(1, 12, count)]


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_greedy_answers_equal_those_of_transformers(name: str):
    torch.manual_seed(0)
    model = MODELS[name]()
    found = generate(Policy(model), prompts(9), SamplingParams(temperature=0, max_new_tokens=20), max_batch=4)
    for prompt, answer in zip(prompts(9), found, strict=True):
        theirs = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=20, pad_token_id=0)
        assert answer.token_ids.tolist() == theirs[0, len(prompt) :].tolist()


def test_an_answer_does_not_depend_on_what_is_sampled_beside_it():
    torch.manual_seed(0)
    policy = Policy(MODELS["llama"]())
    params = SamplingParams(max_new_tokens=12)
    together = generate(policy, prompts(7), params, n=3, seed=5)
    for batch in (1, 4):
        again = generate(policy, prompts(7), params, n=3, seed=5, max_batch=batch)
        for one, other in zip(together, again, strict=True):
            assert one.token_ids.tolist() == other.token_ids.tolist()
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)
    first_only = generate(policy, prompts(7)[:2], params, n=1, seed=5)
    assert [t.token_ids.tolist() for t in first_only] == [together[i].token_ids.tolist() for i in (0, 3)]
    assert together[0].token_ids.tolist() != together[1].token_ids.tolist()
    later = generate(policy, prompts(7)[3:5], params, seed=5, first_prompt=3)
    assert [t.token_ids.tolist() for t in later] == [together[i].token_ids.tolist() for i in (9, 12)]


@torch.no_grad()
def test_logprobs_are_those_of_a_full_forward():
    torch.manual_seed(0)
    model = MODELS["qwen2"]()
    for answer in generate(Policy(model), prompts(6), SamplingParams(temperature=0.7, max_new_tokens=15), max_batch=3):
        ids = torch.as_tensor(np.concatenate([answer.prompt_ids, answer.token_ids]))[None]
        logits = model(ids).logits[0, len(answer.prompt_ids) - 1 : -1].double()
        for found, temperature in ((answer.logprobs, 1.0), (answer.behaviour_logprobs, 0.7)):
            expected = (logits / temperature).log_softmax(-1).gather(1, torch.as_tensor(answer.token_ids)[:, None])
            np.testing.assert_allclose(found, expected.squeeze(1), atol=1e-4)


def test_answers_end_at_their_limit_or_at_the_end_token():
    torch.manual_seed(0)
    policy = Policy(MODELS["llama"]())
    limits = [1, 9, 4, 7]
    found = generate(policy, prompts(4), SamplingParams(max_new_tokens=9), limits=limits)
    for answer, limit in zip(found, limits, strict=True):
        assert 2 not in answer.token_ids[:-1]
        assert (answer.finish_reason == "eos") == (answer.token_ids[-1] == 2)
        assert len(answer) == limit or answer.finish_reason == "eos"
    endless = Policy(policy.model, eos_token_id=None)
    found = generate(endless, prompts(4), SamplingParams(max_new_tokens=9), limits=limits)
    assert [len(answer) for answer in found] == limits
    assert {answer.finish_reason for answer in found} == {"length"}


def test_a_free_slot_is_filled_at_once():
    torch.manual_seed(0)
    policy = Policy(MODELS["llama"](), eos_token_id=None)
    params, limits = SamplingParams(max_new_tokens=10), [10, 2, 2, 2, 2, 2]
    places = [place for place, _ in stream(policy, prompts(6), params, limits=limits, max_batch=2)]
    assert places == [1, 2, 3, 4, 0, 5] or places == [1, 2, 3, 4, 5, 0]
    assert policy.engines == [(2, max(len(p) + limit for p, limit in zip(prompts(6), limits, strict=True)))]


def test_slots_wait_for_one_another_where_asked_to():
    torch.manual_seed(0)
    policy = Policy(MODELS["llama"](), eos_token_id=None)
    params, limits = SamplingParams(max_new_tokens=10), [10, 2, 2, 2, 2, 2]
    waited = list(stream(policy, prompts(6), params, limits=limits, max_batch=2, refill=False))
    assert [place for place, _ in waited] == [1, 0, 2, 3, 4, 5]
    refilled = generate(policy, prompts(6), params, limits=limits, max_batch=2)
    for place, answer in waited:
        assert answer.token_ids.tolist() == refilled[place].token_ids.tolist()


@torch.no_grad()
def test_encoder_decoders_know_prompts_from_answers_in_refilled_slots():
    torch.manual_seed(0)
    config = T5Config(vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    config.decoder_start_token_id = 0
    model: Any = T5ForConditionalGeneration(config).eval()

    class EncoderDecoder(Policy):
        def slot_engine(self, num_slots: int, max_length: int) -> Any:
            return EncoderDecoderEngine(self.model, num_slots, max_length)

    growing = [[5, 6, 7], [5, 6, 7, 8, 9], [5, 6, 7, 8, 9, 10, 11]]
    for batch in (1, 3):
        for answer in generate(EncoderDecoder(model), growing, SamplingParams(max_new_tokens=6), max_batch=batch):
            read = torch.as_tensor(np.concatenate([[0], answer.token_ids[:-1]]))[None]
            logits = model(input_ids=torch.as_tensor(answer.prompt_ids)[None], decoder_input_ids=read).logits[0]
            expected = logits.log_softmax(-1).gather(1, torch.as_tensor(answer.token_ids)[:, None]).squeeze(1)
            np.testing.assert_allclose(answer.logprobs, expected, atol=1e-4)


def test_texts_and_ids_are_both_prompts():
    torch.manual_seed(0)
    policy = Policy(MODELS["llama"]())
    by_text = generate(policy, ["5 6 7"], SamplingParams(max_new_tokens=4))
    by_ids = generate(policy, [[5, 6, 7]], SamplingParams(max_new_tokens=4))
    assert by_text[0].token_ids.tolist() == by_ids[0].token_ids.tolist()
    assert by_text[0].prompt == by_ids[0].prompt == "5 6 7"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prompts": [[5], []]}, DataError, "prompt 1 has no tokens"),
        ({"prompts": [[5] * 39]}, DataError, r"prompt 0 has 39 tokens; with 4 new ones it exceeds"),
        ({"prompts": [[5]], "n": 0}, ConfigError, "`n` and `max_batch` must be ≥ 1"),
        ({"prompts": [[5]], "limits": [5]}, ConfigError, r"`limits\[0\]` must lie in 1…max_new_tokens = 4, got 5"),
        ({"prompts": [[5]], "limits": [1, 2]}, ConfigError, "has 2 entries for 1 prompts"),
    ],
)
def test_bad_requests_are_named_at_once(arguments: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        stream(Policy(None), params=SamplingParams(max_new_tokens=4), **arguments)


def test_no_prompts_give_no_answers():
    assert generate(Policy(None), []) == []
