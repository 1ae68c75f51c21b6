"""``textenv report``: the report of a run, written again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from textenv.errors import ConfigError
from textenv.settings import Settings


@dataclass(frozen=True)
class ReportOptions(Settings):
    """``textenv report``.

    Attributes:
        run: Folder of the run.
    """

    run: str


def report(options: ReportOptions, console: Console) -> None:
    """Write ``report.html`` of a run.

    Raises:
        ConfigError: If there is no such folder.
    """
    from textenv.report import write_report

    folder = Path(options.run)
    if not folder.is_dir():
        raise ConfigError(f"there is no run folder `{folder}`")
    console.print(str(write_report(folder)), soft_wrap=True, highlight=False, markup=False)
