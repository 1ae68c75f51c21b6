"""What the store holds: answers, items to label, labels, prompts, raters, rounds and policy versions, as plain records.

Each checks itself: an unusable field is a `DataError` that names it. Answers are numbered as they stand in their item,
whatever order a rater saw them in; a label keeps that order beside it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from textenv.answers import Chat
from textenv.errors import DataError

ItemKind = Literal["demonstrate", "rate", "rank", "compare"]
KINDS: tuple[ItemKind, ...] = get_args(ItemKind)
"""Write an answer; rate one answer; order K answers; choose between two."""

_ANSWERS = {"demonstrate": (0, 0), "rate": (1, 1), "rank": (2, 26), "compare": (2, 2)}
_MAX_TEXT = 100_000


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and where it comes from.

    Attributes:
        text: The answer; a :class:`textenv.answers.Chat` where it has several turns or tool calls.
        policy: Name of the policy, or of the person or file.
        version: The policy's version.
        sampling: Settings that it was drawn with, as JSON holds them.
        seed: Of the draw; None where there was none.
    """

    text: str
    policy: str = ""
    version: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None

    @property
    def source(self) -> str:
        """``name@version``, or the name alone."""
        return f"{self.policy}@{self.version}" if self.version else self.policy


@dataclass(frozen=True, slots=True)
class Scale:
    """A Likert scale.

    Attributes:
        low: Lowest category.
        high: Highest category.
        anchors: What a category means, by its number; categories without one stand between their neighbours.
    """

    low: int = 1
    high: int = 5
    anchors: Mapping[int, str] = field(
        default_factory=lambda: {1: "very bad", 2: "bad", 3: "neither", 4: "good", 5: "very good"}
    )

    def __post_init__(self) -> None:
        if not self.low < self.high <= self.low + 100:
            raise DataError(f"`scale` needs low < high ≤ low + 100, got {self.low} and {self.high}")
        outside = [number for number in self.anchors if not self.low <= number <= self.high]
        if outside:
            raise DataError(f"`scale.anchors` names {outside}, outside {self.low}…{self.high}")


@dataclass(frozen=True, slots=True)
class Item:
    """Something to label; it never changes once it is in the store.

    Attributes:
        kind: What is asked.
        prompt: The prompt as the raters read it.
        answers: 0 to write one, 1 to rate, 2 to compare, 2…26 to rank.
        instructions: Markdown shown with it; empty: those of its kind.
        scale: For ratings.
        gold: The known right payload of a gold question; None for all others.
        wanted: How many people are to label it (skips do not count); gold questions go to everybody.
        id: Names it; made of the content where it is not given, so that adding twice adds once.
        source: Where it comes from.
        messages: The chat that the prompt shows, ``{"role", "content"}`` each; empty where it is plain text.
    """

    kind: ItemKind
    prompt: str
    answers: tuple[Answer, ...] = ()
    instructions: str = ""
    scale: Scale | None = None
    gold: Mapping[str, Any] | None = None
    wanted: int = 1
    id: str = ""
    source: str = ""
    messages: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"`kind` must be one of {', '.join(KINDS)}, got {self.kind!r}")
        least, most = _ANSWERS[self.kind]
        if not least <= len(self.answers) <= most:
            raise DataError(f"an item to {self.kind} has {least}…{most} answers, got {len(self.answers)}")
        if not self.prompt or len(self.prompt) > _MAX_TEXT:
            raise DataError(f"`prompt` must have 1…{_MAX_TEXT} characters, got {len(self.prompt)}")
        if self.wanted < 1:
            raise DataError(f"`wanted` must be ≥ 1, got {self.wanted}")
        if self.kind == "rate" and self.scale is None:
            object.__setattr__(self, "scale", Scale())
        if not self.id:
            object.__setattr__(self, "id", self._content_id())
        if self.gold is not None:
            check_payload(self, self.gold)

    @property
    def conversation(self) -> str:
        """The prompt; a :class:`textenv.answers.Chat` where it shows messages."""
        return Chat(self.messages, self.prompt) if self.messages else self.prompt

    def _content_id(self) -> str:
        content = [self.kind, self.prompt, [[a.text, a.source, a.seed] for a in self.answers], self.instructions]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:20]


