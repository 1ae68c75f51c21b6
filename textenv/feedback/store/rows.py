"""Records to rows and back."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from textenv.answers import as_json, as_text
from textenv.feedback.store.contents import (
    Answer,
    CollectedPrompt,
    Item,
    Label,
    PolicyVersion,
    Rater,
    Round,
    Scale,
)


def item_row(item: Item, *, priority: float, wanted: int, now: float) -> dict[str, Any]:
    """An item as a new row of ``items``."""
    return {
        "id": item.id,
        "kind": item.kind,
        "prompt": item.prompt,
        "messages": dumps([dict(message) for message in item.messages]),
        "answers": dumps([_answer_fields(answer) for answer in item.answers]),
        "instructions": item.instructions,
        "scale": None if item.scale is None else dumps(_scale_fields(item.scale)),
        "gold": None if item.gold is None else dumps(dict(item.gold)),
        "is_gold": item.gold is not None,
        "source": item.source,
        "created": now,
        "wanted": wanted,
        "done": 0,
        "closed": False,
        "is_open": True,
        "priority": priority,
    }


def item_record(row: sa.Row[Any]) -> Item:
    """An item from a row that has the columns of ``items``."""
    return Item(
        kind=row.kind,
        prompt=row.prompt,
        answers=answer_records(row.answers),
        instructions=row.instructions,
        scale=None if row.scale is None else _scale(json.loads(row.scale)),
        gold=None if row.gold is None else json.loads(row.gold),
        wanted=row.wanted,
        id=row.id,
        source=row.source,
        messages=tuple(json.loads(row.messages)),
    )


def answer_records(column: str) -> tuple[Answer, ...]:
    """The answers of an item from its column."""
    return tuple(Answer(**{**fields, "text": as_text(fields["text"], "answer")}) for fields in json.loads(column))


def _answer_fields(answer: Answer) -> dict[str, Any]:
    return {**asdict(answer), "text": as_json(answer.text), "sampling": dict(answer.sampling)}


def label_row(label: Label) -> dict[str, Any]:
    """A label as a new row of ``labels``; its number is the database's business."""
    return {
        "id": label.id,
        "item": label.item,
        "rater": label.rater,
        "kind": label.kind,
        "payload": dumps(dict(label.payload)),
        "seconds": label.seconds,
        "order": dumps(list(label.order)),
        "skipped": label.skipped,
        "extra": dumps(dict(label.extra)) if label.extra else None,
        "time": label.time,
        "undone": label.undone,
    }


def label_record(row: Any) -> Label:
    """A label from a row of ``labels``."""
    return Label(
        id=row.id,
        item=row.item,
        rater=row.rater,
        payload=json.loads(row.payload),
        seconds=row.seconds,
        order=tuple(json.loads(row.order)),
        skipped=row.skipped,
        extra=json.loads(row.extra) if row.extra else {},
        kind=row.kind,
        number=row.number,
        time=row.time,
        undone=row.undone,
    )


def rater_record(row: sa.Row[Any]) -> Rater:
    """A rater from a row of ``raters``."""
    return Rater(row.name, row.active, row.created, row.note)


def prompt_record(row: sa.Row[Any]) -> CollectedPrompt:
    """A prompt from a row of ``prompts``."""
    # `count` is a method of rows too
    return CollectedPrompt(
        row.id, row.text, tuple(json.loads(row.messages)), row.source, row._mapping["count"], row.created, row.used
    )


def round_record(row: sa.Row[Any]) -> Round:
    """A round from a row of ``rounds``."""
    return Round(row.number, row.after, row.upto, row.started, row.finished, json.loads(row.figures))


def policy_record(row: sa.Row[Any]) -> PolicyVersion:
    """A policy version from a row of ``policies``."""
    return PolicyVersion(row.name, row.version, row.path, row.created, row.round, json.loads(row.figures))


def dumps(value: Any) -> str:
    """JSON in one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _scale_fields(scale: Scale) -> dict[str, Any]:
    anchors = {str(number): text for number, text in scale.anchors.items()}
    return {"low": scale.low, "high": scale.high, "anchors": anchors}


def _scale(fields: dict[str, Any]) -> Scale:
    return Scale(fields["low"], fields["high"], {int(number): text for number, text in fields["anchors"].items()})
