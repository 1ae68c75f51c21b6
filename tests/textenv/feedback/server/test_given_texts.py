"""Log-probabilities of given texts, what single tokens say, how long an answer may be, and messages of tools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from agents.lm.pretraining import train_tokenizer
from tests.textenv.feedback.server.conftest import LIMITS, load, served
from textenv.feedback.app import AppConfig, build_app
from textenv.feedback.server.hosting import PolicyHost
from textenv.feedback.server.security import Security
from textenv.feedback.server.token_texts import Offsets, TokenTexts
from textenv.feedback.store import FeedbackStore

TEXT = "the old film is “good” — naïve 🙂 日本"
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"at": 1}'}}
TOOLS: list[Any] = [
    {"role": "user", "content": "How warm is it?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "17", "tool_call_id": "c1"},
]


@pytest.fixture(scope="module")
def host(policy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolicyHost]:
    with FeedbackStore(tmp_path_factory.mktemp("given") / "api.db") as store:
        made = PolicyHost(policy_folder, load, store, limits=LIMITS)
        yield made
        made.close()


@pytest.fixture(scope="module")
def client(host: PolicyHost) -> Iterator[openai.OpenAI]:
    app = build_app(host._store, {"tiny": host}, Security(b"k" * 64), AppConfig(poll_seconds=0.0))
    with served(app) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as made:
        yield made


def given_logprobs(folder: Path, ids: list[int]) -> np.ndarray:
    """What transformers says of each token after the first."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1]
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None]).squeeze(1).numpy()


@pytest.mark.parametrize("new_tokens", [0, 3])
def test_echo_scores_the_prompt_as_transformers_does(client, host, policy_folder, new_tokens):
    ids = host.current.policy.encode_prompt("the old film is good and long")
    answer = client.completions.create(
        model="tiny", prompt=[ids, ids[:4]], echo=True, logprobs=5, max_tokens=new_tokens, temperature=0
    )
    for choice, prompt in zip(answer.choices, (ids, ids[:4]), strict=True):
        told = choice.logprobs
        assert told.token_logprobs[0] is None
        assert told.top_logprobs[0] is None
        expected = given_logprobs(policy_folder, prompt)
        assert told.token_logprobs[1 : len(prompt)] == pytest.approx(expected.tolist(), abs=1e-4)
        assert len(told.tokens) <= len(prompt) + new_tokens
        assert all(len(top) == 5 for top in told.top_logprobs[1:])
        shown = [choice.text[at : at + len(token)] for at, token in zip(told.text_offset, told.tokens, strict=True)]
        assert [text for text in shown if text] == [t for t, text in zip(told.tokens, shown, strict=True) if text]
        assert sum(map(len, shown)) == len(choice.text)
    assert answer.usage.completion_tokens == 0 if new_tokens == 0 else True


