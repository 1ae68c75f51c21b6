"""Rows of a label file, as the ecosystem writes them, to label records and back.

A row's columns decide what kind of label it is; columns that are null count as absent.

============  ==========================================================  =========================================
label         columns (besides ``prompt``)                                who writes them so
============  ==========================================================  =========================================
Comparison    ``chosen``, ``rejected``                                    TRL, HH-RLHF, UltraFeedback, RewardBench
Comparison    ``response_a``, ``response_b``, ``winner`` (a, b or tie)    Chatbot Arena (``model_a``, ``tie …`` too)
Ranking       ``responses``, ``ranks``: each one's rank, 1 best           InstructGPT-style data
Ranking       ``responses``, ``ranking``: indices, best first             (a list inside the list is a tie group)
Ranking       ``responses``, ``rankings``: several people's ``ranks``     one record for each of them
BestOf        ``responses``, ``best``: an index, 0 the first              lm-human-preferences
Rating        ``response`` or ``completion``; ``score`` or ``rating``     HelpSteer, UltraFeedback
Rating        …; ``ratings``: several people's                            one record: mean, spread and count
Rating        ``completion``, ``label``: true or false                    KTO (becomes 1 or 0 on the scale 0 to 1)
Rating        ``messages``, whose last answer is rated; ``score`` …       whole conversations
StepLabels    ``steps`` or ``completions``, ``labels``                    PRM800K, TRL's stepwise supervision
============  ==========================================================  =========================================

Every kind also takes ``weight``, ``rater``, ``item``, ``source``, and ``provenance``, which no label keeps;
comparisons ``margin``, ``tie``, ``confidence``, and a score of each side (``score_chosen``, ``score_rejected``), which
are a tie where they are equal; ratings ``scale`` (two whole numbers), ``spread``, ``count``; steps ``step_separator``,
what stands between two of them: a new line between ``completions``, nothing between ``steps``. Texts may be chats in
every form of :mod:`textenv.answers.conversations`, and numbers, lists and flags may stand in texts, as in CSV files.
A row that says nothing that could be used (two equal answers, no rating, a vote for nobody, a null where a text should
be) is a :class:`textenv.errors.UnusableRow`; every other mistake is a DataError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any, NoReturn

from reward_models.labels.kinds import BestOf, Comparison, Label, Ranking, Rating, StepLabels
from textenv.answers import Chat, as_json, decoded, prompt_and_answers
from textenv.errors import DataError, UnusableRow

Messages = Sequence[Mapping[str, Any]]
Render = Callable[[Messages], str]

_COMMON = {"prompt", "weight", "rater", "item", "source"}
_RESPONSE = ("response", "completion")
_SCORE = ("score", "rating", "ratings", "label")
_ORDER = ("ranks", "ranking", "rankings", "best")
_STEPS = ("steps", "completions")
KNOWN_COLUMNS = _COMMON | {"chosen", "rejected", "margin", "tie", "confidence", "response_a", "response_b", "winner"}
KNOWN_COLUMNS |= {
    "responses",
    "labels",
    "scale",
    "spread",
    "count",
    "provenance",
    "messages",
    "step_separator",
    *_RESPONSE,
    *_SCORE,
    *_ORDER,
    *_STEPS,
}
_SCORES_OF_SIDES = [
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
]
KNOWN_COLUMNS |= {name for names in _SCORES_OF_SIDES for name in names}
NOTHING = {"", "-", "n/a", "na", "nan", "none", "null"}
"""What people write where there is no rating or vote, in lower case."""
_WINNERS = {"a": 0, "model_a": 0, "response_a": 0, "b": 1, "model_b": 1, "response_b": 1, "tie": 2}


def labels_of_row(row: Mapping[str, Any], where: str, render: Render = Chat) -> list[Label]:
    """The label records of one row; one, but for ``rankings``.

    Args:
        row: Columns by name.
        where: File and line, for messages.
        render: Makes a text of a list of chat messages.

    Raises:
        UnusableRow: If the row says nothing that could be used.
        DataError: With file, line, field, what was expected and what came.
    """
    cells = _Cells(row, where, render)
    try:
        return _parse(cells)
    except UnusableRow:
        raise
    except DataError as error:
        message = str(error)
        raise DataError(message if message.startswith(where) else f"{where}: field {message}") from error


def row_of_label(label: Label) -> dict[str, Any]:
    """A label as a row: the record's own field names; fields that say nothing (defaults) are left out."""
    row: dict[str, Any] = {}
    for field in fields(label):
        value = getattr(label, field.name)
        if value != field.default:
            row[field.name] = [_cell(entry) for entry in value] if isinstance(value, tuple) else _cell(value)
    if isinstance(label, Rating):
        row["score"] = float(label.score)
    return row


