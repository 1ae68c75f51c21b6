"""The language model for sb3-contrib's ``MaskablePPO``, which insists on classes of its own.

Needs sb3-contrib: ``pip install "textenv[sb3]"``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from agents.policy import CausalLMPolicy
from agents.policy.forward import SequenceBatch
from agents.sb3.buffer import SequenceRolloutBuffer
from agents.sb3.policy import LanguageModelPolicy
from agents.sb3.rows import Observation
from textenv.errors import MissingDependencyError

try:
    from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
    from sb3_contrib.common.maskable.distributions import MaskableCategoricalDistribution
    from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
except ImportError as error:
    raise MissingDependencyError('MaskableTextPolicy needs sb3-contrib: pip install "textenv[sb3]"') from error


class MaskableTextPolicy(LanguageModelPolicy, MaskableActorCriticPolicy):
    """A language model for ``MaskablePPO``; arguments and errors as of :class:`agents.sb3.TextPolicy`."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Callable[[float], float],
        *,
        policy: CausalLMPolicy | str | Path | None = None,
        dtype: str = "float32",
        temperature: float = 1.0,
        exact_entropy: bool = True,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        self._adopt(policy, dtype, temperature, exact_entropy)
        self._make_optimizer(lr_schedule(1))

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        """SB3's own networks are not made."""

    def get_distribution(
        self, obs: Observation | SequenceBatch, action_masks: Any = None
    ) -> MaskableCategoricalDistribution:
        """The distribution of the next token under the masks, sb3-contrib's form."""
        distribution = MaskableCategoricalDistribution(self.lm.vocab_size)
        distribution.proba_distribution(action_logits=self._distribution_logits(obs))
        if action_masks is not None:
            distribution.apply_masking(action_masks)
        return distribution


class MaskedSequences(NamedTuple):
    """A minibatch for ``MaskablePPO``: as SB3's, with sequences as observations and bit-packed masks."""

    observations: SequenceBatch
    actions: torch.Tensor
    old_values: torch.Tensor
    old_log_prob: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    action_masks: NDArray[np.uint8]


class MaskableSequenceRolloutBuffer(SequenceRolloutBuffer, MaskableRolloutBuffer):
    """:class:`agents.sb3.SequenceRolloutBuffer` for ``MaskablePPO``; a mask takes V bits, not V floats."""

    def reset(self) -> None:
        """Empty the buffer."""
        super().reset()
        assert isinstance(self.action_space, spaces.Discrete)
        self.mask_dims = int(self.action_space.n)
        shape = (self.buffer_size, self.n_envs, -(-self.mask_dims // 8))
        self.mask_bits = np.full(shape, 255, np.uint8)

    def add(self, *args: Any, action_masks: NDArray[Any] | None = None, **kwargs: Any) -> None:
        """Take in one step of all slots; arguments as in sb3-contrib."""
        if action_masks is not None:
            masks = np.asarray(action_masks, np.bool_).reshape(self.n_envs, self.mask_dims)
            self.mask_bits[self.pos] = np.packbits(masks, axis=1)
        SequenceRolloutBuffer.add(self, *args, **kwargs)

    def get(  # type: ignore[override]  # yields the maskable form of samples
        self, batch_size: int | None = None
    ) -> Generator[MaskedSequences, None, None]:
        """Minibatches of whole sequences, in random order."""
        for places, batch in self._minibatches(batch_size):
            actions, values, log_probs, advantages, returns = self._fields(places)
            yield MaskedSequences(batch, actions, values, log_probs, advantages, returns, self.mask_bits[places])
