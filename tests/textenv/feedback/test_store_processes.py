"""Several processes on one database, and what only a second kind of database shows."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections import Counter

import pytest

from tests.textenv.feedback.databases import BOTH
from textenv.errors import DataError, MissingDependencyError
from textenv.feedback.store import FeedbackStore, Label
from textenv.feedback.store.database import Database

DATABASES = BOTH

RATERS = """
    import sys
    from textenv.feedback.store import FeedbackStore, Label

    database, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with FeedbackStore(database, gold_share=0.0) as store:
        raters, busy, met = [f"rater {first + n}" for n in range(count)], True, False
        while busy:
            busy = False
            for rater in raters:
                given = store.next_assignment(rater)
                if given is None:
                    continue
                busy = True
                label = Label(f"{rater} {given.item.id}", given.item.id, rater, {"preferred": 0})
                store.save_label(label)
                print(label.id, flush=True)
                if not met:  # after the first label, wait for the others
                    met = sys.stdin.readline() != ""
"""


def start(program: str, *arguments: str) -> subprocess.Popen:
    command, pipe = [sys.executable, "-c", textwrap.dedent(program), *arguments], subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_raters_of_several_processes_share_the_work(database, make_item):
    with FeedbackStore(database, gold_share=0.0) as store:
        store.add_items(make_item(number=n, wanted=1 + n % 3) for n in range(90))
        children = [start(RATERS, database, str(4 * n), "4") for n in range(3)]
        firsts = [child.stdout.readline() for child in children if child.stdout]
        for child in children:
            print("all are here", file=child.stdin, flush=True)
        followed: list[int] = []
        while any(child.poll() is None for child in children):
            followed += [each.label.number for each in store.labels(after=followed[-1] if followed else 0)]
        ends = [child.communicate() for child in children]
        followed += [each.label.number for each in store.labels(after=followed[-1] if followed else 0)]
        kept = [each.label for each in store.labels()]
        open_items = store.open_items()
        progress = store.progress()

    assert [(child.returncode, told) for child, (_, told) in zip(children, ends, strict=True)] == [(0, "")] * 3
    assert followed == [label.number for label in kept]  # who follows the numbers misses none
    acknowledged = [line for out in [*firsts, *(out for out, _ in ends)] for line in out.splitlines()]
    assert sorted(acknowledged) == sorted(label.id for label in kept)
    assert Counter(label.item for label in kept) == {make_item(number=n, wanted=1).id: 1 + n % 3 for n in range(90)}
    assert len({(label.item, label.rater) for label in kept}) == len(kept) == 180
    assert (open_items, progress.labelled, progress.remaining) == ([], 180, 0)
    assert "" not in firsts  # all three took part


def test_processes_may_make_the_tables_at_the_same_time(database):
    program = "import sys; from textenv.feedback.store import FeedbackStore; FeedbackStore(sys.argv[1]).close()"
    children = [start(program, database) for _ in range(3)]
    ends = [child.communicate() for child in children]
    assert [(child.returncode, told) for child, (_, told) in zip(children, ends, strict=True)] == [(0, "")] * 3


def test_a_label_is_saved_twice_by_two_processes_at_once_and_counts_once(database, make_item):
    program = """
        import sys
        from textenv.feedback.store import FeedbackStore, Label
        with FeedbackStore(sys.argv[1]) as store:
            for n in range(100):
                print(store.save_label(Label(f"{n}", sys.argv[2 + n], "ann", {"preferred": 1})).new)
    """
    items = [make_item(number=n) for n in range(100)]
    with FeedbackStore(database) as store:
        store.add_items(items)
        children = [start(program, database, *(item.id for item in items)) for _ in range(2)]
        ends = [child.communicate() for child in children]
        assert [told for _, told in ends] == ["", ""]
        assert Counter("".join(out for out, _ in ends).split()) == {"True": 100, "False": 100}
        assert store.progress("ann").labelled == 100


def test_a_read_sees_one_state(store, make_item):
    store.add_items([make_item(number=0)])
    count = "SELECT count(*) FROM items"
    with store.database.read() as connection:
        assert connection.exec_driver_sql(count).scalar_one() == 1
        store.add_items([make_item(number=1)])
        assert connection.exec_driver_sql(count).scalar_one() == 1
    with store.database.read() as connection:
        assert connection.exec_driver_sql(count).scalar_one() == 2


def test_a_connection_that_was_read_from_writes_again(store, make_item):
    for number in range(30):
        assert store.items() == [] or number
        store.add_items([make_item(number=number)])
    assert store.item_count() == 30


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
class TestPostgresql:
    DATABASES = ()

    def test_what_it_cannot_hold_is_an_error_of_the_data(self, store, make_item):
        store.add_items([make_item("rate")])
        label = Label("one", make_item("rate").id, "ann", skipped="a \x00 in it")
        with pytest.raises(DataError, match="the database cannot hold this"):
            store.save_label(label)
        assert store.save_label(Label("one", make_item("rate").id, "ann", {"score": 3})).new

    def test_a_server_that_is_not_there_is_told_without_the_password(self, database):
        with pytest.raises(DataError, match="cannot open the database") as caught:
            Database("postgresql+psycopg://ann:secret@127.0.0.1:1/none?connect_timeout=2")
        assert "secret" not in str(caught.value)

    def test_connections_that_the_server_ended_are_made_anew(self, store, database):
        with store.database.write() as connection:
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        other = Database(database)
        with other.write() as connection:
            assert connection.exec_driver_sql(f"SELECT pg_terminate_backend({pid})").scalar_one()
        other.close()
        store.add_rater("bob")
        assert [rater.name for rater in store.raters()] == ["bob"]

    def test_plain_urls_take_the_driver_that_is_installed(self, database):
        plain = Database(database.replace("postgresql+psycopg://", "postgres://"))
        assert plain.url.drivername == "postgresql+psycopg"
        plain.close()


def test_a_missing_driver_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "textenv\[postgres\]"'):
        Database("postgresql://127.0.0.1/none")
