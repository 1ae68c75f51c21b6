"""A critic with a trunk of its own, for those who do not want policy and value function to share one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn

from agents.policy.forward import SequenceBatch, check_exact, response_hidden
from textenv.errors import CheckpointError, ConfigError
from textenv.mixed_precision import ComputeCopy, float32_masters, placed, refuse_low_precision
from textenv.pretrained import check_finite, load_config, load_model, load_tensors, own_memory
from textenv.sampling.models import trunk_of

if TYPE_CHECKING:
    from reward_models import SequenceRewardModel

_HEAD_FILE = "value_head.safetensors"


class Critic(nn.Module):
    """Values before each answer token, from a transformer that is not the policy's.

    Args:
        trunk: Transformers model without an output head, causal; made float32 where it comes in less.
        head: From its width to one number.
        compute_dtype: As :class:`agents.CausalLMPolicy`'s.

    Raises:
        ConfigError: If what the trunk says about a sequence depends on the sequences beside it.
    """

    def __init__(self, trunk: Any, head: nn.Linear, *, compute_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.trunk.requires_grad_(True)
        self.head.requires_grad_(True)
        self.eval()
        check_finite(self, "the critic")
        check_exact(trunk)
        own_memory(self, all_of_it=False)
        low_precision = float32_masters(trunk)
        float32_masters(head)
        self.compute = ComputeCopy(trunk, compute_dtype or low_precision)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Critic:
        """Move the compute copy, too."""
        refuse_low_precision(fn, self)
        before = placed(self.trunk)
        super()._apply(fn, recurse)
        if placed(self.trunk) != before:
            self.compute = ComputeCopy(self.trunk, self.compute.dtype)
        return self

    @classmethod
    def from_language_model(cls, lm: Any, *, compute_dtype: torch.dtype | None = None) -> Critic:
        """A copy of a language model's trunk with a head that starts at zero.

        Args:
            lm: Transformers language model without adapters; is not changed.
            compute_dtype: As in the class.
        """
        trunk = copy.deepcopy(lm if lm.config.is_encoder_decoder else trunk_of(lm)).float()
        width = trunk.get_input_embeddings().weight.shape[1]
        head = nn.Linear(width, 1, device=trunk.device)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        return cls(trunk, head, compute_dtype=compute_dtype)

    @classmethod
    def from_reward_model(
        cls, reward_model: SequenceRewardModel, tokenizer: Any, *, compute_dtype: torch.dtype | None = None
    ) -> Critic:
        """A copy of a reward model, head and normalisation included: it starts by scoring the answer so far.

        Args:
            reward_model: A causal one, with the policy's tokenizer; is not changed.
            tokenizer: The policy's.
            compute_dtype: As in the class.

        Raises:
            ConfigError: If its tokenizer is another, or it is no causal model with a linear head.
        Source: Stiennon et al. 2020, arXiv:2009.01325; Ouyang et al. 2022, arXiv:2203.02155.
        """
        if reward_model.tokenizer.get_vocab() != tokenizer.get_vocab():
            raise ConfigError(
                "a critic can only start from a reward model with the policy's tokenizer; this one has another. Use "
                "critic='separate', which copies the policy's trunk"
            )
        trunk, score = copy.deepcopy(reward_model.model.base_model), getattr(reward_model.model, "score", None)
        if not isinstance(score, nn.Linear) or not _is_causal(trunk):
            raise ConfigError(
                f"a critic can only start from a causal reward model with a linear head, not from "
                f"{type(reward_model.model).__name__}: a value must not depend on tokens that come later"
            )
        head = nn.Linear(score.in_features, 1, device=score.weight.device)
        fitted = reward_model.normalization
        gain, bias = (1.0, 0.0) if fitted is None else (fitted.gain, fitted.bias)
        with torch.no_grad():
            head.weight.copy_(gain * score.weight)
            head.bias.fill_(bias if score.bias is None else gain * float(score.bias) + bias)
        return cls(trunk.float(), head, compute_dtype=compute_dtype)

    def forward(self, batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Values before the counted answer tokens ``(N,)`` in row-major order, and after the last token ``(B,)``."""
        hidden, last_hidden = response_hidden(self.compute.model, batch)
        dtype = self.head.weight.dtype
        return self.head(hidden.to(dtype)).squeeze(-1), self.head(last_hidden.to(dtype)).squeeze(-1)

    def save_pretrained(self, folder: Path) -> None:
        """Write trunk and head; :meth:`from_pretrained` reads them."""
        self.trunk.save_pretrained(folder)
        save_file({k: v.contiguous() for k, v in self.head.state_dict().items()}, folder / _HEAD_FILE)

    @classmethod
    def from_pretrained(
        cls, folder: Path, *, compute_dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
    ) -> Critic:
        """Read what :meth:`save_pretrained` wrote.

        Raises:
            CheckpointError: If a file is missing or damaged.
        """
        try:
            encodes = load_config(folder).is_encoder_decoder
            trunk = load_model(folder, "language_model" if encodes else "trunk", device=device).model
            weights = load_tensors(folder / _HEAD_FILE)
            head = nn.Linear(weights["weight"].shape[1], 1)
            head.load_state_dict(weights)
        except (CheckpointError, RuntimeError, KeyError, IndexError) as error:
            raise CheckpointError(f"cannot load the critic in `{folder}`: {error}") from error
        return cls(trunk, head.to(device), compute_dtype=compute_dtype)


def _is_causal(trunk: Any) -> bool:
    """Whether what a model says at a position stays the same when a later token changes."""
    device = trunk.get_input_embeddings().weight.device
    ids = torch.tensor([[1, 2, 3, 1], [1, 2, 3, 2]], device=device) % trunk.config.vocab_size
    with torch.no_grad():
        hidden = trunk.eval()(input_ids=ids).last_hidden_state
    return bool(torch.allclose(hidden[0, :-1], hidden[1, :-1], atol=1e-5))
