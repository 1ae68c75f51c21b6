from __future__ import annotations

import json
import threading

import pytest

from tests.textenv.feedback.databases import BOTH
from textenv.errors import ConfigError, DataError
from textenv.feedback.store import FeedbackStore, Item, Label, Scale
from textenv.feedback.store.assignment import keeps_overlap, shown_order

DATABASES = BOTH


def label(item: Item, rater: str, number: int = 0, **fields) -> Label:
    payloads = {
        "demonstrate": {"text": "an answer"},
        "rate": {"score": 4},
        "rank": {"ranks": [1, 2, 2, None]},
        "compare": {"preferred": 1, "margin": 2},
    }
    return Label(f"{rater}-{item.id}-{number}", item.id, rater, **{"payload": payloads[item.kind], **fields})


def next_item(store: FeedbackStore, rater: str) -> Item:
    given = store.next_assignment(rater)
    assert given is not None
    return given.item


@pytest.mark.parametrize("kind", ["demonstrate", "rate", "rank", "compare"])
def test_items_come_back_as_they_were_added(store, make_item, kind):
    item = make_item(
        kind, instructions="*read*", wanted=3, source="file", messages=({"role": "user", "content": "hi"},)
    )

    assert store.add_items([item]) == 1
    assert store.item(item.id) == item
    assert store.items(kind=kind, open_only=True, gold=False, limit=5) == [item]


def test_add_items_again_changes_nothing(store, make_item):
    assert store.add_items([make_item(), make_item(), make_item(number=1)]) == 2
    assert store.add_items([make_item()]) == 0


def test_item_scale_and_gold_come_back(store):
    answers = ({"text": "a"},)
    item = Item("rate", "p", tuple(_answers(answers)), scale=Scale(1, 3, {1: "no", 3: "yes"}), gold={"score": 3})
    store.add_items([item])

    assert store.item(item.id).scale == Scale(1, 3, {1: "no", 3: "yes"})
    assert store.items(gold=True) == [item]
    assert store.open_items() == []


def _answers(fields):
    from textenv.feedback.store import Answer

    return [Answer(**each) for each in fields]


def test_item_unknown_is_refused(store):
    with pytest.raises(DataError, match="there is no item 'x'"):
        store.item("x")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "guess", "prompt": "p"}, "`kind` must be one of"),
        ({"kind": "compare", "prompt": "p"}, r"has 2…2 answers, got 0"),
        ({"kind": "demonstrate", "prompt": ""}, "`prompt` must have 1…100000 characters, got 0"),
        ({"kind": "demonstrate", "prompt": "p", "wanted": 0}, "`wanted` must be ≥ 1"),
        ({"kind": "demonstrate", "prompt": "p", "gold": {"text": " "}}, "`text` must be a text"),
    ],
)
def test_item_that_cannot_be_is_refused(fields, message):
    with pytest.raises(DataError, match=message):
        Item(**fields)


def test_scale_anchor_outside_is_refused():
    with pytest.raises(DataError, match=r"anchors` names \[9\], outside 1…5"):
        Scale(1, 5, {9: "too good"})


def test_next_assignment_deals_each_item_once_until_nothing_is_left(store, make_item):
    store.add_items(make_item(number=n) for n in range(5))
    seen = []
    while (given := store.next_assignment("ann")) is not None:
        seen.append(given.item.id)
        store.save_label(label(given.item, "ann"))

    assert len(seen) == len(set(seen)) == 5
    assert store.progress("ann") == store.progress()
    assert store.progress("ann").labelled == 5
    assert store.progress("ann").remaining == 0


def test_next_assignment_comes_again_when_the_page_is_loaded_again(store, make_item, clock):
    store.add_items(make_item("rank", n) for n in range(5))
    first = store.next_assignment("ann")
    clock.now += 30
    again = store.next_assignment("ann")

    assert (again.item, again.order) == (first.item, first.order)
    assert again.expires == first.expires + 30


def test_next_assignment_gives_two_raters_different_items(store, make_item):
    store.add_items(make_item(number=n) for n in range(2))

    assert store.next_assignment("ann").item != store.next_assignment("bob").item
    assert store.next_assignment("cem") is None


