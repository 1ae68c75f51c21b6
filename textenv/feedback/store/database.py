"""The database behind the store: where it is, how it is opened, and its transactions.

SQLite in WAL mode serves one machine: readers never wait, writers take turns. An acknowledged write survives the death
of the process (``kill -9``) in any case; ``durability="power"`` makes every commit wait for the disk (a few
milliseconds each), so that it survives a power cut too.

SQLAlchemy's Core stands between, since the same statements then serve another database by its URL, for several
servers or machines; its object mapper is not used. PostgreSQL is what the tests run on beside SQLite.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from textenv.errors import ConfigError, DataError, MissingDependencyError

try:
    import sqlalchemy as sa
    from sqlalchemy import event, exc
except ImportError as error:
    raise MissingDependencyError('the feedback store needs SQLAlchemy: pip install "textenv[serve]"') from error

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry

_BUSY_SECONDS = 30.0
_WRITES = "textenv_writes"
_POSTGRESQL_TURN = sa.text("SELECT pg_advisory_xact_lock(1952807028, hashtext(current_schema()))")
_POSTGRESQL = ("postgres", "postgresql")


class Database:
    """A database with transactions that read and transactions that write.

    Args:
        where: A file for SQLite, or an SQLAlchemy URL such as ``postgresql+psycopg://user@host/name``.
        durability: ``process``: a commit survives the death of the process; ``power``: also that of the machine
            (SQLite only, others have settings of their own).

    Raises:
        ConfigError: If the URL is none, or the folder of the file does not exist.
        MissingDependencyError: If the URL's driver is not installed.
        DataError: If the database cannot be opened.
    """

    def __init__(self, where: str | Path, *, durability: Literal["process", "power"] = "process") -> None:
        if durability not in ("process", "power"):
            raise ConfigError(f"`durability` must be 'process' or 'power', got {durability!r}")
        self.url = _url(where)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.is_postgresql = self.url.get_backend_name() == "postgresql"
        self._turn = threading.Lock()
        # A connection to a server may have ended while nobody used it; a file's does not.
        options: dict[str, Any] = {} if self.is_sqlite else {"pool_pre_ping": True, "isolation_level": "READ COMMITTED"}
        try:
            self.engine = sa.create_engine(self.url, pool_size=8, max_overflow=32, **options)
        except exc.ArgumentError as error:
            raise ConfigError(f"cannot use the database `{self.url.render_as_string()}`: {error}") from error
        except ImportError as error:
            remedy = (
                'pip install "textenv[postgres]"' if self.is_postgresql else "install the driver that its URL names"
            )
            raise MissingDependencyError(
                f"cannot use the database `{self.url.render_as_string()}`: {error}; {remedy}"
            ) from error
        if self.is_sqlite:
            self._tune_sqlite(durability)
        try:
            with self.read():
                pass
        except exc.DBAPIError as error:
            self.close()
            raise DataError(f"cannot open the database `{self.url.render_as_string()}`: {error.orig}") from error

    def _tune_sqlite(self, durability: str) -> None:
        synchronous = "FULL" if durability == "power" else "NORMAL"

        @event.listens_for(self.engine, "connect")
        def opened(connection: Any, _: ConnectionPoolEntry) -> None:
            connection.isolation_level = None  # transactions are ours: the driver would begin them too late
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout = {int(_BUSY_SECONDS * 1000)}")
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute(f"PRAGMA synchronous = {synchronous}")
            cursor.execute("PRAGMA foreign_keys = ON")
            cursor.close()

        @event.listens_for(self.engine, "begin")
        def begun(connection: sa.Connection) -> None:
            writes = connection.get_execution_options().get(_WRITES, False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the database and changes nothing."""
        with self.engine.connect() as connection:
            if not self.is_sqlite:
                connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that writes: kept where the block ends well, undone where it raises.

        Writers take turns, over all processes, so that labels are numbered in the order in which they become visible: a
        reader that has seen number n will not miss one below it.

        Raises:
            DataError: If a value does not fit into its column.
        """
        with self._turn, self.engine.connect().execution_options(**{_WRITES: True}) as connection, connection.begin():
            if not self.is_sqlite:
                self._take_turn(connection)
            try:
                yield connection
            except exc.DataError as error:
                raise DataError(f"the database cannot hold this: {error.orig}") from error

    def _take_turn(self, connection: sa.Connection) -> None:
        """Wait until no other process writes. The lock goes when the transaction ends, which is when others see it."""
        if self.is_postgresql:
            connection.execute(_POSTGRESQL_TURN)
        elif sa.inspect(connection).has_table("store_state"):
            connection.exec_driver_sql("UPDATE store_state SET writes = writes + 1")

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _url(where: str | Path) -> sa.URL:
    if isinstance(where, str) and "://" in where:
        try:
            url = sa.make_url(where)
            return url.set(drivername="postgresql+psycopg") if url.drivername in _POSTGRESQL else url
        except exc.ArgumentError as error:
            raise ConfigError(f"`{where}` is no database URL: {error}") from error
    path = Path(where)
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder `{path.parent}` for the database `{path.name}`; make it first")
    return sa.URL.create("sqlite", database=str(path))
