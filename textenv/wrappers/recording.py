"""Finished episodes as lines of JSON, written as they end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from textenv.episode import Episode
from textenv.errors import DataError


class EpisodeWriter:
    """Appends episodes to a JSONL file; each line is complete once written.

    Args:
        path: The file; its folder is made when the first episode is written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.seen = 0
        self._file: IO[str] | None = None

    def write(self, episode: Episode, *, slot: int, step_rewards: Sequence[float]) -> None:
        """Writes one episode.

        Args:
            episode: The episode.
            slot: The slot that it ran in.
            step_rewards: What was paid at each of its steps, by the environment inside the recording wrapper.
        """
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        record = episode.to_dict() | {"number": self.seen, "slot": slot, "step_rewards": list(step_rewards)}
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file; a later write opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "seen": self.seen, "_file": None}


def read_episodes(path: str | Path) -> Iterator[Episode]:
    """Episodes of a file that :class:`EpisodeWriter` wrote, one by one.

    Raises:
        DataError: If the file is missing or a line is damaged; with path and line.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file of episodes")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                for name in ("number", "slot", "step_rewards"):
                    record.pop(name, None)
                yield Episode.from_dict(record)
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise DataError(f"{path}:{number}: not an episode: {error}") from error
