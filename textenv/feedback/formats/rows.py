"""Labels as rows with the ecosystem's columns, and rows as items with what was said of them.

=========== ============================================================ =======================================
kind        columns                                                      who else writes them so
=========== ============================================================ =======================================
compare     ``prompt``, ``chosen``, ``rejected``, ``margin``, ``tie``    TRL, HH-RLHF, UltraFeedback
rate        ``prompt``, ``response``, ``score``, ``scale``               HelpSteer
rank        ``prompt``, ``responses``, ``ranks`` (1 is best) or ``best`` InstructGPT-style data
demonstrate ``prompt``, ``completion``                                   TRL's prompt-completion form
=========== ============================================================ =======================================

All have ``rater``, ``item`` and ``source``, and a column ``provenance``: policies and versions, sampling settings, the
order in which the answers were shown, time, seconds. With it a row is read back exactly as it was. A margin of 0…3 as
people give it is a third of that in the column (Llama 2's scale, arXiv:2307.09288, table 27). Texts may be lists of
chat messages.

Other forms of labels are read by whoever knows them (`reward_models.labels.labels_into_store`) and come here as these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from textenv.answers import Chat, as_json, as_text, read_cell
from textenv.answers.conversations import transcript_messages
from textenv.errors import DataError
from textenv.feedback.formats.reading import answer_of
from textenv.feedback.store import Answer, Entry, Item, Label, LabelledItem, Said, Scale
from textenv.feedback.store.intake import is_anonymous, located

SCALE = Scale()
"""Taken where a file names none, with a word about it."""
_PLAIN = {"prompt", "response", "responses", "completion", "rater", "item", "source", "provenance"}
_BESIDE = ("margin", "weight", "confidence")  # of a row, beyond what the payload says


def label_row(labelled: LabelledItem) -> dict[str, Any] | None:
    """A rating, comparison or ranking as a row that `reward_models.read_labels` reads.

    Returns:
        The row; None for demonstrations, skips, and comparisons of an answer with itself.
    """
    label, item = labelled.label, labelled.item
    if label.skipped is not None or item.kind == "demonstrate":
        return None
    listed = label.extra.get("listed") or range(len(item.answers))  # as the file that it came from has them
    texts = [as_json(item.answers[number].text) for number in listed]
    payload = label.payload
    row: dict[str, Any] = {"prompt": as_json(item.conversation)}
    if item.kind == "rate":
        scale = item.scale or SCALE
        row |= {"response": texts[0], "score": payload["score"], "scale": [scale.low, scale.high]}
        if label.extra.get("scale", True) is None:
            del row["scale"]
    elif item.kind == "rank" and label.extra.get("best") is not None:
        row |= {"responses": texts, "best": list(listed).index(label.extra["best"])}
    elif item.kind == "rank":
        row |= {"responses": texts, "ranks": [payload["ranks"][number] for number in listed]}
    else:
        if item.answers[0].text == item.answers[1].text:
            return None
        if payload["preferred"] is not None and listed[0] != payload["preferred"]:
            texts = texts[::-1]
        row |= {"chosen": texts[0], "rejected": texts[1], "margin": payload.get("margin", 0) / 3}
        row["tie"] = payload["preferred"] is None
    row |= {name: label.extra[name] for name in _BESIDE if name in label.extra}
    return row | _common(labelled)


def demonstration_row(labelled: LabelledItem) -> dict[str, Any] | None:
    """A written answer as a row, or None where the label is something else."""
    label, item = labelled.label, labelled.item
    if label.skipped is not None or item.kind != "demonstrate":
        return None
    written = label.extra.get("messages") or label.payload["text"]
    return {"prompt": as_json(item.conversation), "completion": written} | _common(labelled)


def _common(labelled: LabelledItem) -> dict[str, Any]:
    label, item = labelled.label, labelled.item
    return {
        "rater": None if is_anonymous(label.rater) else label.extra.get("rater") or label.rater,
        "item": label.extra.get("item", item.id),
        "source": label.extra.get("source", item.source or None),
        "provenance": {
            "kind": item.kind,
            "label": label.id,
            "item": item.id,
            "rater": label.rater,
            "time": label.extra.get("time") or iso_time(label.time),
            "seconds": label.seconds,
            "order": list(label.order),
            "payload": dict(label.payload),
            "extra": dict(label.extra),
            "answers": [answer_provenance(answer) for answer in item.answers],
            "texts": [str(answer.text) for answer in item.answers],
            "source": item.source,
        },
    }


def iso_time(seconds: float) -> str:
    """Unix seconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def answer_provenance(answer: Answer) -> dict[str, Any]:
    """Where an answer comes from, without its text."""
    found: dict[str, Any] = {"policy": answer.policy, "version": answer.version, "seed": answer.seed}
    found |= {"sampling": dict(answer.sampling)}
    if isinstance(answer.text, Chat):
        found["messages"] = as_json(answer.text)
    return {name: value for name, value in found.items() if value not in ("", {}, None)}


