"""The ``openai`` package, unchanged, against a server on a socket."""

from __future__ import annotations

import time
from collections.abc import Iterator

import openai
import pytest

from tests.textenv.feedback.server.conftest import LIMITS, TOKEN, load, served
from textenv.feedback.app import AppConfig, build_app
from textenv.feedback.server.hosting import PolicyHost
from textenv.feedback.server.openai_requests import ApiLimits
from textenv.feedback.server.security import Security
from textenv.feedback.store import FeedbackStore, PolicyVersion
from textenv.sampling.generation import generate
from textenv.sampling.params import SamplingParams

NEXT = "tiny@round-1"
CHAT = [{"role": "user", "content": "the old film"}]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[FeedbackStore]:
    with FeedbackStore(tmp_path_factory.mktemp("api") / "api.db") as made:
        yield made


@pytest.fixture(scope="module")
def host(policy_folder, store) -> Iterator[PolicyHost]:
    made = PolicyHost(policy_folder, load, store, limits=LIMITS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def url(host, store) -> Iterator[str]:
    config = AppConfig(api=ApiLimits(max_new_tokens=24), poll_seconds=0.05)
    with served(build_app(store, {"tiny": host}, Security(b"k" * 64, TOKEN), config)) as address:
        yield address


@pytest.fixture(scope="module")
def client(url) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0) as made:
        yield made


def test_models_are_listed(client, host):
    (model,) = client.models.list().data

    assert model.id == "tiny"
    assert client.models.retrieve("tiny").id == "tiny"
    assert client.models.retrieve(host.current.fingerprint).id == "tiny"


def test_completion_is_what_generate_says(client, host):
    answer = client.completions.create(
        model="tiny", prompt="the old film", max_tokens=10, temperature=0.8, top_p=0.9, seed=3, n=2, logprobs=2
    )
    params = SamplingParams(temperature=0.8, top_p=0.9, max_new_tokens=10)
    expected = generate(host.current.policy, ["the old film"], params, n=2, seed=3)

    assert [choice.text for choice in answer.choices] == [each.response for each in expected]
    assert answer.system_fingerprint == host.current.fingerprint
    assert answer.usage.completion_tokens == sum(len(each.token_ids) for each in expected)
    assert answer.usage.prompt_tokens == len(host.current.policy.encode_prompt("the old film"))
    told = answer.choices[0].logprobs
    assert told.token_logprobs == pytest.approx(expected[0].logprobs.tolist(), abs=1e-4)
    assert len(told.tokens) == len(told.text_offset) == len(told.top_logprobs) == len(expected[0].token_ids)


def test_completions_of_several_prompts_are_numbered_through(client, host):
    ids = host.current.policy.encode_prompt("the new film")
    both = client.completions.create(model="tiny", prompt=["the old film", "the new film"], n=2, seed=5, temperature=0)
    by_ids = client.completions.create(model="tiny", prompt=[ids], seed=6, temperature=0)

    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert both.choices[2].text == by_ids.choices[0].text


def test_completion_without_a_limit_has_sixteen_tokens_at_most(client):
    answer = client.completions.create(model="tiny", prompt="the", seed=1)

    assert answer.usage.completion_tokens <= 16


def test_completion_stream_joins_to_the_whole(client):
    asked = {"model": "tiny", "prompt": "the long film", "max_tokens": 12, "seed": 9}
    whole = client.completions.create(**asked)
    pieces = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))

    assert "".join(piece.choices[0].text for piece in pieces[:-1]) == whole.choices[0].text
    assert pieces[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert pieces[-1].usage == whole.usage


def test_chat_answers(client):
    answer = client.chat.completions.create(
        model="tiny", messages=CHAT, max_completion_tokens=6, seed=2, logprobs=True, top_logprobs=2
    )
    (choice,) = answer.choices

    assert choice.message.role == "assistant"
    assert len(choice.logprobs.content) == answer.usage.completion_tokens
    assert len(choice.logprobs.content[0].top_logprobs) == 2


def test_chat_stream_joins_to_the_whole(client):
    asked = {"model": "tiny", "messages": CHAT, "max_tokens": 12, "seed": 4, "n": 2}
    whole = client.chat.completions.create(**asked)
    texts, ends = ["", ""], [None, None]
    for piece in client.chat.completions.create(**asked, stream=True):
        for choice in piece.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] = ends[choice.index] or choice.finish_reason

    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]


