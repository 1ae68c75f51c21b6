"""Batches of cross-entropy training, padded or packed, and the loss of each counted token.

A packed row holds several sequences; position ids that begin anew keep attention inside each of them (transformers
makes the block-diagonal mask of them), so a packed batch has the losses of its sequences one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.policy.forward import SequenceBatch, response_hidden, response_tokens
from agents.policy.token_logprobs import cross_entropy, token_logprobs
from agents.policy.varlen_attention import packed_states
from textenv.corpora.packing import pack
from textenv.corpora.token_files import PackedTokens
from textenv.errors import ConfigError, DataError
from textenv.sampling.models import agrees, output_head, text_config, trial, trunk_of


@dataclass(frozen=True)
class Example:
    """A token sequence and where its loss lies.

    Attributes:
        tokens: Ids of prompt and target, int64, shape ``(L,)``.
        prompt_length: Tokens before the first that carries loss, at least 1.
        loss_mask: True on the tokens after the prompt that carry loss, shape ``(L - prompt_length,)``; None: all.
    """

    tokens: NDArray[np.int64]
    prompt_length: int
    loss_mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class PackedBatch:
    """Rows of several sequences each.

    Attributes:
        tokens: Ids, int64, shape ``(B, L)``.
        positions: Place of each token in its own sequence, int64, shape ``(B, L)``.
        loss_mask: True on tokens that carry loss; never on the first of a sequence, shape ``(B, L)``.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    loss_mask: torch.Tensor

    @classmethod
    def from_packed(cls, packed: PackedTokens, *, device: Any = "cpu") -> PackedBatch:
        """Blocks of a token file."""
        return cls(*(torch.as_tensor(part, device=device) for part in packed))

    @classmethod
    def from_examples(cls, examples: Sequence[Example], length: int, *, device: Any = "cpu") -> PackedBatch:
        """Examples packed into rows of at most ``length`` tokens; none is cut.

        Raises:
            DataError: If an example is longer than a row.
        """
        longest = max(len(example.tokens) for example in examples)
        if longest > length:
            raise DataError(f"an example has {longest} tokens, more than the {length} of a packed row; leave it out")
        # The packer places sequences by length alone: it is given the examples' own positions.
        numbers = [np.full(len(example.tokens), i) for i, example in enumerate(examples)]
        blocks = [[int(piece[0]) for piece in block] for block in pack(numbers, length)]  # type: ignore[arg-type]  # numbers stand for tokens
        tokens = np.zeros((len(blocks), length), np.int64)
        positions, mask = np.zeros_like(tokens), np.zeros(tokens.shape, np.bool_)
        for row, block in enumerate(blocks):
            start = 0
            for number in block:
                example = examples[number]
                end = start + len(example.tokens)
                tokens[row, start:end] = example.tokens
                positions[row, start:end] = np.arange(end - start)
                mask[row, start + example.prompt_length : end] = (
                    True if example.loss_mask is None else example.loss_mask
                )
                start = end
            positions[row, start:] = np.arange(length - start)
        return cls.from_packed(PackedTokens(tokens, positions, mask), device=device)


Batch = SequenceBatch | PackedBatch
"""What the loop trains on."""