def _cell(value: Any) -> Any:
    return as_json(value) if isinstance(value, str) else value


class _Cells:
    """One row's cells, read with checks; null counts as absent."""

    def __init__(self, row: Mapping[str, Any], where: str, render: Render) -> None:
        self.cells = {name: _listed(value) for name, value in row.items() if value is not None}
        self.nulls = row.keys() - self.cells.keys()
        self.where = where
        self.render = render

    def fail(self, field: str, expected: str) -> NoReturn:
        if field not in self.cells and field in self.nulls:
            raise self.unusable(f"no `{field}`")
        got = repr(self.cells[field])[:80] if field in self.cells else "nothing"
        raise DataError(f"{self.where}: field `{field}`: expected {expected}, got {got}.")

    def unusable(self, reason: str) -> UnusableRow:
        return UnusableRow(self.where, reason)

    def has(self, *names: str) -> list[str]:
        return [name for name in names if name in self.cells]

    def texts(self, answers: Mapping[str, Any]) -> tuple[str, list[str]]:
        """The prompt and the answers."""
        for field, value in answers.items():
            if value is None:
                self.fail(field, "a text or a list of chat messages")
        if "prompt" not in self.cells and "prompt" in self.nulls and not any(map(_maybe_chat, answers.values())):
            raise self.unusable("no `prompt`")
        prompt, texts = prompt_and_answers(self.cells.get("prompt"), answers, self.where)
        return self._rendered(prompt), [self._rendered(text) for text in texts]

    def _rendered(self, text: str) -> str:
        return self.render(text.messages) if isinstance(text, Chat) and self.render is not Chat else text

    def number(self, field: str, default: float | None = None) -> float:
        if field not in self.cells and default is not None:
            return default
        value = as_number(self.cells.get(field))
        if value is None:
            self.fail(field, "a finite number")
        return value

    def rating(self, field: str) -> float:
        value = self.cells.get(field)
        if isinstance(value, str) and value.strip().lower() in NOTHING:
            raise self.unusable("no rating")
        return self.number(field)

    def flag(self, field: str) -> bool:
        value = self.cells.get(field, False)
        if isinstance(value, str):
            value = {"true": True, "false": False}.get(value.strip().lower(), value)
        if not isinstance(value, bool):
            self.fail(field, "true or false")
        return value

    def optional_text(self, field: str) -> str | None:
        value = self.cells.get(field)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        self.fail(field, "a text or a whole number")

    def sequence(self, field: str, of: Callable[[Any], bool], what: str) -> list[Any]:
        value = self.cells.get(field)
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = decoded(value, f"{self.where}: field `{field}`")
        if not isinstance(value, (list, tuple)) or not all(of(entry) for entry in value):
            self.fail(field, f"a list of {what}")
        return list(value)

    def responses(self) -> tuple[str, tuple[str, ...]]:
        given = self.sequence("responses", lambda x: isinstance(x, (str, list, tuple)), "texts")
        if not given:
            raise self.unusable("no answers")
        prompt, texts = self.texts({f"responses[{place}]": response for place, response in enumerate(given)})
        return prompt, tuple(texts)

    def common(self) -> dict[str, Any]:
        return {
            "weight": self.number("weight", 1.0),
            "rater": self.optional_text("rater"),
            "item": self.optional_text("item"),
            "source": self.optional_text("source"),
        }


