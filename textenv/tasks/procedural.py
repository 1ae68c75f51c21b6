"""Built-in tasks that are made on the spot: no download, every answer can be checked.

They are small enough for a model of a few million parameters on a laptop, and are there for recipes and tests: figures
on them say that the machinery works, not that a model is clever. Each question comes in the wording of labelers or in
that of users (see :data:`textenv.tasks.LABELERS`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from textenv.datasets.builtin import builtin_ratings
from textenv.datasets.rated_texts import split_of
from textenv.errors import ConfigError
from textenv.tasks.items import LABELERS, USERS, Format, Item
from textenv.tasks.task import Task
from textenv.tasks.verifiers import Verifier, same_number, same_text

_KINDS: dict[str, tuple[str, ...]] = {
    "animal": ("dog", "cat", "horse", "cow", "sheep", "mouse", "bird", "fish", "lion", "bear", "duck", "goat"),
    "plant": ("tree", "rose", "grass", "oak", "moss", "fern", "tulip", "pine", "ivy", "lily", "daisy", "palm"),
    "tool": ("hammer", "saw", "axe", "spoon", "knife", "drill", "rake", "needle", "brush", "hook", "file", "spade"),
    "food": ("bread", "cheese", "rice", "soup", "cake", "egg", "honey", "butter", "pasta", "jam", "toast", "stew"),
    "colour": ("red", "blue", "green", "yellow", "black", "white", "brown", "pink", "grey", "purple", "gold", "teal"),
    "place": (
        "city",
        "river",
        "forest",
        "beach",
        "park",
        "school",
        "island",
        "garden",
        "valley",
        "harbour",
        "farm",
        "hill",
    ),
}
_WORDS = tuple(word for words in _KINDS.values() for word in words)
_LETTERS = tuple("abcdefgh")
ASKED = Format(statement="{question} It is {answer}.", sheet_every=4)
"""Form of the built-in questions: running text tells the answer in the same line, sheets of questions leave it out."""

_TOLD = (ASKED.statement, "{question} The answer is {answer}.", "{question} {answer}, of course.")
# Running text tells answers in several wordings: what is learned must not hang on one.

_MOST_REPEATS = 200  # in a row: there are hardly any new questions left


class _Drawn(NamedTuple):
    """A problem in both wordings: of labelers, of users; and its answer."""

    asked: tuple[str, str]
    answer: str


class _Kind(NamedTuple):
    """How problems of a kind are drawn and checked."""

    draw: Callable[[np.random.Generator], _Drawn]
    verifier: Verifier


def _an(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _some_words(rng: np.random.Generator, low: int, high: int) -> str:
    return " ".join(rng.choice(_WORDS, size=int(rng.integers(low, high + 1)), replace=False))


def _copy(rng: np.random.Generator) -> _Drawn:
    words = _some_words(rng, 2, 5)
    asked = f"Can you repeat the words {words}?", f"How do I say {words} once more?"
    return _Drawn(asked, words)


def _reverse(rng: np.random.Generator) -> _Drawn:
    words = _some_words(rng, 2, 4)
    back = " ".join(reversed(words.split()))
    asked = f"What are the words {words} in reverse order?", f"How do I say {words} backwards?"
    return _Drawn(asked, back)


def _addition(rng: np.random.Generator) -> _Drawn:
    a, b = (int(n) for n in rng.integers(0, 50, size=2))
    return _Drawn((f"What is {a} plus {b}?", f"How much are {a} and {b}?"), str(a + b))


def _count(rng: np.random.Generator) -> _Drawn:
    letters = [str(x) for x in rng.choice(_LETTERS[:4], size=int(rng.integers(4, 9)))]
    wanted = str(rng.choice(letters))
    row, count = " ".join(letters), letters.count(wanted)
    asked = f"How often does {wanted} stand in the row {row}?", f"In {row}, how many times is there {wanted}?"
    return _Drawn(asked, str(count))


def _compare(rng: np.random.Generator) -> _Drawn:
    a, b = (int(n) for n in rng.choice(100, size=2, replace=False))
    asked = f"Which number is larger, {a} or {b}?", f"Is it {a} or {b} that is more?"
    return _Drawn(asked, str(max(a, b)))


def _sort(rng: np.random.Generator) -> _Drawn:
    numbers = [int(n) for n in rng.choice(20, size=int(rng.integers(3, 5)), replace=False)]
    row, ordered = " ".join(map(str, numbers)), " ".join(map(str, sorted(numbers)))
    asked = f"What are the numbers {row} from small to large?", f"How do I put {row} in order?"
    return _Drawn(asked, ordered)


def _facts(rng: np.random.Generator) -> _Drawn:
    word, kind = str(rng.choice(_WORDS)), str(rng.choice(tuple(_KINDS)))
    if rng.random() < 0.4:  # so that both answers are common
        kind = next(name for name, words in _KINDS.items() if word in words)
    true = word in _KINDS[kind]
    asked = f"Does the word {word} stand for {_an(kind)}?", f"Tell me, is {word} the name of {_an(kind)}?"
    return _Drawn(asked, "yes" if true else "no")


def _odd_one(rng: np.random.Generator) -> _Drawn:
    kind, other = (str(name) for name in rng.choice(tuple(_KINDS), size=2, replace=False))
    words = [str(word) for word in rng.choice(_KINDS[kind], size=2, replace=False)]
    odd = str(rng.choice(_KINDS[other]))
    words.insert(int(rng.integers(3)), odd)
    row = " ".join(words)
    asked = f"Which of the words {row} does not belong?", f"What is the odd one out of {row}?"
    return _Drawn(asked, odd)


def _first(rng: np.random.Generator) -> _Drawn:
    words = _some_words(rng, 3, 5)
    asked = f"Which word comes first in the row {words}?", f"What does {words} begin with?"
    return _Drawn(asked, words.split()[0])


def _last(rng: np.random.Generator) -> _Drawn:
    words = _some_words(rng, 3, 5)
    asked = f"Which word comes last in the row {words}?", f"What does {words} end with?"
    return _Drawn(asked, words.split()[-1])


def _next(rng: np.random.Generator) -> _Drawn:
    number = int(rng.integers(1000))
    return _Drawn((f"Which number comes after {number}?", f"What do I count after {number}?"), str(number + 1))


def _parity(rng: np.random.Generator) -> _Drawn:
    number = int(rng.integers(1000))
    asked = f"Is the number {number} even or odd?", f"Tell me, is {number} odd or even?"
    return _Drawn(asked, "odd" if number % 2 else "even")


PROCEDURAL: dict[str, _Kind] = {
    "copy": _Kind(_copy, same_text),
    "reverse": _Kind(_reverse, same_text),
    "addition": _Kind(_addition, same_number),
    "count": _Kind(_count, same_number),
    "compare": _Kind(_compare, same_number),
    "sort": _Kind(_sort, same_text),
    "facts": _Kind(_facts, same_text),
    "odd_one_out": _Kind(_odd_one, same_text),
    "first": _Kind(_first, same_text),
    "last": _Kind(_last, same_text),
    "next": _Kind(_next, same_number),
    "parity": _Kind(_parity, same_text),
}
"""The built-in tasks with a verifier, by name; ``text`` is the one without."""


def procedural_task(name: str, count: int = 4000, seed: int = 0, *, format: Format | None = None) -> Task:
    """A built-in task; the same arguments give the same items.

    Args:
        name: One of :data:`PROCEDURAL`, or ``text``: sentences to go on with, without a verifier.
        count: Items, no question twice; fewer where a task has hardly so many different questions.
        seed: Of the problems.
        format: How items are asked and answered; None takes the default, ``Answer: …`` after the question.

    Raises:
        ConfigError: If the name is unknown or the count is below 1.
    """
    if count < 1:
        raise ConfigError(f"`count` must be ≥ 1, got {count}")
    if name == "text":
        return _text(count, seed)
    if name not in PROCEDURAL:
        raise ConfigError(f"there is no built-in task {name!r}; there are: {', '.join(PROCEDURAL)}, text")
    kind = PROCEDURAL[name]
    rng = np.random.default_rng([seed, *name.encode()])
    found: dict[str, Item] = {}
    repeats = 0
    while len(found) < count and repeats < _MOST_REPEATS:
        drawn = kind.draw(rng)
        wording = int(rng.integers(2))
        question = drawn.asked[wording]
        source = (LABELERS, USERS)[wording]
        # The same problem in the other wording must not stand in another split.
        split = split_of(drawn.asked[0])
        repeats = repeats + 1 if question in found else 0
        told = _TOLD[len(found) % len(_TOLD)].replace("{question}", question).replace("{answer}", drawn.answer)
        found.setdefault(question, Item(question, (drawn.answer,), split, source, statement=told))
    return Task(name, list(found.values()), format or ASKED, kind.verifier)


def _text(count: int, seed: int) -> Task:
    """Sentences of the built-in generator as plain text: half of each is the prompt, the rest the answer."""
    items = []
    for rated in builtin_ratings(max(count, 4), seed):
        words = rated.text.split()
        cut = max(1, len(words) // 2)
        start, rest = " ".join(words[:cut]), " ".join(words[cut:])
        items.append(Item(f"Go on: {start}", (f" {rest}",), rated.split, LABELERS, rated.text))
    format = Format("{question}", "{answer}", sheet_every=0, pattern=r"(?s:(?P<answer>.+))")
    return Task("text", items[:count], format, verifier=None)
