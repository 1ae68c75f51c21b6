"""Items to label out of prompts: answers of one or several policies, drawn and put side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from annotated_types import Interval

from textenv.errors import ConfigError
from textenv.feedback.store import Answer, CollectedPrompt, FeedbackStore, Item, ItemKind, Scale
from textenv.sampling.params import SamplingParams
from textenv.settings import PositiveInt, Settings, UnitFloat

_COUNTS = {"demonstrate": 0, "rate": 1, "compare": 2}


Prompt = tuple[str, Sequence[Mapping[str, str]]]
"""A text and, where it is a chat, its messages."""


class AnswerMaker(Protocol):
    """A policy that answers prompts and says where the answers come from; a ``PolicyHost`` is one."""

    def answers(
        self, prompts: Sequence[Prompt], params: SamplingParams, *, n: int = 1, seed: int = 0
    ) -> list[list[Answer]]:
        """``n`` answers to each prompt."""
        ...


@dataclass(frozen=True)
class MakeConfig(Settings):
    """What items are made.

    Attributes:
        kind: What is asked of people.
        answers: Answers to rank; the other kinds have as many as they need.
        raters: People that are to label an item.
        overlap: Share of the items that so many people label; the others are labelled by one.
        sampling: How answers are drawn.
        seed: Of the draws.
        instructions: Markdown shown with every item; empty takes those of its kind.
        chat: Treat plain prompts as a user's message, for policies with a chat template.
        source: Written into every item.

    Raises:
        ConfigError: If a value is out of its range.
    """

    kind: ItemKind = "rank"
    answers: Annotated[int, Interval(ge=2, le=26)] = 4
    raters: PositiveInt = 1
    overlap: UnitFloat = 1.0
    sampling: SamplingParams = field(default_factory=lambda: SamplingParams(temperature=0.8, max_new_tokens=64))
    seed: int = 0
    instructions: str = ""
    chat: bool = False
    source: str = "made"

    @property
    def count(self) -> int:
        """Answers in an item."""
        return _COUNTS.get(self.kind, self.answers)


def make_items(
    makers: Sequence[AnswerMaker], prompts: Sequence[CollectedPrompt], config: MakeConfig, scale: Scale | None = None
) -> list[Item]:
    """Items of prompts; a prompt whose answers are all the same text gives none.

    Args:
        makers: The policies; answers are dealt to them in turn, and the first ones get one more where it does not
            come out even. Prompt i is answered with the seed ``config.seed + i``.
        prompts: What is answered.
        config: What items are made.
        scale: For ratings; None takes the usual five steps.

    Raises:
        ConfigError: If answers are needed and there is no policy, or a prompt does not fit a policy's context.
    """
    if config.count and not makers:
        raise ConfigError(f"items to {config.kind} need a policy that answers")
    drawn: list[list[Answer]] = [[] for _ in prompts]
    for place, maker in enumerate(makers):
        share = config.count // len(makers) + (place < config.count % len(makers))
        if not share:
            continue
        asked = [(prompt.text, _chat(prompt, config)) for prompt in prompts]
        for found, fresh in zip(drawn, maker.answers(asked, config.sampling, n=share, seed=config.seed), strict=True):
            found += fresh
    items = []
    for prompt, found in zip(prompts, drawn, strict=True):
        distinct = tuple({answer.text: answer for answer in reversed(found)}.values())[::-1]
        enough = len(distinct) == config.count if config.kind != "rank" else len(distinct) >= 2
        if enough:
            items.append(_item(prompt, distinct, config, scale))
    return items


def make_from_store(
    store: FeedbackStore,
    makers: Sequence[AnswerMaker],
    config: MakeConfig,
    *,
    limit: int | None = None,
    batch: int = 32,
) -> int:
    """Make items of the collected prompts that none were made of yet; how many items are new.

    A batch of prompts is answered, its items are put into the queue and its prompts are marked, before the next one.

    Args:
        store: Holds the prompts, gets the items.
        makers: The policies.
        config: What items are made.
        limit: At most so many prompts.
        batch: Prompts that are answered together.

    Raises:
        ConfigError: As :func:`make_items` does.
    """
    prompts = store.prompts(unused_only=True, limit=limit)
    count = 0
    for begin in range(0, len(prompts), batch):
        part = prompts[begin : begin + batch]
        count += store.add_items(make_items(makers, part, config), overlap=config.overlap)
        store.mark_prompts_used(prompt.id for prompt in part)
    return count


def _chat(prompt: CollectedPrompt, config: MakeConfig) -> Sequence[Mapping[str, str]]:
    if prompt.messages or not config.chat:
        return prompt.messages
    return ({"role": "user", "content": prompt.text},)


def _item(prompt: CollectedPrompt, answers: tuple[Answer, ...], config: MakeConfig, scale: Scale | None) -> Item:
    return Item(
        kind=config.kind,
        prompt=prompt.text,
        answers=answers,
        instructions=config.instructions,
        scale=scale if config.kind == "rate" else None,
        wanted=config.raters,
        source=config.source,
        messages=tuple(_chat(prompt, config)),
    )