def _parse(cells: _Cells) -> list[Label]:
    if cells.has("chosen", "rejected"):
        return [_comparison(cells)]
    if cells.has("response_a", "response_b", "winner"):
        return [_side_by_side(cells)]
    if cells.has("responses"):
        return _of_several(cells)
    if cells.has(*_STEPS):
        return [_steps(cells)]
    if cells.has(*_RESPONSE) or (cells.has("messages") and cells.has(*_SCORE)):
        return [_rating(cells)]
    if cells.nulls & KNOWN_COLUMNS - _COMMON:
        raise cells.unusable("nothing but nulls")
    raise DataError(
        f"{cells.where}: field `chosen`: expected the columns of some label (`chosen` and `rejected`; `responses` and "
        f"`ranks` or `best`; `response` and `score`; `steps` and `labels`), got {sorted(cells.cells)}."
    )


def _comparison(cells: _Cells) -> Comparison:
    prompt, (chosen, rejected) = cells.texts({name: cells.cells.get(name) for name in ("chosen", "rejected")})
    extras = _comparison_extras(cells)
    for better, worse in _SCORES_OF_SIDES:
        scores = [as_number(cells.cells.get(name)) for name in (better, worse)]
        if scores[0] is None or scores[1] is None:
            continue
        if scores[0] < scores[1]:
            raise cells.unusable(f"`{better}` is below `{worse}`")
        extras["tie"] = extras["tie"] or scores[0] == scores[1]
    return _compared(cells, prompt, chosen, rejected, extras)


def _compared(cells: _Cells, prompt: str, chosen: str, rejected: str, extras: dict[str, Any]) -> Comparison:
    if chosen == rejected:
        raise cells.unusable("both answers are the same")
    return Comparison(prompt, chosen, rejected, **extras)


def _comparison_extras(cells: _Cells) -> dict[str, Any]:
    extras = {"margin": cells.number("margin", 0.0), "tie": cells.flag("tie")}
    return extras | {"confidence": cells.number("confidence", 1.0)} | cells.common()


def _side_by_side(cells: _Cells) -> Comparison:
    winner = cells.cells.get("winner")
    if not isinstance(winner, str):
        cells.fail("winner", "a, b or tie")
    place = _WINNERS.get((winner.split() or [""])[0].lower())
    if place is None:
        raise cells.unusable(f"an unknown vote, {winner[:40]!r}")
    prompt, sides = cells.texts({name: cells.cells.get(name) for name in ("response_a", "response_b")})
    first, second = sides if place != 1 else sides[::-1]
    extras = _comparison_extras(cells)
    extras["tie"] = extras["tie"] or place == 2
    return _compared(cells, prompt, first, second, extras)


def _of_several(cells: _Cells) -> list[Label]:
    found = cells.has(*_ORDER)
    if len(found) != 1:
        cells.fail(found[0] if found else "ranks", f"exactly one of the columns {', '.join(_ORDER)} beside `responses`")
    (prompt, responses), common = cells.responses(), cells.common()
    if found == ["best"]:
        return [BestOf(prompt, responses, _index(cells, "best", cells.cells["best"], len(responses)), **common)]
    if found == ["ranking"]:
        return [Ranking(prompt, responses, _ranks_of_order(cells, len(responses)), **common)]
    if found == ["rankings"] and _holds_lists(cells.cells["rankings"]):
        several = cells.sequence("rankings", lambda entry: all(map(_is_rank, entry)), "lists of ranks (1 is best)")
        return [Ranking(prompt, responses, _as_ranks(ranks), **common) for ranks in several]
    ranks = cells.sequence(found[0], _is_rank, "whole numbers from 1 (best), or null where unranked")
    return [Ranking(prompt, responses, _as_ranks(ranks), **common)]


def _as_ranks(ranks: Sequence[Any]) -> tuple[int | None, ...]:
    return tuple(None if rank is None else int(rank) for rank in ranks)


