"""Anybody's columns: a few names say what a row means, and it becomes a row of the usual columns.

What is left out: code. A file that a :class:`LabelColumns` cannot describe is turned into rows in Python, which
`read_labels` takes as well.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from reward_models.labels.columns import NOTHING, as_number
from textenv.answers import as_messages, decoded, read_cell
from textenv.errors import ConfigError, DataError, UnusableRow
from textenv.settings import Settings

_EXTRAS = ("margin", "confidence", "weight", "rater", "item", "source")
_FIRST = {"a", "model_a", "response_a", "answer_a", "first"}
_SECOND = {"b", "model_b", "response_b", "answer_b", "second"}
_TIES = {"tie", "tie (bothbad)", "equal", "same", "both", "neither"}
_LIMITS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class LabelColumns(Settings):
    """Which columns of a file of labels mean what.

    A column inside another is a path, ``info.post``; a path through a list takes each of its elements,
    ``completions.response``, and a number one of them, ``summaries.0.text``. Cells of text may hold JSON.

    Attributes:
        prompt: What was asked: a text or chat messages; may be left out where the answers are whole conversations.
        system: The system message of the prompt.
        chosen: The preferred answer.
        rejected: The other answer.
        answers: The answers, in place of the two above: a column of each, or one that holds a list; a single answer
            is one that is rated.
        preference: Which answer is preferred: a column that names it (a, b, tie, or the answer's column, or what
            `coding` says), or a number of each answer, of which the highest wins (scores, votes, a 1 for the
            winner), in a column of each or one that holds a list; a further column may be a 1 for a tie.
        ranks: Rank of each answer, 1 the best, in a list.
        best: Index of the best answer, from 0.
        rating: Rating of the answer; of several answers a column of each, or one that holds a list. Beside `chosen` and
            `rejected` two columns: where they are equal the pair is a tie.
        attributes: Weights of the columns whose sum is the rating, in place of `rating`.
        coding: What a cell of `preference` means (a, b, …, tie, or skip), such as ``{"1": a, "2": b, "0": tie}`` or of
            numbers ``{"<0": a, "0": tie, ">0": b}``; or what number a cell of `rating` or `step_labels` stands for.
        ties: Further words for a tie.
        votes: Whether the numbers of `preference` are people's votes, whose share is the label's confidence.
        scale: Lowest and highest category of the rating, where it is a whole number.
        steps: The steps of the answer, in a list.
        step_labels: For each step whether it is right: 1 or 0, true or false, null, or what `coding` says.
        step_separator: What stands between two steps; None: a new line.
        margin: How much better the preferred answer is; the sign is passed over.
        confidence: Probability that the preferred answer is the better one.
        weight: How much the label counts.
        rater: Who said so.
        item: What the label is about.
        source: Where the label comes from.

    Raises:
        ConfigError: If the columns make no label, or something among them has no effect.
    """

    prompt: str = ""
    system: str = ""
    chosen: str = ""
    rejected: str = ""
    answers: list[str] | str = ""
    preference: list[str] | str = ""
    ranks: str = ""
    best: str = ""
    rating: list[str] | str = ""
    attributes: dict[str, float] = field(default_factory=dict)
    coding: dict[str | int, str | float] = field(default_factory=dict)
    ties: list[str] = field(default_factory=list)
    votes: bool = False
    scale: list[int] = field(default_factory=list)
    steps: str = ""
    step_labels: str = ""
    step_separator: str | None = None
    margin: str = ""
    confidence: str = ""
    weight: str = ""
    rater: str = ""
    item: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "coding", {str(key): meant for key, meant in self.coding.items()})  # as JSON has it
        if not self:
            return
        said = [name for name in ("preference", "ranks", "best", "rating", "attributes") if getattr(self, name)]
        if bool(self.chosen) != bool(self.rejected):
            raise ConfigError("`columns.chosen` and `columns.rejected` are needed together")
        if sum(map(bool, (self.chosen, self.answers, self.steps))) != 1:
            raise ConfigError("`columns` needs `chosen` and `rejected`, or `answers`, or `steps`, and only one of them")
        if self.answers and len(said) != 1:
            names = "`preference`, `ranks`, `best`, `rating` or `attributes`"
            raise ConfigError(f"`columns.answers` needs one of {names} beside it, got {' and '.join(said) or 'none'}")
        if bool(self.steps) != bool(self.step_labels):
            raise ConfigError("`columns.steps` and `columns.step_labels` are needed together")
        idle = [name for name in said if not self.answers and not (self.chosen and name == "rating")]
        idle += ["votes"] * (self.votes and not self.preference) + ["ties"] * bool(self.ties and not self.preference)
        idle += ["coding"] * bool(self.coding and not (self.preference or self.rating or self.step_labels))
        idle += ["scale"] * bool(self.scale and not (self.answers and (self.rating or self.attributes)))
        idle += ["step_separator"] * bool(self.step_separator is not None and not self.steps)
        if idle:
            raise ConfigError(f"`columns.{idle[0]}` has no effect with the other columns; leave it out")

    def __bool__(self) -> bool:
        """Whether anything is said."""
        return any(getattr(self, each.name) not in ("", None, False, [], {}) for each in fields(self))

    def paths(self) -> Iterator[str]:
        """All the columns that are named."""
        words = {"coding", "ties", "votes", "scale", "step_separator"}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name not in words and value:
                yield from [value] if isinstance(value, str) else value


class MappedRow:
    """A row of somebody's file, looked at through a map of its columns.

    Args:
        columns: The map.
        row: Columns by name.
        where: File and line, for messages.
        seen: Gets the paths that are found.
        mean: Take the mean of those `attributes` that are there, instead of their weighted sum.
    """

    def __init__(
        self, columns: LabelColumns, row: Mapping[str, Any], where: str, seen: set[str], *, mean: bool = False
    ) -> None:
        self.columns, self.row, self.where, self.seen, self.mean = columns, row, where, seen, mean

    def usual(self) -> Iterator[dict[str, Any]]:
        """The row in the usual columns; a row of each answer where every answer is rated.

        Raises:
            UnusableRow: If nobody is preferred.
            DataError: If a column is missing or a cell cannot be what the map says.
        """
        columns = self.columns
        row: dict[str, Any] = {name: self.at(path) for name in _EXTRAS if (path := getattr(columns, name))}
        if columns.margin and (margin := as_number(row["margin"])) is not None:
            row["margin"] = abs(margin)
        row["prompt"] = self.prompt()
        if columns.chosen:
            row |= {name: self.at(getattr(columns, name), needed=True) for name in ("chosen", "rejected")}
            if columns.rating:
                scores = [self.coded_number(self.at(path)) for path in _listed(columns.rating)]
                if len(scores) != 2:
                    raise DataError(f"{self.where}: field `{columns.rating}`: expected two columns, got {len(scores)}")
                row |= dict(zip(("score_chosen", "score_rejected"), scores, strict=True))
            yield row
        elif columns.steps:
            labels = self.sequence(columns.step_labels)
            row |= {"completions": self.sequence(columns.steps), "labels": [self.coded_number(x) for x in labels]}
            yield row | ({} if columns.step_separator is None else {"step_separator": columns.step_separator})
        elif columns.rating or columns.attributes:
            answers, ratings = self.rated()
            scale = {"scale": list(columns.scale)} if columns.scale else {}
            for answer, rating in zip(answers, ratings, strict=True):
                several = isinstance(rating, list)
                yield (
                    row | {"response": answer, "ratings" if several else "rating": rating} | ({} if several else scale)
                )
        else:
            yield row | self.preferred(self.answers(several=True))

    def at(self, path: str, *, needed: bool = False) -> Any:
        """What stands at a path; None where it is not there.

        Raises:
            DataError: If it is needed and the row has no such column.
        """
        head, *rest = [path] if path in self.row else path.split(".")
        if head in self.row:
            self.seen.add(path)
            return _inside(self.row[head], rest, f"{self.where}: field `{path}`")
        if needed:
            raise DataError(f"{self.where}: field `{path}`: expected this column, got {sorted(map(str, self.row))}")
        return None

    def sequence(self, path: str) -> list[Any]:
        """A list at a path."""
        value = _unpacked(self.at(path, needed=True), f"{self.where}: field `{path}`")
        if value is None:
            raise UnusableRow(self.where, f"no `{path}`")
        if not isinstance(value, list):
            raise DataError(f"{self.where}: field `{path}`: expected a list, got {repr(value)[:80]}")
        return value

    def prompt(self) -> Any:
        """The prompt's cell, behind the system message if there is one."""
        columns = self.columns
        prompt = self.at(columns.prompt, needed=True) if columns.prompt else None
        system = self.at(columns.system) if columns.system else None
        if not isinstance(system, str) or not system.strip():
            return prompt
        asked = [] if prompt is None else as_messages(read_cell(prompt, f"{self.where}: field `{columns.prompt}`"))
        return [{"role": "system", "content": system}, *asked]

    def answers(self, *, several: bool) -> list[Any]:
        """The answers' cells."""
        paths = _listed(self.columns.answers)
        if len(paths) > 1 or not several:
            return [self.at(path, needed=True) for path in paths]
        return self.sequence(paths[0])

    def rated(self) -> tuple[list[Any], list[Any]]:
        """The answers, and the rating of each: a number, None, or a list of several people's."""
        columns = self.columns
        paths = list(columns.attributes) or _listed(columns.rating)
        cells = [_unpacked(self.at(path, needed=True), f"{self.where}: field `{path}`") for path in paths]
        answers = self.answers(several=False)
        if len(answers) == 1 and isinstance(cells[0], list) and not _is_chat(answers[0]):
            unpacked = _unpacked(answers[0], f"{self.where}: field `{columns.answers}`")
            answers = unpacked if isinstance(unpacked, list) else answers
        if columns.attributes:
            by_answer = zip(*(_listed(cell) for cell in cells), strict=False)
            ratings: list[Any] = [self._combined(values) for values in by_answer]
        elif len(answers) == 1 and isinstance(cells[0], list) and len(cells[0]) != 1:
            return answers, [[self.coded_number(cell) for cell in cells[0] if not _is_nothing(cell)] or None]
        else:
            ratings = [self.coded_number(cell) for cell in (cells if len(cells) > 1 else _listed(cells[0]))]
        if len(ratings) != len(answers):
            expected = f"a rating of each of {len(answers)} answers"
            raise DataError(f"{self.where}: field `{paths[0]}`: expected {expected}, got {len(ratings)}")
        return answers, ratings

    def _combined(self, values: Sequence[Any]) -> float | None:
        """The weighted sum of an answer's attributes, or the mean of those that are there."""
        numbers = [self.coded_number(value) for value in values]
        there = [number for number in numbers if number is not None]
        if self.mean and there:
            return sum(there) / len(there)
        if len(there) < len(numbers) or not there:
            return None
        return math.fsum(
            weight * number for weight, number in zip(self.columns.attributes.values(), there, strict=True)
        )

    def coded_number(self, cell: Any) -> float | None:
        """The number that a cell is or stands for; None where it says nothing."""
        meant = _meaning(cell, self.columns.coding)
        value = cell if meant is None else meant
        if _is_nothing(value):
            return None
        number = _number(value)
        if number is None:
            named = self.columns.rating or self.columns.step_labels or next(iter(self.columns.attributes), "")
            raise DataError(
                f"{self.where}: field `{'`, `'.join(_listed(named))}`: expected a number, or a word that `coding` "
                f"knows, got {repr(cell)[:80]}"
            )
        return number

    def preferred(self, answers: list[Any]) -> dict[str, Any]:
        """The usual columns of answers of which one is preferred."""
        columns = self.columns
        if columns.ranks:
            ranks = [as_number(rank) for rank in self.sequence(columns.ranks)]
            return {"responses": answers, "ranks": [rank if rank is None else int(rank) for rank in ranks]}
        if columns.best:
            best = as_number(self.at(columns.best, needed=True))
            if best is None:
                raise UnusableRow(self.where, "no vote")
            return {"responses": answers, "best": int(best)}
        paths = _listed(columns.preference)
        cells = [self.at(path, needed=True) for path in paths]
        vote = _unpacked(cells[0], f"{self.where}: field `{paths[0]}`") if len(paths) == 1 else cells
        if isinstance(vote, list):
            return self.highest(answers, vote)
        place = self.side(vote, len(answers))
        if len(answers) != 2:
            if place is None:
                return {"responses": answers, "ranks": [1] * len(answers)}
            return {"responses": answers, "best": place}
        return {"response_a": answers[0], "response_b": answers[1], "winner": "tie" if place is None else "ab"[place]}

    def highest(self, answers: list[Any], cells: list[Any]) -> dict[str, Any]:
        """The usual columns of answers of which the one with the highest number is preferred."""
        numbers = [_number(cell) for cell in cells]
        given = [number for number in numbers if number is not None]
        if len(given) < len(numbers) or len(given) not in (len(answers), len(answers) + 1):
            if all(_is_nothing(cell) for cell in cells):
                raise UnusableRow(self.where, "no vote")
            raise DataError(
                f"{self.where}: field `{'`, `'.join(_listed(self.columns.preference))}`: expected a number of each of "
                f"{len(answers)} answers, got {repr(cells)[:80]}"
            )
        if len(given) > len(answers) and sorted(given) != [0.0] * len(answers) + [1.0]:
            raise UnusableRow(self.where, "not one of the answers or the tie is marked")
        scores, total = given[: len(answers)], sum(given)
        if self.columns.votes and (min(given) < 0 or not total):
            raise UnusableRow(self.where, "no vote")
        if len(answers) != 2:
            levels = sorted(set(scores), reverse=True)
            return {"responses": answers, "ranks": [levels.index(score) + 1 for score in scores]}
        row = {"response_a": answers[0], "response_b": answers[1]}
        row["winner"] = "tie" if scores[0] == scores[1] else "ab"[scores[1] > scores[0]]
        return row | ({"confidence": max(scores) / total} if self.columns.votes else {})

    def side(self, vote: Any, count: int) -> int | None:
        """The place of the answer that a vote names; None for a tie."""
        columns = self.columns
        meant = _meaning(vote, columns.coding)
        word = str(vote if meant is None else meant).strip().lower()
        if meant is None and (_is_nothing(vote) or word == "skip"):
            raise UnusableRow(self.where, "no vote")
        if word in _TIES or word in {tie.lower() for tie in columns.ties}:
            return None
        names = [path.lower() for path in _listed(columns.answers)]
        if len(names) == count and word in names:
            return names.index(word)
        if word in _FIRST | _SECOND and count == 2:
            return int(word in _SECOND)
        if len(word) == 1 and 0 <= ord(word) - ord("a") < count:
            return ord(word) - ord("a")
        if meant is None and not columns.coding and (isinstance(vote, bool) or as_number(vote) is not None):
            raise DataError(
                f"{self.where}: field `{columns.preference}`: expected `coding` to say what {vote!r} means, such as "
                '{"1": a, "2": b, "0": tie}, or {"<0": a, "0": tie, ">0": b}'
            )
        raise UnusableRow(self.where, "no vote" if word == "skip" else f"an unknown vote, {str(vote)[:40]!r}")


