"""Metrics to Weights & Biases, MLflow, Trackio and whatever else accelerate's trackers know.

JSONL and TensorBoard need none of this: a :class:`textenv.runs.Run` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from textenv.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from agents.learning.learner import Learner


class Tracker(Protocol):
    """What takes figures; accelerate's trackers do."""

    def store_init_configuration(self, values: dict[str, Any], /) -> Any:
        """Take note of the settings."""
        ...

    def log(self, values: dict[str, Any], /, step: int | None = None) -> Any:
        """Take the figures of a step."""
        ...

    def finish(self) -> Any:
        """Write what is left."""
        ...


class Trackers:
    """A callback that passes every iteration's metrics on; the first of several processes does so.

    Args:
        trackers: Names that accelerate knows (``"wandb"``, ``"mlflow"``, ``"trackio"``, …) or trackers themselves.
        project: Name of the project or experiment.
        folder: For trackers that write files.
        options: Arguments of each named tracker, e.g. ``{"wandb": {"id": "run-1", "resume": "allow"}}`` for a run that
            may be resumed.

    Raises:
        ConfigError: If a name is unknown.
        MissingDependencyError: If accelerate or a tracker's package is not installed.
    """

    def __init__(
        self,
        trackers: Sequence[str | Tracker],
        *,
        project: str = "textenv",
        folder: str | Path = "runs",
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._wanted = list(trackers)
        self._project = project
        self._folder = str(folder)
        self._options = options or {}
        self._open: list[Tracker] | None = None
        for name in self._wanted:
            if isinstance(name, str):
                _tracker_class(name)

    def __call__(self, agent: Learner[Any], metrics: dict[str, float]) -> None:
        """Pass an iteration's metrics on; the trackers are started at the first."""
        if not agent.world.is_main:
            return
        if self._open is None:
            self._open = [self._start(tracker) for tracker in self._wanted]
            settings = {name: _plain(value) for name, value in asdict(agent.config).items()}
            for tracker in self._open:
                tracker.store_init_configuration({"stage": agent.stage, **settings})
        for tracker in self._open:
            tracker.log(dict(metrics), step=agent.iteration)

    def close(self) -> None:
        """Let the trackers write what is left; may be called twice."""
        for tracker in self._open or []:
            tracker.finish()
        self._open = None

    def _start(self, tracker: str | Tracker) -> Tracker:
        if not isinstance(tracker, str):
            return tracker
        kind, arguments = _tracker_class(tracker), dict(self._options.get(tracker, {}))
        made = (
            kind(self._project, self._folder, **arguments)
            if kind.requires_logging_directory
            else kind(self._project, **arguments)
        )
        made.start()
        return made


def _tracker_class(name: str) -> Any:
    try:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS
    except ImportError as error:
        raise MissingDependencyError('trackers need accelerate: pip install "textenv[scale]"') from error
    PartialState()  # accelerate's trackers ask it which process they are in
    kinds = {str(key): kind for key, kind in LOGGER_TYPE_TO_CLASS.items()}
    if name not in kinds:
        raise ConfigError(f"unknown tracker {name!r}; accelerate knows {', '.join(sorted(kinds))}")
    package = {"comet_ml": "comet_ml", "tensorboard": "torch.utils.tensorboard"}.get(name, name)
    if kinds[name].__module__ == "accelerate.tracking" and find_spec(package.partition(".")[0]) is None:
        raise MissingDependencyError(f"the tracker {name!r} needs its package: pip install {name}")
    return kinds[name]


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | bool | int | float) or value is None else str(value)
