"""A reward model that serves others: the endpoint's checks, and our client against it over a socket."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from reward_models import load_reward_model
from reward_models.adapters import HttpReward
from tests.reward_models.test_reading import LLAMA_CHAT, PROMPTS, RESPONSES, decoder, saved, tokenizer
from tests.textenv.feedback.server.conftest import TOKEN, served
from textenv.answers import Chat
from textenv.cli.serve import ServeConfig, _rewards
from textenv.errors import ConfigError, RewardError
from textenv.feedback.app import AppConfig, build_app
from textenv.feedback.server.security import Security
from textenv.feedback.store import FeedbackStore

CHAT = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "the old film"}]


class Seen:
    """Scores by length, and keeps what it is asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], list[str]]] = []

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        self.calls.append((list(prompts), list(responses)))
        if "broken" in responses:
            raise RewardError("the reward model gave nan for the response 'broken'")
        return np.array([len(response) for response in responses], np.float32)


@pytest.fixture
def model() -> Seen:
    return Seen()


@pytest.fixture
def client(store: FeedbackStore, model: Seen) -> TestClient:
    app = build_app(store, {}, Security(b"k" * 64), rewards={"length": model, "other": Seen()})
    return TestClient(app, raise_server_exceptions=False, base_url="http://127.0.0.1:8000")


def test_scores_come_from_one_call_and_conversations_stay_conversations(client: TestClient, model: Seen) -> None:
    answer = client.post("/v1/score", json={"prompts": ["a", CHAT], "responses": ["one", "three"]})
    assert answer.status_code == 200
    assert answer.json() == {"object": "scores", "model": "length", "scores": [3.0, 5.0]}
    ((prompts, _),) = model.calls
    assert prompts[0] == "a"
    assert isinstance(prompts[1], Chat)
    assert list(prompts[1].messages) == CHAT


@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        ({"prompts": ["a"]}, 400, "responses", "'responses' must be a list of 1 to 256 texts or lists of messages"),
        ({"prompts": [], "responses": []}, 400, "prompts", "got 0 of them"),
        ({"prompts": "a", "responses": ["b"]}, 400, "prompts", "got 'a'"),
        ({"prompts": ["a"], "responses": ["b", "c"]}, 400, "responses", "got 1 prompts for 2 responses"),
        ({"prompts": [3], "responses": ["b"]}, 400, "prompts", r"'prompts[0]': expected a text or a list"),
        ({"prompts": [[{"role": "user"}]], "responses": ["b"]}, 400, "prompts", "as message 0"),
        ({"prompts": ["a"] * 257, "responses": ["b"] * 257}, 400, "prompts", "got 257 of them"),
        ({"prompts": ["a"], "responses": ["b"], "beta": 1}, 400, "beta", "Unrecognized request argument"),
        ({"prompts": ["a"], "responses": ["b"], "model": "x"}, 404, "model", "there are: length, other"),
        ({"prompts": ["a"], "responses": ["broken"]}, 422, None, "gave nan for the response 'broken'"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_the_apis_form(
    client: TestClient, body: dict[str, Any], status: int, param: str | None, message: str
) -> None:
    answer = client.post("/v1/score", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["type"]) == (status, param, "invalid_request_error")
    assert message in error["message"]


def test_a_server_without_a_reward_model_says_so(make_client: Callable[..., TestClient], security: Security) -> None:
    answer = make_client(security).post("/v1/score", json={"prompts": ["a"], "responses": ["b"]})
    assert answer.status_code == 404
    assert "start it with --reward FOLDER" in answer.json()["error"]["message"]


def test_our_client_scores_through_the_endpoint_as_the_model_does(store: FeedbackStore, tmp_path: Path) -> None:
    own = tokenizer("bos", LLAMA_CHAT)
    folder = saved(decoder(own), own, tmp_path / "rm")
    rewards = _rewards(ServeConfig(reward=[f"judge={folder}", "lexicon"]))
    assert list(rewards) == ["judge", "lexicon"]
    app = build_app(store, {}, Security(b"k" * 64, TOKEN), AppConfig(poll_seconds=0.0), rewards=rewards)
    with served(app) as address:
        url = f"{address}/v1/score"
        remote = HttpReward(url, batch_size=2, headers={"Authorization": f"Bearer {TOKEN}"})
        np.testing.assert_allclose(
            remote.score(PROMPTS, RESPONSES), load_reward_model(folder).score(PROMPTS, RESPONSES), atol=1e-5
        )
        with pytest.raises(RewardError, match=r"HTTP status 401.*access token"):
            HttpReward(url).score(["a"], ["b"])


def test_two_rewards_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two reward models are called lexicon; name them"):
        _rewards(ServeConfig(reward=["lexicon", "lexicon"]))
