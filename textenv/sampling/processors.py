"""What changes logits before the temperature: repetition penalty, allowed and denied tokens."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from textenv.errors import ConfigError, ShapeError
from textenv.sampling.categorical import compute_dtype
from textenv.sampling.params import SamplingParams

History = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Prompt and answer tokens, right-padded, ``(B, L)``, and how many of each row are real, ``(B,)``."""


def process(
    logits: torch.Tensor, params: SamplingParams, allowed: torch.Tensor | None, history: History | None
) -> torch.Tensor:
    """Logits after repetition penalty and masks; the same tensor where there are none, else a float copy.

    Args:
        logits: Shape ``(B, V)``.
        params: ``repetition_penalty``, ``allow_tokens`` and ``deny_tokens``.
        allowed: True on tokens that may be drawn, ``(B, V)`` or ``(V,)``; None allows all.
        history: Needed where there is a repetition penalty.

    Raises:
        ConfigError: If there is a penalty but no history, or a token id does not exist.
        ShapeError: If history and logits differ in rows.
    """
    penalised = params.repetition_penalty != 1.0
    if not penalised and not params.masks and allowed is None:
        return logits
    scores = logits.to(compute_dtype(logits), copy=True)
    if penalised:
        if history is None:
            raise ConfigError("`repetition_penalty` needs `history`: the tokens of prompt and answer and their lengths")
        penalise_(scores, *history, params.repetition_penalty)
    if allowed is not None:
        scores.masked_fill_(~allowed, -torch.inf)
    if params.allow_tokens is not None:
        scores.masked_fill_(~token_mask(params, scores.shape[1]).to(scores.device), -torch.inf)
    elif params.deny_tokens:
        _check_ids(params, scores.shape[1])
        scores[:, list(params.deny_tokens)] = -torch.inf
    return scores


def penalise_(
    scores: torch.Tensor, tokens: NDArray[np.int64], lengths: NDArray[np.int64], penalty: float
) -> torch.Tensor:
    """Divide positive logits of tokens that occurred by the penalty, multiply negative ones by it; in place.

    Raises:
        ShapeError: If there is not one row of tokens for each row of logits.
    Source: Keskar et al. 2019, section 4.1, as in transformers' ``RepetitionPenaltyLogitsProcessor``.
    """
    if len(tokens) != len(scores) or len(lengths) != len(scores):
        raise ShapeError(
            f"`history` has {len(tokens)} rows and {len(lengths)} lengths for {len(scores)} rows of logits"
        )
    rows, places = np.nonzero(np.arange(tokens.shape[1]) < np.asarray(lengths)[:, None])
    where = (torch.as_tensor(rows, device=scores.device), torch.as_tensor(tokens[rows, places], device=scores.device))
    seen = scores[where]
    scores[where] = torch.where(seen < 0, seen * penalty, seen / penalty)
    return scores


def token_mask(params: SamplingParams, vocabulary: int) -> torch.Tensor:
    """True on ids that ``allow_tokens`` and ``deny_tokens`` leave, bool, shape ``(V,)``, on CPU.

    Raises:
        ConfigError: If an id does not exist.
    """
    _check_ids(params, vocabulary)
    mask = torch.full((vocabulary,), params.allow_tokens is None)
    mask[list(params.allow_tokens or ())] = True
    mask[list(params.deny_tokens)] = False
    return mask


def _check_ids(params: SamplingParams, vocabulary: int) -> None:
    largest = max((*(params.allow_tokens or ()), *params.deny_tokens), default=0)
    if largest >= vocabulary:
        raise ConfigError(f"`allow_tokens` or `deny_tokens` names token {largest}; the last one is {vocabulary - 1}")
