"""What a run folder holds, read tolerantly.

A report is most wanted when something went wrong, so a missing file, a line that a kill cut in two, a NaN or a field of
an unexpected type becomes a sentence in `RunRecord.problems`, never an exception. Only a folder that is no run folder
at all is refused. Interpretation (which chart, which words) is left to the modules that draw.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textenv.errors import CheckpointError

STAGES = ("pretrain", "sft", "reward", "ppo")
"""The stages that write metrics, in the order in which they run."""

STAGE_TITLES = {"pretrain": "Pre-training", "sft": "Supervised fine-tuning", "reward": "Reward model", "ppo": "PPO"}
"""Stage name in the files to the words used for it on the page."""

MODELS = ("base", "sft", "ppo")
"""The three policies whose answers are compared, in the order in which they came to be."""

MODEL_TITLES = {"base": "Base", "sft": "SFT", "ppo": "PPO", "human": "Human"}
"""Policy name in the files to the words used for it on the page."""

FILES = {
    "config.yaml": "the resolved configuration",
    "metrics.jsonl": "the learning curves",
    "samples.jsonl": "the answers to the held-out prompts",
    "summary.json": "the final figures, written when the run ends",
}
"""The files that a report of rated texts reads, with what each of them gives."""

TASK_FILES = {
    "evaluation.json": "what every stage's answers to held-out prompts are like",
    "answers.jsonl": "those answers",
}
"""The files that a report of tasks also reads; it does without the samples."""


_ABSURD = 1e100
"""Numbers of this size and beyond count as infinite: differences of them overflow when axes are drawn."""


class Series(NamedTuple):
    """One metric of one stage: equal-length arrays ``(n,)`` with ascending steps and finite values."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class RunRecord:
    """Everything that a report knows about a run.

    Attributes:
        name: The run's name: the summary's, else the folder's.
        config_text: The text of ``config.yaml``, or None where there is none.
        summary: The object in ``summary.json``, empty where there is none.
        metrics: Stage to metric name to `Series`.
        samples: The objects in ``samples.jsonl``, in file order.
        problems: Sentences about what is missing or damaged.
        evaluation: The object in ``evaluation.json``, empty where there is none.
        answers: The objects in ``answers.jsonl``, in file order.
    """

    name: str
    config_text: str | None
    summary: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, Series]]
    samples: tuple[Mapping[str, Any], ...]
    problems: tuple[str, ...]
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    answers: tuple[Mapping[str, Any], ...] = ()

    def series(self, stage: str, name: str) -> Series | None:
        """The metric ``name`` of ``stage``, or None where the run has no finite value of it."""
        return self.metrics.get(stage, {}).get(name)

    @property
    def simulated(self) -> bool:
        """Whether the texts and ratings came from the built-in generator, so that no human stands behind them."""
        return self.summary.get("data") == "builtin"

    def stages(self) -> tuple[str, ...]:
        """The stages with at least one recorded value, in running order."""
        return tuple(stage for stage in STAGES if self.metrics.get(stage))


def read_run(run_dir: Path) -> RunRecord:
    """Read what there is of a run.

    Args:
        run_dir: The folder ``runs/<name>``.

    Returns:
        The record; absent or damaged parts are empty and named in its ``problems``.

    Raises:
        CheckpointError: If ``run_dir`` is no folder, or holds none of the files of a run.
    """
    if not run_dir.is_dir():
        raise CheckpointError(f"run folder {run_dir} does not exist; pass the folder that a run wrote (runs/<name>).")
    present = [name for name in (*FILES, *TASK_FILES) if (run_dir / name).is_file()]
    if not present:
        raise CheckpointError(f"{run_dir} holds none of {', '.join(FILES)}; pass the folder that a run wrote.")
    measured = "evaluation.json" in present
    expected = FILES if not measured else {name: FILES[name] for name in ("config.yaml", "summary.json")} | TASK_FILES
    problems = [f"{name} is missing ({what})." for name, what in expected.items() if name not in present]
    summary = _read_object(run_dir / "summary.json", problems) if "summary.json" in present else {}
    evaluation = _read_object(run_dir / "evaluation.json", problems) if measured else {}
    answers = _read_lines(run_dir / "answers.jsonl", problems) if "answers.jsonl" in present else []
    metrics = _read_lines(run_dir / "metrics.jsonl", problems) if "metrics.jsonl" in present else []
    samples = _read_lines(run_dir / "samples.jsonl", problems) if "samples.jsonl" in present else []
    config = run_dir / "config.yaml"
    return RunRecord(
        name=text(summary, "name") or run_dir.resolve().name,
        config_text=config.read_text(encoding="utf-8", errors="replace") if "config.yaml" in present else None,
        summary=summary,
        metrics=_collect(metrics),
        samples=tuple(samples),
        problems=tuple(problems),
        evaluation=evaluation,
        answers=tuple(answers),
    )


