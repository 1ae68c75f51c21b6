"""Argilla's records, as ``dataset.records.to_json`` of its SDK 2 writes them and ``Record.from_dict`` reads them.

A record has the fields ``prompt`` and ``response`` or ``response-1``, ``response-2``, …, and its answers to one of the
questions ``rating`` (whole numbers), ``ranking`` (values ``response-1``, …, best first), ``preference`` (the values
``response-1``, ``response-2``, ``tie``, ``both-bad``) or ``demonstration`` (a text). Argilla's users are UUIDs: a rater
becomes one made of the name, and the names stand in the metadata. Rankings have no ties there, so tied answers come
in their item's order and the metadata keeps the ranks.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from textenv.errors import DataError
from textenv.feedback.formats.rows import IMPORTED, answer_provenance, iso_time, label_id, located
from textenv.feedback.store import Answer, Item, Label, LabelledItem, Scale

_QUESTIONS = {"rate": "rating", "rank": "ranking", "compare": "preference", "demonstrate": "demonstration"}
_KINDS = {question: kind for kind, question in _QUESTIONS.items()}


def user_id(rater: str) -> str:
    """The UUID that stands for a rater, the same in every export."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"textenv:rater:{rater}"))


def argilla_records(labelled: Iterable[LabelledItem]) -> list[dict[str, Any]]:
    """One record per item with everybody's answers; skips are left out."""
    records: dict[str, dict[str, Any]] = {}
    for entry in labelled:
        label, item = entry.label, entry.item
        if label.skipped is not None:
            continue
        record = records.setdefault(item.id, _record(item))
        question = _QUESTIONS[item.kind]
        answer = {"value": _value(item, label.payload), "user_id": user_id(label.rater)}
        record["responses"].setdefault(question, []).append(answer)
        record["metadata"]["raters"].append(label.rater)
        told = {"payload": dict(label.payload), "order": list(label.order), "seconds": label.seconds, "id": label.id}
        record["metadata"]["labels"].append(json.dumps(told | {"time": iso_time(label.time)}, ensure_ascii=False))
    return list(records.values())


def _record(item: Item) -> dict[str, Any]:
    texts = [answer.text for answer in item.answers]
    names = ["response"] if len(texts) == 1 else [f"response-{i}" for i in range(1, len(texts) + 1)]
    scale = item.scale or Scale()
    metadata: dict[str, Any] = {"kind": item.kind, "source": item.source, "raters": [], "labels": []}
    metadata["answers"] = [json.dumps(answer_provenance(answer), ensure_ascii=False) for answer in item.answers]
    if item.kind == "rate":
        metadata |= {"scale_low": scale.low, "scale_high": scale.high}
    fields = {"prompt": item.prompt} | dict(zip(names, texts, strict=True))
    return {
        "id": item.id,
        "fields": fields,
        "metadata": metadata,
        "suggestions": {},
        "responses": {},
        "vectors": {},
    }


def _value(item: Item, payload: Mapping[str, Any]) -> Any:
    if item.kind == "rate":
        return payload["score"]
    if item.kind == "demonstrate":
        return payload["text"]
    if item.kind == "rank":
        ranked = [(rank, i) for i, rank in enumerate(payload["ranks"], start=1) if rank is not None]
        return [f"response-{i}" for _, i in sorted(ranked)]
    if payload["preferred"] is None:
        return "both-bad" if payload.get("both_bad") else "tie"
    return f"response-{payload['preferred'] + 1}"


def parse_argilla(records: Sequence[Any], name: str) -> Iterator[tuple[Item, list[Label]]]:
    """Items and their labels; a record without an answer is an item to label.

    Args:
        records: As the JSON file holds them.
        name: File, for messages.

    Raises:
        DataError: With file, record, field and what was expected.
    """
    for number, record in enumerate(records):
        where = f"{name}: record {number}"
        if not isinstance(record, Mapping) or not isinstance(record.get("fields"), Mapping):
            raise DataError(f"{where}: expected an object with `fields`, as Argilla's `to_json` writes it")
        with located(where):
            found = _parse(record, where)
        yield found


def _parse(record: Mapping[str, Any], where: str) -> tuple[Item, list[Label]]:
    fields, metadata = record["fields"], record.get("metadata") or {}
    if not isinstance(fields.get("prompt"), str):
        raise DataError(f"{where}: field `fields.prompt`: expected a text, got {repr(fields.get('prompt'))[:80]}")
    names = sorted((n for n in fields if n.startswith("response")), key=lambda n: int(n.partition("-")[2] or 0))
    answered = record.get("responses") or {}
    found = [question for question in answered if question in _KINDS and answered[question]]
    kind: Any = metadata.get("kind") or (_KINDS[found[0]] if found else _kind(len(names)))
    known = [json.loads(told) for told in metadata.get("answers", ())] or [{}] * len(names)
    scale = Scale(metadata["scale_low"], metadata["scale_high"], {}) if "scale_low" in metadata else None
    item = Item(
        kind,
        fields["prompt"],
        tuple(Answer(fields[n], **extra) for n, extra in zip(names, known, strict=True)),
        scale=scale,
        id=str(record.get("id") or ""),
        source=str(metadata.get("source") or ""),
    )
    told = [json.loads(entry) for entry in metadata.get("labels", ())]
    raters = {user_id(rater): rater for rater in metadata.get("raters", ())}
    labels = []
    for place, answer in enumerate(answered.get(_QUESTIONS[kind], ())):
        rater = raters.get(answer.get("user_id"), str(answer.get("user_id") or IMPORTED))
        payload = _payload(item, answer["value"], where)
        more = told[place] if place < len(told) and _value(item, told[place]["payload"]) == answer["value"] else {}
        payload = more.get("payload", payload)
        labels.append(
            Label(
                more.get("id") or label_id(item.id, rater, payload),
                item.id,
                rater,
                payload,
                seconds=more.get("seconds", 0.0),
                order=tuple(more.get("order", ())),
            )
        )
    return item, labels


def _kind(answers: int) -> str:
    return {0: "demonstrate", 1: "rate", 2: "compare"}.get(answers, "rank")


def _payload(item: Item, value: Any, where: str) -> dict[str, Any]:
    if item.kind == "rate":
        return {"score": value}
    if item.kind == "demonstrate":
        return {"text": value}
    places = {f"response-{i + 1}": i for i in range(len(item.answers))}
    if item.kind == "rank":
        # Argilla's server form has objects with `value` and `rank`, its SDK the values in order.
        entries = [(v.get("rank", i), v["value"]) if isinstance(v, Mapping) else (i, v) for i, v in enumerate(value, 1)]
        ranks: list[int | None] = [None] * len(item.answers)
        for rank, text in entries:
            if text not in places:
                raise DataError(f"{where}: `ranking` names {text!r}, expected one of {', '.join(places)}")
            ranks[places[text]] = rank
        return {"ranks": ranks}
    if value in ("tie", "both-bad"):
        return {"preferred": None, "margin": 0, "both_bad": value == "both-bad"}
    if value not in places:
        raise DataError(f"{where}: `preference` is {value!r}, expected one of {', '.join(places)}, tie, both-bad")
    return {"preferred": places[value], "margin": 0, "both_bad": False}