@dataclass(frozen=True, slots=True)
class Label:
    """What one person said about one item, or that they skipped it.

    Attributes:
        id: Made by the client (e.g. a UUID): a label that is sent twice counts once.
        item: Id of the item.
        rater: Who.
        payload: Checked by :func:`check_payload`, which describes it; empty where the item was skipped.
        seconds: Spent on it.
        order: Answers in the order in which they were shown, first shown first; empty where nobody knows.
        skipped: The reason, where the item was skipped; else None.
        extra: What the file that it comes from says of it beyond that: weight, source, the name of the item, ….
        kind: Of the item; filled in by the store.
        number: Counts saved labels, in the order in which they were saved; filled in by the store.
        time: When it was saved, Unix seconds UTC; filled in by the store.
        undone: When it was taken back, likewise; None where it stands.
    """

    id: str
    item: str
    rater: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    order: tuple[int, ...] = ()
    skipped: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    kind: ItemKind | None = None
    number: int = 0
    time: float = 0.0
    undone: float | None = None

    def __post_init__(self) -> None:
        for name in ("id", "item", "rater"):
            value = getattr(self, name)
            if not (isinstance(value, str) and 0 < len(value) <= 200):
                raise DataError(f"`{name}` of a label must be a text of 1…200 characters, got {value!r}")
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise DataError(f"`seconds` must be finite and ≥ 0, got {self.seconds}")
        if self.skipped is not None and len(self.skipped) > 2000:
            raise DataError("the reason for a skip may have 2000 characters")


class Said(NamedTuple):
    """What a file says that somebody thought of an item; fields as those of :class:`Label`.

    Attributes:
        payload: Speaks of the item's answers by their numbers.
        rater: Who; None where the file does not say.
        id: Of the label; empty: made of the content, so that bringing it twice counts once.
        seconds: Spent on it.
        order: Of showing the answers; empty where the file does not say.
        skipped: The reason, where the item was skipped.
        extra: What else the file says.
    """

    payload: Mapping[str, Any]
    rater: str | None = None
    id: str = ""
    seconds: float = 0.0
    order: tuple[int, ...] = ()
    skipped: str | None = None
    extra: Mapping[str, Any] = {}


