"""What an observation says: rows of tokens and their lengths, and the same as a batch that is scored in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from agents.policy.forward import SequenceBatch
from textenv.errors import ConfigError
from textenv.mixed_precision import round_up

Observation = torch.Tensor | Mapping[str, Any]


class Rows(NamedTuple):
    """Token rows.

    Attributes:
        tokens: Right-padded with 0, int64, shape ``(B, L)``.
        lengths: Real tokens in each row, shape ``(B,)``.
    """

    tokens: NDArray[np.int64]
    lengths: NDArray[np.int64]


def read_rows(observation: Any, pad_token_id: int) -> Rows:
    """Token rows of a ``"tokens"`` or ``"dict"`` observation.

    Args:
        observation: Arrays or tensors with a batch dimension.
        pad_token_id: Id that fills up rows; no policy may choose it.

    Raises:
        ConfigError: If rows are padded on the left, or empty.
    """
    given = observation["tokens"] if isinstance(observation, Mapping) else observation
    tokens = np.asarray(given.cpu() if isinstance(given, torch.Tensor) else given).astype(np.int64)
    columns = np.arange(tokens.shape[1])
    if isinstance(observation, Mapping):
        lengths = np.asarray(torch.as_tensor(observation["length"]).cpu()).reshape(-1).astype(np.int64)
        mask = np.asarray(torch.as_tensor(observation["attention_mask"]).cpu()).astype(np.bool_)
    else:
        mask = tokens != pad_token_id
        lengths = tokens.shape[1] - mask[:, ::-1].argmax(1)
    if not mask[:, 0].all():
        raise ConfigError(
            f"a row of tokens begins with padding ({pad_token_id}); make the environment with padding_side='right' "
            "and the policy's tokenizer"
        )
    return Rows(np.where(columns < lengths[:, None], tokens, 0), lengths)


def one_token_batch(rows: Rows, actions: NDArray[np.int64] | None, *, device: Any) -> SequenceBatch:
    """Every row as a prompt with an answer of one token.

    Args:
        rows: What stands before the token.
        actions: The tokens, shape ``(B,)``; None where only the state before them matters.
        device: Torch device.
    """
    count, width = rows.tokens.shape
    tokens = np.zeros((count, round_up(width + 1, 8)), np.int64)
    tokens[:, :width] = rows.tokens
    if actions is not None:
        tokens[np.arange(count), rows.lengths] = actions
    return SequenceBatch.from_arrays(tokens, rows.lengths, rows.lengths + 1, device=device)
