"""``POST /v1/score``: a reward model serves others; prompts and responses in, one score each out.

What `reward_models.adapters.HttpReward` sends by default. A prompt or response is a text or a list of chat messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from textenv.answers import as_text
from textenv.errors import DataError, RewardError
from textenv.feedback.server.openai_requests import ApiError, ApiLimits, parse_body
from textenv.feedback.server.security import Security

_KNOWN = ("model", "prompts", "responses")


class Scorer(Protocol):
    """A reward model."""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Any:
        """One number per response."""
        ...


def score_routes(rewards: Mapping[str, Scorer], limits: ApiLimits, security: Security) -> list[Route]:
    """The route; it needs the access token where there is one.

    Args:
        rewards: The reward models by name; the first answers requests that name none.
        limits: Of one request.
        security: Checks who asks.
    """

    async def score(request: Request) -> Response:
        security.require_token(request)
        body = parse_body(await request.body())
        unknown = sorted(set(body) - set(_KNOWN))
        if unknown:
            raise ApiError(f"Unrecognized request argument supplied: {unknown[0]}", param=unknown[0])
        name = _named(body.get("model"), rewards)
        prompts, responses = (_texts(body, field, limits.max_scores) for field in ("prompts", "responses"))
        if len(prompts) != len(responses):
            raise ApiError(
                f"each response needs its own prompt: got {len(prompts)} prompts for {len(responses)} responses",
                param="responses",
            )
        try:
            scores = await run_in_threadpool(rewards[name].score, prompts, responses)
        except RewardError as error:  # asking again would not help
            raise ApiError(str(error), status=422) from error
        return JSONResponse({"object": "scores", "model": name, "scores": [float(score) for score in scores]})

    return [Route("/v1/score", score, methods=["POST"])]


def _named(model: Any, rewards: Mapping[str, Scorer]) -> str:
    if not rewards:
        raise ApiError("this server has no reward model; start it with --reward FOLDER", status=404)
    if model is None:
        return next(iter(rewards))
    if not isinstance(model, str) or model not in rewards:
        raise ApiError(
            f"The reward model {model!r} does not exist; there are: {', '.join(rewards)}",
            status=404,
            code="model_not_found",
            param="model",
        )
    return model


def _texts(body: Mapping[str, Any], field: str, most: int) -> list[str]:
    values = body.get(field)
    if not isinstance(values, list) or not 0 < len(values) <= most:
        got = f"{len(values)} of them" if isinstance(values, list) else repr(values)[:40]
        raise ApiError(f"'{field}' must be a list of 1 to {most} texts or lists of messages, got {got}", param=field)
    try:
        return [as_text(value, f"'{field}[{number}]'") for number, value in enumerate(values)]
    except DataError as error:
        raise ApiError(str(error), param=field) from error
