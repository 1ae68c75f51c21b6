"""Argilla's records, as ``dataset.records.to_json`` of its SDK 2 writes them and ``Record.from_dict`` reads them.

A record that we write has the fields ``prompt`` and ``response`` or ``response-1``, ``response-2``, …, and its answers
to one of the questions ``rating`` (whole numbers), ``ranking`` (values ``response-1``, …, best first), ``preference``
(the values ``response-1``, ``response-2``, ``tie``, ``both-bad``) or ``demonstration`` (a text). Argilla's users are
UUIDs: a rater becomes one made of the name, and the names stand in the metadata. Rankings have no ties in that file, so
tied answers come in their item's order and the metadata keeps the ranks.

Read are besides: other names of fields and questions, the flat rows of ``to_list(flatten=True)`` and ``to_datasets``
(which tell drafts and discarded responses), and records as the server's API has them (whose rankings have ties).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from textenv.answers import Chat
from textenv.errors import DataError
from textenv.feedback.formats.reading import Reading, Texts, answer_of, preference, texts_of, with_messages
from textenv.feedback.formats.rows import answer_provenance, iso_time
from textenv.feedback.store import Entry, Item, LabelledItem, Said, Scale
from textenv.feedback.store.intake import located

_QUESTIONS = {"rate": "rating", "rank": "ranking", "compare": "preference", "demonstrate": "demonstration"}


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
        told |= {"time": label.extra.get("time") or iso_time(label.time), "extra": dict(label.extra)}
        record["metadata"]["labels"].append(json.dumps(told, ensure_ascii=False))
    return list(records.values())


def _record(item: Item) -> dict[str, Any]:
    texts = [str(answer.text) for answer in item.answers]
    names = ["response"] if len(texts) == 1 else [f"response-{i}" for i in range(1, len(texts) + 1)]
    scale = item.scale or Scale()
    metadata: dict[str, Any] = {"kind": item.kind, "source": item.source, "raters": [], "labels": []}
    metadata["answers"] = [json.dumps(answer_provenance(answer), ensure_ascii=False) for answer in item.answers]
    if item.messages:
        metadata["messages"] = json.dumps([dict(message) for message in item.messages], ensure_ascii=False)
    if item.kind == "rate":
        metadata |= {"scale_low": scale.low, "scale_high": scale.high}
    fields = {"prompt": str(item.prompt)} | dict(zip(names, texts, strict=True))
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


def is_flat(columns: Mapping[str, Any]) -> bool:
    """Whether a row is a record whose fields and responses are columns."""
    return any(name.endswith(".responses.users") for name in columns)


class _Response(NamedTuple):
    """One person's answer to one question."""

    question: str
    user: str | None
    value: Any
    status: str | None


def parse_argilla(records: Sequence[Any], name: str, how: Reading) -> Iterator[Entry]:
    """Items and what was said of them; a record without an answer is an item to label.

    Args:
        records: As the file holds them.
        name: File, for messages.
        how: What to assume, and what to note.

    Raises:
        DataError: With file, record, field and what was expected.
    """
    for number, record in enumerate(records):
        where = f"{name}: record {number}"
        flat = isinstance(record, Mapping) and is_flat(record)
        if not flat and (not isinstance(record, Mapping) or not isinstance(record.get("fields"), Mapping)):
            raise DataError(f"{where}: expected an object with `fields`, as Argilla's `to_json` writes it")
        with located(where):
            entry = _parse(record, where, how, flat)
        yield entry


def _parse(record: Mapping[str, Any], where: str, how: Reading, flat: bool) -> Entry:
    fields, metadata = (record, record) if flat else (record["fields"], record.get("metadata") or {})
    texts = texts_of({n: v for n, v in fields.items() if "." not in n and n not in _OWN} if flat else fields, "fields")
    responses = _responses(record, how)
    ours = isinstance(metadata.get("kind"), str) and isinstance(metadata.get("labels"), list)
    kind, question = _kind_and_question(metadata if ours else {}, texts, responses, how)
    known = [json.loads(told) for told in metadata.get("answers") or ()] if ours else []
    known += [{}] * (len(texts.answers) - len(known))
    scale = Scale(metadata["scale_low"], metadata["scale_high"], {}) if metadata.get("scale_low") is not None else None
    answers = [response for response in responses if response.question == question]
    if kind == "rate" and scale is None and answers:
        scale = how.assume_scale()
    prompt = with_messages(texts.prompt, json.loads(metadata["messages"])) if metadata.get("messages") else texts.prompt
    item = Item(
        kind,
        str(prompt),
        tuple(answer_of(text, extra) for text, extra in zip(texts.answers, known, strict=True)),
        scale=scale,
        id=str(record.get("id") or record.get("external_id") or ""),
        source=str(metadata.get("source") or ""),
        messages=prompt.messages if isinstance(prompt, Chat) else (),
    )
    raters = metadata.get("raters") or [] if ours else []
    told = dict(zip(raters, map(json.loads, metadata.get("labels") or ()), strict=False)) if ours else {}
    names = {user_id(rater): rater for rater in raters}
    said = [_said(item, texts, response, names, told, how) for response in answers]
    return Entry(where, item, tuple(each for each in said if each is not None))


