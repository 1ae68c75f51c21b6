from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import pytest

from tests.textenv.feedback.databases import BOTH
from textenv.errors import ConfigError, DataError
from textenv.feedback.store import (
    Entry,
    FeedbackStore,
    Item,
    Label,
    LabelConflict,
    PolicyVersion,
    Said,
    check_payload,
    schema,
)
from textenv.feedback.store.assignment import shown_order
from textenv.feedback.store.labelling import iterate

DATABASES = BOTH


def compared(item: Item, rater: str = "ann", label_id: str = "one", **fields) -> Label:
    return Label(label_id, item.id, rater, {"preferred": 0, "margin": 1, "both_bad": False}, **fields)


@pytest.fixture
def item(store, make_item):
    store.add_items([make_item()])
    return make_item()


def test_save_label_fills_in_what_the_store_knows(store, item, clock):
    saved = store.save_label(compared(item, seconds=3.5))

    assert saved.new
    assert saved.label.kind == "compare"
    assert saved.label.time == clock.now
    assert saved.label.order == shown_order("ann", item)
    assert [each.label for each in store.labels()] == [saved.label]
    assert next(store.labels()).item == item


def test_save_label_sent_twice_counts_once(store, item):
    first, again = store.save_label(compared(item)), store.save_label(compared(item))

    assert (first.new, again.new) == (True, False)
    assert again.label == first.label
    assert store.progress("ann").labelled == 1


def test_save_label_of_the_same_item_under_another_id_is_a_conflict(store, item):
    store.save_label(compared(item))
    with pytest.raises(LabelConflict, match="ann has labelled item"):
        store.save_label(compared(item, label_id="two"))


def test_save_label_with_the_id_of_another_label_is_a_conflict(store, item):
    store.save_label(compared(item))
    with pytest.raises(LabelConflict, match="'one' belongs to another label"):
        store.save_label(compared(item, rater="bob"))


def test_save_label_of_an_unknown_item_is_refused(store, make_item):
    with pytest.raises(DataError, match="there is no item"):
        store.save_label(compared(make_item()))


def test_save_label_with_an_order_that_is_none_is_refused(store, item):
    with pytest.raises(DataError, match="`order` must name each of the 2 answers"):
        store.save_label(compared(item, order=(0, 0)))


@pytest.mark.parametrize(
    ("kind", "payload", "message"),
    [
        ("demonstrate", {"text": "  "}, "`text` must be a text"),
        ("rate", {"score": 6}, "`score` must be a whole number from 1 to 5, got 6"),
        ("rate", {"score": True}, "`score` must be a whole number"),
        ("rank", {"ranks": [1, 2]}, "`ranks` must hold 4 whole numbers from 1 to 4"),
        ("rank", {"ranks": [None] * 4}, "must rank at least one answer"),
        ("compare", {"preferred": 2}, "`preferred` must be 0, 1 or null, got 2"),
        ("compare", {"preferred": 1, "margin": 9}, "`margin` must be a whole number from 0 to 3"),
        ("compare", {"preferred": 1, "both_bad": 1}, "`both_bad` must be true or false"),
        ("compare", [1], "must be an object, got list"),
    ],
)
def test_check_payload_names_what_is_wrong(make_item, kind, payload, message):
    with pytest.raises(DataError, match=message):
        check_payload(make_item(kind), payload)


def test_check_payload_drops_foreign_fields_and_the_margin_of_a_tie(make_item):
    found = check_payload(make_item("compare"), {"preferred": None, "margin": 2, "evil": "x"})

    assert found == {"preferred": None, "margin": 0, "both_bad": False}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": ""}, "`id` of a label"),
        ({"rater": 5}, "`rater` of a label"),
        ({"seconds": float("nan")}, "`seconds` must be finite"),
        ({"skipped": "x" * 3000}, "reason for a skip"),
    ],
)
def test_label_that_cannot_be_is_refused(fields, message):
    with pytest.raises(DataError, match=message):
        Label(**{"id": "a", "item": "b", "rater": "c", **fields})


def test_undo_takes_the_newest_label_back_and_gives_the_item_again(store, make_item):
    store.add_items(make_item(number=n) for n in range(2))
    items = []
    for n in range(2):
        items.append(store.next_assignment("ann").item)
        store.save_label(compared(items[-1], label_id=f"label {n}"))
    undone = store.undo("ann")

    assert undone.id == "label 1"
    assert store.next_assignment("ann").item == items[1]
    assert [each.label.id for each in store.labels()] == ["label 0"]
    assert [each.label.undone is None for each in store.labels(include_undone=True)] == [True, False]
    assert store.save_label(compared(items[1], label_id="label 2")).new
    assert store.progress("ann").labelled == 2


