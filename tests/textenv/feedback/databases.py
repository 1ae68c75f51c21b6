"""Databases to run the store's tests on: SQLite always, PostgreSQL where there is one.

``TEXTENV_TEST_DATABASE_URL`` names a PostgreSQL database whose user may create schemas; without it a server of our own
is started for the session, where its programs are installed. Each test gets a schema of its own.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import sqlalchemy as sa

URL_VARIABLE = "TEXTENV_TEST_DATABASE_URL"


@cache
def programs() -> Path | None:
    """Folder of PostgreSQL's programs; None where there is none."""
    named = shutil.which("initdb")
    found = [Path(named).resolve()] if named else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


def _as_server_user() -> list[str]:
    """What goes before a command: PostgreSQL refuses to run as root."""
    return ["runuser", "-u", "postgres", "--"] if getpass.getuser() == "root" else []


@contextmanager
def postgresql_server() -> Iterator[str]:
    """A server of our own, on a free port of loopback, in a temporary folder; its URL."""
    bin_folder = programs()
    assert bin_folder is not None
    user = _as_server_user()
    folder = Path(tempfile.mkdtemp(prefix="textenv-pg-"))
    if user:
        shutil.chown(folder, "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(folder / "data")
    options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off -c max_connections=200"
    control = [*user, str(bin_folder / "pg_ctl"), "-D", data, "-w"]
    try:
        subprocess.run(
            [*user, str(bin_folder / "initdb"), "-D", data, "-A", "trust", "-U", "textenv", "-E", "UTF8", "--no-sync"],
            check=True,
            capture_output=True,
            cwd="/",
        )
        subprocess.run(
            [*control, "-l", str(folder / "log"), "-o", options, "start"],
            check=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield f"postgresql+psycopg://textenv@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=False, capture_output=True, cwd="/")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def own_schema(url: str) -> Iterator[str]:
    """A schema that holds nothing yet; the URL that leads into it."""
    name = f"test_{uuid.uuid4().hex}"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    try:
        yield sa.make_url(url).update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(False)
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
        engine.dispose()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A PostgreSQL server's URL, or a skip that says what is missing."""
    pytest.importorskip("psycopg", reason='PostgreSQL needs its driver: pip install "textenv[postgres]"')
    given = os.environ.get(URL_VARIABLE)
    if given:
        yield given
        return
    if programs() is None:
        pytest.skip(f"no PostgreSQL: set {URL_VARIABLE}, or install its server")
    with postgresql_server() as url:
        yield url


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a store goes: a SQLite file, unless a test says ``postgresql``."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield str(tmp_path / "feedback.db")
        return
    with own_schema(request.getfixturevalue("postgresql")) as url:
        yield url


BOTH = ("sqlite", "postgresql")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """In a module that says ``DATABASES = BOTH``, everything that has a store runs on both."""
    wanted = getattr(metafunc.cls or metafunc.module, "DATABASES", ())
    if wanted and "database" in metafunc.fixturenames:
        # One of them in the default run: what differs lies in the database's own programs, which take seconds to start.
        slow = len(wanted) > 1 and "process" in str(metafunc.definition.path)
        marks = {"postgresql": pytest.mark.slow} if slow else {}
        metafunc.parametrize(
            "database", [pytest.param(name, marks=marks.get(name, ())) for name in wanted], indirect=True
        )
