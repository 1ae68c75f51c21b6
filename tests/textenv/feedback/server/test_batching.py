from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from agents.policy import CausalLMPolicy
from tests.textenv.feedback.server.conftest import load
from textenv.errors import ConfigError
from textenv.feedback.server.batching import AnswerRequest, Batcher, Chunk, Overloaded
from textenv.sampling.generation import generate
from textenv.sampling.params import SamplingParams

PROMPTS = ("the old film", "the new film is", "the long", "the old film is good")


@pytest.fixture(scope="module")
def policy(policy_folder) -> CausalLMPolicy:
    return load(str(policy_folder))


@pytest.fixture
def batcher(policy) -> Iterator[Batcher]:
    made = Batcher(policy, num_slots=3, max_length=64, max_waiting=40)
    yield made
    made.close()


def ask(batcher: Batcher, prompt: str, params: SamplingParams, **fields: Any) -> tuple[queue.SimpleQueue[Chunk], int]:
    arrived: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    request = AnswerRequest(batcher.policy.encode_prompt(prompt), params, **fields)
    batcher.submit(request, arrived.put)
    return arrived, request.n


def collect(arrived: queue.SimpleQueue[Chunk], n: int) -> dict[int, list[Chunk]]:
    found: dict[int, list[Chunk]] = {index: [] for index in range(n)}
    left = n
    while left:
        chunk = arrived.get(timeout=60)
        found[chunk.number].append(chunk)
        left -= chunk.finish_reason is not None
    return found


def test_answers_of_many_callers_are_those_of_generate(batcher, policy):
    settings = [SamplingParams(temperature=t, top_k=k, max_new_tokens=m) for t, k, m in
                ((1.0, 0, 9), (0.5, 5, 12), (0.0, 0, 5), (1.5, 0, 14))]  # fmt: skip
    asked = [
        (ask(batcher, prompt, params, n=3, seed=seed), prompt, params, seed)
        for seed, (prompt, params) in enumerate(zip(PROMPTS, settings, strict=True))
    ]
    for (arrived, n), prompt, params, seed in asked:
        expected = generate(policy, [prompt], params, n=n, seed=seed)
        for index, chunks in collect(arrived, n).items():
            (chunk,) = chunks
            assert [token.token for token in chunk.tokens] == expected[index].token_ids.tolist()
            assert chunk.text == expected[index].response
            np.testing.assert_allclose([t.logprob for t in chunk.tokens], expected[index].logprobs, atol=1e-4)
            assert chunk.finish_reason == {"eos": "stop", "length": "length"}[expected[index].finish_reason]


def test_stream_pieces_join_to_the_whole_answer(batcher):
    params = SamplingParams(max_new_tokens=12)
    whole = collect(*ask(batcher, PROMPTS[0], params, seed=4))[0][0]
    pieces = collect(*ask(batcher, PROMPTS[0], params, seed=4, stream=True))[0]

    assert len(pieces) > 3
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [token.token for piece in pieces for token in piece.tokens] == [token.token for token in whole.tokens]


def test_stop_string_ends_an_answer(batcher):
    params = SamplingParams(max_new_tokens=16)
    whole = collect(*ask(batcher, PROMPTS[1], params, seed=1))[0][0]
    stop = whole.text[3:5]
    cut = collect(*ask(batcher, PROMPTS[1], params, seed=1, stops=(stop,)))[0][0]

    assert cut.finish_reason == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert len(cut.tokens) < len(whole.tokens)


def test_top_logprobs_are_the_most_probable_tokens(batcher):
    params = SamplingParams(temperature=0.0, max_new_tokens=4)
    (chunk,) = collect(*ask(batcher, PROMPTS[0], params, top_logprobs=3))[0]

    for token in chunk.tokens:
        assert len(token.top) == 3
        assert token.top[0][0] == token.token  # greedy
        assert token.top[0][1] == pytest.approx(token.logprob, abs=1e-5)
        assert token.top[0][1] >= token.top[1][1] >= token.top[2][1]


def test_cancelled_answers_free_their_slots(batcher):
    arrived: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    ids = batcher.policy.encode_prompt(PROMPTS[0])
    long = AnswerRequest(
        ids, SamplingParams(max_new_tokens=50, deny_tokens=batcher.policy.answer.eos_token_ids), n=3, stream=True
    )
    ticket = batcher.submit(long, arrived.put)
    arrived.get(timeout=60)
    ticket.cancelled = True

    assert collect(*ask(batcher, PROMPTS[1], SamplingParams(max_new_tokens=3)))[0][0].finish_reason
    assert batcher.load == 0


def test_submit_more_than_may_wait_is_refused(policy):
    batcher = Batcher(policy, num_slots=1, max_length=64, max_waiting=2)
    with pytest.raises(Overloaded, match="answers are waiting already"):
        ask(batcher, PROMPTS[0], SamplingParams(), n=5)
    batcher.close()
    with pytest.raises(Overloaded, match="no longer served"):
        ask(batcher, PROMPTS[0], SamplingParams())


def test_submit_what_does_not_fit_is_refused(batcher):
    with pytest.raises(ConfigError, match="it exceeds the context of 64"):
        ask(batcher, PROMPTS[0], SamplingParams(max_new_tokens=64))
    with pytest.raises(ConfigError, match="at least one token"):
        batcher.submit(AnswerRequest([], SamplingParams()), print)
    with pytest.raises(ConfigError, match="need `num_slots` ≥ 1"):
        Batcher(batcher.policy, num_slots=0)


def test_close_makes_what_was_asked_for(policy):
    batcher = Batcher(policy, num_slots=1, max_length=64)
    arrived, n = ask(batcher, PROMPTS[0], SamplingParams(max_new_tokens=6), n=4)
    batcher.close()

    assert not batcher.alive
    assert all(chunks[-1].finish_reason in ("stop", "length") for chunks in collect(arrived, n).values())


def test_failure_while_decoding_ends_answers_with_an_error_and_serves_on(batcher, monkeypatch, caplog):
    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(batcher._engine, "logits", fail)
    assert collect(*ask(batcher, PROMPTS[0], SamplingParams()))[0][0].finish_reason == "error"
    monkeypatch.undo()

    assert "out of memory" in caplog.text
    assert collect(*ask(batcher, PROMPTS[0], SamplingParams(max_new_tokens=3)))[0][0].finish_reason != "error"