def test_undo_of_a_named_label_of_somebody_else_changes_nothing(store, item):
    store.save_label(compared(item))

    assert store.undo("bob", "one") is None
    assert store.undo("ann", "one").id == "one"
    assert store.undo("ann", "one") is None


def test_undone_label_sent_again_stays_undone(store, item):
    store.save_label(compared(item))
    store.undo("ann")

    assert not store.save_label(compared(item)).new
    assert list(store.labels()) == []


def test_labels_of_a_round_begin_after_the_last_one(store, make_item, clock):
    store.add_items(make_item(number=n, wanted=9) for n in range(4))
    for n in range(2):
        store.save_label(compared(make_item(number=n), label_id=str(n)))
    first = store.begin_round()
    assert store.begin_round() == first  # under way: it goes on
    clock.now += 10
    store.save_label(compared(make_item(number=2), label_id="2"))
    finished = store.finish_round(first.number, {"score": 1.5})
    second = store.begin_round()

    assert finished.figures == {"score": 1.5}
    assert finished.finished == clock.now
    assert [x.label.id for x in store.labels(after=first.after, upto=first.upto)] == ["0", "1"]
    assert [x.label.id for x in store.labels(after=second.after, upto=second.upto)] == ["2"]
    assert [x.label.id for x in store.labels(since=clock.now)] == ["2"]
    assert [x.number for x in store.rounds()] == [1, 2]


def test_finish_round_that_is_none_is_refused(store):
    with pytest.raises(DataError, match="there is no round 3 under way"):
        store.finish_round(3, {})


def test_labels_are_found_by_kind_and_rater_across_chunks(store, make_item, monkeypatch):
    monkeypatch.setattr("textenv.feedback.store.labelling._CHUNK", 3)
    store.add_items(make_item(number=n, wanted=2) for n in range(7))
    store.add_items([make_item("rate")])
    for n in range(7):
        store.save_label(compared(make_item(number=n), rater="ann" if n % 2 else "bob", label_id=str(n)))
    store.save_label(Label("r", make_item("rate").id, "ann", {"score": 2}))
    store.save_label(Label("s", make_item("compare", 0).id, "ann", skipped=""))

    assert [x.label.number for x in store.labels()] == list(range(1, 9))
    assert [x.label.id for x in store.labels(kind="rate")] == ["r"]
    assert [x.label.id for x in store.labels(rater="ann", kind="compare")] == ["1", "3", "5"]
    assert [x.label.id for x in store.labels(include_skipped=True, after=8)] == ["s"]
    assert len(list(iterate(store.database, [], 0))) == 9


def test_collected_prompts_are_masked_and_counted_once(store):
    chat = [{"role": "user", "content": "I am a@b.org"}]
    store.collect_prompt("I am a@b.org", messages=chat, source="api:chat")
    store.collect_prompt("I am c@d.org", messages=[{"role": "user", "content": "I am c@d.org"}], source="api:chat")
    store.collect_prompt("another", source="file")

    both = store.prompts()
    assert [(prompt.text, prompt.count) for prompt in both] == [("I am [email]", 2), ("another", 1)]
    assert both[0].messages == ({"role": "user", "content": "I am [email]"},)
    store.mark_prompts_used([both[0].id])
    assert [prompt.text for prompt in store.prompts(unused_only=True, limit=5)] == ["another"]


def test_prompt_filter_is_pluggable(database):
    with FeedbackStore(database, prompt_filter=str.upper) as store:
        assert store.collect_prompt("hello").text == "HELLO"


def test_policies_are_registered_once(store):
    store.register_policy(PolicyVersion("tiny", "v1", "/a"))
    store.register_policy(PolicyVersion("tiny", "v2", "/b", round=1, figures={"score": 2.0}))
    store.register_policy(PolicyVersion("tiny", "v1", "/a"))

    assert [policy.version for policy in store.policies("tiny")] == ["v1", "v2"]
    assert store.policies("tiny")[-1].figures == {"score": 2.0}
    assert store.policies("other") == []
    with pytest.raises(DataError, match="version v1 of policy tiny is registered already, with `/a`"):
        store.register_policy(PolicyVersion("tiny", "v1", "/elsewhere"))


def test_store_opened_again_holds_everything(database, make_item):
    with FeedbackStore(database) as store:
        store.add_items([make_item()])
        store.save_label(compared(make_item()))
    with FeedbackStore(database) as store:
        assert len(list(store.labels())) == 1


