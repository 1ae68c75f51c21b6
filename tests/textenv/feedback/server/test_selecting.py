from __future__ import annotations

import threading
import time

import pytest

from textenv.cli.main import main
from textenv.cli.serve import ServeConfig
from textenv.errors import ConfigError, RewardError
from textenv.feedback.server.selecting import Selection


def by_number(items):
    return [float(item.prompt.split()[-1]) for item in items]


def wait_for(what, seconds=60.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_pass_is_due_when_items_or_the_selector_changed(store, make_item):
    store.add_items(make_item(number=n) for n in range(3))
    chosen = [by_number]
    selection = Selection(store, lambda: chosen[0])

    assert selection.run()
    assert not selection.run()
    assert store.items()[0].prompt == "prompt 2"
    store.add_items([make_item(number=7)])
    assert selection.run()
    assert store.items()[0].prompt == "prompt 7"
    chosen[0] = lambda items: [-value for value in by_number(items)]
    assert selection.run()
    assert store.items()[0].prompt == "prompt 0"
    assert selection.run(force=True)
    assert selection.status()["ordered"] == 4


def test_without_a_selector_yet_nothing_changes(store, make_item):
    store.add_items(make_item(number=n) for n in range(3))
    before = store.items()
    assert not Selection(store, lambda: None).run(force=True)
    assert store.items() == before


def test_new_items_are_put_in_order_in_the_background(make_client, security, store, make_item):
    threads = set()

    def selector(items):
        threads.add(threading.current_thread().name)
        return by_number(items)

    selection = Selection(store, lambda: selector, every_seconds=0.02)
    client = make_client(security, selection=selection)
    client.post("/admin/items", json={"items": [{"kind": "demonstrate", "prompt": f"p {n}"} for n in range(5)]})
    wait_for(lambda: selection.ordered == 5)

    assert store.next_assignment("ann").item.prompt == "p 4"
    assert threads == {"textenv-selection"}
    assert client.get("/admin/status").json()["selecting"]["ordered"] == 5


def test_a_pass_can_be_asked_for(make_client, security, store, make_item):
    store.add_items(make_item(number=n) for n in range(3))
    values = [1.0, 2.0, 3.0]
    selection = Selection(store, lambda: lambda items: values, every_seconds=0.0)
    client = make_client(security, selection=selection)

    assert client.get("/admin/status").json()["selecting"]["passes"] == 0
    assert client.post("/admin/select", json={}).status_code == 202
    wait_for(lambda: selection.passes == 1)


def test_a_pass_that_fails_is_told_and_the_next_one_comes(make_client, security, store, make_item):
    store.add_items(make_item(number=n) for n in range(3))
    calls = []

    def selector(items):
        calls.append(len(items))
        if len(calls) == 1:
            raise RewardError("no finite score")
        return by_number(items)

    selection = Selection(store, lambda: selector, every_seconds=0.02)
    client = make_client(security, selection=selection)
    wait_for(lambda: selection.passes == 1)
    assert len(calls) == 2
    assert client.get("/admin/status").json()["selecting"]["error"] == ""


def test_asking_without_an_ensemble_says_how_to_get_one(make_client, security):
    answer = make_client(security).post("/admin/select", json={})
    assert answer.status_code == 409
    assert "--select ensemble" in answer.json()["error"]


def test_labels_are_saved_while_thousands_of_items_are_put_in_order(store, make_item):
    store.add_items(make_item(number=n) for n in range(1500))
    number, done = 0, threading.Event()

    def label():
        nonlocal number
        while not done.is_set():
            store.add_rater(f"rater {number}")
            number += 1

    thread = threading.Thread(target=label)

    def select(items):
        thread.start()
        while number < 1:
            time.sleep(0.001)
        return by_number(items)

    assert store.reprioritise(select) == 1500
    in_between = number
    done.set()
    thread.join()
    assert in_between >= 4  # it wrote between the chunks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reward_model", "lexicon"], "`reward_model` has no effect at random: give `--select ensemble`"),
        (["--select", "ensemble", "--reward_model", "lexicon"], "at least two reward models"),
        (["--select", "ensemble", "--reward_model", "no/where"], "there is no such folder"),
        (["--explore", "2"], "`explore` must lie in [0, 1], got 2"),
    ],
)
def test_serve_says_what_is_wrong_with_an_ensemble(tmp_path, capsys, arguments, message):
    assert main(["serve", "--db", str(tmp_path / "labels.db"), *arguments]) in (1, 2)
    assert message in capsys.readouterr().err


def test_select_numbers_are_checked():
    with pytest.raises(ConfigError, match="`select_most` must be ≥ 1, got 0"):
        ServeConfig(select_most=0)
