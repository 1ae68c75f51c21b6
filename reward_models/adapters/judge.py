"""A generative judge: a language model that is asked how good a response is.

Two ways to read its opinion. `RatingJudge` looks at the probabilities of the possible ratings as the next token and
takes the expectation: no sampling, no parsing, a fine-grained score. `TextJudge` lets it write and finds the rating in
the text; an answer without one gets the fallback score, counted and logged.

Left out: judges that compare two responses; they give no score for one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reward_models.adapters.causal_policy import CausalPolicy, load_causal_lm
from reward_models.adapters.common import Fallbacks, checked_scores, shown
from reward_models.base import TextTemplate
from reward_models.text_model import batches_by_length
from textenv.answers import answers_of
from textenv.errors import ConfigError, RewardError
from textenv.protocols import GenerativePolicy
from textenv.sampling import SamplingParams, generate

DEFAULT_QUESTION = (
    "Rate the answer below from 1 (bad) to 5 (excellent).\n\nQuestion:\n{prompt}\n\nAnswer:\n{response}\n\nRating:"
)
DEFAULT_RATINGS = {f" {number}": float(number) for number in range(1, 6)}
DEFAULT_PATTERN = r"(?:rating|score)\D{0,20}?(-?\d+(?:\.\d+)?)|^\s*\D{0,3}(-?\d+(?:\.\d+)?)"
_BATCH_TOKENS = 4096


class RatingJudge:
    """The expected rating under the judge's next-token probabilities: ``Σ value · p(token) / Σ p(token)``.

    Args:
        policy: The judge; anything that textenv samples from, such as ``agents.CausalLMPolicy``.
        question: What it is asked, with ``{prompt}`` and ``{response}``; the rating should be the natural next token.
        ratings: Text of each rating, one token of the judge's tokenizer, and its value.
        min_mass: Probability that the ratings together must have; below it the judge did not understand, and the
            fallback score is used.
        fallback_score: Score of such a response; None raises instead.
        chat: Ask as the user's turn in the tokenizer's chat template.
        max_tokens: Longer questions are an error (or get the fallback score); None: what the judge can read.

    Raises:
        ConfigError: If a rating is not one token, two ratings share one, or a setting is unusable.

    Source: Liu et al. 2023, arXiv:2303.16634 (G-Eval), eq. 1, with the probabilities themselves instead of samples.
    """

    def __init__(
        self,
        policy: GenerativePolicy,
        *,
        question: str = DEFAULT_QUESTION,
        ratings: Mapping[str, float] = DEFAULT_RATINGS,
        min_mass: float = 0.0,
        fallback_score: float | None = None,
        chat: bool = False,
        max_tokens: int | None = None,
    ) -> None:
        if not 0 <= min_mass <= 1:
            raise ConfigError(f"`min_mass` must lie in [0, 1], got {min_mass}.")
        self.policy = policy
        self.template = TextTemplate(question)
        self.tokens = [_one_token(policy.tokenizer, text) for text in ratings]
        self.values = np.array(list(ratings.values()), dtype=np.float64)
        if len(ratings) < 2 or len(set(self.tokens)) < len(ratings) or not np.isfinite(self.values).all():
            raise ConfigError(f"`ratings` must be at least two texts of different tokens, got {dict(ratings)}.")
        self.min_mass, self.chat = min_mass, chat
        limits = [limit for limit in (max_tokens, policy.context_length) if limit is not None]
        self.max_tokens = min(limits) if limits else None
        self.fallbacks = Fallbacks(fallback_score, "the rating judge")

    def _encode(self, question: str) -> list[int]:
        """The question as the judge reads it."""
        if not self.chat:
            return list(self.policy.encode_prompt(question))
        return answers_of(self.policy).encode_chat([{"role": "user", "content": question}], "the judge's question").ids

    def probabilities(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float64]:
        """Probability of each rating token as the judge's next one, shape ``(n, K)``; NaN for too long questions.

        Raises:
            ShapeError: If there are not as many prompts as responses.
        """
        texts = self.template.join(prompts, responses)
        rows = [self._encode(text) for text in texts]
        found = np.full((len(rows), len(self.tokens)), np.nan)
        readable = [i for i, row in enumerate(rows) if self.max_tokens is None or len(row) <= self.max_tokens]
        for places in batches_by_length([len(rows[index]) for index in readable], batch_tokens=_BATCH_TOKENS):
            chosen = [readable[place] for place in places]
            lengths = np.array([len(rows[index]) for index in chosen])
            tokens = np.zeros((len(chosen), int(lengths.max())), np.int64)
            for place, index in enumerate(chosen):
                tokens[place, : lengths[place]] = rows[index]
            with torch.inference_mode():
                engine = self.policy.slot_engine(len(chosen), tokens.shape[1])
                logits = engine.logits(tokens, lengths, np.arange(len(chosen)))[:, : self.policy.vocab_size]
                logprobs = logits.double().log_softmax(1)[:, self.tokens]
            found[chosen] = logprobs.exp().cpu().numpy()
        return found

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """Expected ratings, shape ``(n,)``.

        Raises:
            ShapeError: If there are not as many prompts as responses.
            RewardError: If the judge gives the ratings too little probability and there is no fallback score.
        """
        weights = self.probabilities(prompts, responses)
        mass = weights.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            scores = weights @ self.values / mass
        unusable = np.flatnonzero(~(mass >= max(self.min_mass, np.finfo(np.float64).tiny)))
        for index in unusable.tolist():
            why = "is too long for it" if np.isnan(mass[index]) else f"gets ratings of probability {mass[index]:.2g}"
            scores[index] = self.fallbacks.use(f"the question about response {shown(responses[index])} {why}.")
        return checked_scores(scores, prompts, responses, source="the rating judge")


class TextJudge:
    """The rating that a judge writes.

    Args:
        judge: A function that answers a list of questions with as many texts, or a policy that textenv samples from,
            which answers greedily.
        question: What it is asked, with ``{prompt}`` and ``{response}``.
        pattern: A regular expression whose first group that matched is the rating; it ignores capitals, and a number
            behind "rating" or "score", or at the beginning, is the default. A pattern may name words instead of
            numbers, see `verdicts`.
        verdicts: Values of words, in lower case, e.g. ``{"good": 1.0, "bad": 0.0}``, where the pattern finds words.
        low: Ratings below are unparsable.
        high: Ratings above are unparsable.
        fallback_score: Score of a response whose rating cannot be found; the middle of `low` and `high` for None.
        max_new_tokens: Longest answer of a policy.

    Raises:
        ConfigError: If the pattern has no group, or the bounds are in the wrong order.
    """

    def __init__(
        self,
        judge: Callable[[list[str]], Sequence[str]] | GenerativePolicy,
        *,
        question: str = DEFAULT_QUESTION,
        pattern: str = DEFAULT_PATTERN,
        verdicts: Mapping[str, float] | None = None,
        low: float = 1.0,
        high: float = 5.0,
        fallback_score: float | None = None,
        max_new_tokens: int = 16,
    ) -> None:
        try:
            self.pattern = re.compile(pattern, re.IGNORECASE)
        except re.error as error:
            raise ConfigError(f"`pattern` {pattern!r} is no regular expression: {error}.") from error
        if self.pattern.groups < 1:
            raise ConfigError(f"`pattern` {pattern!r} needs a group, (…), around the rating.")
        if not -np.inf < low < high < np.inf:
            raise ConfigError(f"`low` must be less than `high`, both finite; got {low} and {high}.")
        self.judge = judge
        self.template = TextTemplate(question)
        self.verdicts = {word.lower(): float(value) for word, value in (verdicts or {}).items()}
        self.low, self.high, self.max_new_tokens = low, high, max_new_tokens
        self.fallbacks = Fallbacks((low + high) / 2 if fallback_score is None else fallback_score, "the text judge")

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """Parsed ratings, shape ``(n,)``.

        Raises:
            ShapeError: If there are not as many prompts as responses.
            RewardError: If the judge raises, or answers not each question with one text.
        """
        questions = self.template.join(prompts, responses)
        if not questions:
            return np.zeros(0, np.float32)
        scores = []
        for answer in self._ask(questions):
            value = None if answer is None else self.parse(answer)
            if value is None:
                said = "the question is too long for it" if answer is None else f"no rating in {shown(answer)}"
                value = self.fallbacks.use(f"{said}.")
            scores.append(value)
        return checked_scores(scores, prompts, responses, source="the text judge")

    def parse(self, answer: str) -> float | None:
        """The rating in an answer, None where there is none between `low` and `high`."""
        match = self.pattern.search(answer)
        text = next((group for group in match.groups() if group), None) if match else None
        if text is None:
            return None
        try:
            value = self.verdicts[text.lower()] if text.lower() in self.verdicts else float(text)
        except ValueError:
            return None
        return value if self.low <= value <= self.high else None

    def _ask(self, questions: list[str]) -> Sequence[str | None]:
        """The answers; None for a question that leaves a policy no room for one."""
        if isinstance(self.judge, GenerativePolicy):
            return self._sample(self.judge, questions)
        try:
            answers = list(self.judge(questions))
        except Exception as error:
            raise RewardError(f"the judge raised {type(error).__name__}: {error}") from error
        if len(answers) != len(questions) or not all(isinstance(answer, str) for answer in answers):
            raise RewardError(f"the judge gave {len(answers)} answers to {len(questions)} questions, or no texts.")
        return answers

    def _sample(self, policy: GenerativePolicy, questions: list[str]) -> list[str | None]:
        rows = [policy.encode_prompt(question) for question in questions]
        room = np.inf if policy.context_length is None else policy.context_length - self.max_new_tokens
        asked = [index for index, row in enumerate(rows) if 0 < len(row) <= room]
        params = SamplingParams(temperature=0.0, max_new_tokens=self.max_new_tokens)
        answers: list[str | None] = [None] * len(rows)
        for index, trajectory in zip(asked, generate(policy, [rows[i] for i in asked], params), strict=True):
            answers[index] = trajectory.response
        return answers


def load_rating_judge(
    policy: str,
    question: str = DEFAULT_QUESTION,
    ratings: Mapping[str, float] = DEFAULT_RATINGS,
    min_mass: float = 0.0,
    fallback_score: float | None = None,
    chat: bool = False,
    max_tokens: int | None = None,
) -> RatingJudge:
    """A rating judge from a causal language model's folder; raises as `RatingJudge` and `load_causal_lm`."""
    return RatingJudge(
        CausalPolicy(*load_causal_lm(policy)),
        question=question,
        ratings=ratings,
        min_mass=min_mass,
        fallback_score=fallback_score,
        chat=chat,
        max_tokens=max_tokens,
    )


def load_text_judge(
    policy: str,
    question: str = DEFAULT_QUESTION,
    pattern: str = DEFAULT_PATTERN,
    verdicts: Mapping[str, float] | None = None,
    low: float = 1.0,
    high: float = 5.0,
    fallback_score: float | None = None,
    max_new_tokens: int = 16,
) -> TextJudge:
    """A text judge from a causal language model's folder; raises as `TextJudge` and `load_causal_lm`."""
    return TextJudge(
        CausalPolicy(*load_causal_lm(policy)),
        question=question,
        pattern=pattern,
        verdicts=verdicts,
        low=low,
        high=high,
        fallback_score=fallback_score,
        max_new_tokens=max_new_tokens,
    )


def _one_token(tokenizer: Any, text: str) -> int:
    """The one token of a rating's text."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise ConfigError(
            f"the rating {text!r} is {len(ids)} tokens of the judge's tokenizer, expected 1; try it with or without "
            "its leading blank."
        )
    return int(ids[0])