def _meaning(cell: Any, coding: Mapping[Any, Any]) -> Any:
    """What a coding says of a cell; None where it says nothing. Words are the same in upper and lower case."""
    number = as_number(cell)
    word = str(cell).strip().lower()
    for key, meant in coding.items():
        text = str(key).strip()
        if text.lower() == word or (number is not None and as_number(text) == number):
            return meant
        sign = next((sign for sign in _LIMITS if text.startswith(sign)), None)
        limit = as_number(text.removeprefix(sign)) if sign else None
        if sign and limit is not None and number is not None and _LIMITS[sign](number, limit):
            return meant
    return None


def _number(cell: Any) -> float | None:
    """A number, or 1 and 0 for true and false, also where they stand in a text."""
    word = str(cell).lower() if isinstance(cell, (bool, str)) else ""
    return float(word == "true") if word in ("true", "false") else as_number(cell)


def _is_nothing(cell: Any) -> bool:
    return cell is None or cell != cell or (isinstance(cell, str) and cell.strip().lower() in NOTHING)


def _inside(value: Any, path: Sequence[str], where: str) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value
    if not path:
        return value
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = decoded(value, where)
    head, *rest = path
    if isinstance(value, (list, tuple)):
        if head.isdigit():
            return _inside(value[int(head)], rest, where) if int(head) < len(value) else None
        return [_inside(entry, path, where) for entry in value]
    if isinstance(value, Mapping):
        return _inside(value.get(head), rest, where)
    if value is None:
        return None
    raise DataError(f"{where}: expected something with a field {head!r}, got {repr(value)[:80]}")


def _unpacked(value: Any, where: str) -> Any:
    """A list, also where it stands in a text."""
    if isinstance(value, str) and value.lstrip().startswith("[") and value.rstrip().endswith("]"):
        value = decoded(value, where)
    return list(value) if isinstance(value, tuple) else value


def _is_chat(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(isinstance(entry, Mapping) for entry in value)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