def test_stop_strings_are_cut_off(client):
    asked = {"model": "tiny", "prompt": "the new film", "max_tokens": 20, "seed": 8}
    text = client.completions.create(**asked).choices[0].text
    stop = text[4:6]
    choice = client.completions.create(**asked, stop=[stop]).choices[0]

    assert choice.text == text[: text.index(stop)]
    assert choice.finish_reason == "stop"


def test_store_keeps_the_prompt(client, store):
    for _ in range(2):
        client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "mail x@y.org"}], max_tokens=1, store=True
        )
    client.completions.create(model="tiny", prompt="not kept", max_tokens=1)

    (kept,) = store.prompts()
    assert (kept.text, kept.count, kept.source) == ("mail [email]", 2, "api:chat")
    assert kept.messages == ({"role": "user", "content": "mail [email]"},)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 3}, "'temperature' must be a number from 0 to 2, got 3"),
        ({"max_tokens": 1000}, "'max_tokens' must be a whole number from 1 to 24"),
        ({"n": 100}, "'n' must be a whole number from 1 to 32"),
        ({"prompt": ["a"] * 5, "n": 10}, "'n' times the number of prompts may be 32, got 50"),
        ({"prompt": ""}, "at least one token"),
        ({"prompt": [[1, 99999]]}, "token ids must lie in"),
        ({"prompt": "word " * 200}, "This model's maximum context length is 96 tokens"),
        ({"stop": ["a"] * 9}, "'stop' must be a text or up to 4 texts"),
        ({"suffix": "x"}, "'suffix' is not supported"),
        ({"extra_body": {"wish": 1}}, "Unrecognized request argument supplied: wish"),
        ({"extra_body": {"prompt": {"a": 1}}}, "'prompt' must be a text"),
        ({"extra_body": {"stream": "yes"}}, "'stream' must be true or false"),
    ],
)
def test_wrong_completions_are_bad_requests(client, fields, message):
    with pytest.raises(openai.BadRequestError, match=message):
        client.completions.create(**{"model": "tiny", "prompt": "the", **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": []}, "'messages' must be a list with at least one message"),
        ({"messages": [{"role": "boss", "content": "x"}]}, r"'messages\[0\]' needs a role"),
        ({"messages": [{"role": "user", "content": 5}]}, r"'messages\[0\].content' must be a text"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "'tools' is not supported"),
        ({"top_logprobs": 2}, "'top_logprobs' needs 'logprobs'"),
    ],
)
def test_wrong_chats_are_bad_requests(client, fields, message):
    with pytest.raises(openai.BadRequestError, match=message):
        client.chat.completions.create(**{"model": "tiny", "messages": CHAT, **fields})


def test_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="The model 'gpt' does not exist; there are: tiny") as caught:
        client.completions.create(model="gpt", prompt="x")
    assert caught.value.code == "model_not_found"


def test_wrong_key_is_an_authentication_error(url):
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.models.list()
    assert caught.value.code == "invalid_api_key"


def test_too_many_waiting_answers_are_a_rate_limit_error(client):
    with pytest.raises(openai.RateLimitError, match="answers are waiting already"):
        client.completions.create(model="tiny", prompt="the", n=32)


def test_new_version_answers_without_a_restart(client, host, store, save_policy, tmp_path):
    before = host.current.fingerprint
    store.register_policy(PolicyVersion("tiny", "round-1", str(save_policy(tmp_path / "next", seed=5))))
    deadline = time.monotonic() + 60
    while (answer := client.completions.create(model="tiny", prompt="the", max_tokens=2)).system_fingerprint != NEXT:
        assert answer.system_fingerprint == before
        assert time.monotonic() < deadline, f"still served by {before}"