def _ranks_of_order(cells: _Cells, count: int) -> tuple[int | None, ...]:
    ranks: list[int | None] = [None] * count
    order = cells.sequence("ranking", lambda x: isinstance(x, (int, list, tuple)), "indices, or lists of tied ones")
    for rank, entry in enumerate(order, start=1):
        for value in entry if isinstance(entry, (list, tuple)) else [entry]:
            index = _index(cells, "ranking", value, count)
            if ranks[index] is not None:
                cells.fail("ranking", f"each index once (index {index} stands there twice)")
            ranks[index] = rank
    return tuple(ranks)


def _index(cells: _Cells, field: str, value: Any, count: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < count:
        cells.fail(field, f"an index from 0 to {count - 1} (there are {count} responses)")
    return value


def _steps(cells: _Cells) -> StepLabels:
    field = cells.has(*_STEPS)[0]
    labels = cells.sequence(
        "labels", lambda x: x is None or isinstance(x, bool) or _is_number(x), "numbers from 0 to 1, true, false, null"
    )
    known = tuple(None if label is None else float(label) for label in labels)
    steps = cells.sequence(field, lambda x: isinstance(x, str), "texts")
    separator = cells.cells.get("step_separator", "\n" if field == "completions" else "")
    if not isinstance(separator, str):
        cells.fail("step_separator", "a text")
    if not steps or (known and not any(label is not None for label in known)):
        raise cells.unusable("no steps" if not steps else "no step is labelled")
    prompt, _ = cells.texts({field: "".join(steps)})
    return StepLabels(prompt, joinable(steps, separator), known, **cells.common())


def joinable(steps: Sequence[str], separator: str) -> tuple[str, ...]:
    """Steps that are the response when they are put together: all but the last end in what separates them."""
    ended = [
        step if step.endswith(separator) or after.startswith(separator) else step + separator
        for step, after in pairwise(steps)
    ]
    return (*ended, *steps[-1:])


def _rating(cells: _Cells) -> Rating:
    found = cells.has(*_SCORE)
    if not found and cells.nulls & set(_SCORE):
        raise cells.unusable("no rating")
    if len(found) != 1:
        cells.fail(found[0] if found else "score", f"exactly one of the columns {', '.join(_SCORE)}")
    scale = None
    if "scale" in cells.cells:
        ends = cells.sequence("scale", lambda x: isinstance(x, int), "two whole numbers, the lowest and the highest")
        if len(ends) != 2:
            cells.fail("scale", "two whole numbers, the lowest and the highest")
        scale = (ends[0], ends[1])
    spread = None if cells.cells.get("spread") is None else cells.number("spread")
    count = cells.number("count", 1.0)
    if found == ["ratings"]:
        several = cells.sequence("ratings", _is_number, "finite numbers")
        if not several:
            raise cells.unusable("no rating")
        score, count = sum(several) / len(several), float(len(several))
        variance = sum((x - score) ** 2 for x in several) / max(1, len(several) - 1)
        spread = math.sqrt(variance) if len(several) > 1 else None
    elif found == ["label"]:
        score, scale = float(cells.flag("label")), (0, 1)
    else:
        score = cells.rating(found[0])
    if not count.is_integer():
        cells.fail("count", "a whole number")
    field = cells.has(*_RESPONSE, "messages")[0]
    prompt, (response,) = cells.texts({field: cells.cells[field]})
    return Rating(prompt, response, score, scale=scale, spread=spread, count=int(count), **cells.common())


def _holds_lists(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(x, (list, tuple)) for x in value)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    # A whole number of hundreds of digits is no float.
    return abs(value) < 1e300


def _is_rank(value: Any) -> bool:
    whole = _is_number(value) and float(value).is_integer() and value >= 1
    return value is None or bool(whole)


def as_number(value: Any) -> float | None:
    """A finite number, also where it stands in a text; None for everything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return float(value) if _is_number(value) and value == value else None


def _maybe_chat(value: Any) -> bool:
    return not isinstance(value, str) or value.lstrip().startswith(("[", "Human:"))


def _listed(value: Any) -> Any:
    """What columnar files hold in arrays and numbers of their own, as Python's own."""
    return value.tolist() if hasattr(value, "tolist") else value
