"""Splits: what belongs together stays on one side, what does not is counted, and too little is said to be that."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from reward_models.labels import Comparison, Label, LabelSplits, Rating, near_duplicates, split_labels, split_leaks
from textenv.answers import Chat
from textenv.errors import ConfigError, DataError

SYLLABLES = [a + b for a in "bdfgklmnprst" for b in "aeiou"]


def words(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices(SYLLABLES, k=rng.randint(2, 4))) for _ in range(count)]


def swapped(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text) - 1)
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]


def without_a_word(text: str, rng: random.Random) -> str:
    kept = text.split()
    del kept[rng.randrange(len(kept))]
    return " ".join(kept)


VARIANTS: list[Callable[[str, random.Random], str]] = [
    lambda text, rng: f"Please, {text.lower()}",
    lambda text, rng: text.upper().replace(" ", "  "),
    lambda text, rng: f"{text.rstrip('?')}, thanks!",
    lambda text, rng: f"Hello. {text} Answer briefly.",
    swapped,
    without_a_word,
]
FORMS = [
    "How do I {} a {} with a {}?",
    "What is the best way to {} the {} near a {}?",
    "Explain {}, {} and {}.",
    "{} {} {}?",
]


def families(count: int, size: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """Questions of a few forms, each with variants of itself."""
    rng = random.Random(seed)
    vocabulary = words(rng, 400)
    texts, of = [], []
    for family in range(count):
        base = rng.choice(FORMS).format(*rng.sample(vocabulary, 3))
        texts += [base, *(rng.choice(VARIANTS)(base, rng) for _ in range(size - 1))]
        of += [family] * size
    return texts, of


def sides(splits: LabelSplits, key: Callable[[Any], Any]) -> dict[Any, set[int]]:
    found: dict[Any, set[int]] = {}
    for side, part in enumerate(splits):
        for label in part:
            found.setdefault(key(label), set()).add(side)
    return found


@pytest.mark.parametrize(("count", "size"), [(100, 3), (300, 3), (60, 20), (1000, 2)])
def test_families_of_near_duplicates_stay_on_one_side(count: int, size: int) -> None:
    texts, of = families(count, size)
    labels = [Rating(text, "r", 1.0, item=str(family)) for text, family in zip(texts, of, strict=True)]
    splits = split_labels(labels)
    torn = [family for family, where in sides(splits, lambda label: label.item).items() if len(where) > 1]
    assert len(torn) <= 0.02 * count
    leaders = near_duplicates(texts)
    assert len(set(leaders)) > 0.4 * count  # and different questions are told apart
    sizes = np.array([len(part) for part in splits]) / len(texts)
    assert np.abs(sizes - [0.8, 0.1, 0.1]).max() < 0.16


def test_by_prompt_alone_most_families_would_be_torn() -> None:
    texts, of = families(300, 3)
    labels = [Rating(text, "r", 1.0, item=str(family)) for text, family in zip(texts, of, strict=True)]
    torn = [x for x in sides(split_labels(labels, "prompt"), lambda label: label.item).values() if len(x) > 1]
    assert len(torn) > 80


def dialogue(first: str, turns: int) -> Chat:
    said = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": first}]
    for turn in range(turns):
        said += [{"role": "assistant", "content": f"{turn}"}, {"role": "user", "content": f"more {turn}"}]
    return Chat(said)


def test_rows_of_one_dialogue_stay_together_however_long_they_are() -> None:
    firsts = words(random.Random(1), 200)
    labels: list[Label] = [Comparison(dialogue(first, turns), "a", "b") for first in firsts for turns in range(4)]
    splits = split_labels(labels)
    assert {len(where) for where in sides(splits, lambda label: label.prompt.messages[1]["content"]).values()} == {1}
    assert min(map(len, splits)) > 40


def test_the_split_depends_neither_on_the_order_nor_on_who_won() -> None:
    texts, _ = families(100, 3)
    labels = [Comparison(text, f"a{i}", f"b{i}") for i, text in enumerate(texts)]
    turned = [Comparison(label.prompt, label.rejected, label.chosen) for label in reversed(labels)]
    one, other = split_labels(labels), split_labels(turned)
    for part, again in zip(one, other, strict=True):
        assert {label.prompt for label in part} == {label.prompt for label in again}


def test_a_columns_values_decide_where_they_are_given() -> None:
    labels = [Rating(f"p{i}", "r", 1.0, source=str(i % 30)) for i in range(300)]
    splits = split_labels(labels, [label.source for label in labels])
    assert {len(where) for where in sides(splits, lambda label: label.source).values()} == {1}
    with pytest.raises(ConfigError, match="`by` has 3 values for 300 labels"):
        split_labels(labels, [1, 2, 3])
    with pytest.raises(ConfigError, match=r"`by` must be dialogue, prompt or answers, .* got 'rows'"):
        split_labels(labels, "rows")  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize("by", ["dialogue", "prompt"])
def test_few_prompts_are_too_few_instead_of_tested_on_their_own(by: Any) -> None:
    labels: list[Label] = [Comparison(f"p{i % 19}", f"a{i}", f"b{i}") for i in range(400)]
    with pytest.raises(DataError, match=r"400 labels of 19 different prompts or groups are too few .* labels"):
        split_labels(labels, by)
    splits = split_labels(labels, "answers")
    assert sum(map(len, splits)) == 400
    assert min(map(len, splits)) > 10
    assert split_leaks(splits) == [
        f"{len(splits.validation) + len(splits.test)} of {len(splits.validation) + len(splits.test)} held-out labels "
        "have a prompt that training labels have too"
    ]


def test_twenty_groups_leave_no_part_empty() -> None:
    for start in range(0, 400, 20):
        labels: list[Label] = [Rating(f"p{i}", "r", 1.0) for i in range(start, start + 20)]
        assert all(split_labels(labels, "prompt"))


@pytest.mark.parametrize(
    ("train", "test", "leaks"),
    [
        ([Rating("p", "r", 1.0)], [Rating("q", "s", 1.0)], []),
        ([Rating("p", "r", 1.0)], [Rating("P!", "s", 1.0)], ["1 of 1 held-out labels have a prompt that"]),
        (
            [Comparison("p", "r", "x")],
            [Comparison("q", "y", "R."), Rating("q", "z", 1.0)],
            ["1 of 2 held-out labels have an answer that"],
        ),
    ],
)
def test_what_both_sides_have_is_counted(train: Sequence[Label], test: Sequence[Label], leaks: list[str]) -> None:
    found = split_leaks(LabelSplits(list(train), [], list(test)))
    assert len(found) == len(leaks)
    assert all(line.startswith(start) for line, start in zip(found, leaks, strict=True))


def test_texts_without_words_and_equal_ones() -> None:
    assert near_duplicates(["?!", "?!", "…", "a b", "A, b."]) == [0, 0, 2, 3, 3]
    assert near_duplicates([]) == []
    assert near_duplicates(["!", "?"]) == [0, 1]