def test_echo_without_logprobs_begins_with_the_prompt(client):
    asked = {"model": "tiny", "prompt": "the old film", "max_tokens": 6, "seed": 1}
    alone = client.completions.create(**asked).choices[0].text
    assert client.completions.create(**asked, echo=True).choices[0].text == "the old film" + alone
    pieces = client.completions.create(**asked, echo=True, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == "the old film" + alone
    with pytest.raises(openai.BadRequestError, match="'max_tokens' must be a whole number from 1"):
        client.completions.create(model="tiny", prompt="the", max_tokens=0)


def test_offsets_of_a_stream_are_those_of_the_whole(client):
    asked = {"model": "tiny", "prompt": "the new film", "max_tokens": 12, "seed": 3, "logprobs": 1, "echo": True}
    whole = client.completions.create(**asked).choices[0]
    offsets, tokens = [], []
    for piece in client.completions.create(**asked, stream=True):
        offsets += piece.choices[0].logprobs.text_offset
        tokens += piece.choices[0].logprobs.tokens
    assert (tokens, offsets) == (whole.logprobs.tokens, whole.logprobs.text_offset)


def test_without_a_limit_an_answer_may_fill_the_context(client, host):
    messages = [{"role": "user", "content": "film " * 12}]
    for seed in range(8):
        answer = client.chat.completions.create(model="tiny", messages=messages, seed=seed, temperature=2)
        ended = answer.choices[0].finish_reason == "length"
        assert not ended or answer.usage.total_tokens == LIMITS.max_length
    ids = (host.current.policy.encode_prompt("film") * 96)[: LIMITS.max_length - 3]
    answer = client.completions.create(model="tiny", prompt=ids)  # 16 where there is room for them
    assert answer.usage.completion_tokens <= 3
    with pytest.raises(openai.BadRequestError, match=r"maximum context length is 96 tokens.*98 tokens"):
        client.completions.create(model="tiny", prompt=ids, max_tokens=5)


def test_messages_of_tools_reach_the_prompt(client, host, monkeypatch):
    assert client.chat.completions.create(model="tiny", messages=TOOLS, max_tokens=2).choices[0].message.role
    with pytest.raises(openai.BadRequestError, match=r"'messages\[0\].content' must be a text"):
        client.chat.completions.create(model="tiny", messages=[{"role": "assistant", "content": None}])
    with pytest.raises(openai.BadRequestError, match=r"'messages\[0\].tool_calls\[0\]' must have a 'function'"):
        client.chat.completions.create(model="tiny", messages=[{**TOOLS[1], "tool_calls": [{"id": "x"}]}])
    with pytest.raises(openai.BadRequestError, match=r"'messages\[2\]' needs a 'tool_call_id'"):
        client.chat.completions.create(model="tiny", messages=[*TOOLS[:2], {"role": "tool", "content": "17"}])
    with pytest.raises(openai.BadRequestError, match=r"'messages\[0\].function_call' is not supported"):
        client.chat.completions.create(model="tiny", messages=[{**TOOLS[1], "function_call": {"name": "f"}}])
    template = "{% for m in messages if m.role != 'tool' %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    monkeypatch.setattr(host.current.policy.tokenizer, "chat_template", template)
    with pytest.raises(openai.BadRequestError, match=r"chat template leaves .* of 'messages\[2\]' out"):
        client.chat.completions.create(model="tiny", messages=TOOLS, max_tokens=2)


@pytest.mark.parametrize("penalty", ["presence_penalty", "frequency_penalty"])
def test_penalties_are_refused_where_they_change_something(client, penalty):
    assert client.completions.create(model="tiny", prompt="the", max_tokens=1, **{penalty: 0.0})
    with pytest.raises(openai.BadRequestError, match=f"'{penalty}' is not supported") as caught:
        client.completions.create(model="tiny", prompt="the", max_tokens=1, **{penalty: 0.5})
    assert caught.value.code == "unsupported_parameter"


def _byte_level() -> Any:
    return train_tokenizer(["the old film is good", "a naïve film"], 300)


def _falling_back() -> Any:
    """A tokenizer of Llama's kind: words with a mark for the blank before them, bytes for what is in none."""
    vocabulary = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256)}
    for piece in ("▁", "▁the", "▁old", *"abcdefghijklmnopqrstuvwxyz"):
        vocabulary[piece] = len(vocabulary)
    inner = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(parts)
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


def _word_pieces() -> Any:
    vocabulary = {piece: number for number, piece in enumerate(["[UNK]", "the", "old", "fi", "##lm", "is", "a"])}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")


@pytest.mark.parametrize(
    ("make", "text"), [(_byte_level, TEXT), (_falling_back, TEXT), (_word_pieces, "the old film is the")]
)
def test_tokens_say_their_own_bytes_and_where_they_stand(make, text):
    tokenizer = make()
    texts, ids = TokenTexts(tokenizer), tokenizer.encode(text, add_special_tokens=False)
    pieces = [texts.bytes(token) for token in ids]
    assert b"".join(pieces).decode().lstrip(" ") == text
    at = Offsets().extend(text, pieces)
    begins = np.cumsum([0, *map(len, pieces)])[:-1] - (len(b"".join(pieces)) - len(text.encode()))  # less a first blank
    assert at == [len(text.encode()[: max(0, begin)].decode(errors="ignore")) for begin in begins]
    assert at == sorted(at)
    assert all(
        texts.text(token).encode() == texts.bytes(token) or texts.text(token).startswith("bytes:\\x") for token in ids
    )


def test_half_a_character_is_told_by_its_bytes_and_every_token_by_its_own_name():
    tokenizer = _byte_level()
    texts, ids = TokenTexts(tokenizer), tokenizer.encode("🙂", add_special_tokens=False)
    assert len(ids) == 4
    assert [list(texts.bytes(token)) for token in ids] == [[byte] for byte in "🙂".encode()]
    assert texts.text(ids[0]) == "bytes:\\xf0"
    assert Offsets().extend("a🙂b", [b"a", *(texts.bytes(token) for token in ids), b"b"]) == [0, 1, 1, 1, 1, 2]
    every = [(token, -float(token)) for token in range(len(tokenizer))]
    assert len(texts.by_text(every)) == len(every)