def parse_row(row: Mapping[str, Any], where: str, scale: Scale = SCALE) -> Entry:
    """An item and, where the row says what somebody thought of it, the label (several for several people's).

    Rows without a label become items to label: ``prompt`` alone to demonstrate, with ``response`` to rate, with
    ``responses`` to rank (two of them: to compare).

    Args:
        row: Columns by name; null counts as absent.
        where: File and line, for messages.
        scale: Of ratings that name none.

    Raises:
        DataError: With file, line, field and what was expected.
    """
    cells = {name: value for name, value in row.items() if value is not None}
    with located(where):
        provenance = _provenance(cells)
        entry = _parse(cells, where, scale)
        if "payload" in provenance and len(entry.said) == 1:
            return _as_recorded(entry, cells, provenance) or entry
        return entry


def has_label(row: Mapping[str, Any]) -> bool:
    """Whether a row says what somebody thought of answers; else it is something to label, or a written answer."""
    return bool({name for name, value in row.items() if value is not None} - _PLAIN)


def _parse(cells: Mapping[str, Any], where: str, scale: Scale) -> Entry:
    kind, texts, payloads, extra = _content(cells)
    listed = sorted(range(len(texts)), key=lambda number: texts[number])
    place = {number: at for at, number in enumerate(listed)}  # of the row's answers, among those in order
    if not payloads:
        unknown = sorted(set(cells) - _PLAIN - {"scale"})
        if unknown:
            raise DataError(
                f"expected the columns of a label (`chosen` and `rejected`; `response` and `score`; `responses` and "
                f"`ranks` or `best`; `completion`) or of an item to label, got {sorted(cells)}"
            )
    if kind == "rate":
        ends = (0, 1) if "label" in cells else cells.get("scale")
        if ends is not None and (not _whole_numbers(ends) or len(ends) != 2):
            raise _unexpected("scale", "two whole numbers, the lowest and the highest", ends)
        scale, extra["scale"] = (scale, None) if ends is None else (Scale(int(ends[0]), int(ends[1]), {}), ends)
    prompt = _text(cells, "prompt")
    item = Item(
        kind,
        str(prompt),
        tuple(Answer(texts[number]) for number in listed),
        scale=scale if kind == "rate" else None,
        id=_name(cells, "item") or "",
        source=_name(cells, "source") or "",
        messages=prompt.messages if isinstance(prompt, Chat) else (),
    )
    if not payloads:
        return Entry(where, item)
    extra |= {"item": _name(cells, "item"), "source": _name(cells, "source")}
    extra |= {name: cells[name] for name in _BESIDE if name in cells}
    if listed != sorted(listed):
        extra["listed"] = [place[number] for number in range(len(texts))]
    if "best" in extra:
        extra["best"] = place[extra["best"]]
    rater = _name(cells, "rater")
    if rater is not None and len(payloads) > 1:
        raise _unexpected("rater", f"nothing beside {len(payloads)} people's opinions", rater)
    said = [Said(_in_order(payload, listed, place), rater, extra=extra) for payload in payloads]
    return Entry(where, item, tuple(said))