class Entry(NamedTuple):
    """An item of a file, and what was said of it there.

    Attributes:
        where: File and line, for messages.
        item: Its id may be that of another item: then it gets one of its own.
        said: Labels and skips; none makes it an item to label.
    """

    where: str
    item: Item
    said: tuple[Said, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelledItem:
    """A label with what it is about: prompt, answers, their policies and sampling settings stand in the item."""

    label: Label
    item: Item


@dataclass(frozen=True, slots=True)
class Assignment:
    """An item that a rater has leased.

    Attributes:
        item: The item.
        order: Answers in the order to show them; the same again when the page is loaded again.
        expires: When somebody else may get it, Unix seconds UTC.
    """

    item: Item
    order: tuple[int, ...]
    expires: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far labelling has come, for one rater or for all.

    Attributes:
        labelled: Labels that stand.
        skipped: Skips that stand.
        remaining: Items that still want labels (from this rater).
    """

    labelled: int
    skipped: int
    remaining: int


@dataclass(frozen=True, slots=True)
class Rater:
    """Somebody who labels.

    Attributes:
        name: Names them.
        active: Gets items and may save labels.
        created: When they were first seen, Unix seconds UTC.
        note: Anything worth knowing.
    """

    name: str
    active: bool = True
    created: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class CollectedPrompt:
    """A prompt that a caller of the API, or a file, left for labelling.

    Attributes:
        id: Made of its content.
        text: As raters read it, personal data masked.
        messages: The chat, masked likewise; empty for plain text.
        source: ``api:chat``, ``api:completions``, or a file's name.
        count: How often it came.
        created: When it first came, Unix seconds UTC.
        used: When items were made of it; None until then.
    """

    id: str
    text: str
    messages: tuple[Mapping[str, Any], ...] = ()
    source: str = ""
    count: int = 1
    created: float = 0.0
    used: float | None = None


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """A version of a policy.

    Attributes:
        name: The policy.
        version: Its version.
        path: Folder that it is loaded from.
        created: When it was registered, Unix seconds UTC.
        round: That made it; None for one that was there before.
        figures: What was measured on it.
    """

    name: str
    version: str
    path: str
    created: float = 0.0
    round: int | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Round:
    """One round of training on what was collected.

    Attributes:
        number: From 1.
        after: Labels with a larger number belong to it,
        upto: up to this one.
        started: When, Unix seconds UTC.
        finished: Likewise; None while it is under way.
        figures: What was measured.
    """

    number: int
    after: int
    upto: int
    started: float
    finished: float | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)


def check_rater(name: str) -> None:
    """Raise a `DataError` where a rater cannot be called so."""
    if not 0 < len(name) <= 200 or not name.isprintable():
        raise DataError(f"a rater's name must have 1…200 printable characters, got {name[:40]!r}")


def check_payload(item: Item, payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload of a label for an item, checked and without foreign fields.

    ========== =======================================================================================
    demonstrate ``{"text": str}``
    rate        ``{"score": int}`` on the item's scale
    rank        ``{"ranks": [int | None, …]}`` per answer, 1 is best, equal numbers tie, None is unranked
    compare     ``{"preferred": 0 | 1 | None, "margin": 0…3, "both_bad": bool}``; None is a tie
    ========== =======================================================================================

    Raises:
        DataError: If a field is missing or unusable; names it.
    """
    if not isinstance(payload, Mapping):
        raise DataError(f"the payload of a label must be an object, got {type(payload).__name__}")
    return _CHECKS[item.kind](item, payload)


def _demonstration(item: Item, payload: Mapping[str, Any]) -> dict[str, Any]:
    text = payload.get("text")
    if not isinstance(text, str) or not text.strip() or len(text) > _MAX_TEXT:
        raise DataError(f"`text` must be a text of 1…{_MAX_TEXT} characters for item {item.id}")
    return {"text": text}


def _score(item: Item, payload: Mapping[str, Any]) -> dict[str, Any]:
    score: Any = payload.get("score")
    scale = item.scale or Scale()
    if not _whole(score) or not scale.low <= score <= scale.high:
        raise DataError(
            f"`score` must be a whole number from {scale.low} to {scale.high}, got {score!r} for item {item.id}"
        )
    return {"score": score}


def _ranks(item: Item, payload: Mapping[str, Any]) -> dict[str, Any]:
    ranks: Any = payload.get("ranks")
    count = len(item.answers)
    fits = isinstance(ranks, list | tuple) and len(ranks) == count
    if not fits or not all(rank is None or (_whole(rank) and 1 <= rank <= count) for rank in ranks):
        raise DataError(f"`ranks` must hold {count} whole numbers from 1 to {count} (or null), got {ranks!r}")
    if all(rank is None for rank in ranks):
        raise DataError(f"`ranks` must rank at least one answer of item {item.id}; skip it instead")
    return {"ranks": list(ranks)}


def _preference(item: Item, payload: Mapping[str, Any]) -> dict[str, Any]:
    preferred, margin, both_bad = payload.get("preferred"), payload.get("margin", 0), payload.get("both_bad", False)
    if preferred is not None and not (_whole(preferred) and preferred in (0, 1)):
        raise DataError(f"`preferred` must be 0, 1 or null, got {preferred!r} for item {item.id}")
    if not _whole(margin) or not 0 <= margin <= 3:
        raise DataError(f"`margin` must be a whole number from 0 to 3, got {margin!r} for item {item.id}")
    if not isinstance(both_bad, bool):
        raise DataError(f"`both_bad` must be true or false, got {both_bad!r} for item {item.id}")
    return {"preferred": preferred, "margin": 0 if preferred is None else margin, "both_bad": both_bad}


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_CHECKS = {"demonstrate": _demonstration, "rate": _score, "rank": _ranks, "compare": _preference}
