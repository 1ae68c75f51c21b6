"""Finished episodes as lines of JSON, written as they end, or in a trajectory store, committed in batches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np

from textenv.episode import Episode
from textenv.errors import DataError

if TYPE_CHECKING:
    from textenv.trajectories import Trajectory, TrajectoryStore


class Recorder(Protocol):
    """Takes finished episodes."""

    seen: int

    def write(self, episode: Episode, *, slot: int, step_rewards: Sequence[float]) -> None:
        """Takes one episode."""
        ...

    def close(self) -> None:
        """Writes what is still pending; may be called again and again."""
        ...


def make_recorder(path: str | Path) -> Recorder:
    """A writer of JSON lines for a path that ends in ``.jsonl``, else of a trajectory store in that folder."""
    return EpisodeWriter(path) if Path(path).suffix == ".jsonl" else StoreEpisodeWriter(path)


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


class StoreEpisodeWriter:
    """Appends episodes to a :class:`textenv.trajectories.TrajectoryStore`, many at a time.

    What is pending is committed by :meth:`close`; a kill loses at most ``rows`` episodes.

    Args:
        path: The store's folder; made when the first episodes are committed.
        rows: Episodes per commit.
    """

    def __init__(self, path: str | Path, *, rows: int = 256) -> None:
        self.path = Path(path)
        self.rows = rows
        self.seen = 0
        self._pending: list[Trajectory] = []
        self._store: TrajectoryStore | None = None

    def write(self, episode: Episode, *, slot: int, step_rewards: Sequence[float]) -> None:
        """Takes one episode.

        Args:
            episode: The episode.
            slot: The slot that it ran in.
            step_rewards: What was paid at each of its steps; it goes to the tokens that the policy chose.
        """
        from textenv.trajectories import Trajectory

        chosen = np.ones(len(episode.response_ids), bool)
        if episode.action_mask is not None:
            chosen = np.array(episode.action_mask, bool)
        rewards = np.zeros(len(chosen), np.float32)
        rewards[chosen] = step_rewards
        trajectory = Trajectory.from_episode(episode, rewards=rewards)
        trajectory.extra |= {"number": self.seen, "slot": slot}
        self._pending.append(trajectory)
        if len(self._pending) >= self.rows:
            self.close()

    def close(self) -> None:
        """Commits what is pending; a later write goes on."""
        if not self._pending:
            return
        if self._store is None:
            from textenv.trajectories import TrajectoryStore

            self._store = TrajectoryStore(self.path)
        self._store.append(self._pending)
        self._pending = []

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "rows": self.rows, "seen": self.seen, "_pending": [], "_store": None}


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