_OWN = ("status", "_server_id", "id", "kind", "source", "raters", "labels", "answers", "scale_low", "scale_high")


def _responses(record: Mapping[str, Any], how: Reading) -> list[_Response]:
    """Everybody's answers to all questions, from any of the three forms."""
    given = record.get("responses")
    found: list[_Response] = []
    if isinstance(given, Mapping):
        for question, answers in given.items():
            found += [_Response(question, _user(a), a.get("value"), a.get("status")) for a in answers or ()]
    elif isinstance(given, Sequence) and not isinstance(given, str):  # the server's API: by user
        for user in given:
            values = user.get("values") or {}
            found += [_Response(name, _user(user), v.get("value"), user.get("status")) for name, v in values.items()]
            if not values and user.get("status") == "discarded":
                found.append(_Response("", _user(user), None, "discarded"))
    else:
        for column in [name for name in record if name.endswith(".responses") and record[name]]:
            users, states = record.get(f"{column}.users") or [], record.get(f"{column}.status") or []
            for place, value in enumerate(record[column]):
                user = users[place] if place < len(users) else None
                state = states[place] if place < len(states) else None
                found.append(_Response(column.removesuffix(".responses"), user, value, state))
    drafts = sum(response.status == "draft" for response in found)
    if drafts:
        how.remarks["drafts, left out"] += drafts
    return [response for response in found if response.status != "draft"]


def _user(answer: Mapping[str, Any]) -> str | None:
    user = answer.get("user_id")
    return None if user in (None, "None") else str(user)


def _kind_and_question(
    metadata: Mapping[str, Any], texts: Texts, responses: Sequence[_Response], how: Reading
) -> tuple[Any, str]:
    """What the record asks, and which of its questions says it."""
    if metadata:
        return metadata["kind"], _QUESTIONS[metadata["kind"]]
    kinds: dict[str, str] = {}
    for response in responses:
        kind = None if response.value is None else _kind_of(response.value, texts)
        if kind is not None and kinds.setdefault(response.question, kind) != kind:
            raise DataError(
                f"question `{response.question}` has answers of two kinds, {kinds[response.question]} and {kind}"
            )
    usual = next((name for name in _QUESTIONS.values() if name in kinds), "")
    question = how.choose(list(kinds), usual, "questions")
    for name in {response.question for response in responses} - {question, ""}:
        how.remarks[f"question `{name}`: not read"] += 1
    default = {0: "demonstrate", 1: "rate", 2: "compare"}.get(len(texts.answers), "rank")
    discarded = next((response.question for response in responses if response.status == "discarded"), "")
    return (default, discarded) if question is None else (kinds[question], question)


def _kind_of(value: Any, texts: Texts) -> str | None:
    """What a value answers, by its form; None where it is no label."""
    count = len(texts.answers)
    if isinstance(value, list) and count > 1:
        return "rank" if all(_ranked(entry) in texts.names for entry in value) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "rate" if count == 1 else None
    if not isinstance(value, str):
        return None
    if count == 2:
        try:
            preference(value, texts.names)
        except DataError:
            return None
        return "compare"
    return "demonstrate" if count == 0 else None


def _ranked(entry: Any) -> Any:
    return entry.get("value") if isinstance(entry, Mapping) else entry


def _said(
    item: Item,
    texts: Texts,
    response: _Response,
    names: Mapping[str, str],
    told: Mapping[str, Mapping[str, Any]],
    how: Reading,
) -> Said | None:
    rater = names.get(response.user or "", response.user)
    if response.status == "discarded":
        how.remarks["discarded responses, kept as skips"] += 1
        return Said({}, rater, skipped="discarded in Argilla")
    if response.value is None:
        how.remarks["empty responses, left out"] += 1
        return None
    more = told.get(rater or "", {})
    if more and _same_value(item, more["payload"], response.value):
        order = tuple(more.get("order") or ())
        extra = {**(more.get("extra") or {}), "time": more.get("time")}
        return Said(more["payload"], rater, more.get("id") or "", more.get("seconds") or 0.0, order, extra=extra)
    return Said(_payload(item, texts, response.value), rater)


def _same_value(item: Item, payload: Mapping[str, Any], value: Any) -> bool:
    return _value(item, payload) == ([_ranked(entry) for entry in value] if isinstance(value, list) else value)


def _payload(item: Item, texts: Texts, value: Any) -> dict[str, Any]:
    if item.kind == "rate":
        return {"score": value}
    if item.kind == "demonstrate":
        return {"text": value}
    if item.kind == "compare":
        return preference(value, texts.names)
    # The server's form has objects with `value` and `rank`, the SDK's the values in order.
    ranks: list[int | None] = [None] * len(item.answers)
    for place, entry in enumerate(value, start=1):
        name = _ranked(entry)
        if name not in texts.names:
            raise DataError(f"a ranking names {name!r}, expected one of {', '.join(texts.names)}")
        rank = entry.get("rank") if isinstance(entry, Mapping) else None
        ranks[texts.names.index(name)] = place if rank is None else rank
    return {"ranks": ranks}