def collate(examples: Sequence[Example], device: Any = "cpu") -> SequenceBatch:
    """Pad examples into a batch whose counted tokens are those that carry loss."""
    if all(example.loss_mask is None for example in examples):
        prompts = [example.tokens[: example.prompt_length].tolist() for example in examples]
        targets = [example.tokens[example.prompt_length :].tolist() for example in examples]
        return SequenceBatch.from_ids(prompts, targets, device=device)
    lengths = np.array([len(example.tokens) for example in examples])
    prompt_lengths = np.array([example.prompt_length for example in examples])
    tokens = np.zeros((len(examples), -(-int(lengths.max()) // 8) * 8), np.int64)
    mask = np.zeros((len(examples), int((lengths - prompt_lengths).max())), np.bool_)
    for row, example in enumerate(examples):
        tokens[row, : len(example.tokens)] = example.tokens
        learned = True if example.loss_mask is None else example.loss_mask
        mask[row, : lengths[row] - prompt_lengths[row]] = learned
    return SequenceBatch.from_arrays(tokens, prompt_lengths, lengths, mask, device=device)


def token_losses(model: Any, batch: Batch) -> torch.Tensor:
    """Negative log-likelihood of each counted token, nats, float32, shape ``(N,)``, in row-major order."""
    hidden, targets, rows = _counted_states(model, batch)
    before_targets = hidden if rows is None else hidden[rows]
    return -token_logprobs(output_head(model), before_targets, targets).logprobs


def weighted_loss(model: Any, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sum of the :func:`token_losses`, a scalar: what training differentiates, for less than they cost.

    Args:
        model: Transformers causal LM.
        batch: What it reads.
        weights: Of each counted token in the sum, shape ``(N,)``.
    """
    hidden, targets, rows = _counted_states(model, batch)
    return cross_entropy(output_head(model), hidden, targets, weights, rows)


def _counted_states(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Hidden states that predict the counted tokens, ``(S, D)``, those tokens, and which state predicts each.

    The last, shape ``(N,)``, is None where each counted token has a state of its own.
    """
    if isinstance(batch, SequenceBatch):
        return response_hidden(model, batch)[0], response_tokens(batch), None
    wanted = torch.zeros_like(batch.loss_mask)
    wanted[:, :-1] = batch.loss_mask[:, 1:]
    states, rows = packed_states(model, batch.tokens, batch.positions, wanted)
    return states, batch.tokens[batch.loss_mask], rows


def real_tokens(batch: Batch) -> int:
    """Tokens of sequences that carry loss: what the model reads, padding apart."""
    if isinstance(batch, SequenceBatch):
        return int(batch.lengths.sum())
    sequences = _sequences(batch)
    learning = torch.bincount(sequences, weights=batch.loss_mask.flatten().double()) > 0
    return int(torch.bincount(sequences)[learning].sum())


def owners(batch: Batch) -> torch.Tensor:
    """Number of the example that each counted token belongs to, int64, shape ``(N,)``."""
    if isinstance(batch, SequenceBatch):
        return batch.action_mask.nonzero(as_tuple=True)[0]
    return _sequences(batch)[batch.loss_mask.flatten()].unique(return_inverse=True)[1]


def own_lengths(batch: Batch) -> torch.Tensor:
    """Length of the sequence that each place of a batch belongs to, at least 1, shape ``(B, L)``."""
    if isinstance(batch, SequenceBatch):
        return batch.lengths.clamp(min=1)[:, None].expand(batch.tokens.shape)
    sequences = _sequences(batch)
    return torch.bincount(sequences)[sequences].view_as(batch.positions)


def _sequences(batch: PackedBatch) -> torch.Tensor:
    """Number of the sequence that each place of a packed batch belongs to, int64, shape ``(B · L,)``."""
    return (batch.positions == 0).flatten().cumsum(0) - 1


def token_weights(batch: Batch, reduction: str) -> tuple[torch.Tensor, float]:
    """Weight of each counted token in a sum of losses, and what the sum is to be divided by.

    Args:
        batch: One part of a step's batch.
        reduction: ``token`` or ``example``.

    Returns:
        Weights, float32, shape ``(N,)``, and the number of tokens or of examples.
    """
    examples = owners(batch)
    if reduction == "token" or not len(examples):
        return torch.ones(len(examples), device=examples.device), float(len(examples))
    counts = torch.bincount(examples)
    return 1.0 / counts[examples].float(), float((counts > 0).sum())


@torch.no_grad()
def check_packing(model: Any) -> None:
    """Make sure that sequences in one row do not see each other.

    Raises:
        ConfigError: If the model gives a packed sequence other states than it gives the sequence alone.
    """
    device = model.get_input_embeddings().weight.device
    ids = torch.arange(12, device=device)[None] % text_config(model.config).vocab_size
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6]], device=device)
    trained = model.training
    model.eval()  # dropout would tell the two apart
    try:
        with trial(model, "cannot be trained on packed rows; train it unpacked"):
            packed = trunk_of(model)(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state[:, 5:]
            alone = trunk_of(model)(input_ids=ids[:, 5:], use_cache=False).last_hidden_state
    finally:
        model.train(trained)
    if agrees(packed, alone, model.dtype) is False:
        raise ConfigError(
            f"{type(model).__name__} lets sequences that are packed into one row see each other: train it unpacked"
        )
