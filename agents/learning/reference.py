"""The policy that the KL is measured against: a frozen copy, or the policy itself with its adapter switched off."""

from __future__ import annotations

import copy

import torch

from agents.forward import SequenceBatch
from agents.policy import CausalLMPolicy
from textenv.errors import ConfigError


class Reference:
    """Log-probabilities of the reference policy.

    Args:
        policy: The policy that is trained.
        given: A policy of its own to measure against; None means the policy as it stands now: its adapter switched off
            (no second copy of the weights exists), or one frozen copy.
    """

    def __init__(self, policy: CausalLMPolicy, given: CausalLMPolicy | None = None) -> None:
        self._policy = policy
        self.is_own = given is None
        self.model = given if given is not None or policy.has_adapter else frozen_copy(policy)

    @torch.no_grad()
    def logprobs(self, batch: SequenceBatch, *, temperature: float) -> torch.Tensor:
        """Log-probs of the answer tokens, nats, shape ``(B, T)``."""
        if self.model is not None:
            return self.model.evaluate(batch, temperature=temperature, values=False).logprobs
        with self._policy.without_adapter():
            return self._policy.evaluate(batch, temperature=temperature, values=False).logprobs

    @torch.no_grad()
    def move(self, *, decay: float) -> None:
        """Move the reference's weights towards the policy's: ``decay · reference + (1 − decay) · policy``.

        Raises:
            ConfigError: If the reference has no weights of its own.
        """
        if self.model is None:
            raise ConfigError(
                "a reference that is the policy without its adapter cannot be updated; give `reference=` a policy of "
                "its own, or leave `reference_update` at 'none'"
            )
        theirs = dict(self._policy.named_parameters())
        for name, p in self.model.named_parameters():
            if name in theirs and not name.startswith(("value_head", "critic")):
                p.lerp_(theirs[name].to(p.dtype), 1 - decay)
        self.model.compute.push_weights()

    def fingerprint(self) -> float:
        """Sum of the squared weights: tells one reference from another."""
        if self.model is not None:
            weights = list(self.model.parameters())
        else:
            weights = [p for p in self._policy.causal_lm.parameters() if not p.requires_grad]
        return float(sum(p.detach().double().square().sum() for p in weights))


def frozen_copy(policy: CausalLMPolicy) -> CausalLMPolicy:
    """A copy of a policy whose weights take no gradient."""
    twin = copy.deepcopy(policy)
    twin.requires_grad_(False)
    return twin