def test_next_assignment_after_a_lease_ended_goes_to_somebody_else(store, make_item, clock):
    store.add_items([make_item()])
    mine = store.next_assignment("ann")
    assert store.next_assignment("bob") is None
    clock.now += 61

    assert store.assignment("ann", mine.item.id) is None
    assert store.next_assignment("bob").item == mine.item


def test_save_label_after_the_lease_ended_is_kept(store, make_item, clock):
    store.add_items([make_item()])
    mine = store.next_assignment("ann")
    clock.now += 61
    store.save_label(label(store.next_assignment("bob").item, "bob"))

    assert store.save_label(label(mine.item, "ann")).new
    assert len(list(store.labels())) == 2


def test_next_assignment_asks_as_many_raters_as_wanted(store, make_item):
    store.add_items([make_item(wanted=2)])
    for rater in ("ann", "bob"):
        store.save_label(label(store.next_assignment(rater).item, rater))

    assert store.next_assignment("cem") is None


def test_next_assignment_leaves_skipped_items_to_others(store, make_item):
    store.add_items([make_item()])
    item = store.next_assignment("ann").item
    store.save_label(Label("s", item.id, "ann", skipped="not my language"))

    assert store.next_assignment("ann") is None
    assert store.next_assignment("bob").item == item
    assert store.progress("ann").skipped == 1


def test_next_assignment_of_kinds_gives_only_those(store, make_item):
    store.add_items([make_item("rate"), make_item("rank")])

    assert store.next_assignment("ann", kinds=("rank",)).item.kind == "rank"


def test_release_lets_others_have_the_item(store, make_item):
    store.add_items([make_item()])
    item = store.next_assignment("ann").item
    store.release("ann")

    assert store.next_assignment("bob").item == item


def test_next_assignment_mixes_gold_questions_in_at_their_share(database, make_item, clock):
    with FeedbackStore(database, gold_share=0.25, clock=clock) as store:
        store.add_items(make_item(number=n) for n in range(150))
        store.add_items(make_item(number=n, gold={"preferred": 0}) for n in range(1000, 1100))
        kinds = []
        for _ in range(120):
            item = next_item(store, "ann")
            kinds.append(item.gold is not None)
            store.save_label(label(item, "ann"))
        golds = list(store.labels())

    assert 18 <= sum(kinds) <= 42  # 30 expected, with a standard deviation of 4.7
    assert sum(each.item.gold is not None for each in golds) == sum(kinds)


def test_gold_questions_go_to_everybody(database, make_item):
    with FeedbackStore(database, gold_share=1.0) as store:
        store.add_items([make_item(gold={"preferred": 0})])
        for rater in ("ann", "bob", "cem"):
            store.save_label(label(next_item(store, rater), rater))

        assert len(list(store.labels())) == 3
        assert list(store.labels(include_gold=False)) == []


def test_overlap_keeps_several_raters_for_its_share(store, make_item):
    store.add_items((make_item(number=n, wanted=3) for n in range(300)), overlap=0.2)
    wanted = [item.wanted for item in store.items()]

    assert set(wanted) == {1, 3}
    assert 0.1 < wanted.count(3) / 300 < 0.3
    assert [item.wanted == 3 for item in store.items()] == [keeps_overlap(item.id, 0.2) for item in store.items()]


def test_overlap_outside_is_refused(store):
    with pytest.raises(ConfigError, match="`overlap` must lie in 0…1, got 2"):
        store.add_items([], overlap=2)


def test_reprioritise_asks_first_what_the_selector_values(store, make_item):
    store.add_items(make_item(number=n) for n in range(8))
    assert store.reprioritise(lambda items: [float(item.prompt == "prompt 5") for item in items]) == 8

    assert store.next_assignment("ann").item.prompt == "prompt 5"


def test_reprioritise_with_too_few_numbers_is_refused(store, make_item):
    store.add_items([make_item()])
    with pytest.raises(DataError, match="returned 0 numbers for 1 items"):
        store.reprioritise(lambda items: [])


