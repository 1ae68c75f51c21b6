"""A reward model behind an HTTP endpoint, made so that no endpoint can lose a run.

Texts go out in batches, several at once. Every request has a deadline that nothing prolongs (not a trickle of bytes
either), every call of `score` has one too, replies are bounded in size, and what comes back is checked. Failures are
repeated with growing pauses; what fails to the end is a `RewardError`, or gets the fallback score, counted and logged.

Only the standard library's HTTP client is used. Redirects and proxies are not followed, on purpose: they are answers
that a run should not silently depend on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from reward_models.adapters.common import Fallbacks, checked_scores
from reward_models.adapters.http_request import HttpFailure, post_json
from reward_models.adapters.payloads import PAYLOADS
from reward_models.base import paired
from textenv.errors import ConfigError


class HttpReward:
    """Scores that an HTTP endpoint gives.

    After a call of which some part failed to the end, the next calls try each batch only once, until one succeeds: a
    dead endpoint costs a run with a fallback score one timeout per call.

    Args:
        url: ``http://host:port/path`` or ``https://…``.
        payload: ``"textenv"`` (``{"prompts", "responses"}`` → ``{"scores"}``) or ``"openrlhf"``
            (``{"query", "prompts"}`` → ``{"rewards"}``, the query being prompt and response joined).
        batch_size: Responses in one request.
        concurrency: Requests at the same time.
        timeout_seconds: Deadline of one request, from connecting to the last byte.
        total_seconds: Deadline of one call of `score`, pauses and repetitions included.
        attempts: How often a batch is tried.
        backoff_seconds: Pause after the first failure, doubled after each further one; a server's ``Retry-After``
            counts if it is longer.
        fallback_score: Score of responses that could not be scored; None raises instead.
        headers: Sent with each request, e.g. an authorisation; never shown in messages.
        max_reply_bytes: Longer replies are refused.

    Raises:
        ConfigError: If the address or a number is unusable.
    """

    def __init__(
        self,
        url: str,
        *,
        payload: str = "textenv",
        batch_size: int = 32,
        concurrency: int = 4,
        timeout_seconds: float = 30.0,
        total_seconds: float = 300.0,
        attempts: int = 4,
        backoff_seconds: float = 0.5,
        fallback_score: float | None = None,
        headers: Mapping[str, str] | None = None,
        max_reply_bytes: int = 16_000_000,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"`url` must be http://host/path or https://host/path, got {url!r}.")
        if payload not in PAYLOADS:
            raise ConfigError(f"`payload` must be one of {', '.join(PAYLOADS)}; got {payload!r}.")
        numbers = {"batch_size": batch_size, "concurrency": concurrency, "attempts": attempts}
        for name, number in {**numbers, "max_reply_bytes": max_reply_bytes}.items():
            if number < 1:
                raise ConfigError(f"`{name}` must be ≥ 1, got {number}.")
        if not (timeout_seconds > 0 and total_seconds > 0 and backoff_seconds >= 0):
            raise ConfigError(
                "`timeout_seconds` and `total_seconds` must be positive and `backoff_seconds` not negative, got "
                f"{timeout_seconds}, {total_seconds} and {backoff_seconds}."
            )
        self.url, self.payload = url, payload
        self.batch_size, self.concurrency, self.attempts = batch_size, concurrency, attempts
        self.timeout_seconds, self.total_seconds = timeout_seconds, total_seconds
        self.backoff_seconds, self.max_reply_bytes = backoff_seconds, max_reply_bytes
        self.fallbacks = Fallbacks(fallback_score, f"the reward endpoint {url}")
        self._headers = dict(headers or {})
        self._down = False

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """What the endpoint says, shape ``(n,)``.

        Raises:
            ShapeError: If there are not as many prompts as responses.
            RewardError: If a batch fails to the end and there is no fallback score.
        """
        if not (pairs := paired(prompts, responses)):
            return np.zeros(0, np.float32)
        prompts, responses = [prompt for prompt, _ in pairs], [response for _, response in pairs]
        deadline = time.monotonic() + self.total_seconds
        starts = range(0, len(responses), self.batch_size)
        with ThreadPoolExecutor(min(self.concurrency, len(starts))) as pool:
            jobs = []
            for start in starts:
                chosen = slice(start, start + self.batch_size)
                jobs.append(pool.submit(self._batch, list(prompts[chosen]), list(responses[chosen]), deadline))
            found = np.concatenate([job.result() for job in jobs])
        return checked_scores(found, prompts, responses, source=f"the reward endpoint {self.url}")

    def to_spec(self) -> dict[str, Any]:
        """What `reward_models.load_reward_model` builds it from; headers are left out, for they may hold secrets."""
        names = ("url", "payload", "batch_size", "concurrency", "timeout_seconds", "total_seconds", "attempts")
        own = {name: getattr(self, name) for name in (*names, "backoff_seconds", "max_reply_bytes")}
        return {"kind": "http", **own, "fallback_score": self.fallbacks.score}

    def _batch(self, prompts: list[str], responses: list[str], deadline: float) -> NDArray[np.float64]:
        """Scores of one batch; tried until it succeeds, the attempts are used up or the deadline comes."""
        attempts = 1 if self._down else self.attempts
        failure = HttpFailure(f"the {self.total_seconds:g} s of this call were over before it was its turn")
        for attempt in range(attempts):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            try:
                scores = self._request(prompts, responses, min(self.timeout_seconds, left))
            except HttpFailure as error:
                failure = error
            else:
                self._down = False
                return scores
            pause = max(self.backoff_seconds * 2**attempt, failure.retry_after)
            if not failure.again or attempt + 1 == attempts or time.monotonic() + pause >= deadline:
                break
            time.sleep(pause)
        self._down = True
        return self._replaced(failure, responses)

    def _request(self, prompts: list[str], responses: list[str], timeout: float) -> NDArray[np.float64]:
        """One request; the scores, all finite.

        Raises:
            HttpFailure: If anything is wrong with the reply.
        """
        payload = PAYLOADS[self.payload]
        record = payload.request(prompts, responses)
        reply = post_json(self.url, record, self._headers, timeout=timeout, most_bytes=self.max_reply_bytes)
        values = reply.get(payload.answer) if isinstance(reply, dict) else None
        if not isinstance(values, list) or len(values) != len(responses):
            got = f"a list of {len(values)}" if isinstance(values, list) else f"{str(reply)[:80]!r}"
            raise HttpFailure(f'expected {{"{payload.answer}": [{len(responses)} numbers]}}, got {got}')
        scores = np.array([_number(value) for value in values])
        if not np.isfinite(scores).all():
            first = values[int(np.argmin(np.isfinite(scores)))]
            raise HttpFailure(f"expected finite numbers, got {str(first)[:40]!r} among them", partial=scores)
        return scores

    def _replaced(self, failure: HttpFailure, responses: list[str]) -> NDArray[np.float64]:
        """Fallback scores; where only some numbers were unusable, the others stay."""
        scores = np.full(len(responses), np.nan) if failure.partial is None else failure.partial.copy()
        missing = ~np.isfinite(scores)
        scores[missing] = self.fallbacks.use(f"{failure}.", responses=int(missing.sum()))
        return scores


def _number(value: Any) -> float:
    """A JSON value as a float; NaN for what is no number or does not fit into float32."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]  # some servers return the head's output as it is, shape (n, 1)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return float("nan")
    return float(value) if abs(value) <= float(np.finfo(np.float32).max) else float("nan")
