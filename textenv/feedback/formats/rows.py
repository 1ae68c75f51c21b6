"""Labels as rows with the ecosystem's columns, and rows as items with their labels.

=========== ============================================================ =======================================
kind        columns                                                      who else writes them so
=========== ============================================================ =======================================
compare     ``prompt``, ``chosen``, ``rejected``, ``margin``, ``tie``    TRL, HH-RLHF, UltraFeedback
rate        ``prompt``, ``response``, ``score``, ``scale``               HelpSteer
rank        ``prompt``, ``responses``, ``ranks`` (1 is best)             InstructGPT-style data
demonstrate ``prompt``, ``completion``                                   TRL's prompt-completion form
=========== ============================================================ =======================================

All have ``rater``, ``item`` and ``source``, and a column ``provenance``: policies and versions, sampling settings, the
order in which the answers were shown, time, seconds. With it a row is read back exactly as it was. A margin of 0…3 as
people give it is a third of that in the column (Llama 2's scale, arXiv:2307.09288, table 27).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from textenv.errors import DataError
from textenv.feedback.store import Answer, Item, Label, LabelledItem, Scale

IMPORTED = "imported"
"""Rater of labels that name none."""


def label_row(labelled: LabelledItem) -> dict[str, Any] | None:
    """A rating, comparison or ranking as a row that `reward_models.read_labels` reads.

    Returns:
        The row; None for demonstrations, skips, and comparisons of an answer with itself.
    """
    label, item = labelled.label, labelled.item
    if label.skipped is not None or item.kind == "demonstrate":
        return None
    texts = [answer.text for answer in item.answers]
    payload = label.payload
    row: dict[str, Any] = {"prompt": item.prompt}
    if item.kind == "rate":
        scale = item.scale or Scale()
        row |= {"response": texts[0], "score": payload["score"], "scale": [scale.low, scale.high]}
    elif item.kind == "rank":
        row |= {"responses": texts, "ranks": payload["ranks"]}
    else:
        if texts[0] == texts[1]:
            return None
        better = payload["preferred"] or 0
        row |= {"chosen": texts[better], "rejected": texts[1 - better], "margin": payload.get("margin", 0) / 3}
        row["tie"] = payload["preferred"] is None
    return row | _common(labelled)


def demonstration_row(labelled: LabelledItem) -> dict[str, Any] | None:
    """A written answer as a row, or None where the label is something else."""
    label, item = labelled.label, labelled.item
    if label.skipped is not None or item.kind != "demonstrate":
        return None
    return {"prompt": item.prompt, "completion": label.payload["text"]} | _common(labelled)


def _common(labelled: LabelledItem) -> dict[str, Any]:
    label, item = labelled.label, labelled.item
    return {
        "rater": label.rater,
        "item": item.id,
        "source": item.source or None,
        "provenance": {
            "kind": item.kind,
            "label": label.id,
            "time": iso_time(label.time),
            "seconds": label.seconds,
            "order": list(label.order),
            "payload": dict(label.payload),
            "answers": [answer_provenance(answer) for answer in item.answers],
        },
    }


def iso_time(seconds: float) -> str:
    """Unix seconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def answer_provenance(answer: Answer) -> dict[str, Any]:
    """Where an answer comes from, without its text."""
    found = {"policy": answer.policy, "version": answer.version, "sampling": dict(answer.sampling), "seed": answer.seed}
    return {name: value for name, value in found.items() if value not in ("", {}, None)}


