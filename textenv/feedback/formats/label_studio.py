"""Label Studio's tasks with annotations: the JSON that it exports and imports.

Data of a task: ``prompt``, and ``response``, ``response_1`` and ``response_2``, or ``items`` (a list of ``id`` and
``body``). :data:`LABELING_CONFIG` holds the project's labelling interface for each kind; results are of Label Studio's
types ``rating``, ``pairwise``, ``ranker`` and ``textarea``. Ties are ``choices`` beside the ``pairwise`` tag, since
that tag has none. Annotators are numbers there; the raters' names stand in the task's ``meta``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from textenv.errors import DataError
from textenv.feedback.formats.rows import answer_provenance, iso_time, label_id, located
from textenv.feedback.store import Answer, Item, Label, LabelledItem, Scale

LABELING_CONFIG = {
    "rate": """<View>
  <Text name="prompt" value="$prompt"/>
  <Text name="response" value="$response"/>
  <Rating name="rating" toName="response" maxRating="5"/>
</View>""",
    "compare": """<View>
  <Text name="prompt" value="$prompt"/>
  <Pairwise name="preference" toName="response_1,response_2"/>
  <Text name="response_1" value="$response_1"/>
  <Text name="response_2" value="$response_2"/>
  <Choices name="tie" toName="prompt"><Choice value="tie"/><Choice value="both bad"/></Choices>
  <Rating name="margin" toName="prompt" maxRating="3"/>
</View>""",
    "rank": """<View>
  <Text name="prompt" value="$prompt"/>
  <List name="responses" value="$items"/>
  <Ranker name="ranking" toName="responses"/>
</View>""",
    "demonstrate": """<View>
  <Text name="prompt" value="$prompt"/>
  <TextArea name="demonstration" toName="prompt" rows="8"/>
