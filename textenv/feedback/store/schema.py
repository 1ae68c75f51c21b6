"""The tables of the store, their version, and how older databases become new ones.

Texts, numbers and JSON in text columns only: the same on SQLite and any other database that SQLAlchemy knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from textenv.errors import DataError

SCHEMA_VERSION = 2
"""Of the tables below; rises with every change, which gets its steps in :data:`MIGRATIONS`."""

MIGRATIONS: Mapping[int, Sequence[str]] = {2: ("ALTER TABLE labels ADD COLUMN extra TEXT",)}
"""SQL statements that turn a database of the version before into the version named."""

metadata = sa.MetaData()

store_state = sa.Table(
    "store_state",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("writes", sa.BigInteger, nullable=False, default=0),
)

items = sa.Table(
    "items",
    metadata,
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("messages", sa.Text, nullable=False),
    sa.Column("answers", sa.Text, nullable=False),
    sa.Column("instructions", sa.Text, nullable=False),
    sa.Column("scale", sa.Text),
    sa.Column("gold", sa.Text),
    sa.Column("is_gold", sa.Boolean, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("wanted", sa.Integer, nullable=False),
    sa.Column("done", sa.Integer, nullable=False, default=0),  # labels that stand, skips not counted
    sa.Column("closed", sa.Boolean, nullable=False, default=False),  # taken out of the queue by hand
    sa.Column("is_open", sa.Boolean, nullable=False, default=True),  # not closed, and `done` < `wanted` (or gold)
    sa.Column("priority", sa.Float, nullable=False),
    sa.Index("items_queue", "is_open", "is_gold", "priority"),
)

raters = sa.Table(
    "raters",
    metadata,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("labelled", sa.Integer, nullable=False, default=0),  # labels that stand
    sa.Column("skipped", sa.Integer, nullable=False, default=0),  # skips that stand
)

labels = sa.Table(
    "labels",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(200), nullable=False, unique=True),
    sa.Column("item", sa.String(200), sa.ForeignKey("items.id"), nullable=False),
    sa.Column("rater", sa.String(200), sa.ForeignKey("raters.name"), nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("order", sa.Text, nullable=False),
    sa.Column("skipped", sa.Text),
    sa.Column("extra", sa.Text),  # what a file said beyond; null where it came from a page
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("undone", sa.Float),
    sqlite_autoincrement=True,  # a number is never given twice, even after the newest row went
)
sa.Index("labels_by_rater", labels.c.rater, labels.c.number)
sa.Index("labels_by_time", labels.c.time)
_standing = labels.c.undone.is_(None)
sa.Index(
    "labels_once_per_rater",
    labels.c.item,
    labels.c.rater,
    unique=True,
    sqlite_where=_standing,
    postgresql_where=_standing,
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("item", sa.String(200), sa.ForeignKey("items.id"), primary_key=True),
    sa.Column("rater", sa.String(200), primary_key=True),
    sa.Column("expires", sa.Float, nullable=False),
)
sa.Index("leases_by_rater", leases.c.rater)
sa.Index("leases_by_expiry", leases.c.expires)

prompts = sa.Table(
    "prompts",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("messages", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("used", sa.Float),
)

rounds = sa.Table(
    "rounds",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("after", sa.Integer, nullable=False),
    sa.Column("upto", sa.Integer, nullable=False),
    sa.Column("started", sa.Float, nullable=False),
    sa.Column("finished", sa.Float),
    sa.Column("figures", sa.Text, nullable=False),
)

policies = sa.Table(
    "policies",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("version", sa.String(200), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("round", sa.Integer),
    sa.Column("figures", sa.Text, nullable=False),
    sa.UniqueConstraint("name", "version"),
)


def prepare(connection: sa.Connection, migrations: Mapping[int, Sequence[str]] = MIGRATIONS) -> None:
    """Make the tables of a new database, or bring an old one up to date; call it inside a writing transaction.

    Args:
        connection: Of the database.
        migrations: Statements by the version that they lead to.

    Raises:
        DataError: If the database was made by a newer textenv, or no way leads from its version.
    """
    newest = max((SCHEMA_VERSION, *migrations))
    if not sa.inspect(connection).has_table(store_state.name):
        metadata.create_all(connection)
        connection.execute(store_state.insert().values(id=1, schema_version=SCHEMA_VERSION, writes=0))
    version = connection.execute(sa.select(store_state.c.schema_version)).scalar_one()
    if version > newest:
        raise DataError(
            f"the database has schema version {version}, this textenv knows {newest}: use a newer textenv, or another "
            "database"
        )
    for number in range(version + 1, newest + 1):
        if number not in migrations:
            raise DataError(f"the database has schema version {version}; no migration leads to version {number}")
        for statement in migrations[number]:
            connection.exec_driver_sql(statement)
        connection.execute(store_state.update().values(schema_version=number))