def test_close_items_takes_them_out_of_the_queue(store, make_item):
    store.add_items([make_item()])
    store.close_items([make_item().id])

    assert store.next_assignment("ann") is None


def test_shown_order_is_a_permutation_that_differs_between_raters(make_item):
    item = make_item("rank")
    orders = {shown_order(f"rater {n}", item) for n in range(40)}

    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len(orders) > 10


def test_two_threads_asking_at_once_get_different_items(store, make_item):
    store.add_items(make_item(number=n) for n in range(40))
    found = []

    def work(rater: str) -> None:
        for _ in range(5):
            item = store.next_assignment(rater).item
            store.save_label(label(item, rater))
            found.append(item.id)

    threads = [threading.Thread(target=work, args=(f"rater {n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(found)) == 40


def test_inactive_raters_get_nothing(store, make_item):
    store.add_items([make_item()])
    store.add_rater("ann", note="on leave")
    store.set_rater_active("ann", False)

    with pytest.raises(DataError, match="the rater 'ann' is not active"):
        store.next_assignment("ann")
    assert [(rater.name, rater.active, rater.note) for rater in store.raters()] == [("ann", False, "on leave")]


def test_rater_names_must_be_printable(store):
    with pytest.raises(DataError, match="printable"):
        store.add_rater("a\nb")
    with pytest.raises(DataError, match="there is no rater 'bob'"):
        store.set_rater_active("bob", True)


def test_item_payloads_are_json_whatever_they_hold(store):
    item = Item("demonstrate", 'quote " \u2028 and <script>')
    store.add_items([item])

    assert store.item(item.id) == item
    assert json.dumps(store.item(item.id).prompt)


def test_standing_is_progress_and_what_an_undo_takes_back(store, make_item):
    items = [make_item(number=n) for n in range(3)]
    store.add_items(items)
    assert store.next_with_standing("ann")[1] == (store.progress("ann"), None)
    store.release("ann")
    for number, item in enumerate(items[:2]):
        store.save_label(label(item, "ann", number))
    store.save_label(label(items[2], "bob"))

    progress, newest = store.next_with_standing("ann")[1]
    assert (progress.labelled, progress.remaining) == (2, 0)
    assert newest is not None
    assert newest.item == items[1].id
    store.undo("ann")
    progress, newest = store.next_with_standing("ann")[1]
    assert newest is not None
    assert (newest.item, progress.labelled) == (items[0].id, 1)


def test_next_item_comes_with_the_standing_that_both_calls_would_tell(store, make_item):
    store.add_items(make_item(number=n) for n in range(3))
    for number in range(3):
        given, standing = store.next_with_standing("ann")
        assert given == store.next_assignment("ann")
        assert standing.progress == store.progress("ann")
        assert standing.progress.labelled == number
        store.save_label(label(given.item, "ann", number))
    given, standing = store.next_with_standing("ann")
    assert given is None
    assert (standing.progress.labelled, standing.progress.remaining) == (3, 0)


def test_remaining_items_of_a_long_queue_are_counted_once_a_second(store, make_item, clock, monkeypatch):
    monkeypatch.setattr("textenv.feedback.store.store._MANY", 3)
    items = [make_item(number=n) for n in range(5)]
    store.add_items(items)
    assert store.progress().remaining == 5
    store.save_label(label(items[0], "ann"))
    assert store.progress().remaining == 5
    clock.now += 1
    assert store.progress().remaining == 4
    for item in items[1:4]:
        store.save_label(label(item, "ann"))
    clock.now += 1
    assert store.progress().remaining == 1
    store.save_label(label(items[4], "ann"))
    assert store.progress().remaining == 0  # a short queue is counted each time


def test_a_lease_that_ran_out_is_given_anew(store, make_item, clock):
    store.add_items([make_item()])
    first = store.next_assignment("ann")
    clock.now += 61
    again = store.next_assignment("ann")
    assert first is not None
    assert again is not None
    assert again.item == first.item
    assert again.expires == clock.now + 60