def _in_order(payload: dict[str, Any], listed: Sequence[int], place: Mapping[int, int]) -> dict[str, Any]:
    if payload.get("preferred") is not None:
        return {**payload, "preferred": place[payload["preferred"]]}
    return {"ranks": [payload["ranks"][number] for number in listed]} if "ranks" in payload else payload


def _content(cells: Mapping[str, Any]) -> tuple[Any, list[str], list[dict[str, Any]], dict[str, Any]]:
    """Kind, answers in the row's order, payloads in terms of that order, what else there is to keep."""
    if "chosen" in cells or "rejected" in cells:
        return "compare", *_comparison(cells), {}
    if "responses" in cells:
        texts = cells["responses"]
        if not isinstance(texts, list | tuple) or not texts:
            raise _unexpected("responses", "a list of texts", texts)
        answers = [_text({"responses": text}, "responses") for text in texts]
        if "best" in cells:
            best = cells["best"]
            if not _whole_numbers([best]) or not 0 <= best < len(answers):
                raise _unexpected("best", f"an index from 0 to {len(answers) - 1}", best)
            ranks = [1 if number == best else None for number in range(len(answers))]
            return "rank", answers, [{"ranks": ranks}], {"best": int(best)}
        given = [cells["ranks"]] if "ranks" in cells else cells.get("rankings", [])
        for ranks in given:
            if not isinstance(ranks, list | tuple) or not _whole_numbers([rank for rank in ranks if rank is not None]):
                raise _unexpected("ranks", "a list of whole numbers", ranks)
        several = [{"ranks": [None if rank is None else int(rank) for rank in ranks]} for ranks in given]
        return "rank" if several or len(answers) != 2 else "compare", answers, several, {}
    name = next((name for name in ("response", "completion") if name in cells), None)
    scores = _scores(cells)
    if name == "response" or (name and scores):
        return "rate", [_text(cells, name)], [{"score": score} for score in scores], {}
    if name is None:
        return "demonstrate", [], [], {}
    written = _text(cells, name)
    kept = {"messages": as_json(written)} if isinstance(written, Chat) else {}
    return "demonstrate", [], [{"text": str(written)}], kept


