"""What reward endpoints are sent and what they answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from textenv.answers import as_json


class Payload(NamedTuple):
    """A format of request and reply.

    Attributes:
        request: Makes the request's JSON from prompts and responses.
        answer: Field of the reply that holds one number per response.
    """

    request: Callable[[list[str], list[str]], dict[str, Any]]
    answer: str


def _textenv(prompts: list[str], responses: list[str]) -> dict[str, Any]:
    """Conversations travel as lists of messages."""
    return {"prompts": [as_json(p) for p in prompts], "responses": [as_json(r) for r in responses]}


def _openrlhf(prompts: list[str], responses: list[str]) -> dict[str, Any]:
    """OpenRLHF knows texts only: of a conversation, what people read."""
    query = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    return {"query": query, "prompts": prompts}


PAYLOADS = {"textenv": Payload(_textenv, "scores"), "openrlhf": Payload(_openrlhf, "rewards")}
"""By name; ``"openrlhf"`` is what OpenRLHF's ``--remote_rm_url`` sends to ``/get_reward``."""
