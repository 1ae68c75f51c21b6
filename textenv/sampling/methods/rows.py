"""Growing answers side by side on a token model: what the methods move, copy, rewind and read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from textenv.errors import DataError
from textenv.protocols import GenerativePolicy
from textenv.sampling.generation import EncodedPrompts, finish_reasons, make_trajectory, may_end
from textenv.sampling.methods.base import Cost
from textenv.sampling.params import SettledParams, settle
from textenv.sampling.sampler import draw
from textenv.trajectory import Trajectory


class Rows:
    """Answers to prompts, one per slot of a token model, each as long as it has become.

    Args:
        policy: Whose tokens they are.
        prompts: All prompts of the call.
        prompt_indices: Which prompt each row answers.
        params: How tokens are drawn.
        cost: Is added to.
        seed: Goes into the trajectories.

    Attributes:
        tokens: Prompt and answer, right-padded, ``(N, L)``.
        start: Length of each row's prompt, ``(N,)``.
        lengths: Tokens of prompt and answer, ``(N,)``.
        behaviour: Log-probs under the distribution drawn from, by answer position, ``(N, max_new_tokens)``.
        logprobs: Log-probs under the policy itself, likewise.
    """

    def __init__(
        self,
        policy: GenerativePolicy,
        prompts: EncodedPrompts,
        prompt_indices: Sequence[int] | NDArray[np.int64],
        params: SettledParams,
        cost: Cost,
        seed: int,
    ) -> None:
        self.policy, self.cost, self.seed = policy, cost, seed
        self.params, self.answers = settle(policy, params)
        self.prompts = prompts
        self.prompt_indices = np.asarray(prompt_indices, np.int64)
        self.start = np.array([len(prompts.ids[i]) for i in self.prompt_indices], np.int64)
        count, steps = len(self.start), self.params.max_new_tokens
        self.tokens = np.zeros((count, int(self.start.max()) + steps), np.int64)
        for row, i in enumerate(self.prompt_indices):
            self.tokens[row, : self.start[row]] = prompts.ids[i]
        self.lengths = self.start.copy()
        self.behaviour, self.logprobs = np.zeros((2, count, steps))
        self._engine: Any = policy.slot_engine(count, self.tokens.shape[1])
        if hasattr(self._engine, "prompt_lengths"):  # an encoder-decoder has to know where the answer begins
            self._engine.prompt_lengths = self.start
        self._fed = np.full_like(self.tokens, -1)
        self._fed_lengths = np.zeros(count, np.int64)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.start)

    @property
    def answered(self) -> NDArray[np.int64]:
        """Answer tokens of each row, ``(N,)``."""
        return self.lengths - self.start

    @property
    def finished(self) -> NDArray[np.bool_]:
        """True where an answer has ended or is as long as may be, ``(N,)``."""
        return self.ended | (self.answered >= self.params.max_new_tokens)

    @property
    def ended(self) -> NDArray[np.bool_]:
        """True where an answer has ended with an end token or a stop string, ``(N,)``."""
        reasons = finish_reasons(self.answers, self.tokens, self.start, self.lengths, np.arange(len(self)))
        return (self.answered > 0) & np.array([reason is not None for reason in reasons])

    def ends_with(self, row: int, token: int) -> bool:
        """Whether an answer would end with this token."""
        begin, end = self.start[row], self.lengths[row]
        return self.answers.finish([*self.tokens[row, begin:end].tolist(), token], self.tokens[row, :begin]) is not None

    def logits(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Next-token logits of rows, ``(k, V)``."""
        tokens, lengths = self.tokens[rows], self.lengths[rows]
        self._count_fed(tokens, lengths, rows)
        return self._engine.logits(tokens, lengths, rows)[:, : self.policy.vocab_size]

    def draw(self, rows: NDArray[np.int64], uniforms: NDArray[np.float64]) -> None:
        """Draw one token for each of these rows and append it."""
        history = (self.tokens[rows], self.lengths[rows]) if self.params.repetition_penalty != 1 else None
        logits = self.logits(rows)
        allowed = may_end(self.answers, self.answered[rows], logits)
        drawn = draw(logits, self.params, uniforms, allowed=allowed, history=history)
        self.append(rows, *(part.cpu().numpy() for part in drawn))

    def place(self, row: int, prefix: NDArray[np.int64]) -> None:
        """Let an answer begin with given tokens, whose log-probs are not known (NaN).

        Raises:
            DataError: If the prefix is an answer that has ended already.
        """
        size = len(prefix)
        ended = self.answers.is_eos[prefix].any() or (size and self.answers.finish(prefix, self.prompt(row)))
        if size >= self.params.max_new_tokens or ended:
            raise DataError(f"the prefix {prefix.tolist()} is an answer that has ended; nothing can follow it")
        self.tokens[row, self.start[row] : self.start[row] + size] = prefix
        self.lengths[row] = self.start[row] + size
        self.behaviour[row, :size] = self.logprobs[row, :size] = np.nan

    def append(
        self,
        rows: NDArray[np.int64],
        tokens: NDArray[np.int64],
        behaviour: NDArray[np.float64],
        logprobs: NDArray[np.float64],
    ) -> None:
        """Append given tokens with their log-probs."""
        places = self.answered[rows]
        self.tokens[rows, self.lengths[rows]] = tokens
        self.behaviour[rows, places], self.logprobs[rows, places] = behaviour, logprobs
        self.lengths[rows] += 1
        self.cost.generated_tokens += len(rows)

    def complete(self, rows: NDArray[np.int64], uniforms: NDArray[np.float64]) -> None:
        """Sample rows to their end.

        Args:
            rows: Shape ``(k,)``.
            uniforms: By answer position, ``(k, max_new_tokens)``.
        """
        of_row = np.zeros(len(self), np.int64)
        of_row[rows] = np.arange(len(rows))
        running = rows[~self.finished[rows]]
        while len(running):
            self.draw(running, uniforms[of_row[running], self.answered[running]])
            running = running[~self.finished[running]]

    def copy(self, sources: NDArray[np.int64], targets: NDArray[np.int64]) -> None:
        """Let target rows become what source rows are; all show what stood before the call."""
        moved = sources != targets
        sources, targets = sources[moved], targets[moved]
        if not len(sources):
            return
        for table in (self.tokens, self.lengths, self.behaviour, self.logprobs, self._fed, self._fed_lengths):
            table[targets] = table[sources]
        self._engine.fork(sources, targets)

    def answer(self, row: int) -> NDArray[np.int64]:
        """Answer tokens of a row, end-of-text included."""
        return self.tokens[row, self.start[row] : self.lengths[row]].copy()

    def prompt(self, row: int) -> NDArray[np.int64]:
        """Prompt tokens of a row; a view."""
        return self.tokens[row, : self.start[row]]

    def texts(self, rows: NDArray[np.int64]) -> tuple[list[str], list[str]]:
        """Prompts and answers of rows as texts."""
        answers = [self.answers.answer_text(self.prompt(row), self.answer(row)) for row in rows]
        return [self.prompts.texts[i] for i in self.prompt_indices[rows]], answers

    def trajectory(self, row: int, *, source: str, sample_index: int | None = None) -> Trajectory:
        """The record of a row as it stands."""
        size = self.answered[row]
        trajectory = make_trajectory(
            self.answers,
            self.prompts.texts[self.prompt_indices[row]],
            self.tokens[row, : self.lengths[row]].copy(),
            int(self.start[row]),
            self.behaviour[row, :size].astype(np.float32),
            self.logprobs[row, :size].astype(np.float32),
            self.answers.finish(self.answer(row), self.prompt(row)) if size else None,
            self.params,
            self.seed,
        )
        trajectory.source, trajectory.sample_index = source, sample_index
        return trajectory

    def _count_fed(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Count what a cache per row, and one prefill for equal rows, leaves to read."""
        known = self._fed[rows] == tokens
        known &= np.arange(tokens.shape[1]) < np.minimum(self._fed_lengths[rows], lengths - 1)[:, None]
        new = lengths - np.logical_and.accumulate(known, axis=1).sum(axis=1)
        self.cost.fed_tokens += int(new[new == 1].sum())
        self.cost.fed_tokens += sum(
            {tokens[i, : lengths[i]].tobytes(): int(new[i]) for i in np.flatnonzero(new > 1)}.values()
        )
        self._fed[rows], self._fed_lengths[rows] = tokens, lengths
