"""What reward endpoints are sent and what they answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Payload(NamedTuple):
    """A format of request and reply.

    Attributes:
        request: Makes the request's JSON from prompts and responses.
        answer: Field of the reply that holds one number per response.
    """

    request: Callable[[list[str], list[str]], dict[str, Any]]
    answer: str


def _textenv(prompts: list[str], responses: list[str]) -> dict[str, Any]:
    return {"prompts": prompts, "responses": responses}


def _openrlhf(prompts: list[str], responses: list[str]) -> dict[str, Any]:
    query = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    return {"query": query, "prompts": prompts}


PAYLOADS = {"textenv": Payload(_textenv, "scores"), "openrlhf": Payload(_openrlhf, "rewards")}
"""By name; ``"openrlhf"`` is what OpenRLHF's ``--remote_rm_url`` sends to ``/get_reward``."""