def parse_row(row: Mapping[str, Any], where: str) -> tuple[Item, Label | None]:
    """An item and, where the row says what somebody thought of it, the label.

    Rows without a label become items to label: ``prompt`` alone to demonstrate, with ``response`` to rate, with
    ``responses`` to rank (two of them: to compare).

    Args:
        row: Columns by name; null counts as absent.
        where: File and line, for messages.

    Raises:
        DataError: With file, line, field and what was expected.
    """
    cells = {name: value for name, value in row.items() if value is not None}
    try:
        kind, texts, payload = _content(cells, where)
        provenance = _provenance(cells, where)
        if provenance.get("kind") == kind and "payload" in provenance:
            texts, payload = _as_recorded(kind, texts, provenance)
        known = list(provenance.get("answers", ())) + [{}] * len(texts)
        scale = cells.get("scale")
        item = Item(
            kind,
            _text(cells, "prompt", where),
            tuple(Answer(text, **_answer_fields(known[i], where)) for i, text in enumerate(texts)),
            scale=Scale(int(scale[0]), int(scale[1]), {}) if kind == "rate" and scale else None,
            id=str(cells.get("item", "")),
            source=str(cells.get("source", "")),
        )
        if payload is None:
            return item, None
        rater = str(cells.get("rater", IMPORTED))
        label = Label(
            str(provenance.get("label") or label_id(item.id, rater, payload)),
            item.id,
            rater,
            payload,
            seconds=float(provenance.get("seconds", 0.0)),
            order=tuple(int(place) for place in provenance.get("order", ())),
        )
    except DataError as error:
        message = str(error)
        raise DataError(message if message.startswith(where) else f"{where}: {message}") from error
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: a field has a value of an unexpected type ({error})") from error
    return item, label


@contextmanager
def located(where: str) -> Iterator[None]:
    """Mistakes in a record become a `DataError` that says where it stands."""
    try:
        yield
    except (TypeError, KeyError, ValueError) as error:
        message = str(error)
        raise DataError(message if message.startswith(where) else f"{where}: {message}") from error


def label_id(item: str, rater: str, payload: Mapping[str, Any]) -> str:
    """An id made of the content, so that importing twice counts once."""
    content = json.dumps([item, rater, payload], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _content(cells: Mapping[str, Any], where: str) -> tuple[Any, list[str], dict[str, Any] | None]:
    """Kind, answers in the row's order, and payload in terms of that order."""
    if "chosen" in cells or "rejected" in cells:
        texts = [_text(cells, "chosen", where), _text(cells, "rejected", where)]
        tie = cells.get("tie", False)
        margin = 0 if tie else min(3, max(0, round(3 * float(cells.get("margin", 0)))))
        return "compare", texts, {"preferred": None if tie else 0, "margin": margin, "both_bad": False}
    if "responses" in cells:
        texts = cells["responses"]
        if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{where}: field `responses`: expected a list of texts, got {repr(texts)[:80]}")
        ranks = cells.get("ranks")
        if ranks is None:
            return ("compare" if len(texts) == 2 else "rank"), list(texts), None
        if not isinstance(ranks, (list, tuple)):
            raise DataError(f"{where}: field `ranks`: expected a list of whole numbers, got {repr(ranks)[:80]}")
        return "rank", list(texts), {"ranks": [None if rank is None else int(rank) for rank in ranks]}
    if "response" in cells:
        score = cells.get("score")
        if score is not None and (isinstance(score, bool) or float(score) != int(score)):
            raise DataError(f"{where}: field `score`: expected a whole number on the item's scale, got {score!r}")
        return "rate", [_text(cells, "response", where)], None if score is None else {"score": int(score)}
    written = "completion" in cells
    return "demonstrate", [], {"text": _text(cells, "completion", where)} if written else None


def _as_recorded(kind: str, texts: list[str], provenance: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Answers in the item's own order and the payload that was saved."""
    payload = dict(provenance["payload"])
    return (texts[::-1] if kind == "compare" and payload.get("preferred") == 1 else texts), payload


def _answer_fields(known: Any, where: str) -> dict[str, Any]:
    fields = _mapping(known, "provenance.answers", where)
    return {name: fields[name] for name in ("policy", "version", "sampling", "seed") if name in fields}


def _provenance(cells: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """As an object; Parquet files hold it as JSON."""
    value = cells.get("provenance", {})
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DataError(f"{where}: field `provenance`: expected an object or JSON, got {value[:80]!r}") from error
    return _mapping(value, "provenance", where)


def _mapping(value: Any, field: str, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: field `{field}`: expected an object, got {repr(value)[:80]}")
    return value


def _text(cells: Mapping[str, Any], field: str, where: str) -> str:
    value = cells.get(field)
    if not isinstance(value, str):
        got = "nothing" if value is None else repr(value)[:80]
        raise DataError(f"{where}: field `{field}`: expected a text, got {got}")
    return value
