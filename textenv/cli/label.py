"""``textenv label``: rate, compare, rank and write answers in a terminal, for people on ssh."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from textenv.cli.base import check_db
from textenv.errors import ConfigError, MissingDependencyError
from textenv.settings import PositiveFloat, Settings, UnitFloat, refuse_unused


@dataclass(frozen=True)
class LabelConfig(Settings):
    """What ``textenv label`` does.

    Attributes:
        rater: Who labels; needed with ``db``.
        db: The store that ``textenv serve`` writes, a file or an SQLAlchemy URL.
        url: A rater's link to a running server instead, as ``textenv serve --raters NAME`` shows it.
        kinds: Only these, separated by commas: demonstrate, rate, rank, compare; empty takes all.
        lease_seconds: How long an item stays with the rater (with ``db``).
        gold_share: Share of gold questions among the items (with ``db``).
    """

    rater: str = ""
    db: str = "feedback.db"
    url: str = ""
    kinds: str = ""
    lease_seconds: PositiveFloat = 900.0
    gold_share: UnitFloat = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.url:
            why = "with `url`: the server behind the link decides it; leave it out"
            refuse_unused(self, why, "rater", "db", "lease_seconds", "gold_share")


def label(config: LabelConfig, console: Console) -> None:
    """Label until the person quits, and say how many labels and skips were saved.

    Raises:
        ConfigError: If there is no terminal, no rater, no store, or the link is refused.
        MissingDependencyError: If the extra is not installed.
        SourceError: If the server cannot be reached.
    """
    try:
        from textenv.feedback.store import KINDS, FeedbackStore
        from textenv.feedback.terminal import ServerSource, Session, StoreSource
        from textenv.feedback.terminal.tty import TtyTerminal
    except ImportError as error:
        raise MissingDependencyError('`textenv label` needs the extra: pip install "textenv[serve]"') from error

    kinds = tuple(each.strip() for each in config.kinds.split(",") if each.strip()) or KINDS
    if set(kinds) - set(KINDS):
        raise ConfigError(f"`--kinds` may be {', '.join(KINDS)}, separated by commas; got {config.kinds!r}")
    if config.url:
        with TtyTerminal() as terminal:
            source = ServerSource(config.url)
            saved = Session(source, terminal, kinds=kinds).run()
    else:
        if not config.rater:
            raise ConfigError("say who labels: `--rater NAME`, or `--url LINK` for a running server")
        check_db(config.db)
        with (
            FeedbackStore(config.db, lease_seconds=config.lease_seconds, gold_share=config.gold_share) as store,
            TtyTerminal() as terminal,
        ):
            source = StoreSource(store, config.rater)
            saved = Session(source, terminal, kinds=kinds).run()
    console.print(f"{saved} saved, thank you" if saved else "nothing saved", highlight=False)