def test_store_takes_a_url(tmp_path, make_item):
    with FeedbackStore(f"sqlite:///{tmp_path}/url.db") as store:
        assert store.add_items([make_item()]) == 1


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nonsense+driver://x/y", "cannot use the database"),
        ("/nowhere/at/all/x.db", "there is no folder `/nowhere/at/all`"),
    ],
)
def test_store_at_an_impossible_place_is_refused(where, message):
    with pytest.raises(ConfigError, match=message):
        FeedbackStore(where)


def test_store_with_impossible_settings_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="need `lease_seconds` > 0"):
        FeedbackStore(tmp_path / "x.db", lease_seconds=0)
    settings: dict[str, Any] = {"durability": "disk"}
    with pytest.raises(ConfigError, match="`durability` must be"):
        FeedbackStore(tmp_path / "x.db", **settings)


def test_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "x.db"
    path.write_bytes(b"this is not a database, whatever its name says" * 40)
    with pytest.raises(DataError, match="cannot open the database"):
        FeedbackStore(path)


@pytest.mark.parametrize(("durability", "expected"), [("process", 1), ("power", 2)])
def test_durability_sets_how_long_a_commit_waits(tmp_path, durability, expected):
    with FeedbackStore(tmp_path / "x.db", durability=durability) as store, store.database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == expected
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"


def test_database_of_a_newer_textenv_is_refused(database):
    with FeedbackStore(database) as store, store.database.write() as connection:
        connection.exec_driver_sql("UPDATE store_state SET schema_version = 99")
    with pytest.raises(DataError, match="schema version 99, this textenv knows 2: use a newer textenv"):
        FeedbackStore(database)


def test_prepare_migrates_step_by_step(store):
    steps = {3: ["ALTER TABLE items ADD COLUMN colour TEXT"], 4: ["UPDATE items SET colour = 'red'"]}
    with store.database.write() as connection:
        schema.prepare(connection, steps)
    with store.database.read() as connection:
        assert connection.exec_driver_sql("SELECT colour FROM items").all() == []
        assert connection.exec_driver_sql("SELECT schema_version FROM store_state").scalar_one() == 4
    with store.database.write() as connection, pytest.raises(DataError, match="no migration leads to version 5"):
        schema.prepare(connection, {6: []})


def test_a_database_of_textenv_1_gets_what_files_say_beside_labels(store, make_item, database):
    store.add_items([make_item()])
    item = store.next_assignment("ann").item
    store.save_label(Label("old", item.id, "ann", {"preferred": 0}))
    with store.database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE labels DROP COLUMN extra")
        connection.exec_driver_sql("UPDATE store_state SET schema_version = 1")
    store.close()
    with FeedbackStore(database) as again:
        said = Said({"preferred": 1}, "bob", extra={"weight": 0.5})
        assert again.bring([Entry("file:1", item, (said,))]) == (0, 1, 0, 0)
        assert [dict(each.label.extra) for each in again.labels()] == [{}, {"weight": 0.5}]


def test_prompts_keep_all_that_messages_say(store):
    call = {"function": {"name": "mail", "arguments": '{"to": "a@b.org"}'}}
    chat = [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "a@b.org"}]
    kept = store.collect_prompt("?", messages=chat)
    assert kept.messages[0]["tool_calls"] == [{"function": {"name": "mail", "arguments": '{"to": "[email]"}'}}]
    assert kept.messages[1] == {"role": "tool", "content": "[email]"}


def test_write_that_raises_changes_nothing(store, make_item):
    def write_half() -> None:
        with store.database.write() as connection:
            connection.execute(schema.raters.insert().values(name="x", active=True, created=0, note=""))
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        write_half()
    assert store.raters() == []


@pytest.mark.slow
def test_acknowledged_labels_survive_kill_9(database, make_item):
    with FeedbackStore(database) as store:
        store.add_items(make_item(number=n) for n in range(400))
    program = """
        import sys, time
        from textenv.feedback.store import FeedbackStore, Label
        store = FeedbackStore(sys.argv[1])
        for n in range(400):
            item = store.next_assignment("ann").item
            store.save_label(Label(str(n), item.id, "ann", {"preferred": 0}))
            print(n, flush=True)
            time.sleep(0.002)  # so that it is not done before it is killed
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), database], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    acknowledged = [child.stdout.readline().strip() for _ in range(60)]
    child.kill()
    rest = child.communicate()[0].split()

    with FeedbackStore(database) as store:
        kept = {each.label.id for each in store.labels()}
    assert set(acknowledged + rest) <= kept
    assert len(kept) < 400
