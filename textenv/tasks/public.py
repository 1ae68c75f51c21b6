"""Tasks from public data: question sets, the King James Bible, and the texts that people rated."""

from __future__ import annotations

from textenv.datasets.demonstrations import demonstration
from textenv.datasets.human_ratings import human_ratings
from textenv.datasets.kjv import kjv_paragraphs
from textenv.datasets.question_sets import question_set
from textenv.datasets.rated_texts import Domain, RatedText
from textenv.tasks.items import Format, Item
from textenv.tasks.task import Task
from textenv.tasks.verifiers import same_choice, same_text

CONTINUATION = Format("{question}", "{answer}", pattern=r"(?s:(?P<answer>.+))", items_per_document=1, sheet_every=0)
"""Form of tasks that go on with a text: nothing is asked, anything is an answer."""

CHOICE = Format(items_per_document=1)
"""Form of multiple-choice questions: a letter after ``Answer:``."""


def question_task(name: str, *, count: int = 0, format: Format | None = None) -> Task:
    """A question set of :func:`textenv.datasets.question_sets.question_set` as a task.

    Args:
        name: Such as ``socialiqa``.
        count: Only the first ones; 0 takes all.
        format: How items are asked and answered.

    Raises:
        ConfigError: If the set is unknown.
        DataError: If it cannot be fetched or is malformed.
    """
    questions = question_set(name)[: count or None]
    items = [Item(q.question, (q.answer,)) for q in questions]
    return Task(name, items, format or CHOICE, same_choice if questions[0].choices else same_text)


def bible_task(*, count: int = 0) -> Task:
    """The King James Bible, paragraph by paragraph, as text to read and to go on with.

    Args:
        count: Only the first paragraphs; 0 takes all.

    Raises:
        DataError: If it cannot be fetched or is malformed.
    """
    items = []
    for paragraph in kjv_paragraphs()[: count or None]:
        words = paragraph.split()
        if len(words) < 8:
            continue
        start, rest = " ".join(words[:6]), " ".join(words[6:])
        items.append(Item(f"Continue this verse: {start}", (f" {rest}",), statement=paragraph))
    return Task("bible", items, CONTINUATION, verifier=None)


def ratings_task(domain: Domain, texts: list[RatedText] | None = None) -> Task:
    """The rated texts of a domain: an instruction with the first words, and the rest as the answer.

    Args:
        domain: ``movies``, ``amazon``, ``tweets`` or ``nyt``.
        texts: Rated texts; None fetches those that people rated.

    Raises:
        DataError: If they cannot be fetched.
    """
    rated = human_ratings([domain]) if texts is None else [text for text in texts if text.domain == domain]
    items = []
    for text in rated:
        made = demonstration(text)
        if made is None:  # too short to be cut: only read
            items.append(Item(text.text, (), text.split))
        else:
            items.append(Item(made.prompt, (made.response,), text.split, statement=text.text))
    return Task(domain, items, CONTINUATION, verifier=None)
