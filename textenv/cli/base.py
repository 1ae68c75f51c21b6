"""What the commands' configurations have in common: threads, a run's folder, rated texts.

Light: a command that needs no model imports nothing heavy from here.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge

from textenv.errors import ConfigError
from textenv.settings import FolderName, NonNegativeInt, Settings, refuse_unused, renamed, with_defaults

if TYPE_CHECKING:
    from rich.console import Console

    from textenv.runs import Run

RunName = Annotated[FolderName, "`runs_dir` says where it stands"]


def check_db(db: str) -> None:
    """Make sure that a store of labels is there.

    Raises:
        ConfigError: If it is a file that does not exist.
    """
    if "://" not in db and not Path(db).is_file():
        raise ConfigError(f"`--db {db}`: there is no such file; `textenv serve` writes it")


@dataclass(frozen=True)
class ModelCommand(Settings):
    """A command that computes with models.

    Attributes:
        threads: CPU threads for torch; 0 leaves them as they are.
    """

    threads: NonNegativeInt = 0

    def prepare(self) -> None:
        """Set torch's threads, and keep transformers' own notices and progress bars out of ours."""
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        if self.threads:
            import torch

            torch.set_num_threads(self.threads)


@dataclass(frozen=True)
class RunCommand(ModelCommand):
    """A command that leaves a run's folder.

    Attributes:
        name: Folder of the run inside ``runs_dir``; a number is appended where it exists already.
        runs_dir: Where runs stand.
        seed: Of everything random; overrides the seeds of the stages.
    """

    _FREE: ClassVar = ("name", "runs_dir", "threads")
    """Where a run stands and how many threads it has decide no numbers, so they may change on the way."""

    name: RunName = "run"
    runs_dir: str = "runs"
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for each in fields(self):
            if hasattr(getattr(self, each.name), "training"):
                refuse_unused(self, "where `seed` is that of all stages: set `seed`", f"{each.name}.training.seed")

    def open(self, console: Console, *, resume: bool = False) -> Run:
        """A new run folder, or the newest of this name."""
        from textenv.runs import Run

        path = Run.newest(self.runs_dir, self.name) if resume else Run.claim(self.runs_dir, self.name)
        settings = {name: value for name, value in asdict(self).items() if name not in self._FREE}
        run = Run(path, config=settings, console=console, upgrade=self._upgraded, lock=True)
        run.say(f"{'resuming' if resume else 'run'} {path}")
        return run

    @classmethod
    def _upgraded(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings of a run that another version of textenv began, as this one would write them."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            complete = with_defaults(cls, renamed(cls, settings))
        return {name: value for name, value in complete.items() if name not in cls._FREE}


@dataclass(frozen=True)
class DataCommand(RunCommand):
    """A command that learns from rated texts.

    Attributes:
        data: ``human`` (ratings by people, fetched once) or ``builtin`` (generated, no network).
        builtin_texts: How many texts the generator makes.
    """

    data: Literal["human", "builtin"] = "human"
    builtin_texts: Annotated[int, Ge(400)] = 12_000

    other_data: ClassVar[tuple[str, ...]] = ()
    """Fields that name data in place of the rated texts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        named = " and ".join(f"`{name}`" for name in self.other_data if getattr(self, name))
        if named:
            refuse_unused(self, f"with {named}, which are the data; leave it out", "data", "builtin_texts")
        elif self.data != "builtin":
            refuse_unused(self, "on human ratings; set `data` to builtin, or leave it out", "builtin_texts")
