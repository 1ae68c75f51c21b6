"""A run folder: ``runs/<name>/`` with the resolved configuration, metrics, TensorBoard events and stages.

Layout::

    config.yaml      every field of the configuration, as it was resolved
    metrics.jsonl    one object a line: {"stage", "step", "seconds", "<group/name>": number, ...}
    tensorboard/     the same figures as TensorBoard events, a folder per stage
    <stage>/         what the stage made (a model folder that plain transformers loads) and checkpoints/ while it runs
    <stage>/done.json  written last: the stage is complete; holds its summary
    .lock            held by the process that works here, and free as soon as that is gone
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from textenv.checkpoints import Checkpoints, write_atomic
from textenv.errors import CheckpointError, ConfigError, RunCheckError
from textenv.progress import StageProgress

if TYPE_CHECKING:
    from rich.console import Console

_EXTENSIBLE = {"pretrain": "training.steps", "sft": "training.steps", "ppo": "total_episodes"}
"""What of a stage may grow when a run is resumed, as long as no later stage has begun."""
_ORDER = ("pretrain", "sft", "reward", "ppo")
_locks: dict[Path, IO[bytes]] = {}  # folders that this process works in
_made: set[Path] = set()  # folders that this process made for a run


class Run:
    """One run's folder, its logs and its stages.

    Args:
        path: The run's folder; made where it is missing.
        config: Resolved configuration, JSON-able; written as ``config.yaml``. On a folder that holds one already, the
            two must agree; but the last stage's ``training.steps`` or ``total_episodes`` may grow, and it then goes on.
        console: Where progress is drawn; None draws nothing.
        tensorboard: Also write TensorBoard events.
        upgrade: Makes of the configuration that stands in the folder what this version would have written.
        lock: Keep other processes from working here from now on, see :meth:`lock`; training does so at its start.

    Raises:
        ConfigError: If the folder was made with another configuration; the message names the fields.
        CheckpointError: If `lock` is set and another process works here.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        config: Mapping[str, Any] | None = None,
        console: Console | None = None,
        tensorboard: bool = True,
        upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict,
        lock: bool = False,
    ) -> None:
        self.path = Path(path)
        self.console = console
        self.path.mkdir(parents=True, exist_ok=True)
        if lock:
            self.lock()
        if config is not None:
            self._settle_config(config, upgrade)
        self._tensorboard = tensorboard
        self._writers: dict[str, Any] = {}
        self._metrics = self.path / "metrics.jsonl"
        self._began: dict[str, float] = {}

    @classmethod
    def claim(cls, parent: str | Path, name: str) -> Path:
        """``parent/name``, or the first of ``name-2``, ``name-3``, … that nobody uses; it is this process's now.

        A folder is free if nothing has been measured there yet and no process works in it: of two that start together
        each gets one of its own.
        """
        number = 1
        while True:
            folder = Path(parent) / (name if number == 1 else f"{name}-{number}")
            if not folder.exists():
                _made.add(folder.resolve())
            folder.mkdir(parents=True, exist_ok=True)
            if folder.resolve() not in _locks and _lock(folder):
                if not _has_results(folder):
                    return folder
                _unlock(folder)
            number += 1

    @staticmethod
    def newest(parent: str | Path, name: str) -> Path:
        """The run that ``--resume`` goes on with: the highest number of this name.

        Raises:
            CheckpointError: If there is none.
        """
        parent = Path(parent)
        pattern = re.compile(re.escape(name) + r"(?:-(\d+))?")
        found = [
            (int(m[1] or 1), p) for p in parent.glob(f"{name}*") if (m := pattern.fullmatch(p.name)) and p.is_dir()
        ]
        if not found:
            raise CheckpointError(f"nothing to resume: no `{parent / name}`; leave out --resume to start it")
        return max(found)[1]

    def lock(self) -> None:
        """Keep other processes from working here, until :meth:`close` or this process ends, however it ends.

        Raises:
            CheckpointError: If another one does already.
        """
        if not _lock(self.path):
            raise CheckpointError(
                f"another process works in `{self.path}`; wait until it is done or stop it, or choose another --name"
            )

    def discard(self) -> bool:
        """Remove the folder of a start that failed before anything was measured or saved; whether it was.

        A folder that stood there before stays: others may have put something into it.
        """
        made = self.path.resolve() in _made
        if not made or _has_results(self.path) or any(self.path.glob("*/checkpoints/*")):
            return False
        self.close()
        shutil.rmtree(self.path)
        return True

    def _settle_config(self, config: Mapping[str, Any], upgrade: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        import yaml

        file = self.path / "config.yaml"
        new = json.loads(json.dumps(config))
        if file.exists() and _has_results(self.path):
            old = json.loads(json.dumps(upgrade(yaml.safe_load(file.read_text(encoding="utf-8")))))
            different = sorted(_differences(old, new))
            fixed = [field for field in different if not self._may_grow(old, new, field)]
            if fixed:
                raise ConfigError(
                    f"`{self.path}` was started with another configuration (different: {', '.join(fixed)}); resume it "
                    "with the same one, or choose another --name"
                )
            for field in different:
                self._reopen(field.split(".")[0], field)
        write_atomic(file, yaml.safe_dump(new, sort_keys=False, allow_unicode=True))

    def _may_grow(self, old: Any, new: Any, field: str) -> bool:
        """Whether a field is what may grow of a stage, has grown, and no later stage has begun."""
        stage, _, name = field.partition(".")
        if _EXTENSIBLE.get(stage) != name:
            return False
        if any((self.path / later).exists() for later in _ORDER[_ORDER.index(stage) + 1 :]):
            return False
        for part in field.split("."):
            old, new = ((value or {}).get(part) for value in (old, new))
        return old is not None and new is not None and new > old

    def _reopen(self, stage: str, why: str) -> None:
        """Let a finished stage go on from its last checkpoint; what was measured of it afterwards is done again."""
        if self.finished(stage) is None:
            return
        if self.checkpoints(stage).latest() is None:
            raise ConfigError(
                f"`{why}` has grown, but the finished stage `{self.path / stage}` has no checkpoint to go on from; "
                "choose another --name"
            )
        for name in (f"{stage}/done.json", "evaluate/done.json", "summary.json"):
            (self.path / name).unlink(missing_ok=True)

    def stage(self, name: str) -> Path:
        """Folder of a stage, made where it is missing."""
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        return folder

    def checkpoints(self, stage: str, *, keep: int = 2) -> Checkpoints:
        """The numbered checkpoints of a stage."""
        return Checkpoints(self.stage(stage) / "checkpoints", keep=keep)

    def finish(self, stage: str, summary: Mapping[str, Any]) -> None:
        """Mark a stage complete and keep its summary; its checkpoints are no longer needed and go.

        Of a stage that can be extended the last one stays.
        """
        self.write_json(f"{stage}/done.json", summary)
        self.tidy(stage)

    def tidy(self, stage: str) -> None:
        """Remove the checkpoints that a complete stage no longer needs."""
        self.checkpoints(stage).clear(keep=1 if stage in _EXTENSIBLE else 0)

    def finished(self, stage: str) -> dict[str, Any] | None:
        """The summary of a completed stage, or None.

        Raises:
            CheckpointError: If the summary cannot be read.
        """
        file = self.path / stage / "done.json"
        if not file.exists():
            return None
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"`{file}` is damaged ({error}); delete it to run the stage again") from error

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file of the run in one step."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(value, indent=2, ensure_ascii=False))
        return file

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line of figures to ``metrics.jsonl`` and to TensorBoard.

        Args:
            stage: ``pretrain``, ``sft``, ``reward``, ``ppo``, …
            step: Optimisation step or iteration, not smaller than the last one of this stage.
            metrics: Names as ``group/name``.

        Raises:
            RunCheckError: If a figure is NaN or infinite; the message names stage, step and figure.
        """
        broken = [name for name, value in metrics.items() if not math.isfinite(value)]
        if broken:
            raise RunCheckError(
                f"{stage}, step {step}: {', '.join(broken)} is not finite; the last good checkpoint is "
                f"`{self.checkpoints(stage).latest() or 'none'}`"
            )
        seconds = time.monotonic() - self._began.setdefault(stage, time.monotonic())
        record = {"stage": stage, "step": int(step), "seconds": round(seconds, 3)}
        record |= {name: float(f"{float(value):.9g}") for name, value in metrics.items()}
        with open(self._metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self._tensorboard:
            for name, value in metrics.items():
                self._events(stage, step).add_scalar(name, value, step)

    def rewind(self, stage: str, step: int) -> None:
        """Forget figures of a stage that were logged after ``step``: a resumed stage logs them again.

        A line that a kill cut off is dropped too.
        """
        records = self._records()
        kept = [record for record in records if record["stage"] != stage or record["step"] <= step]
        if self._metrics.exists():
            write_atomic(self._metrics, "".join(json.dumps(record) + "\n" for record in kept))
        self._began[stage] = time.monotonic() - self.seconds(stage)

    def seconds(self, stage: str, step: float = math.inf) -> float:
        """Seconds that a stage had run for, in all processes, when it logged its last figures up to a step."""
        logged = [r["seconds"] for r in self._records() if r["stage"] == stage and r["step"] <= step]
        return max(logged, default=0.0)

    def _records(self) -> list[dict[str, Any]]:
        """All whole lines of the metrics."""
        if not self._metrics.exists():
            return []
        found = []
        for line in self._metrics.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:  # cut off by a kill
                continue
        return found

    def progress(self, stage: str, total: int, *, start: int = 0) -> StageProgress:
        """A progress line for a stage; use it as a context manager."""
        return StageProgress(stage, total, self.console, start=start)

    def say(self, text: str) -> None:
        """One line for the person at the terminal; nothing where there is no console."""
        if self.console is not None:
            self.console.print(text, highlight=False)

    def close(self) -> None:
        """Flush and close the TensorBoard events, and let others work here; may be called twice."""
        while self._writers:
            self._writers.popitem()[1].close()
        _unlock(self.path)

    def _events(self, stage: str, step: int) -> Any:
        if stage not in self._writers:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            from torch.utils.tensorboard import SummaryWriter

            # Events of later steps were written before an interruption and are hidden.
            self._writers[stage] = SummaryWriter(str(self.path / "tensorboard" / stage), purge_step=step)
        return self._writers[stage]


def _lock(folder: Path) -> bool:
    """Whether this process may work in a folder from now on. A lock of the kernel's, which a killed process loses."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    key = folder.resolve()
    if key in _locks:
        return True
    file = open(key / ".lock", "ab")  # open as long as it is held
    try:
        # Unlike flock's, these locks stay with the process: workers that it forks do not hold them on after its end.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return False
    _locks[key] = file
    return True


def _unlock(folder: Path) -> None:
    file = _locks.pop(folder.resolve(), None)
    if file is not None:
        file.close()


def _has_results(folder: Path) -> bool:
    """Whether a run left anything there that one would miss."""
    return any((folder / name).exists() for name in ("metrics.jsonl", "summary.json")) or any(
        folder.glob("*/done.json")
    )


def _differences(old: Any, new: Any, prefix: str = "") -> set[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = old.keys() | new.keys()
        return set().union(*(_differences(old.get(k), new.get(k), f"{prefix}{k}.") for k in keys))
    return set() if old == new else {prefix.rstrip(".")}
