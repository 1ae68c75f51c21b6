"""Labels of all kinds in a store, and what a store says, for the checks with labelling tools."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from textenv.answers import Chat
from textenv.feedback.store import Answer, FeedbackStore, Item, Label, Scale

RATERS = ("ann", "bob", "cy", "imported", "imported-2")
CHAT = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How warm is it?"},
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "weather", "arguments": '{"at": 1}'}}]},
    {"role": "tool", "content": "17"},
)


def random_store(path: str | Path, seed: int, count: int = 12) -> FeedbackStore:
    """A store with labels of random kinds by random raters; some items show conversations."""
    rng = random.Random(seed)
    store = FeedbackStore(path)
    for number in range(count):
        kind: Any = ("rate", "rank", "compare", "demonstrate")[number % 4]
        texts: list[str] = [
            f"answer {i} of “{number}”\nx" for i in range({"rate": 1, "compare": 2, "rank": 4}.get(kind, 0))
        ]
        if texts and number % 3 == 0:
            texts[0] = Chat([{"role": "assistant", "content": texts[0]}, {"role": "user", "content": "And then?"}])
        answers = tuple(Answer(text, "sft", f"v{i}", {"temperature": 0.7}, seed=i) for i, text in enumerate(texts))
        chat = Chat(CHAT[: 2 + 2 * (number % 2)]) if number % 5 < 2 else None
        scale = (Scale(), Scale(0, 4, {}), Scale(-2, 2, {}))[rng.randrange(3)] if kind == "rate" else None
        prompt = f"question {number}?" if chat is None else str(chat)
        messages = () if chat is None else chat.messages
        item = Item(kind, prompt, answers, scale=scale, source="prompts.jsonl", id=f"item-{number}", messages=messages)
        store.add_items([item])
        for rater in rng.sample(RATERS, rng.randrange(1, 4)):
            order = tuple(rng.sample(range(len(answers)), len(answers)))
            payload = random_payload(item, rng)
            store.save_label(Label(f"l-{number}-{rater}", item.id, rater, payload, rng.randrange(40) / 4, order))
    return store


def random_payload(item: Item, rng: random.Random) -> dict[str, Any]:
    """What somebody might say of an item."""
    if item.kind == "rate":
        scale = item.scale or Scale()
        return {"score": rng.randint(scale.low, scale.high)}
    if item.kind == "rank":
        ranks = [rng.choice((1, 2, 3, 4, None)) for _ in item.answers]
        return {"ranks": ranks if any(ranks) else [1, *ranks[1:]]}
    if item.kind == "compare":
        preferred = rng.choice((0, 1, None))
        margin = 0 if preferred is None else rng.randrange(4)
        return {"preferred": preferred, "margin": margin, "both_bad": rng.random() < 0.3}
    return {"text": f"written {rng.random()}"}


def content(store: FeedbackStore) -> list[tuple[Any, ...]]:
    """What the labels of a store say, without when they were saved."""
    return sorted(
        (
            label.id, label.rater, str(sorted(label.payload.items())), label.seconds, label.order, str(label.skipped),
            item.id, item.kind, str(item.prompt), str(item.messages), item.source, str(item.scale and item.scale.low),
            str([(repr(answer.text), answer.source, answer.seed) for answer in item.answers]),
        )
        for label, item in ((each.label, each.item) for each in store.labels(include_skipped=True))
    )  # fmt: skip
