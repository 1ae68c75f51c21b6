"""Simulated raters: what people with known noise, bias and taste would say about responses whose worth is known.

A rater judges a response by a utility: the gold's score, the rater's own taste, a bonus for length and for standing
first, and fresh noise. With logistic noise, comparisons follow Bradley-Terry, rankings Plackett-Luce and choices of
the best the softmax exactly; with Gaussian noise comparisons follow Thurstone. Exact probabilities and ceilings of
what is drawn here are in `reward_models.simulation.ceilings`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reward_models.labels.kinds import BestOf, Comparison, Ranking, Rating, StepLabels
from reward_models.simulation.golds import gold_scores
from textenv.errors import ConfigError
from textenv.settings import NonNegativeFloat, PositiveFloat, Settings, UnitFloat


@dataclass(frozen=True)
class Rater(Settings):
    """One person; all amounts are in units of the gold's score.

    Attributes:
        name: Stands in the labels.
        noise: Spread of the noise: logistic scale, or Gaussian standard deviation, of the difference of two
            responses in comparisons and of a single response in ratings.
        noise_kind: Its distribution.
        bias: Added to every rating.
        stretch: Factor of ratings: below 1 a person who avoids the ends of the scale.
        taste: Standard deviation of a lasting liking of each text that other raters do not share.
        first_bonus: Utility of being shown first.
        length_bonus: Utility of each word.
        tie_threshold: Differences up to this are called a tie in comparisons and rankings.
        lapse: Probability of answering at random, from 0 to 1.
    """

    name: str = "rater"
    noise: NonNegativeFloat = 1.0
    noise_kind: Literal["logistic", "gaussian"] = "logistic"
    bias: float = 0.0
    stretch: PositiveFloat = 1.0
    taste: NonNegativeFloat = 0.0
    first_bonus: float = 0.0
    length_bonus: float = 0.0
    tie_threshold: NonNegativeFloat = 0.0
    lapse: UnitFloat = 0.0


@dataclass(frozen=True)
class LikertScale(Settings):
    """How a continuous judgement becomes a category.

    Attributes:
        low: Lowest category.
        high: Highest category.
        middle: Judgement that falls in the middle of the scale.
        unit: Width of a category in units of the judgement.
    """

    low: int = 1
    high: int = 5
    middle: float = 0.0
    unit: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low >= self.high:
            raise ConfigError(f"`low` must be below `high`, got {self.low} and {self.high}.")

    @property
    def cutpoints(self) -> NDArray[np.float64]:
        """Judgements where one category ends and the next begins, shape ``(high - low,)``."""
        steps = np.arange(self.low + 0.5, self.high)
        return self.middle + self.unit * (steps - (self.low + self.high) / 2)

    def category(self, judgements: NDArray[np.float64]) -> NDArray[np.int64]:
        """Category of each judgement."""
        return self.low + np.searchsorted(self.cutpoints, judgements, side="left")


def disagreeing_raters(
    rng: np.random.Generator, count: int, base: Rater | None = None, *, bias_std: float = 0.5, noise_spread: float = 0.5
) -> list[Rater]:
    """Raters who differ: bias from N(0, bias_std²), noise ``base.noise × exp(N(0, noise_spread²))``.

    Args:
        rng: Decides how they differ.
        count: How many.
        base: What they share; a plain `Rater` for None.
        bias_std: Spread of their bias.
        noise_spread: Spread of the logarithm of their noise.
    """
    base = base or Rater()
    biases, factors = rng.normal(0, bias_std, size=count), np.exp(rng.normal(0, noise_spread, size=count))
    return [
        replace(base, name=f"rater-{i}", bias=float(biases[i]), noise=float(base.noise * factors[i]))
        for i in range(count)
    ]


class SimulatedRaters:
    """A gold model seen through raters; gives every kind of label.

    Each label comes from one rater, drawn evenly, whose name it carries. The same seed and the same calls give the
    same labels.

    Args:
        gold: A reward model or a function of prompts and responses.
        raters: The people; one plain `Rater` for None.
        seed: Of everything random.

    Raises:
        ConfigError: If there are no raters or two have one name.
    """

    def __init__(self, gold: Any, raters: Sequence[Rater] | None = None, *, seed: int = 0) -> None:
        self.gold = gold
        self.raters = [Rater()] if raters is None else list(raters)
        if not self.raters or len({rater.name for rater in self.raters}) < len(self.raters):
            raise ConfigError(f"`raters` must hold people of different names, got {[r.name for r in self.raters]}.")
        self._rng = np.random.default_rng(seed)

    def compare(
        self,
        prompts: Sequence[str],
        first: Sequence[str],
        second: Sequence[str],
        *,
        raters: Sequence[Rater] | None = None,
        items: Sequence[str] | None = None,
    ) -> list[Comparison]:
        """Which of two responses is better; the first one is shown first.

        Args:
            prompts: Prompts, n.
            first: Responses, n.
            second: Responses, n, each another text than the first.
            raters: Who judges each pair; drawn for None.
            items: Names of the pairs, so that labels of several raters can be told to be about the same thing.
        """
        people = self._draw_raters(len(prompts)) if raters is None else list(raters)
        seen = self.utilities(prompts, first, people, first_shown=True)
        seen = seen - self.utilities(prompts, second, people)
        made = []
        for index, rater in enumerate(people):
            difference = seen[index] + rater.noise * self._noise(rater)
            tie = abs(difference) <= rater.tie_threshold and rater.tie_threshold > 0
            if self._rng.random() < rater.lapse:
                tie, difference = False, 1.0 if self._rng.random() < 0.5 else -1.0
            chosen, rejected = first[index], second[index]
            if difference < 0 and not tie:
                chosen, rejected = rejected, chosen
            item = None if items is None else items[index]
            made.append(Comparison(prompts[index], chosen, rejected, tie=tie, rater=rater.name, item=item))
        return made

    def rank(
        self, prompts: Sequence[str], responses: Sequence[Sequence[str]], *, top: int | None = None
    ) -> list[Ranking]:
        """The order of K responses to each prompt; neighbours within a rater's tie threshold are tied.

        Args:
            prompts: Prompts, n.
            responses: K responses to each, shown in this order.
            top: Only the best so many get a rank (more if the last of them is tied); None ranks all.
        """
        made = []
        for prompt, texts in zip(prompts, responses, strict=True):
            rater, felt = self._felt(prompt, texts)
            order = np.argsort(-felt, kind="stable")
            ranks = [0] * len(texts)
            rank = 1
            for position, index in enumerate(order):
                if position and felt[order[position - 1]] - felt[index] > rater.tie_threshold:
                    rank = position + 1
                ranks[index] = rank
            known = tuple(rank if top is None or rank <= top else None for rank in ranks)
            made.append(Ranking(prompt, tuple(texts), known, rater=rater.name))
        return made

    def pick_best(self, prompts: Sequence[str], responses: Sequence[Sequence[str]]) -> list[BestOf]:
        """The best of K responses to each prompt."""
        made = []
        for prompt, texts in zip(prompts, responses, strict=True):
            rater, felt = self._felt(prompt, texts)
            made.append(BestOf(prompt, tuple(texts), int(np.argmax(felt)), rater=rater.name))
        return made

    def rate(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        scale: LikertScale | None = None,
        raters: Sequence[Rater] | None = None,
        items: Sequence[str] | None = None,
    ) -> list[Rating]:
        """A rating of each response.

        Args:
            prompts: Prompts, n.
            responses: Responses, n.
            scale: Makes categories of the judgements; None leaves them numbers. A lapse draws a category evenly,
                without a scale a judgement from N(0, 1).
            raters: Who rates each response; drawn for None.
            items: Names of the responses.
        """
        people = self._draw_raters(len(prompts)) if raters is None else list(raters)
        felt = self.utilities(prompts, responses, people)
        made = []
        for index, rater in enumerate(people):
            judged = rater.bias + rater.stretch * (felt[index] + rater.noise * self._noise(rater))
            lapsed = self._rng.random() < rater.lapse
            if scale is not None:
                score = int(scale.category(np.array([judged]))[0])
                score = int(self._rng.integers(scale.low, scale.high + 1)) if lapsed else score
            else:
                score = float(self._rng.normal()) if lapsed else float(judged)
            made.append(
                Rating(
                    prompts[index],
                    responses[index],
                    float(score),
                    scale=None if scale is None else (scale.low, scale.high),
                    rater=rater.name,
                    item=None if items is None else items[index],
                )
            )
        return made

    def label_steps(self, prompts: Sequence[str], steps: Sequence[Sequence[str]]) -> list[StepLabels]:
        """Whether each step is right: yes with probability ``s(u / noise)`` for the utility u of the text up to it."""
        made = []
        for prompt, pieces in zip(prompts, steps, strict=True):
            rater = self._draw_raters(1)[0]
            prefixes = ["".join(pieces[: count + 1]) for count in range(len(pieces))]
            felt = self.utilities([prompt] * len(pieces), prefixes, [rater] * len(pieces))
            noisy = felt + rater.noise * np.array([self._noise(rater) for _ in pieces])
            lapsed = self._rng.random(len(pieces)) < rater.lapse
            right = np.where(lapsed, self._rng.random(len(pieces)) < 0.5, noisy > 0)
            made.append(StepLabels(prompt, tuple(pieces), tuple(right.astype(float).tolist()), rater=rater.name))
        return made

    def utilities(
        self, prompts: Sequence[str], responses: Sequence[str], raters: Sequence[Rater], *, first_shown: bool = False
    ) -> NDArray[np.float64]:
        """What each rater lastingly thinks of a response: gold, taste and bonuses, without noise; shape ``(n,)``."""
        found = gold_scores(self.gold, prompts, responses)
        for index, rater in enumerate(raters):
            found[index] += rater.first_bonus * first_shown
            if rater.length_bonus:
                found[index] += rater.length_bonus * len(responses[index].split())
            if rater.taste:
                found[index] += rater.taste * _liking(rater.name, prompts[index], responses[index])
        return found

    def _felt(self, prompt: str, texts: Sequence[str]) -> tuple[Rater, NDArray[np.float64]]:
        """A rater and how they feel about K responses, noise included."""
        rater = self._draw_raters(1)[0]
        felt = self.utilities([prompt] * len(texts), texts, [rater] * len(texts))
        felt[0] += rater.first_bonus
        # Gumbel noise on each response is what makes differences logistic; Gaussian noise is shared by the two sides.
        drawn = self._rng.gumbel(size=len(texts)) if rater.noise_kind == "logistic" else None
        noise = self._rng.normal(0, math.sqrt(0.5), size=len(texts)) if drawn is None else drawn
        lapsed = self._rng.random() < rater.lapse
        return rater, self._rng.normal(size=len(texts)) if lapsed else felt + rater.noise * noise

    def _noise(self, rater: Rater) -> float:
        return float(self._rng.logistic() if rater.noise_kind == "logistic" else self._rng.normal())

    def _draw_raters(self, count: int) -> list[Rater]:
        return [self.raters[index] for index in self._rng.integers(len(self.raters), size=count)]


def _liking(name: str, prompt: str, response: str) -> float:
    """A standard normal number that belongs to a rater and a text for ever."""
    digest = hashlib.sha256(f"{name}\0{prompt}\0{response}".encode()).digest()
    first = (int.from_bytes(digest[:8], "big") + 1) / (2**64 + 2)
    second = int.from_bytes(digest[8:16], "big") / 2**64
    return math.sqrt(-2 * math.log(first)) * math.cos(2 * math.pi * second)
