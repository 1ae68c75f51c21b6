"""A small generator of rated sentences: the same record as the human ratings, without a network.

Sentences in the manner of the four domains are put together from clauses whose words carry a sentiment; simulated
raters then judge them with noise. It is for tests and for trying the pipeline: figures on it say nothing about people.
The sentiment words also stand in the VADER lexicon, so the lexicon baseline agrees with the generator's polarity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from textenv.datasets.rated_texts import DOMAINS, RATING_LIMIT, Domain, RatedText, check_domains, check_split, split_of
from textenv.errors import ConfigError

RATER_NOISE = 0.9
"""Standard deviation of one rater around the sentence's sentiment; people have 0.7 to 0.9."""

_ADJECTIVES: tuple[tuple[str, float], ...] = (
    ("superb", 3.1),
    ("excellent", 2.7),
    ("wonderful", 2.7),
    ("brilliant", 2.8),
    ("great", 3.1),
    ("lovely", 2.8),
    ("charming", 2.8),
    ("beautiful", 2.9),
    ("amazing", 2.8),
    ("good", 1.9),
    ("fun", 2.3),
    ("clever", 2.0),
    ("pleasant", 2.3),
    ("nice", 1.8),
    ("funny", 1.9),
    ("fine", 0.8),
    ("okay", 0.9),
    ("odd", -1.3),
    ("sloppy", -1.5),
    ("boring", -1.3),
    ("dull", -1.7),
    ("weak", -1.9),
    ("silly", -1.0),
    ("annoying", -1.7),
    ("poor", -2.1),
    ("stupid", -2.4),
    ("bad", -2.5),
    ("disappointing", -2.2),
    ("pathetic", -2.7),
    ("awful", -2.0),
    ("ugly", -2.3),
    ("horrible", -2.5),
    ("terrible", -2.1),
    ("dreadful", -1.9),
)
_VERBS: tuple[tuple[str, float], ...] = (
    ("love", 3.2),
    ("adore", 2.6),
    ("enjoy", 2.2),
    ("like", 1.5),
    ("trust", 2.3),
    ("doubt", -1.5),
    ("dislike", -1.6),
    ("regret", -1.8),
    ("despise", -1.4),
    ("hate", -2.7),
)
# Blank or adverb before an adjective, and how much stronger it makes it.
_ADVERBS: tuple[tuple[str, float], ...] = (
    ("", 1.0),
    ("", 1.0),
    ("very ", 1.2),
    ("really ", 1.2),
    ("extremely ", 1.3),
    ("slightly ", 0.6),
)


@dataclass(frozen=True)
class _Scene:
    """The neutral words of a domain."""

    openings: tuple[str, ...]
    nouns: tuple[str, ...]
    endings: tuple[str, ...]


_SCENES: dict[Domain, _Scene] = {
    "movies": _Scene(
        ("", "In the end", "For a first film", "As a sequel", "Minute by minute"),
        ("the film", "the story", "the acting", "the script", "the cast", "the ending", "the music", "the camera work"),
        ("from the first scene on", "for two whole hours", "on a large screen", "in every scene", "to the last minute"),
    ),
    "amazon": _Scene(
        ("", "After two weeks", "For this price", "Out of the box", "As a present"),
        ("the camera", "the battery", "the screen", "the phone", "the player", "the manual", "the sound", "the lens"),
        ("in daily use", "right from the start", "on a long trip", "with the new software", "in a dark room"),
    ),
    "tweets": _Scene(
        ("", "Well", "This morning", "So far", "At school today"),
        ("the day", "the weather", "my new song", "the game", "this coffee", "the party", "the bus", "my hair"),
        ("right now", "again today", "since last night", "before lunch", "on a Monday"),
    ),
    "nyt": _Scene(
        ("", "By all accounts", "In this city", "For the voters", "Two years later"),
        ("the plan", "the budget", "the law", "the speech", "the vote", "the report", "the reform", "the mayor"),
        ("in the long run", "for the whole state", "under the new rules", "at this point", "in an election year"),
    ),
}


