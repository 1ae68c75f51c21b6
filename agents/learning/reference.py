"""The policy that the KL is measured against: a frozen copy, or the policy itself with its adapter switched off."""

from __future__ import annotations

import copy

import torch

from agents.policy import CausalLMPolicy, PolicyOutputs
from agents.policy.forward import SequenceBatch
from agents.policy.lora import is_fresh, merged
from textenv.errors import ConfigError


class Reference:
    """Log-probabilities of the reference policy.

    Args:
        policy: The policy that is trained.
        given: A policy of its own to measure against; None means the policy as it stands now: its adapter switched off
            where that is fresh (no second copy of the weights exists), or one frozen copy.
        moves: Whether it will be updated.

    Attributes:
        model: The reference's own weights; None where it is the policy without its adapter.
        is_own: Whether it is the policy as it stood, to the last digit.
        moves: Whether it is updated.
        origin: Sum of its squared weights at the start: tells one reference from another.

    Raises:
        ConfigError: If it is to be updated and has no weights of its own.
    """

    def __init__(self, policy: CausalLMPolicy, given: CausalLMPolicy | None = None, *, moves: bool = False) -> None:
        self._policy = policy
        self.is_own = given is None
        self.moves = moves
        self.model = given
        if given is None and not (policy.has_adapter and is_fresh(policy.model)):
            self.model = frozen_copy(policy, full_precision=moves)
            self.is_own = not policy.has_adapter or policy.compute.dtype is None  # a merged adapter is rounded anew
        if moves and self.model is None:
            raise ConfigError(
                "a reference that is the policy without its adapter cannot be updated; give `reference=` a policy of "
                "its own, or leave `reference_update` at 'none'"
            )
        self.origin = self._fingerprint()

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self._policy.device if self.model is None else self.model.device

    @torch.no_grad()
    def evaluate(self, batch: SequenceBatch, *, temperature: float = 1.0) -> PolicyOutputs:
        """Log-probs of the answer tokens; no values, no entropy."""
        if self.model is not None:
            return self.model.evaluate(batch, temperature=temperature, values=False)
        with self._policy.without_adapter():
            return self._policy.evaluate(batch, temperature=temperature, values=False)

    @torch.no_grad()
    def move(self, *, decay: float) -> None:
        """Move the reference's weights towards the policy's: ``decay · reference + (1 − decay) · policy``."""
        assert self.model is not None
        for mine, theirs in zip(self.model.causal_lm.parameters(), self._policy.causal_lm.parameters(), strict=True):
            mine.lerp_(theirs.to(mine.dtype), 1 - decay)
        self.model.push_weights()

    def _fingerprint(self) -> float:
        if self.model is not None:
            weights = list(self.model.causal_lm.parameters())
        else:
            weights = [p for p in self._policy.causal_lm.parameters() if not p.requires_grad]
        return float(sum(p.detach().double().square().sum() for p in weights))


def frozen_copy(policy: CausalLMPolicy, *, full_precision: bool = True) -> CausalLMPolicy:
    """A copy of a policy's language model whose weights take no gradient.

    Args:
        policy: What to copy.
        full_precision: Also copy the float32 weights of a policy that computes in bfloat16.
    """
    if policy.has_adapter:
        model, dtype = merged(policy.model), policy.compute.dtype
    elif full_precision:
        model, dtype = copy.deepcopy(policy.model), policy.compute.dtype
    else:
        model, dtype = copy.deepcopy(policy.compute.model), None
    twin = CausalLMPolicy(model.requires_grad_(False), policy.tokenizer, compute_dtype=dtype, answer=policy.answer)
    twin.requires_grad_(False)
    return twin
