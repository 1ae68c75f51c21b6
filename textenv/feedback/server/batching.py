"""Continuous batching: answers of many callers, decoded side by side.

One thread steps the policy's slot engine. An answer joins as soon as a slot is free, has settings and a seed of its
own, and leaves when it ends; nobody waits for anybody else's answer. What an answer says depends on its own prompt,
settings and seed alone, up to the rounding of the model's arithmetic: it is what
:func:`textenv.sampling.generate` says.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from textenv.answers import Answers, answers_of
from textenv.answers.vocabulary import CONTEXT_TOKENS
from textenv.errors import ConfigError, TextEnvError
from textenv.feedback.server.text_stream import TextStream
from textenv.protocols import GenerativePolicy
from textenv.sampling.generation import may_end
from textenv.sampling.params import SamplingParams, SettledParams, settle
from textenv.sampling.sampler import draw, trajectory_uniforms

_logger = logging.getLogger(__name__)


class Overloaded(TextEnvError, RuntimeError):
    """Too many answers are waiting; try again later."""


class TokenInfo(NamedTuple):
    """A token that was drawn.

    Attributes:
        token: Its id.
        logprob: Under the policy itself (temperature 1, nothing cut off), nats; NaN for a text's first token.
        top: The most probable tokens and their log-probabilities, best first; empty where not asked for.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Chunk(NamedTuple):
    """A piece of an answer, or all of it.

    Attributes:
        number: Which of the request's answers.
        text: Text that is new.
        tokens: Tokens that are new, the end-of-text token included.
        finish_reason: ``stop`` (end of text, or a stop string), ``length``, ``error``; None where more follows.
        prompt: The prompt's tokens, where they were to be scored; in the first piece.
    """

    number: int
    text: str
    tokens: tuple[TokenInfo, ...]
    finish_reason: str | None
    prompt: tuple[TokenInfo, ...] = ()


@dataclass(frozen=True)
class AnswerRequest:
    """Answers wanted to one prompt.

    Attributes:
        prompt_ids: The prompt.
        params: Settings; what they leave open is the policy's own.
        n: How many answers.
        seed: Of the draws.
        stops: Strings that end an answer, beside those of the policy's own.
        top_logprobs: How many of the most probable tokens to tell at each step; None tells none.
        stream: Whether pieces are wanted as they come; else every answer comes whole.
        score_prompt: Whether to tell the log-probabilities of the prompt's own tokens.
        answer: Whether an answer is wanted; False scores the prompt alone.
    """

    prompt_ids: Sequence[int]
    params: SamplingParams
    n: int = 1
    seed: int = 0
    stops: tuple[str, ...] = ()
    top_logprobs: int | None = None
    stream: bool = False
    score_prompt: bool = False
    answer: bool = True


@dataclass(eq=False)
class Ticket:
    """A request under way.

    Attributes:
        request: What is wanted.
        listener: Called with every chunk, from the batcher's thread; must return at once.
        cancelled: Set it to leave: nobody listens any more.
    """

    request: AnswerRequest
    listener: Callable[[Chunk], None]
    cancelled: bool = False


@dataclass(eq=False)
class _Running:
    """An answer that waits for a slot or has one."""

    ticket: Ticket
    index: int
    params: SettledParams
    steps: SettledParams  # the settings without the length limit: answers that share them are drawn together
    answers: Answers
    text: TextStream
    uniforms: np.ndarray = field(default_factory=lambda: np.zeros(0))
    waiting: list[TokenInfo] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    sent: str = ""
    drawn: int = 0
    prompt: tuple[TokenInfo, ...] | None = None  # scored, and not told yet