def _comparison(cells: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    texts = [_text(cells, "chosen"), _text(cells, "rejected")]
    if all(isinstance(text, Chat) for text in texts) and _common_turns(*(text.messages for text in texts)):  # type: ignore[attr-defined]
        raise DataError(
            "field `chosen`: both sides are whole conversations; `textenv labels import` (or "
            "`reward_models.labels.labels_into_store`) takes their common beginning as the prompt"
        )
    tie, margin = cells.get("tie", False), cells.get("margin", 0)
    if not isinstance(tie, bool):
        raise _unexpected("tie", "true or false", tie)
    if isinstance(margin, bool) or not isinstance(margin, int | float):
        raise _unexpected("margin", "a number", margin)
    steps = 0 if tie else min(3, max(0, round(3 * float(margin))))
    return texts, [{"preferred": None if tie else 0, "margin": steps, "both_bad": False}]


def _common_turns(chosen: Sequence[Any], rejected: Sequence[Any]) -> bool:
    return min(len(chosen), len(rejected)) > 1 and chosen[0] == rejected[0]


def _scores(cells: Mapping[str, Any]) -> list[int]:
    """The ratings of a row; KTO's true and false are 1 and 0 (the caller has put the scale there)."""
    given = [name for name in ("score", "rating", "ratings", "label") if name in cells]
    if not given:
        return []
    if len(given) > 1:
        raise _unexpected(given[1], f"nothing beside `{given[0]}`", cells[given[1]])
    value = cells[given[0]]
    if given == ["label"]:
        if not isinstance(value, bool):
            raise _unexpected("label", "true or false", value)
        return [int(value)]
    count = cells.get("count", 1)
    if count != 1:
        raise _unexpected("count", "1, since the store keeps opinions of one person (`ratings` lists several)", count)
    values = value if given == ["ratings"] and isinstance(value, list | tuple) else [value]
    for score in values:
        if isinstance(score, bool) or not isinstance(score, int | float) or float(score) != int(score):
            raise _unexpected(given[0], "a whole number on the item's scale", score)
    return [int(score) for score in values]


def _as_recorded(entry: Entry, cells: Mapping[str, Any], provenance: Mapping[str, Any]) -> Entry | None:
    """The item and label that an export wrote, where its columns still say what they said then."""
    said, item = entry.said[0], entry.item
    if provenance.get("kind") != item.kind:
        return None
    known = list(provenance.get("answers") or [])
    texts = provenance.get("texts")
    if texts is None:  # an export of textenv 1
        texts = [answer.text for answer in item.answers]
        listed = said.extra.get("listed") or range(len(texts))
        texts = [texts[number] for number in listed]
        texts = texts[::-1] if item.kind == "compare" and provenance["payload"].get("preferred") == 1 else texts
    known += [{}] * (len(texts) - len(known))
    shown = [as_text(text, "field `provenance.texts`") for text in texts]
    answers = tuple(
        answer_of(text, _mapping(fields, "provenance.answers")) for text, fields in zip(shown, known, strict=True)
    )
    extra = {**_mapping(provenance.get("extra") or {}, "provenance.extra"), "time": provenance.get("time")}
    source = provenance.get("source", item.source)
    whole = Item(
        item.kind, item.prompt, answers, scale=item.scale, source=source, messages=item.messages,
        id=str(provenance.get("item") or item.id),
    )  # fmt: skip
    label = Label("-", whole.id, "-", _mapping(provenance["payload"], "provenance.payload"), extra=extra)
    written = LabelledItem(label, whole)
    before = {name: value for name, value in (label_row(written) or demonstration_row(written) or {}).items()}
    columns = ("chosen", "rejected", "tie", "margin", "response", "score", "responses", "ranks", "best", "completion")
    if any(cells.get(name) != before.get(name) for name in columns):
        return None  # somebody changed the row: it says what it says
    rater = _name(cells, "rater") or provenance.get("rater")
    extra.pop("rater", None)  # the store gives second names anew
    order = tuple(int(place) for place in provenance.get("order") or ())
    seconds = float(provenance.get("seconds") or 0.0)
    name = str(provenance.get("label") or "")
    return Entry(entry.where, whole, (Said(label.payload, rater, name, seconds, order, extra=extra),))


def _provenance(cells: Mapping[str, Any]) -> Mapping[str, Any]:
    """As an object; Parquet files hold it as JSON."""
    value = cells.get("provenance", {})
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise _unexpected("provenance", "an object or JSON", value) from error
    return _mapping(value, "provenance")


def _mapping(value: Any, field: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _unexpected(field, "an object", value)
    return value


def _text(cells: Mapping[str, Any], field: str) -> str:
    if not isinstance(cells.get(field), str | list | tuple):
        raise _unexpected(field, "a text", cells.get(field))
    value, where = cells[field], f"field `{field}`"
    # Messages as JSON, as Parquet files hold them; a transcript in a text of ours is a text.
    return value if isinstance(value, str) and transcript_messages(value) else read_cell(value, where)


def _name(cells: Mapping[str, Any], field: str) -> str | None:
    value = cells.get(field)
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise _unexpected(field, "a text or a whole number", value)
    return None if value is None else str(value)


def _whole_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) and float(v).is_integer() for v in values)


def _unexpected(field: str, expected: str, got: Any) -> DataError:
    return DataError(f"field `{field}`: expected {expected}, got {'nothing' if got is None else repr(got)[:80]}")
