"""Sampling settings."""

from __future__ import annotations

from dataclasses import dataclass

from textenv.errors import ConfigError


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn from a policy's logits.

    Attributes:
        temperature: Divides the logits; 0 means greedy.
        top_k: Keep the k most probable tokens; 0 keeps all.
        top_p: Keep the smallest set of tokens whose probability reaches this; 1 keeps all (arXiv:1904.09751).
        max_new_tokens: Length limit of a response in tokens, end-of-text token included.

    Raises:
        ConfigError: If a value is out of its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_new_tokens: int = 32

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ConfigError(f"`temperature` must be ≥ 0, got {self.temperature}; 0 is greedy")
        if self.top_k < 0:
            raise ConfigError(f"`top_k` must be ≥ 0, got {self.top_k}; 0 keeps every token")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"`top_p` must lie in (0, 1], got {self.top_p}; 1 keeps every token")
        if self.max_new_tokens < 1:
            raise ConfigError(f"`max_new_tokens` must be ≥ 1, got {self.max_new_tokens}")

    @property
    def full_support(self) -> bool:
        """True where every token that the policy can produce can be drawn (needed for KL and importance weights)."""
        return self.temperature > 0 and self.top_k == 0 and self.top_p == 1.0