class Batcher:
    """Decodes the answers of many callers side by side.

    Args:
        policy: Answers.
        num_slots: Answers that are decoded at a time.
        max_length: Longest prompt and answer together, tokens; the policy's context where that is less.
        max_waiting: Answers that may wait for a slot.

    Raises:
        ConfigError: If a number is out of its range.
    """

    def __init__(
        self, policy: GenerativePolicy, *, num_slots: int = 16, max_length: int = 1024, max_waiting: int = 256
    ) -> None:
        if num_slots < 1 or max_length < 2 or max_waiting < 1:
            raise ConfigError(
                f"need `num_slots` ≥ 1, `max_length` ≥ 2 and `max_waiting` ≥ 1, got {num_slots}, {max_length} and "
                f"{max_waiting}"
            )
        self.policy = policy
        self.max_length = min(max_length, policy.context_length or max_length)
        self._max_waiting = max_waiting
        self._engine: Any = policy.slot_engine(num_slots, self.max_length)
        self._tokens = np.zeros((num_slots, self.max_length), np.int64)
        self._start, self._lengths = np.zeros((2, num_slots), np.int64)
        if hasattr(self._engine, "prompt_lengths"):  # an encoder-decoder has to know where the answer begins
            self._engine.prompt_lengths = self._start
        self._slots: list[_Running | None] = [None] * num_slots
        self._queue: deque[_Running] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="textenv-batcher", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether answers are still made."""
        return self._thread.is_alive() and not self._closing

    @property
    def load(self) -> int:
        """Answers that are being made or wait for it."""
        return len(self._queue) + sum(slot is not None for slot in self._slots)

    def submit(self, request: AnswerRequest, listener: Callable[[Chunk], None]) -> Ticket:
        """Ask for answers; every one ends with a chunk that has a finish reason.

        Raises:
            ConfigError: If prompt and answer do not fit, or the prompt is empty.
            Overloaded: If too many answers are waiting, or the batcher has been closed.
        """
        own = answers_of(self.policy).format.stop if request.params.stop is None else request.params.stop
        stops = tuple(dict.fromkeys((*own, *request.stops)))
        params, answers_as = settle(self.policy, replace(request.params, stop=stops))
        size, limit = len(request.prompt_ids), params.max_new_tokens if request.answer else 0
        if size < 1 or request.n < 1:
            raise ConfigError("a request needs a prompt of at least one token and `n` ≥ 1")
        if size + limit > self.max_length:
            raise ConfigError(
                f"the prompt has {size} tokens; with {limit} new ones it exceeds the context of {self.max_length}"
            )
        ticket = Ticket(request, listener)
        steps, context = replace(params, max_new_tokens=1), list(request.prompt_ids[-CONTEXT_TOKENS:])
        answers = [
            _Running(ticket, index, params, steps, answers_as, TextStream(self.policy.tokenizer, stops, context))
            for index in range(request.n)
        ]
        with self._wake:
            if self._closing or not self._thread.is_alive():
                raise Overloaded("this version of the policy is no longer served; ask again")
            if len(self._queue) + request.n > self._max_waiting + sum(slot is None for slot in self._slots):
                raise Overloaded(f"{len(self._queue)} answers are waiting already; try again later")
            self._queue.extend(answers)
            self._wake.notify()
        return ticket

    def close(self, *, wait: bool = True) -> None:
        """Make the answers that were asked for, take no more, and end."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if wait:
            self._thread.join()

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._wait_for_work():
                try:
                    self._step()
                except (TextEnvError, RuntimeError, ValueError, IndexError, MemoryError) as error:
                    _logger.exception("decoding failed: %s", error)
                    self._fail_running()
        finally:  # whatever ended this thread, nobody waits for ever
            self._closing = True
            self._fail_running()
            while self._queue:
                self._end(self._queue.popleft(), "error")

    def _wait_for_work(self) -> bool:
        """Fill free slots with waiting answers; sleeps while there is nothing to do, False where that stays so."""
        with self._wake:
            while True:
                for slot, running in enumerate(self._slots):
                    if running is not None and running.ticket.cancelled:
                        self._slots[slot] = None
                while self._queue and None in self._slots:
                    running = self._queue.popleft()
                    if not running.ticket.cancelled:
                        self._seat(self._slots.index(None), running)
                if any(slot is not None for slot in self._slots):
                    return True
                if self._closing:
                    return False
                self._wake.wait()

    def _seat(self, slot: int, running: _Running) -> None:
        request = running.ticket.request
        size = len(request.prompt_ids)
        self._tokens[slot, :size] = request.prompt_ids
        self._start[slot] = self._lengths[slot] = size
        number = np.array([running.index << 32])  # as `generate` numbers the answers to one prompt
        running.uniforms = trajectory_uniforms(request.seed, number, running.params.max_new_tokens)[0]
        self._slots[slot] = running

    @torch.no_grad()
    def _step(self) -> None:
        """One token more for every answer that has a slot."""
        self._score_prompts()
        rows = np.array([slot for slot, running in enumerate(self._slots) if running is not None])
        if not len(rows):
            return
        logits = self._engine.logits(self._tokens[rows], self._lengths[rows], rows)[:, : self.policy.vocab_size]
        groups: dict[SettledParams, list[int]] = {}
        for place, slot in enumerate(rows):
            groups.setdefault(self._at(slot).steps, []).append(place)
        for params, places in groups.items():
            members = rows[places]
            uniforms = np.array([self._at(slot).uniforms[self._at(slot).drawn] for slot in members])
            mine = logits if len(groups) == 1 else logits[torch.as_tensor(places, device=logits.device)]
            allowed = may_end(self._at(members[0]).answers, self._lengths[members] - self._start[members], mine)
            history = (self._tokens[members], self._lengths[members])
            drawn = draw(mine, params, uniforms, allowed=allowed, history=history)
            tops = self._tops(mine, members)
            each = zip(members, drawn.tokens.tolist(), drawn.logprobs.tolist(), tops, strict=True)
            for slot, token, logprob, top in each:
                self._tokens[slot, self._lengths[slot]] = token
                self._lengths[slot] += 1
                self._advance(int(slot), TokenInfo(token, logprob, top))

    def _score_prompts(self) -> None:
        """Score the prompts of those that have just come and want it; who wants nothing else leaves."""
        for slot, running in enumerate(self._slots):
            if running is None or running.drawn or running.prompt is not None:
                continue
            request = running.ticket.request
            if request.score_prompt:
                running.prompt = self._scored(slot, request)
            if not request.answer:
                self._slots[slot] = None
                self._end(running, "length")

    def _scored(self, slot: int, request: AnswerRequest) -> tuple[TokenInfo, ...]:
        ids, first = np.asarray(request.prompt_ids, np.int64), TokenInfo(int(request.prompt_ids[0]), math.nan)
        if len(ids) == 1:
            return (first,)
        if hasattr(self._engine, "prefix_logits"):
            logits = self._engine.prefix_logits(ids[:-1])
        else:
            sizes = range(1, len(ids))
            each = [self._engine.logits(ids[None], np.array([size]), np.array([slot])) for size in sizes]
            logits = torch.cat(each)
        logprobs = logits[:, : self.policy.vocab_size].float().log_softmax(-1)
        own = logprobs.gather(1, torch.as_tensor(ids[1:], device=logprobs.device)[:, None]).squeeze(1).tolist()
        values, tops = logprobs.topk(min(request.top_logprobs or 0, logprobs.shape[1]), dim=-1)
        each = zip(ids[1:].tolist(), own, tops.tolist(), values.tolist(), strict=True)
        return (first, *(TokenInfo(i, lp, tuple(zip(top, v, strict=True))) for i, lp, top, v in each))

    def _at(self, slot: int) -> _Running:
        running = self._slots[slot]
        assert running is not None
        return running

    def _tops(self, logits: torch.Tensor, slots: np.ndarray) -> list[tuple[tuple[int, float], ...]]:
        """The most probable tokens of the rows that want to know."""
        counts = [self._at(slot).ticket.request.top_logprobs or 0 for slot in slots]
        if not any(counts):
            return [()] * len(slots)
        logprobs = logits.float().log_softmax(-1)
        values, ids = logprobs.topk(min(max(counts), logits.shape[1]), dim=-1)
        rows = zip(ids.tolist(), values.tolist(), counts, strict=True)
        return [tuple(zip(ids[:count], values[:count], strict=True)) for ids, values, count in rows]

    def _advance(self, slot: int, token: TokenInfo) -> None:
        """Hand on what a token adds to its answer; free the slot where the answer ends."""
        running = self._at(slot)
        running.drawn += 1
        running.waiting.append(token)
        begin, end = self._start[slot], self._lengths[slot]
        context, ids = self._tokens[slot, :begin], self._tokens[slot, begin:end]
        reason = "stop" if running.answers.finish(ids, context) is not None else None
        if reason is None and running.drawn == running.params.max_new_tokens:
            reason = "length"
        if reason is not None:
            self._slots[slot] = None
            self._end(running, reason, running.answers.answer_text(context, ids))
            return
        running.pieces.append(running.text.push(token.token))
        if running.ticket.request.stream and running.pieces[-1]:
            running.sent += "".join(running.pieces)
            prompt = running.prompt or ()
            chunk = Chunk(running.index, "".join(running.pieces), tuple(running.waiting), None, prompt)
            running.pieces, running.waiting, running.prompt = [], [], ()
            running.ticket.listener(chunk)

    def _end(self, running: _Running, reason: str, text: str = "") -> None:
        """The last chunk of an answer, whose whole text this is."""
        # Broken characters and blanks that a decoder cleans up may change what has been sent already.
        rest = text[len(running.sent) :] if text.startswith(running.sent) else running.text.finish()
        running.ticket.listener(Chunk(running.index, rest, tuple(running.waiting), reason, running.prompt or ()))

    def _fail_running(self) -> None:
        for slot, running in enumerate(self._slots):
            if running is not None:
                self._slots[slot] = None
                self._end(running, "error")
