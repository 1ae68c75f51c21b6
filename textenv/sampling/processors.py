"""What changes logits before the temperature: repetition penalty, allowed and denied tokens."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from textenv.errors import ConfigError, ShapeError
from textenv.sampling.params import SamplingParams

History = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Prompt and answer tokens, right-padded, ``(B, L)``, and how many of each row are real, ``(B,)``."""


class Processor:
    """Penalty and masks of one draw, applied to its rows part by part.

    Args:
        params: ``repetition_penalty``, ``allow_tokens`` and ``deny_tokens``.
        allowed: True on tokens that may be drawn, ``(B, V)`` or ``(V,)``; None allows all.
        history: Needed where there is a repetition penalty.
        shape: Rows and vocabulary, ``(B, V)``.

    Attributes:
        active: False where logits stay as they are.

    Raises:
        ConfigError: If there is a penalty but no history, or a token id does not exist.
        ShapeError: If history and logits differ in rows.
    """

    def __init__(
        self, params: SamplingParams, allowed: torch.Tensor | None, history: History | None, shape: torch.Size
    ) -> None:
        self.penalty = params.repetition_penalty
        self.active = self.penalty != 1.0 or params.masks or allowed is not None
        self._allowed, self._history = allowed, history
        self._only = token_mask(params, shape[1]) if params.allow_tokens is not None else None
        self._denied = list(params.deny_tokens)
        check_ids(params, shape[1])
        if self.penalty == 1.0:
            return
        if history is None:
            raise ConfigError("`repetition_penalty` needs `history`: the tokens of prompt and answer and their lengths")
        tokens, lengths = history
        if len(tokens) != shape[0] or len(lengths) != shape[0]:
            raise ShapeError(
                f"`history` has {len(tokens)} rows and {len(lengths)} lengths for {shape[0]} rows of logits"
            )

    def apply_(self, scores: torch.Tensor, rows: slice) -> None:
        """Change the logits of these rows of the draw, in place, ``(k, V)``."""
        if self.penalty != 1.0 and self._history is not None:
            tokens, lengths = self._history[0][rows], np.asarray(self._history[1][rows])
            at, places = np.nonzero(np.arange(tokens.shape[1]) < lengths[:, None])
            where = torch.as_tensor(at, device=scores.device), torch.as_tensor(tokens[at, places], device=scores.device)
            scores[where] = penalised(scores[where], self.penalty)
        if self._allowed is not None:
            scores.masked_fill_(~(self._allowed if self._allowed.ndim == 1 else self._allowed[rows]), -torch.inf)
        if self._only is not None:
            scores.masked_fill_(~self._only.to(scores.device), -torch.inf)
        elif self._denied:
            scores[:, self._denied] = -torch.inf

    def at(self, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """What the logits of drawn tokens have become, ``(B,)``, given what they were, ``(B,)``."""
        if self.penalty == 1.0 or self._history is None:
            return logits
        known, lengths = self._history
        real = np.arange(known.shape[1]) < np.asarray(lengths)[:, None]
        seen = ((known == tokens.cpu().numpy()[:, None]) & real).any(1)
        return torch.where(torch.as_tensor(seen, device=logits.device), penalised(logits, self.penalty), logits)


def penalised(logits: torch.Tensor, penalty: float) -> torch.Tensor:
    """Logits of tokens that occurred before: divided by the penalty where positive, else multiplied by it.

    Source: Keskar et al. 2019, section 4.1, as in transformers' ``RepetitionPenaltyLogitsProcessor``.
    """
    return torch.where(logits < 0, logits * penalty, logits / penalty)


def token_mask(params: SamplingParams, vocabulary: int) -> torch.Tensor:
    """True on ids that ``allow_tokens`` and ``deny_tokens`` leave, bool, shape ``(V,)``, on CPU.

    Raises:
        ConfigError: If an id does not exist.
    """
    check_ids(params, vocabulary)
    mask = torch.full((vocabulary,), params.allow_tokens is None)
    mask[list(params.allow_tokens or ())] = True
    mask[list(params.deny_tokens)] = False
    return mask


def check_ids(params: SamplingParams, vocabulary: int) -> None:
    """Refuse token ids beyond the vocabulary.

    Raises:
        ConfigError: If there is one.
    """
    largest = max((*(params.allow_tokens or ()), *params.deny_tokens), default=0)
    if largest >= vocabulary:
        raise ConfigError(f"`allow_tokens` or `deny_tokens` names token {largest}; the last one is {vocabulary - 1}")
