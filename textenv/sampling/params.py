"""Sampling settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt, Interval

from textenv.answers import AnswerFormat, Answers, answers_of
from textenv.errors import ConfigError
from textenv.settings import NonNegativeInt, PositiveInt, Settings

DEFAULT_NEW_TOKENS = 32
"""Length limit of answers where neither the caller nor the policy says."""


@dataclass(frozen=True)
class SamplingParams(Settings):
    """How tokens are drawn from a policy's logits.

    The settings compose, and act in this order, which is that of transformers' ``generate``: repetition penalty,
    allowed and denied tokens, temperature, top-k, top-p, min-p, typical. Each truncation sees the renormalised
    distribution that the ones before it left, and keeps all equals of the last token that it keeps.

    What an answer is (where it ends, how long it may be) is the policy's own :class:`textenv.answers.AnswerFormat`;
    what is given here comes before it.

    Attributes:
        temperature: Divides the logits; 0 means greedy: the largest logit after penalty and masks.
        top_k: Keep the k most probable tokens; 0 keeps all (arXiv:1805.04833).
        top_p: Keep the smallest set of tokens whose probability reaches this; 1 keeps all (arXiv:1904.09751).
        max_new_tokens: Length limit of a response in tokens, end token included; None takes the policy's, or 32.
        min_p: Keep tokens at least this fraction as probable as the most probable one; 0 keeps all (arXiv:2407.01082).
        typical_p: Keep the tokens whose information is nearest to the entropy until their probability reaches this;
            1 keeps all (arXiv:2202.00666).
        repetition_penalty: Logits of tokens in prompt or answer are divided by it where positive and multiplied by it
            where negative; 1 changes nothing (Keskar et al. 2019).
        allow_tokens: Only these ids can be drawn; None allows all.
        deny_tokens: These ids are never drawn; the end-of-text id here makes every answer ``max_new_tokens`` long.
        stop: Strings that end an answer as soon as its text contains one; None takes the policy's, ``()`` has none.
        eos_token_id: Tokens that end an answer; None takes the policy's.
        min_new_tokens: Before this many tokens no end token is drawn and no stop string counts; None takes the
            policy's.

    Raises:
        ConfigError: If a value is out of its range.
    """

    temperature: Annotated[float, Ge(0), "0 is greedy"] = 1.0
    top_k: Annotated[int, Ge(0), "0 keeps every token"] = 0
    top_p: Annotated[float, Interval(gt=0, le=1), "1 keeps every token"] = 1.0
    max_new_tokens: PositiveInt | None = None
    min_p: Annotated[float, Interval(ge=0, le=1), "0 keeps every token"] = 0.0
    typical_p: Annotated[float, Interval(gt=0, le=1), "1 keeps every token"] = 1.0
    repetition_penalty: Annotated[float, Gt(0), "1 changes nothing"] = 1.0
    allow_tokens: tuple[int, ...] | None = None
    deny_tokens: tuple[int, ...] = ()
    stop: tuple[str, ...] | None = None
    eos_token_id: tuple[int, ...] | None = None
    min_new_tokens: NonNegativeInt | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._make_tuples()
        if self.allow_tokens is not None and not set(self.allow_tokens) - set(self.deny_tokens):
            raise ConfigError("`allow_tokens` without `deny_tokens` leaves no token to draw; None allows all")
        if min((*(self.allow_tokens or ()), *self.deny_tokens), default=0) < 0:
            raise ConfigError("`allow_tokens` and `deny_tokens` hold token ids, which are ≥ 0")

    def _make_tuples(self) -> None:
        for name in ("allow_tokens", "deny_tokens", "eos_token_id"):
            ids = getattr(self, name)
            if ids is not None:
                ids = (ids,) if isinstance(ids, int) else ids
                object.__setattr__(self, name, tuple(int(i) for i in ids))
        if self.stop is not None:
            object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))

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
        return self.allow_tokens is not None or bool(self.deny_tokens) or bool(self.min_new_tokens)

    @property
    def full_support(self) -> bool:
        """True where every token that the policy can produce can be drawn: importance weights exist."""
        return self.stochastic and not self.truncates and not self.masks

    @property
    def tempered_only(self) -> bool:
        """True where draws come from the policy at this temperature and nothing else: a KL can be measured on them."""
        return self.full_support and self.repetition_penalty == 1

    def settled(self, answer: AnswerFormat) -> SettledParams:
        """These settings, with what they leave open taken from a policy's answer format.

        Raises:
            ConfigError: If the shortest answer is longer than the longest.
        """
        longest = self.max_new_tokens or answer.max_new_tokens or DEFAULT_NEW_TOKENS
        shortest = self.min_new_tokens
        if shortest is None:
            shortest = min(answer.min_new_tokens, longest)
        if shortest > longest:
            raise ConfigError(f"`min_new_tokens` must not exceed `max_new_tokens`, got {shortest} > {longest}")
        values = vars(self) | {
            "max_new_tokens": longest,
            "min_new_tokens": shortest,
            "stop": answer.stop if self.stop is None else self.stop,
            "eos_token_id": answer.eos_token_ids if self.eos_token_id is None else self.eos_token_id,
        }
        return SettledParams(**values)


@dataclass(frozen=True)
class SettledParams(SamplingParams):
    """Sampling settings in which nothing is left to the policy."""

    max_new_tokens: PositiveInt = DEFAULT_NEW_TOKENS
    stop: tuple[str, ...] = ()
    eos_token_id: tuple[int, ...] = ()
    min_new_tokens: NonNegativeInt = 0


def settle(policy: Any, params: SamplingParams | None) -> tuple[SettledParams, Answers]:
    """Sampling settings in which nothing is open, and the answers that are asked of a policy with them.

    Args:
        policy: Whose answer format is the default.
        params: Settings; None samples at temperature 1.

    Raises:
        ConfigError: If they contradict the policy's answer format, or an end token is no token.
    """
    answers = answers_of(policy)
    settled = (params or SamplingParams()).settled(answers.format)
    return settled, answers.replace(
        eos_token_ids=settled.eos_token_id,
        stop=settled.stop,
        min_new_tokens=settled.min_new_tokens,
        max_new_tokens=settled.max_new_tokens,
    )
