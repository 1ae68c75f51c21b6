"""``textenv benchmark``: reward models × suites in, one page, one JSON and a table in the terminal out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from reward_models.benchmarking import DEFAULT_SUITES, BenchmarkReport, benchmark
from reward_models.benchmarking.baselines import BagOfWords, ConstantModel, LengthModel, RandomModel
from reward_models.loading import load_reward_model
from textenv.cli.base import ModelCommand
from textenv.cli.data import load_data
from textenv.errors import ConfigError
from textenv.settings import NonNegativeInt, PositiveInt

__all__ = ["DEFAULT_SUITES", "BenchmarkOptions", "run_benchmark", "write"]

BASELINES = ("lexicon", "length", "constant", "random", "tfidf")


@dataclass(frozen=True)
class BenchmarkOptions(ModelCommand):
    """``textenv benchmark``.

    Attributes:
        models: ``name=spec`` each: a folder, URL, lexicon, tfidf:movies, …, several with commas between for seeds of
            one kind; or a spec alone.
        suites: Names, or files of labels.
        out: Folder for ``report.html`` and ``report.json``.
        baselines: Also measure the lexicon, a bag of words, the length, a constant and random scores.
        data: Where ``tfidf`` learns: ``human`` ratings or ``builtin`` sentences.
        quick: Small suites and few resamples, for trying.
        probes: Also change texts: robustness, format, names, worthless responses.
        resamples: Bootstrap resamples behind every interval.
        seed: Of the bootstrap, of splits, and of what is simulated.
    """

    models: list[str] = field(default_factory=list, metadata={"nargs": "+"})
    suites: list[str] = field(default_factory=lambda: [*DEFAULT_SUITES], metadata={"nargs": "+"})
    out: str = "benchmark"
    baselines: bool = True
    data: Literal["human", "builtin"] = "human"
    quick: bool = False
    probes: bool = True
    resamples: PositiveInt = 1000
    seed: NonNegativeInt = 0


def run_benchmark(options: BenchmarkOptions, console: Console) -> BenchmarkReport:
    """Measure, write the two files and print the summary.

    Args:
        options: Models, suites (see `reward_models.benchmarking.suites.resolve.resolve_suites`) and the rest.
        console: For progress and summary.

    Raises:
        ConfigError: If a model or suite is unknown.
    """
    loaded = load_models(options.models, options)
    with Bar(console) as bar:
        report = benchmark(
            loaded,
            options.suites,
            quick=options.quick,
            probes=options.probes,
            resamples=options.resamples,
            seed=options.seed,
            progress=bar,
        )
    write(report, options.out, console)
    return report


def write(report: BenchmarkReport, out: str, console: Console) -> None:
    """Write ``report.json`` and ``report.html`` into a folder and print the summary."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    report.save_json(folder / "report.json")
    page = report.save(folder / "report.html")
    console.print(report.summary())
    console.print(f"report: {page}", highlight=False, soft_wrap=True)


def load_models(named: Sequence[str], options: BenchmarkOptions) -> dict[str, Any]:
    """Models by name, in order, the baselines last.

    Raises:
        ConfigError: If a name is given twice or a spec stands for nothing.
    """
    loaded: dict[str, Any] = {}
    for entry in named:
        name, found, spec = entry.partition("=")
        if not found:
            name, spec = Path(entry).name or entry, entry
        if name in loaded:
            raise ConfigError(f"two models are called {name!r}; give names: `--models first={spec} second=…`")
        members = [load_model(part, options) for part in spec.split(",") if part]
        if not members:
            raise ConfigError(f"model {name!r} has no spec; give a folder, lexicon, tfidf, … after the equals sign")
        loaded[name] = members[0] if len(members) == 1 else members
    if options.baselines:
        for name in BASELINES:
            if name not in loaded:
                loaded[name] = load_model(name, options)
    if not loaded:
        raise ConfigError("no models: give `--models name=FOLDER`, or leave `--baselines` on")
    return loaded


def load_model(spec: str, options: BenchmarkOptions) -> Any:
    """One model: ``constant``, ``length``, ``random[:seed]``, ``tfidf[:domain+domain]``, or of `load_reward_model`.

    Raises:
        ConfigError: If it stands for nothing.
    """
    kind, _, rest = spec.partition(":")
    if spec == "constant":
        return ConstantModel()
    if spec == "length":
        return LengthModel()
    if kind == "random" and (not rest or rest.isdigit()):
        return RandomModel(int(rest or 0))
    if kind == "tfidf":
        data = load_data(options.data, 12_000)
        return BagOfWords(data.texts, [domain for domain in rest.split("+") if domain])
    return load_reward_model(spec)


class Bar:
    """A bar that is redrawn in place; nothing where the console is no terminal.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description:<28}"), BarColumn(bar_width=28), TimeRemainingColumn(compact=True))
        self._progress = Progress(*columns, console=console, transient=True) if console.is_terminal else None
        self._task = self._progress.add_task("", total=1) if self._progress else None

    def __enter__(self) -> Bar:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say what is done and how far."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=what, completed=done, total=total)
