"""Growing answers side by side on a token model: what the methods move, copy, rewind and read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from textenv.errors import DataError
from textenv.protocols import GenerativePolicy
from textenv.sampling.methods.base import Cost, EncodedPrompts
from textenv.sampling.params import SamplingParams
from textenv.sampling.sampler import draw
from textenv.trajectories.trajectory import Trajectory


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
        params: SamplingParams,
        cost: Cost,
        seed: int,
    ) -> None:
        self.policy, self.params, self.cost, self.seed = policy, params, cost, seed
        self.prompts = prompts
        self.prompt_indices = np.asarray(prompt_indices, np.int64)
        self.start = np.array([len(prompts.ids[i]) for i in self.prompt_indices], np.int64)
        count, steps = len(self.start), params.max_new_tokens
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
        """True where an answer has ended with the end-of-text token, ``(N,)``."""
        last = self.tokens[np.arange(len(self)), self.lengths - 1]
        eos = self.policy.tokenizer.eos_token_id
        return (self.answered > 0) & (last == (-1 if eos is None else eos))

    def logits(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Next-token logits of rows, ``(k, V)``."""
        tokens, lengths = self.tokens[rows], self.lengths[rows]
        self._count_fed(tokens, lengths, rows)
        return self._engine.logits(tokens, lengths, rows)[:, : self.policy.vocab_size]

    def draw(self, rows: NDArray[np.int64], uniforms: NDArray[np.float64]) -> None:
        """Draw one token for each of these rows and append it."""
        history = (self.tokens[rows], self.lengths[rows]) if self.params.repetition_penalty != 1 else None
        drawn = draw(self.logits(rows), self.params, uniforms, history=history)
        self.append(rows, *(part.cpu().numpy() for part in drawn))

    def place(self, row: int, prefix: NDArray[np.int64]) -> None:
        """Let an answer begin with given tokens, whose log-probs are not known (NaN).

        Raises:
            DataError: If the prefix is an answer that has ended already.
        """
        size = len(prefix)
        eos = self.policy.tokenizer.eos_token_id
        if size >= self.params.max_new_tokens or (eos is not None and eos in prefix):
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

    def texts(self, rows: NDArray[np.int64]) -> tuple[list[str], list[str]]:
        """Prompts and answers of rows as texts."""
        ended = self.ended
        decode = self.policy.tokenizer.decode
        answers = [
            decode(self.answer(row)[: -1 if ended[row] else None].tolist(), skip_special_tokens=True) for row in rows
        ]
        return [self.prompts.texts[i] for i in self.prompt_indices[rows]], answers

    def trajectory(self, row: int, *, source: str, sample_index: int | None = None) -> Trajectory:
        """The record of a row as it stands."""
        size = self.answered[row]
        prompts, responses = self.texts(np.array([row]))
        return Trajectory(
            prompt=prompts[0],
            prompt_ids=self.tokens[row, : self.start[row]].copy(),
            token_ids=self.answer(row),
            response=responses[0],
            behaviour_logprobs=self.behaviour[row, :size].astype(np.float32),
            logprobs=self.logprobs[row, :size].astype(np.float32),
            finish_reason="eos" if self.ended[row] else "length",
            sampling=vars(self.params).copy(),
            seed=self.seed,
            source=source,
            sample_index=sample_index,
        )

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