def _read_object(path: Path, problems: list[str]) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (json.JSONDecodeError, RecursionError) as error:
        problems.append(f"{path.name} is not JSON ({error}); its figures are left out.")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path.name} holds a {type(value).__name__} and not an object; its figures are left out.")
        return {}
    return value


def _read_lines(path: Path, problems: list[str]) -> list[Mapping[str, Any]]:
    objects: list[Mapping[str, Any]] = []
    bad: list[int] = []
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number_of_line, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (json.JSONDecodeError, RecursionError):
                value = None
            if isinstance(value, dict):
                objects.append(value)
            else:
                bad.append(number_of_line)
    if bad:
        count = "1 line is" if len(bad) == 1 else f"{len(bad)} lines are"
        problems.append(f"{path.name}: {count} no JSON object (first at line {bad[0]}) and left out.")
    return objects


def _collect(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Series]]:
    """Sort metric lines into series; of two values for one step (a resumed run) the later line counts."""
    values: dict[str, dict[str, dict[float, float]]] = {}
    for line in lines:
        stage, step = line.get("stage"), number(line, "step")
        if not isinstance(stage, str) or step is None:
            continue
        for name in line:
            value = number(line, name) if "/" in name else None
            if value is not None:
                values.setdefault(stage, {}).setdefault(name, {})[step] = value
    collected: dict[str, dict[str, Series]] = {}
    for stage, names in values.items():
        collected[stage] = {}
        for name, points in names.items():
            steps = np.array(sorted(points), dtype=np.float64)
            collected[stage][name] = Series(steps, np.array([points[step] for step in steps], dtype=np.float64))
    return collected


def lookup(mapping: Any, *keys: str) -> Any:
    """The value under nested ``keys``, or None as soon as a key is absent or its parent is no mapping."""
    for key in keys:
        if not isinstance(mapping, Mapping):
            return None
        mapping = mapping.get(key)
    return mapping


def number(mapping: Any, *keys: str) -> float | None:
    """The finite number under nested ``keys``, or None; a boolean is no number, nor is what no model could produce."""
    value = lookup(mapping, *keys)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if abs(value) < _ABSURD else None


def text(mapping: Any, *keys: str) -> str | None:
    """The string under nested ``keys``, or None."""
    value = lookup(mapping, *keys)
    return value if isinstance(value, str) else None


def interval(mapping: Any, *keys: str) -> tuple[float, float] | None:
    """The pair ``(low, high)`` of finite numbers under nested ``keys``, or None."""
    value = lookup(mapping, *keys)
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = number({"v": value[0]}, "v"), number({"v": value[1]}, "v")
    return None if low is None or high is None else (low, high)


def cumulative(series: Series) -> Series:
    """Turn a count per step into a running total; a series that is a running total already stays as it is.

    Metrics such as ``rollout/tokens`` may be logged either way. A total rises at every step and, at a roughly even
    pace, by at least half its first value each time; counts per step do not.
    """
    values = series.values
    rises = bool(np.all(np.diff(values) > 0))
    if rises and values[-1] - values[0] >= 0.5 * (len(values) - 1) * values[0]:
        return series
    return Series(series.steps, np.cumsum(values))


def against(series: Series, clock: Series | None) -> Series:
    """Replace the steps of ``series`` by what ``clock`` (episodes, tokens) showed at those steps, interpolated."""
    if clock is None:
        return series
    total = cumulative(clock)
    steps, ticks = total.steps, total.values
    if steps[0] > 0:  # before the first step nothing had been generated
        steps, ticks = np.concatenate([[0.0], steps]), np.concatenate([[0.0], ticks])
    return Series(np.interp(series.steps, steps, ticks), series.values)