def builtin_ratings(
    n: int = 4000,
    seed: int = 0,
    *,
    domains: list[str] | tuple[str, ...] | None = None,
    split: str | None = None,
) -> list[RatedText]:
    """Rated sentences made on the spot; the same arguments give the same sentences.

    Args:
        n: Number of distinct sentences before `split` selects some; shared evenly among the domains.
        seed: Seed of the generator.
        domains: Some of ``movies``, ``amazon``, ``tweets``, ``nyt``; all for None.
        split: ``train``, ``validation`` or ``test``; all for None. The rule is that of the human ratings.

    Returns:
        The sentences, domain after domain.

    Raises:
        ConfigError: If `n` is too small or large, or a domain or the split is unknown.
    """
    if not 1 <= n <= 1_000_000:
        raise ConfigError(f"`n` must lie between 1 and 1,000,000, got {n}.")
    wanted, part = check_domains(None if domains is None else tuple(domains)), check_split(split)
    made: list[RatedText] = []
    for position, domain in enumerate(wanted):
        count = n // len(wanted) + (position < n % len(wanted))
        # Each domain draws from its own stream, so asking for fewer domains changes no sentence.
        rng = np.random.default_rng([seed, DOMAINS.index(domain)])
        made.extend(_domain_sentences(rng, domain, count))
    return [item for item in made if part is None or item.split == part]


def _domain_sentences(rng: np.random.Generator, domain: Domain, count: int) -> list[RatedText]:
    seen: dict[str, RatedText] = {}
    while len(seen) < count:
        text, sentiment = _sentence(rng, _SCENES[domain])
        if text in seen:
            continue
        raters = int(rng.integers(15, 21))
        noisy = sentiment + RATER_NOISE * rng.standard_normal(raters)
        ratings = tuple(int(value) for value in np.clip(np.rint(noisy), -RATING_LIMIT, RATING_LIMIT))
        mean = sum(ratings) / raters
        seen[text] = RatedText(text, domain, mean, ratings, split_of(text), f"{domain}/builtin-{len(seen)}")
    return list(seen.values())


def _sentence(rng: np.random.Generator, scene: _Scene) -> tuple[str, float]:
    """A sentence of two clauses and its sentiment, from -4 to 4."""
    sign = 1.0 if rng.random() < 0.5 else -1.0
    # One sentence in five turns round in the middle, and then the second half decides.
    turns = rng.random() < 0.2
    first, first_value = _clause(rng, scene, -sign if turns else sign)
    second, second_value = _clause(rng, scene, sign)
    opening, ending = str(rng.choice(scene.openings)), str(rng.choice(scene.endings))
    head = f"{opening}, {first}" if opening else first[0].upper() + first[1:]
    value = 0.35 * first_value + 0.65 * second_value if turns else 0.6 * (first_value + second_value)
    text = f"{head} {'but' if turns else 'and'} {second} {ending}."
    return text, float(np.clip(value, -RATING_LIMIT, RATING_LIMIT))


def _clause(rng: np.random.Generator, scene: _Scene, sign: float) -> tuple[str, float]:
    """A clause of the wanted sign and its value."""
    noun = str(rng.choice(scene.nouns))
    if rng.random() < 0.25:
        verb, value = _pick(rng, _VERBS, sign)
        return f"I {verb} {noun}", value
    adjective, value = _pick(rng, _ADJECTIVES, sign)
    adverb, factor = _ADVERBS[int(rng.integers(len(_ADVERBS)))]
    return f"{noun} is {adverb}{adjective}", value * factor


def _pick(rng: np.random.Generator, words: tuple[tuple[str, float], ...], sign: float) -> tuple[str, float]:
    fitting = [item for item in words if item[1] * sign > 0]
    return fitting[int(rng.integers(len(fitting)))]
