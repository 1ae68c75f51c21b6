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
StepLabels    ``steps`` or ``completions``, ``labels``                    PRM800K, TRL's stepwise supervision
============  ==========================================================  =========================================

Every kind also takes ``weight``, ``rater``, ``item``, ``source``, and ``provenance``, which no label keeps;
comparisons ``margin``, ``tie``, ``confidence``; ratings ``scale`` (two whole numbers), ``spread``, ``count``. A text
may be a list of chat messages. Where `prompt` is missing and both sides of a comparison are chats, their common
beginning is the prompt (TRL's implicit prompt; where it is given, as in UltraFeedback, the common beginning is taken
off the responses).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NoReturn

from reward_models.labels.kinds import BestOf, Comparison, Label, Ranking, Rating, StepLabels
from textenv.answers import Chat, as_json
from textenv.errors import DataError

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
    *_RESPONSE,
    *_SCORE,
    *_ORDER,
    *_STEPS,
}
_WINNERS = {"a": 0, "model_a": 0, "response_a": 0, "b": 1, "model_b": 1, "response_b": 1, "tie": 2}


def labels_of_row(row: Mapping[str, Any], where: str, render: Render = Chat) -> list[Label]:
    """The label records of one row; one, but for ``rankings``.

    Args:
        row: Columns by name.
        where: File and line, for messages.
        render: Makes a text of a list of chat messages.

    Raises:
        DataError: With file, line, field, what was expected and what came.
    """
    cells = _Cells({name: value for name, value in row.items() if value is not None}, where, render)
    try:
        return _parse(cells)
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
    """One row's cells, read with checks."""

    def __init__(self, cells: Mapping[str, Any], where: str, render: Render) -> None:
        self.cells = cells
        self.where = where
        self.render = render

    def fail(self, field: str, expected: str) -> NoReturn:
        got = repr(self.cells[field])[:80] if field in self.cells else "nothing"
        raise DataError(f"{self.where}: field `{field}`: expected {expected}, got {got}.")

    def has(self, *names: str) -> list[str]:
        return [name for name in names if name in self.cells]

    def text(self, field: str) -> str:
        value: Any = self.cells.get(field)
        if isinstance(value, str):
            return value
        if _is_chat(value):
            return self.render(value)
        self.fail(field, "a text or a list of chat messages")

    def number(self, field: str, default: float | None = None) -> float:
        if field not in self.cells and default is not None:
            return default
        value: Any = self.cells.get(field)
        if not _is_number(value):
            self.fail(field, "a finite number")
        return float(value)

    def flag(self, field: str) -> bool:
        value = self.cells.get(field, False)
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
        if not isinstance(value, (list, tuple)) or not all(of(entry) for entry in value):
            self.fail(field, f"a list of {what}")
        return list(value)

    def texts(self, field: str) -> tuple[str, ...]:
        found = self.sequence(field, lambda x: isinstance(x, str) or _is_chat(x), "texts")
        return tuple(entry if isinstance(entry, str) else self.render(entry) for entry in found)

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
    if cells.has(*_RESPONSE):
        return [_rating(cells)]
    raise DataError(
        f"{cells.where}: field `chosen`: expected the columns of some label (`chosen` and `rejected`; `responses` and "
        f"`ranks` or `best`; `response` and `score`; `steps` and `labels`), got {sorted(cells.cells)}."
    )


def _comparison(cells: _Cells) -> Comparison:
    chosen: Any = cells.cells.get("chosen")
    rejected: Any = cells.cells.get("rejected")
    common = _common_turns(chosen, rejected)
    if common:
        # Both sides are whole chats; where there is a prompt too, it says the same as their beginning.
        prompt = cells.text("prompt") if "prompt" in cells.cells else cells.render(chosen[:common])
        first, second = cells.render(chosen[common:]), cells.render(rejected[common:])
    else:
        prompt, first, second = cells.text("prompt"), cells.text("chosen"), cells.text("rejected")
    return Comparison(prompt, first, second, **_comparison_extras(cells))


def _common_turns(chosen: Any, rejected: Any) -> int:
    """With how many messages two chats begin alike; 0 unless both go on after that."""
    if not _is_chat(chosen) or not _is_chat(rejected):
        return 0
    common = 0
    while common < min(len(chosen), len(rejected)) and chosen[common] == rejected[common]:
        common += 1
    return common if common < min(len(chosen), len(rejected)) else 0


def _comparison_extras(cells: _Cells) -> dict[str, Any]:
    extras = {"margin": cells.number("margin", 0.0), "tie": cells.flag("tie")}
    return extras | {"confidence": cells.number("confidence", 1.0)} | cells.common()


def _side_by_side(cells: _Cells) -> Comparison:
    winner = cells.cells.get("winner")
    key = winner.split(" ")[0].lower() if isinstance(winner, str) else ""
    if key not in _WINNERS:
        cells.fail("winner", "a, b or tie")
    sides = [cells.text("response_a"), cells.text("response_b")]
    first, second = sides if _WINNERS[key] != 1 else sides[::-1]
    extras = _comparison_extras(cells)
    extras["tie"] = extras["tie"] or _WINNERS[key] == 2
    return Comparison(cells.text("prompt"), first, second, **extras)


def _of_several(cells: _Cells) -> list[Label]:
    found = cells.has(*_ORDER)
    if len(found) != 1:
        cells.fail(found[0] if found else "ranks", f"exactly one of the columns {', '.join(_ORDER)} beside `responses`")
    prompt, responses, common = cells.text("prompt"), cells.texts("responses"), cells.common()
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
    return StepLabels(cells.text("prompt"), cells.texts(field), known, **cells.common())


def _rating(cells: _Cells) -> Rating:
    found = cells.has(*_SCORE)
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
            cells.fail("ratings", "at least one number")
        score, count = sum(several) / len(several), float(len(several))
        variance = sum((x - score) ** 2 for x in several) / max(1, len(several) - 1)
        spread = math.sqrt(variance) if len(several) > 1 else None
    elif found == ["label"]:
        score, scale = float(cells.flag("label")), (0, 1)
    else:
        score = cells.number(found[0])
    if not count.is_integer():
        cells.fail("count", "a whole number")
    response = cells.text(cells.has(*_RESPONSE)[0])
    prompt = cells.text("prompt")
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


def _is_chat(value: Any) -> bool:
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return all(
        isinstance(entry, Mapping) and isinstance(entry.get("role"), str) and isinstance(entry.get("content"), str)
        for entry in value
    )
