"""Sampling settings."""

from __future__ import annotations

import math
from dataclasses import dataclass

from textenv.errors import ConfigError


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn from a policy's logits.

    The settings compose, and act in this order, which is that of transformers' ``generate``: repetition penalty,
    allowed and denied tokens, temperature, top-k, top-p, min-p, typical. Each truncation sees the renormalised
    distribution that the ones before it left, and keeps all equals of the last token that it keeps.

    Attributes:
        temperature: Divides the logits; 0 means greedy: the largest logit after penalty and masks.
        top_k: Keep the k most probable tokens; 0 keeps all (arXiv:1805.04833).
        top_p: Keep the smallest set of tokens whose probability reaches this; 1 keeps all (arXiv:1904.09751).
        max_new_tokens: Length limit of a response in tokens, end-of-text token included.
        min_p: Keep tokens at least this fraction as probable as the most probable one; 0 keeps all (arXiv:2407.01082).
        typical_p: Keep the tokens whose information is nearest to the entropy until their probability reaches this;
            1 keeps all (arXiv:2202.00666).
        repetition_penalty: Logits of tokens in prompt or answer are divided by it where positive and multiplied by it
            where negative; 1 changes nothing (Keskar et al. 2019).
        allow_tokens: Only these ids can be drawn; None allows all.
        deny_tokens: These ids are never drawn; the end-of-text id here makes every answer ``max_new_tokens`` long.

    Raises:
        ConfigError: If a value is out of its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_new_tokens: int = 32
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    allow_tokens: tuple[int, ...] | None = None
    deny_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ConfigError(f"`temperature` must be ≥ 0 and finite, got {self.temperature}; 0 is greedy")
        if self.top_k < 0:
            raise ConfigError(f"`top_k` must be ≥ 0, got {self.top_k}; 0 keeps every token")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"`top_p` must lie in (0, 1], got {self.top_p}; 1 keeps every token")
        if self.max_new_tokens < 1:
            raise ConfigError(f"`max_new_tokens` must be ≥ 1, got {self.max_new_tokens}")
        if not 0 <= self.min_p <= 1:
            raise ConfigError(f"`min_p` must lie in [0, 1], got {self.min_p}; 0 keeps every token")
        if not 0 < self.typical_p <= 1:
            raise ConfigError(f"`typical_p` must lie in (0, 1], got {self.typical_p}; 1 keeps every token")
        if not (self.repetition_penalty > 0 and math.isfinite(self.repetition_penalty)):
            raise ConfigError(
                f"`repetition_penalty` must be positive and finite, got {self.repetition_penalty}; 1 changes nothing"
            )
        for name in ("allow_tokens", "deny_tokens"):
            ids = getattr(self, name)
            if ids is not None:
                object.__setattr__(self, name, tuple(int(i) for i in ids))
        if self.allow_tokens is not None and not set(self.allow_tokens) - set(self.deny_tokens):
            raise ConfigError("`allow_tokens` without `deny_tokens` leaves no token to draw; None allows all")
        if min((*(self.allow_tokens or ()), *self.deny_tokens), default=0) < 0:
            raise ConfigError("`allow_tokens` and `deny_tokens` hold token ids, which are ≥ 0")

    @property
    def stochastic(self) -> bool:
        """False for greedy choices, which have no behaviour log-prob worth the name (it is 0)."""
        return self.temperature > 0

    @property
    def truncates(self) -> bool:
        """True where tokens are dropped for being improbable (or untypical)."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0 or self.typical_p < 1

    @property
    def masks(self) -> bool:
        """True where tokens are excluded by their ids."""
        return self.allow_tokens is not None or bool(self.deny_tokens)

    @property
    def full_support(self) -> bool:
        """True where every token that the policy can produce can be drawn: importance weights exist."""
        return self.stochastic and not self.truncates and not self.masks

    @property
    def tempered_only(self) -> bool:
        """True where draws come from the policy at this temperature and nothing else: a KL can be measured on them."""
        return self.full_support and self.repetition_penalty == 1
