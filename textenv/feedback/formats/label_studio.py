"""Label Studio's tasks with annotations: the JSON that it exports and imports.

Data of a task: ``prompt``, and ``response``, ``response_1`` and ``response_2``, or ``items`` (a list of ``id`` and
``body``). :data:`LABELING_CONFIG` holds the project's labelling interface for each kind; results are of Label Studio's
types ``rating``, ``pairwise``, ``ranker`` and ``textarea``. Ties are ``choices`` beside the ``pairwise`` tag, since
that tag has none. Annotators are numbers there, and Label Studio makes its own of them on import; a result's id stays,
and the task's ``meta`` says which label of whom it is.

Read are besides: other names of fields and controls, ``choices`` that name the preferred side, rankers with one bucket.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from textenv.answers import Chat, as_text
from textenv.errors import DataError
from textenv.feedback.formats.reading import Reading, Texts, answer_of, preference, texts_of, with_messages
from textenv.feedback.formats.rows import answer_provenance, iso_time
from textenv.feedback.store import Entry, Item, LabelledItem, Said, Scale
from textenv.feedback.store.intake import located

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
"""The labelling interface (Settings, Labeling Interface, Code) of a project for each kind of item; ``maxRating`` is the
number of steps of the scale."""

_USUAL = {"rate": "rating", "compare": "preference", "rank": "ranking", "demonstrate": "demonstration"}


def label_studio_tasks(labelled: Iterable[LabelledItem]) -> list[dict[str, Any]]:
    """One task per item with an annotation for everybody who labelled or skipped it."""
    tasks: dict[str, dict[str, Any]] = {}
    raters: dict[str, int] = {}
    for entry in labelled:
        label, item = entry.label, entry.item
        task = tasks.setdefault(item.id, _task(item, len(tasks) + 1))
        number = raters.setdefault(label.rater, len(raters) + 1)
        told = {"id": label.id, "rater": label.rater, "payload": dict(label.payload), "order": list(label.order)}
        told |= {"skipped": label.skipped, "extra": dict(label.extra)}
        task["meta"]["labels"].append(told)
        results = [] if label.skipped is not None else _results(item, label.payload)
        task["annotations"].append(
            {
                "completed_by": number,
                "was_cancelled": label.skipped is not None,
                "ground_truth": False,
                "lead_time": label.seconds,
                "created_at": label.extra.get("time") or iso_time(label.time),
                "result": [
                    result | {"id": label.id if n == 0 else f"{label.id}-{n}"} for n, result in enumerate(results)
                ],
            }
        )
    return list(tasks.values())


def _task(item: Item, number: int) -> dict[str, Any]:
    texts = [str(answer.text) for answer in item.answers]
    data: dict[str, Any] = {"prompt": str(item.prompt)}
    if item.kind == "rate":
        data["response"] = texts[0]
    elif item.kind == "compare":
        data |= {"response_1": texts[0], "response_2": texts[1]}
    elif item.kind == "rank":
        data["items"] = [{"id": str(i), "title": f"Response {i}", "body": t} for i, t in enumerate(texts, start=1)]
    meta: dict[str, Any] = {"item": item.id, "kind": item.kind, "source": item.source, "labels": []}
    meta["answers"] = [answer_provenance(answer) for answer in item.answers]
    if item.messages:
        meta["messages"] = [dict(message) for message in item.messages]
    if item.kind == "rate":
        scale = item.scale or Scale()
        meta |= {"scale": [scale.low, scale.high], "one_star": scale.low}
    return {"id": number, "data": data, "meta": meta, "annotations": [], "predictions": []}


def _results(item: Item, payload: Mapping[str, Any]) -> list[dict[str, Any]]:
    def result(name: str, to: str, kind: str, value: Any) -> dict[str, Any]:
        return {"from_name": name, "to_name": to, "type": kind, "value": value}

    if item.kind == "rate":
        stars = payload["score"] - (item.scale or Scale()).low + 1  # the first star is the lowest step
        return [result("rating", "response", "rating", {"rating": stars})]
    if item.kind == "demonstrate":
        return [result("demonstration", "prompt", "textarea", {"text": [payload["text"]]})]
    if item.kind == "rank":
        ranked = sorted((rank, i) for i, rank in enumerate(payload["ranks"], start=1) if rank is not None)
        return [result("ranking", "responses", "ranker", {"ranker": {"ranking": [str(i) for _, i in ranked]}})]
    if payload["preferred"] is None:
        value = "both bad" if payload.get("both_bad") else "tie"
        return [result("tie", "prompt", "choices", {"choices": [value]})]
    side = "left" if payload["preferred"] == 0 else "right"
    # The tag is for both texts, a result names one of them: the SDK's validation takes nothing else.
    found = [result("preference", "response_1", "pairwise", {"selected": side})]
    if payload.get("margin"):
        found.append(result("margin", "prompt", "rating", {"rating": payload["margin"]}))
    if payload.get("both_bad"):
        found.append(result("tie", "prompt", "choices", {"choices": ["both bad"]}))
    return found


def parse_label_studio(tasks: Sequence[Any], name: str, how: Reading) -> Iterator[Entry]:
    """Items and what was said of them; a task without annotations is an item to label.

    Args:
        tasks: As the JSON file holds them.
        name: File, for messages.
        how: What to assume, and what to note.

    Raises:
        DataError: With file, task, field and what was expected.
    """
    for number, task in enumerate(tasks):
        where = f"{name}: task {number}"
        if not isinstance(task, Mapping) or not isinstance(task.get("data"), Mapping):
            raise DataError(f"{where}: expected an object with `data`, as Label Studio's JSON export has it")
        with located(where):
            entry = _parse(task, where, how)
        yield entry


def _parse(task: Mapping[str, Any], where: str, how: Reading) -> Entry:
    meta = task.get("meta") or {}
    ours = isinstance(meta.get("kind"), str) and isinstance(meta.get("labels"), list)
    annotations = task.get("annotations") or []
    texts, ids = _texts(task["data"])
    default = "rank" if ids else {0: "demonstrate", 1: "rate", 2: "compare"}.get(len(texts.answers), "rank")
    kind: Any = meta["kind"] if ours else default
    known = [*(meta.get("answers") or ())] if ours else []
    known += [{}] * (len(texts.answers) - len(known))
    ends = meta.get("scale") if ours else None
    scale = Scale(ends[0], ends[1], {}) if ends else None
    control = _control(kind, annotations, texts, how)
    if kind == "rate" and scale is None and control is not None:
        scale = how.assume_scale()
    prompt = with_messages(texts.prompt, meta.get("messages") if ours else None)
    item = Item(
        kind,
        str(prompt),
        tuple(answer_of(text, extra) for text, extra in zip(texts.answers, known, strict=True)),
        scale=scale,
        id=str(meta.get("item") or "") if ours else "",
        source=str(meta.get("source") or "") if ours else "",
        messages=prompt.messages if isinstance(prompt, Chat) else (),
    )
    names = ids or texts.names
    told = [dict(entry) for entry in meta["labels"]] if ours else []
    raters = {str(number): name for number, name in (meta.get("raters") or {}).items()} if ours else {}
    said: dict[Any, Said] = {}  # by rater; an unnamed one stands alone
    for place, annotation in enumerate(annotations):
        result = [r for r in annotation.get("result") or () if isinstance(r.get("value"), Mapping)]
        cancelled = bool(annotation.get("was_cancelled"))
        more = _told(told, raters, annotation, result, place)
        payload = None if cancelled else _payload(item, result, control, names, meta, how)
        if payload is None and not cancelled:
            continue
        rater = more.get("rater") or _rater(annotation.get("completed_by"))
        extra = {**(more.get("extra") or {}), "time": annotation.get("created_at")}
        skipped = None
        if cancelled:
            skipped = more.get("skipped") or "skipped in Label Studio"
            how.remarks["cancelled annotations, kept as skips"] += 1
        elif more.get("payload") and _values(_results(item, more["payload"])) == _values(result):
            payload = more["payload"]
        order, seconds = tuple(more.get("order") or ()), float(annotation.get("lead_time") or 0.0)
        new = Said(payload or {}, rater, more.get("id") or "", seconds, order, skipped, extra)
        key = rater if rater is not None else object()
        if key in said:
            how.remarks["earlier annotations of the same task by the same person, left out"] += 1
            if new.skipped is not None and said[key].skipped is None:
                continue
        said[key] = new
    return Entry(where, item, tuple(said.values()))


def _texts(data: Mapping[str, Any]) -> tuple[Texts, tuple[str, ...]]:
    """Prompt and answers, and the ids of the answers where they stand in a list."""
    lists = [(name, v) for name, v in data.items() if isinstance(v, list) and v and all(_is_entry(e) for e in v)]
    texts = texts_of({name: value for name, value in data.items() if name not in dict(lists)}, "data")
    if not lists or texts.answers:
        return texts, ()
    entries = lists[0][1]
    bodies = tuple(as_text(_body(entry), f"field `data.{lists[0][0]}`") for entry in entries)
    return texts._replace(answers=bodies), tuple(str(entry["id"]) for entry in entries)


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, Mapping) and "id" in entry and "role" not in entry


def _body(entry: Mapping[str, Any]) -> Any:
    return next((entry[name] for name in ("body", "text", "html", "title") if entry.get(name)), "")


def _told(
    told: list[dict[str, Any]],
    raters: Mapping[str, str],
    annotation: Mapping[str, Any],
    result: Sequence[Mapping[str, Any]],
    place: int,
) -> dict[str, Any]:
    """What an export has noted of this annotation; each note belongs to one."""
    cancelled = bool(annotation.get("was_cancelled"))
    found = next((entry for entry in told if result and entry.get("id") == result[0].get("id")), None)
    if found is None and cancelled:
        found = next((entry for entry in told if entry.get("skipped") is not None), None)
    if found is None and raters and place < len(told):  # an export of textenv 1: results had no ids
        found = told[place]
    if found is None:
        return {}
    if raters:
        return {"rater": raters.get(str(annotation.get("completed_by")))} | found
    told.remove(found)
    return found


def _rater(completed_by: Any) -> str | None:
    if isinstance(completed_by, Mapping):  # the export with users written out
        name = completed_by.get("email") or completed_by.get("id")
        return None if name is None else str(name) if isinstance(name, str) else f"label-studio-{name}"
    return None if completed_by is None else f"label-studio-{completed_by}"


def _values(results: Sequence[Mapping[str, Any]]) -> list[tuple[Any, Any]]:
    return [(result.get("from_name"), result.get("value")) for result in results]


def _control(kind: str, annotations: Sequence[Mapping[str, Any]], texts: Texts, how: Reading) -> str | None:
    """Name of the control that answers what the task asks; the others are noted."""
    fitting: dict[str, None] = {}
    others: dict[str, str] = {}
    for result in (r for annotation in annotations for r in annotation.get("result") or () if r.get("value")):
        name, type_ = str(result.get("from_name")), str(result.get("type"))
        types = {"rate": ("rating", "number"), "rank": ("ranker",), "demonstrate": ("textarea",)}
        fits = type_ in types.get(kind, ("pairwise",)) or (kind == "compare" and _side(result, texts.names) in (0, 1))
        if fits and not (kind == "compare" and type_ == "choices" and name == "tie"):
            fitting[name] = None
        else:
            others[name] = type_
    if kind == "compare" and not fitting:  # nobody preferred a side
        fitting = {name: None for name, type_ in others.items() if type_ == "choices"}
    chosen = how.choose(list(fitting), _USUAL[kind], "controls")
    beside = ("tie", "margin") if kind == "compare" else ()
    for name in {**fitting, **others}:
        if name != chosen and name not in beside:
            how.remarks[f"control `{name}`: not read"] += 1
    return chosen


def _side(result: Mapping[str, Any], names: Sequence[str]) -> int | str | None:
    """0 or 1 for a choice that names a side, ``tie`` or ``both bad``; None for any other."""
    value = result["value"]
    said = value.get("choices") if result.get("type") == "choices" else [value.get("selected")]
    if not isinstance(said, list) or len(said) != 1 or len(names) != 2:
        return None
    try:
        found = preference(said[0], names)
    except DataError:
        return None
    return found["preferred"] if found["preferred"] is not None else "both bad" if found["both_bad"] else "tie"


def _payload(
    item: Item,
    results: Sequence[Mapping[str, Any]],
    control: str | None,
    names: Sequence[str],
    meta: Mapping[str, Any],
    how: Reading,
) -> dict[str, Any] | None:
    """What an annotation says of the item; None, with a note, where it says nothing."""
    by_name = {result.get("from_name"): result for result in results}
    main = by_name.get(control)
    value = main["value"] if main is not None else {}
    if item.kind == "compare":
        return _preference(by_name, main, names, how)
    if item.kind == "rate" and (value.get("rating") or "number" in value):
        score: Any = value.get("rating", value.get("number"))
        return {"score": score - 1 + meta["one_star"] if "one_star" in meta else score}
    if item.kind == "demonstrate" and value.get("text"):
        text = value["text"]
        return {"text": text if isinstance(text, str) else "\n".join(text)}
    ranker = value.get("ranker")
    # `_` holds what nobody has moved.
    if item.kind == "rank" and ranker and (isinstance(ranker, list) or any(v for k, v in ranker.items() if k != "_")):
        return {"ranks": _ranks(ranker, control, names)}
    how.remarks["annotations without an answer, left out"] += 1
    return None


def _preference(
    by_name: Mapping[Any, Mapping[str, Any]], main: Mapping[str, Any] | None, names: Sequence[str], how: Reading
) -> dict[str, Any] | None:
    side = None if main is None else _side(main, names)
    if main is not None and side is None and main.get("type") == "pairwise" and main["value"].get("selected") != "none":
        preference(main["value"].get("selected"), names)  # says what is wrong
    ties = [tie for result in by_name.values() if result is not main and result.get("type") == "choices"
            and (tie := _side(result, names)) in ("tie", "both bad")]  # fmt: skip
    if side in (0, 1) and "tie" in ties:
        how.remarks["annotations that say both a side and a tie, left out"] += 1
        return None
    if side is None and not ties:
        how.remarks["annotations without an answer, left out"] += 1
        return None
    preferred = side if side in (0, 1) else None
    stars = by_name.get("margin", {}).get("value", {}).get("rating", 0)
    both_bad = "both bad" in (side, *ties)
    return {"preferred": preferred, "margin": stars if preferred is not None else 0, "both_bad": both_bad}


def _ranks(ranker: Any, control: str | None, names: Sequence[str]) -> list[int | None]:
    """Ranks from the ids in their order: a list, or the only bucket, which has the tag's name or holds all of them."""
    buckets = {control: ranker} if isinstance(ranker, list) else {name: ids for name, ids in ranker.items() if ids}
    name, listed = next(iter(buckets.items()))
    if len(buckets) > 1 or (name != control and len(listed) < len(names)):
        raise DataError(
            f"`ranker` has the buckets {list(buckets)}, whose worth the file does not tell; an ordered list of all can "
            "be read"
        )
    ranks: list[int | None] = [None] * len(names)
    for rank, item in enumerate(listed, start=1):
        if str(item) not in names:
            raise DataError(f"`ranker` names {item!r}, expected ids of the task's list: {list(names)}")
        ranks[names.index(str(item))] = rank
    return ranks
