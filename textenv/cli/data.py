"""Rated texts for the commands: the human ratings, or the built-in generator."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from textenv.datasets import Demonstration, RatedText, builtin_ratings, demonstrations, human_ratings
from textenv.errors import DataError
from textenv.tasks import Conversation, Task


@dataclass(frozen=True)
class RatedData:
    """All rated texts of a run.

    Attributes:
        kind: ``human`` or ``builtin``.
        texts: Every rated text, all domains and splits.
        seconds: What fetching or generating them took.
        tasks: Tasks to read or to learn from instead.
        conversations: Conversations to learn from instead.
    """

    kind: Literal["human", "builtin"]
    texts: Sequence[RatedText]
    seconds: float = 0.0
    tasks: Sequence[Task] = ()
    conversations: Sequence[Conversation] = ()

    @property
    def name(self) -> str:
        """What the data are, in a few words."""
        if not self.tasks and not self.conversations:
            return self.kind
        named = [task.name for task in self.tasks]
        named += sorted({conversation.task for conversation in self.conversations})
        return f"tasks: {', '.join(named)}"

    def by_domain(self, split: str) -> dict[str, list[str]]:
        """Texts of a split, per domain."""
        grouped: dict[str, list[str]] = {}
        for rated in self.texts:
            if rated.split == split:
                grouped.setdefault(rated.domain, []).append(rated.text)
        return grouped

    def rated(self, split: str, domains: Sequence[str]) -> list[RatedText]:
        """Rated texts of a split and some domains.

        Raises:
            DataError: If there are none.
        """
        found = [rated for rated in self.texts if rated.split == split and rated.domain in domains]
        if not found:
            raise DataError(f"no rated texts of {', '.join(domains)} in the {split} split")
        return found

    def demonstrations(self, split: str, domain: str | None = None) -> list[Demonstration]:
        """Demonstrations of a split, of one domain or of all.

        Raises:
            DataError: If there are none.
        """
        made = demonstrations(r for r in self.texts if r.split == split and domain in (None, r.domain))
        if not made:
            raise DataError(f"no demonstrations of {domain or 'any domain'} in the {split} split")
        return made


def load_data(kind: Literal["human", "builtin"], builtin_texts: int) -> RatedData:
    """Fetch (once) or generate the rated texts.

    Args:
        kind: Which.
        builtin_texts: How many to generate.

    Raises:
        DataError: If the human ratings can be neither found nor fetched; says what to do.
    """
    began = time.monotonic()
    texts = human_ratings() if kind == "human" else builtin_ratings(n=builtin_texts)
    return RatedData(kind, texts, time.monotonic() - began)
