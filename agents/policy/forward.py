"""One forward pass over whole sequences; :mod:`agents.policy.token_logprobs` makes log-probs of its hidden states.

Sequences are right-padded, so the causal mask alone keeps padding out of every real position: no attention mask, no
position ids, the fastest kernels; where :mod:`agents.policy.varlen_attention` can, padding is not even read.
Pre-training, fine-tuning and policy optimisation all go through here, which is what keeps "old" and "new"
log-probabilities on one numeric path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agents.policy.varlen_attention import padded_states
from textenv.errors import ConfigError, ShapeError
from textenv.mixed_precision import round_up
from textenv.sampling.encoder_decoder import decode
from textenv.sampling.models import (
    agrees,
    context_length,
    output_head,
    start_token,
    structure,
    text_config,
    trial,
    trunk_of,
)

_checked: dict[Any, int] = {}  # structures of models that are scored exactly, and the width of their states


@dataclass(frozen=True)
class SequenceBatch:
    """Prompts with answers, right-padded.

    Attributes:
        tokens: Token ids, int64, shape ``(B, L)``; L may exceed the longest sequence.
        prompt_lengths: Tokens before the answer, at least 1, int64, shape ``(B,)``.
        lengths: Prompt and answer together, int64, shape ``(B,)``.
        action_mask: True on answer tokens that count (the policy's own), shape ``(B, T)`` with T the longest answer.
        allowed: Bit-packed masks of the tokens that could be chosen, uint8, one row per counted token in row-major
            order, shape ``(N, ceil(V / 8))``; None allows all.
    """

    tokens: torch.Tensor
    prompt_lengths: torch.Tensor
    lengths: torch.Tensor
    action_mask: torch.Tensor
    allowed: NDArray[np.uint8] | None = None

    @classmethod
    def from_ids(
        cls, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], *, device: Any = "cpu"
    ) -> SequenceBatch:
        """Pad lists of ids.

        Raises:
            ShapeError: If the lists differ in number, are empty, or a prompt or an answer has no token.
        """
        if len(prompts) != len(responses) or not prompts:
            raise ShapeError(f"got {len(prompts)} prompts and {len(responses)} responses; both must be equal and > 0")
        prompt_lengths = np.array([len(p) for p in prompts])
        response_lengths = np.array([len(r) for r in responses])
        if prompt_lengths.min() < 1 or response_lengths.min() < 1:
            raise ShapeError("every prompt and every response needs at least one token")
        tokens = np.zeros((len(prompts), round_up(int((prompt_lengths + response_lengths).max()), 8)), np.int64)
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            tokens[row, : len(prompt) + len(response)] = [*prompt, *response]
        return cls.from_arrays(tokens, prompt_lengths, prompt_lengths + response_lengths, device=device)

    @classmethod
    def from_arrays(
        cls,
        tokens: NDArray[np.int64],
        prompt_lengths: NDArray[np.int64],
        lengths: NDArray[np.int64],
        action_mask: NDArray[np.bool_] | None = None,
        allowed: NDArray[np.uint8] | None = None,
        *,
        device: Any = "cpu",
    ) -> SequenceBatch:
        """Cut padded arrays to about the longest sequence and move them to a device.

        Args:
            tokens: Right-padded ids, shape ``(B, ≥ L)``.
            prompt_lengths: Shape ``(B,)``.
            lengths: Shape ``(B,)``.
            action_mask: True on answer tokens that count, shape ``(B, ≥ T)``; None means all of them.
            allowed: Bit-packed masks of allowed tokens, shape ``(B, ≥ T, ceil(V / 8))``; None allows all.
            device: Torch device.
        """
        response_lengths = lengths - prompt_lengths
        width = int(response_lengths.max())
        columns = min(round_up(int(lengths.max()), 8), tokens.shape[1])
        mask = np.arange(width) < response_lengths[:, None]
        if action_mask is not None:
            mask &= action_mask[:, :width]
        # What fills up a row may be an id that no model knows; nobody sees what stands there.
        kept = np.where(np.arange(columns) < lengths[:, None], tokens[:, :columns], 0)
        return cls(
            torch.as_tensor(kept, device=device),
            torch.as_tensor(prompt_lengths, device=device),
            torch.as_tensor(lengths, device=device),
            torch.as_tensor(mask, device=device),
            None if allowed is None else allowed[:, :width][mask],
        )


def response_hidden(model: Any, batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states that predict the counted answer tokens.

    Args:
        model: Transformers causal language model, or an encoder-decoder, whose encoder reads the prompt.
        batch: Sequences.

    Returns:
        Hidden states ``(N, D)`` in row-major order of ``batch.action_mask``, and those after the last token,
        ``(B, D)``.
    """
    rows, steps = batch.action_mask.nonzero(as_tuple=True)
    every = torch.arange(len(batch.lengths), device=batch.lengths.device)
    if model.config.is_encoder_decoder:
        hidden = _decoder_states(model, batch)
        return hidden[rows, steps], hidden[every, batch.lengths - batch.prompt_lengths]
    context = context_length(model.config) or batch.tokens.shape[1]
    tokens = batch.tokens[:, :context]
    places = (torch.cat([rows, every]), torch.cat([batch.prompt_lengths[rows] - 1 + steps, batch.lengths - 1]))
    states = padded_states(model, tokens, *places)
    if states is None:
        states = trunk_of(model)(input_ids=tokens, use_cache=False).last_hidden_state[places]
    return states[: len(rows)], states[len(rows) :]


def _decoder_states(model: Any, batch: SequenceBatch) -> torch.Tensor:
    """States of an encoder-decoder model before each answer token and after the last, ``(B, T + 1, D)``."""
    longest = int(batch.prompt_lengths.max())
    mask = torch.arange(longest, device=batch.tokens.device) < batch.prompt_lengths[:, None]
    prompts = torch.where(mask, batch.tokens[:, :longest], 0)
    memory = model.get_encoder()(input_ids=prompts, attention_mask=mask.long()).last_hidden_state
    width = int((batch.lengths - batch.prompt_lengths).max())
    columns = batch.prompt_lengths[:, None] + torch.arange(width, device=batch.tokens.device)
    answers = batch.tokens.gather(1, columns.clamp(max=batch.tokens.shape[1] - 1))
    return decode(model, memory, mask, answers)


def response_tokens(batch: SequenceBatch) -> torch.Tensor:
    """The counted answer tokens, int64, shape ``(N,)``, in row-major order of ``batch.action_mask``."""
    rows, steps = batch.action_mask.nonzero(as_tuple=True)
    return batch.tokens[rows, batch.prompt_lengths[rows] + steps]


@torch.no_grad()
def check_exact(model: Any) -> int:
    """Make sure that sequences side by side get the numbers that the model itself gives each of them alone.

    Args:
        model: Transformers language model, or a trunk without an output head; in evaluation mode.

    Returns:
        Width of the hidden states.

    Raises:
        ConfigError: If they do not; the message says why.
    """
    with trial(model, "cannot be tried out"):
        known = structure(model)
    if known in _checked:
        return _checked[known]
    headed = model.get_output_embeddings() is not None
    vocabulary, device = text_config(model.config).vocab_size, model.get_input_embeddings().weight.device
    room = context_length(model.config) or 11
    lengths = [min(each, room) for each in (5, 11)]
    rows = [[(number * 13 + step * 7) % vocabulary for step in range(size)] for number, size in enumerate(lengths)]
    prompts = [row[: min(number + 1, len(row) - 1)] for number, row in enumerate(rows)]
    answers = [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]
    with trial(model, "cannot score sequences"):
        hidden, last = response_hidden(model, SequenceBatch.from_ids(prompts, answers, device=device))
        together = output_head(model)(hidden) if headed else hidden
        expected = torch.cat([_alone(model, *each, headed=headed) for each in zip(prompts, answers, strict=True)])
    verdict = agrees(together, expected, model.dtype)
    if verdict is False:
        raise ConfigError(f"{type(model).__name__} cannot be scored: {_why_not(model, prompts, answers, hidden)}")
    if verdict:
        _checked[known] = last.shape[-1]
    return last.shape[-1]


def _why_not(model: Any, prompts: list[list[int]], answers: list[list[int]], hidden: torch.Tensor) -> str:
    """Whether it is the trunk's states or what the model makes of them that comes out otherwise."""
    device = model.get_input_embeddings().weight.device

    def states(part: slice) -> torch.Tensor:
        single = [SequenceBatch.from_ids([p], [a[part]], device=device) for p, a in zip(prompts, answers, strict=True)]
        return torch.cat([response_hidden(model, each)[0] for each in single])

    firsts = torch.tensor([0, *(len(answer) for answer in answers[:-1])], device=device).cumsum(0)
    alone = states(slice(None))
    if agrees(states(slice(1)), alone[firsts], model.dtype) is False:
        return "what it says before a token depends on later tokens: it is not causal"
    if agrees(hidden, alone, model.dtype) is False:
        return "what it says about a sequence depends on the sequences beside it"
    return (
        "it changes its logits after the output embedding, or its states before it, otherwise than by a factor and a "
        "soft cap"
    )


def _alone(model: Any, prompt: list[int], answer: list[int], *, headed: bool) -> torch.Tensor:
    """The model's own logits before each answer token, ``(T, V)``; its last hidden states where it has no head."""
    device = model.get_input_embeddings().weight.device
    prompt_ids, row = (torch.as_tensor([ids], device=device) for ids in (prompt, [*prompt, *answer]))
    if model.config.is_encoder_decoder:
        fed = torch.as_tensor([[start_token(model), *answer]], device=device)
        return model(input_ids=prompt_ids, decoder_input_ids=fed).logits[0, :-1]
    output = (model if headed else trunk_of(model))(input_ids=row)
    return (output.logits if headed else output.last_hidden_state)[0, len(prompt) - 1 : -1]