</View>""",
}
"""The labelling interface (Settings, Labeling Interface, Code) of a project for each kind of item."""

_KIND_OF_TYPE = {
    "rating": "rate",
    "pairwise": "compare",
    "choices": "compare",
    "ranker": "rank",
    "textarea": "demonstrate",
}


def label_studio_tasks(labelled: Iterable[LabelledItem]) -> list[dict[str, Any]]:
    """One task per item with an annotation for everybody who labelled or skipped it."""
    tasks: dict[str, dict[str, Any]] = {}
    raters: dict[str, int] = {}
    for entry in labelled:
        label, item = entry.label, entry.item
        task = tasks.setdefault(item.id, _task(item, len(tasks) + 1))
        number = raters.setdefault(label.rater, len(raters) + 1)
        task["meta"]["raters"][str(number)] = label.rater
        told = {"id": label.id, "payload": dict(label.payload), "order": list(label.order), "skipped": label.skipped}
        task["meta"]["labels"].append(told)
        task["annotations"].append(
            {
                "completed_by": number,
                "was_cancelled": label.skipped is not None,
                "lead_time": label.seconds,
                "created_at": iso_time(label.time),
                "result": [] if label.skipped is not None else _results(item, label.payload),
            }
        )
    return list(tasks.values())


def _task(item: Item, number: int) -> dict[str, Any]:
    texts = [answer.text for answer in item.answers]
    data: dict[str, Any] = {"prompt": item.prompt}
    if item.kind == "rate":
        data["response"] = texts[0]
    elif item.kind == "compare":
        data |= {"response_1": texts[0], "response_2": texts[1]}
    elif item.kind == "rank":
        data["items"] = [{"id": str(i), "title": f"Response {i}", "body": t} for i, t in enumerate(texts, start=1)]
    meta: dict[str, Any] = {"item": item.id, "kind": item.kind, "source": item.source, "raters": {}, "labels": []}
    meta["answers"] = [answer_provenance(answer) for answer in item.answers]
    if item.kind == "rate":
        scale = item.scale or Scale()
        meta["scale"] = [scale.low, scale.high]
    return {"id": number, "data": data, "meta": meta, "annotations": []}


def _results(item: Item, payload: Mapping[str, Any]) -> list[dict[str, Any]]:
    def result(name: str, to: str, kind: str, value: Any) -> dict[str, Any]:
        return {"from_name": name, "to_name": to, "type": kind, "value": value}

    if item.kind == "rate":
        return [result("rating", "response", "rating", {"rating": payload["score"]})]
    if item.kind == "demonstrate":
        return [result("demonstration", "prompt", "textarea", {"text": [payload["text"]]})]
    if item.kind == "rank":
        ranked = sorted((rank, i) for i, rank in enumerate(payload["ranks"], start=1) if rank is not None)
        return [result("ranking", "responses", "ranker", {"ranker": [str(i) for _, i in ranked]})]
    if payload["preferred"] is None:
        value = "both bad" if payload.get("both_bad") else "tie"
        return [result("tie", "prompt", "choices", {"choices": [value]})]
    side = "left" if payload["preferred"] == 0 else "right"
    found = [result("preference", "response_1,response_2", "pairwise", {"selected": side})]
    if payload.get("margin"):
        found.append(result("margin", "prompt", "rating", {"rating": payload["margin"]}))
    if payload.get("both_bad"):
        found.append(result("tie", "prompt", "choices", {"choices": ["both bad"]}))
    return found


def parse_label_studio(tasks: Sequence[Any], name: str) -> Iterator[tuple[Item, list[Label]]]:
    """Items and their labels; a task without annotations is an item to label.

    Args:
        tasks: As the JSON file holds them.
        name: File, for messages.

    Raises:
        DataError: With file, task, field and what was expected.
    """
    for number, task in enumerate(tasks):
        where = f"{name}: task {number}"
        if not isinstance(task, Mapping) or not isinstance(task.get("data"), Mapping):
            raise DataError(f"{where}: expected an object with `data`, as Label Studio's JSON export has it")
        with located(where):
            found = _parse(task, where)
        yield found


def _parse(task: Mapping[str, Any], where: str) -> tuple[Item, list[Label]]:
    data, meta = task["data"], task.get("meta") or {}
    if not isinstance(data.get("prompt"), str):
        raise DataError(f"{where}: field `data.prompt`: expected a text, got {repr(data.get('prompt'))[:80]}")
    annotations = task.get("annotations") or []
    kind: Any = meta.get("kind") or _kind(data, annotations)
    texts = _texts(data)
    known = meta.get("answers") or [{}] * len(texts)
    scale = meta.get("scale")
    item = Item(
        kind,
        data["prompt"],
        tuple(Answer(text, **extra) for text, extra in zip(texts, known, strict=True)),
        scale=Scale(scale[0], scale[1], {}) if scale else None,
        id=str(meta.get("item") or ""),
        source=str(meta.get("source") or ""),
    )
    told = meta.get("labels") or []
    places = {str(entry.get("id", i)): i for i, entry in enumerate(data.get("items", ()))}
    labels = []
    for place, annotation in enumerate(annotations):
        rater = _rater(annotation.get("completed_by"), meta.get("raters") or {})
        more = told[place] if place < len(told) else {}
        skipped = more.get("skipped") or ("skipped in Label Studio" if annotation.get("was_cancelled") else None)
        payload = {} if skipped else _payload(item, annotation.get("result") or [], places, where)
        recorded = more.get("payload")
        if recorded and not skipped and _results(item, recorded) == _results(item, payload):
            payload = recorded
        labels.append(
            Label(
                more.get("id") or label_id(item.id, rater, payload),
                item.id,
                rater,
                payload,
                seconds=float(annotation.get("lead_time") or 0.0),
                order=tuple(more.get("order", ())),
                skipped=skipped,
            )
        )
    return item, labels


def _kind(data: Mapping[str, Any], annotations: Sequence[Mapping[str, Any]]) -> str:
    for annotation in annotations:
        for result in annotation.get("result") or []:
            if result.get("type") in _KIND_OF_TYPE:
                return _KIND_OF_TYPE[result["type"]]
    return {0: "demonstrate", 1: "rate", 2: "compare"}.get(len(_texts(data)), "rank")


def _texts(data: Mapping[str, Any]) -> list[str]:
    if "items" in data:
        return [entry.get("body") or entry.get("title") or entry.get("text") or "" for entry in data["items"]]
    return [data[name] for name in ("response", "response_1", "response_2") if name in data]


def _rater(completed_by: Any, names: Mapping[str, str]) -> str:
    if isinstance(completed_by, Mapping):  # the export with users written out
        return str(completed_by.get("email") or completed_by.get("id"))
    return names.get(str(completed_by), f"label-studio-{completed_by}")


def _payload(item: Item, results: Sequence[Mapping[str, Any]], places: Mapping[str, int], where: str) -> dict[str, Any]:
    by_type = {(entry["type"], entry.get("from_name")): entry["value"] for entry in results}
    values = {kind: value for (kind, _), value in by_type.items()}
    if item.kind == "rate":
        return {"score": values["rating"]["rating"]}
    if item.kind == "demonstrate":
        text = values["textarea"]["text"]
        return {"text": text if isinstance(text, str) else "\n".join(text)}
    if item.kind == "rank":
        ranked = values["ranker"]["ranker"]
        if not isinstance(ranked, list):
            raise DataError(f"{where}: `ranker` has buckets; only an ordered list can be read as a ranking")
        ranks: list[int | None] = [None] * len(item.answers)
        for rank, number in enumerate(ranked, start=1):
            if str(number) not in places:
                raise DataError(f"{where}: `ranker` names {number!r}, expected ids of `data.items`: {list(places)}")
            ranks[places[str(number)]] = rank
        return {"ranks": ranks}
    chosen = values.get("choices", {}).get("choices", [])
    selected = values.get("pairwise", {}).get("selected")
    margin = by_type.get(("rating", "margin"), {}).get("rating", 0)
    preferred = {"left": 0, "right": 1}.get(selected)
    return {"preferred": preferred, "margin": margin if preferred is not None else 0, "both_bad": "both bad" in chosen}
