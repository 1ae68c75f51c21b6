from __future__ import annotations

import pytest

from textenv.errors import DataError
from textenv.feedback.store import Answer, Item, Label, Scale
from textenv.feedback.store.assignment import shown_order
from textenv.feedback.terminal import SourceError, StoreSource
from textenv.feedback.terminal.keys import Key


def kept(store, **options):
    return [each.label for each in store.labels(**options)]


def leased(store) -> int:
    with store.database.read() as connection:
        return connection.exec_driver_sql("SELECT count(*) FROM leases").scalar_one()


def test_rate_by_number(store, make_item, sit):
    store.add_items([make_item("rate")])
    typist = sit("2", "4", "enter")

    (label,) = kept(store)
    assert (label.payload, label.rater, label.order) == ({"score": 4}, "ann", (0,))
    assert "Saved" in typist.screen
    assert "Nothing left for now" in typist.screen
    assert "You have labelled 1." in typist.screen


def test_compare_speaks_of_the_items_own_answers(store, make_item, sit):
    item = make_item("compare")
    store.add_items([item])
    typist = sit("a", "right", "x", "enter")

    order = shown_order("ann", item)
    assert kept(store)[0].payload == {"preferred": order[0], "margin": 1, "both_bad": True}
    assert f"Answer A\nanswer {order[0]} to 0" in "\n".join(typist.frames[0])
    assert "A is slightly better, and both are bad" in "\n".join(typist.frames[3])


def test_rank_with_a_tie(store, make_item, sit):
    item = make_item("rank")
    store.add_items([item])
    typist = sit("c", "a", "=", "d", "b", "up", "enter")

    a, b, c, d = shown_order("ann", item)
    expected = [0] * 4
    expected[c], expected[a], expected[b], expected[d] = 1, 1, 3, 4
    assert kept(store)[0].payload == {"ranks": expected}
    assert "1st C = A   3rd [B]   4th D" in "\n".join(typist.frames[6])


def test_rank_asks_for_every_answer(store, make_item, sit):
    store.add_items([make_item("rank")])
    typist = sit("c", "a", "enter")

    assert "Nothing to save yet: place B D too" in typist.screen
    assert kept(store) == []


def test_demonstrate_takes_letters_as_text(store, make_item, sit):
    store.add_items([make_item("demonstrate")])
    sit(*"squid", "enter", *"z?", Key("paste", "qs\x1b\n"), "backspace", "ctrl-d")

    assert kept(store)[0].payload == {"text": "squid\nz?qs"}


def test_demonstrate_edits_where_the_cursor_is(store, make_item, sit):
    store.add_items([make_item("demonstrate")])
    sit(*"ac", "left", "b", "home", "delete", "end", "d", "enter", *"xy", "up", "!", "down", "?", "ctrl-d")

    assert kept(store)[0].payload == {"text": "bc!d\nxy?"}


def test_demonstrate_with_an_editor(store, make_item, sit):
    store.add_items([make_item("demonstrate")])
    sit(*"one", "ctrl-e", "ctrl-d", editor=lambda text: text + " two")
    assert kept(store)[0].payload == {"text": "one two"}


def test_demonstrate_without_an_editor_says_so(store, make_item, sit):
    store.add_items([make_item("demonstrate")])
    assert "No editor was found" in sit("ctrl-e").screen


def test_unfinished_answer_comes_back_after_a_hang_up(store, make_item, sit):
    store.add_items([make_item("demonstrate")])
    sit(*"half a sen")
    assert kept(store) == []

    typist = sit(*"tence", "ctrl-d")
    assert "half a sen" in "\n".join(typist.frames[0])
    assert kept(store)[0].payload == {"text": "half a sentence"}
    store.undo("ann")
    assert "half a" not in sit().screen


def test_skip_with_a_reason_and_words(store, make_item, sit):
    store.add_items([make_item("rate")])
    typist = sit("s", "enter", "x", "2", *"oops", "backspace", "enter")

    (label,) = kept(store, include_skipped=True)
    assert label.skipped == "I do not know enough about this: oop"
    assert "choose a reason first" in "\n".join(typist.frames[2])
    assert "'x' does nothing here: 1 … 5 choose a reason" in "\n".join(typist.frames[3])
    assert "Skipped" in typist.screen


def test_skip_can_be_left(store, make_item, sit):
    store.add_items([make_item("rate")])
    sit("s", "1", "esc", "3", "enter")
    assert [(label.payload, label.skipped) for label in kept(store)] == [({"score": 3}, None)]


@pytest.mark.parametrize(
    ("kind", "keys"), [("rate", ["5"]), ("compare", ["2", "x"]), ("rank", ["b", "a", "=", "c", "d"])]
)
def test_undo_shows_the_label_again(store, make_item, sit, kind, keys):
    store.add_items([make_item(kind, number) for number in range(2)])
    typist = sit(*keys, "enter", "z", "enter")

    first, second = kept(store, include_undone=True)
    assert first.undone is not None
    assert (second.item, second.payload) == (first.item, first.payload)
    assert "Taken back" in "\n".join(typist.frames[len(keys) + 2])


def test_undo_of_another_kind_than_asked_for_shows_that_item(store, make_item, sit):
    store.add_items([make_item("rate")])
    sit("1", "enter")
    store.add_items([make_item("compare")])
    typist = sit("z", kinds=("compare",))
    assert "Rate the answer" in typist.screen


def test_undo_without_a_label_says_so(store, make_item, sit):
    store.add_items([make_item("rate")])
    assert "There is nothing to take back" in sit("z").screen


def test_wrong_keys_say_what_is_expected(store, make_item, sit):
    store.add_items([make_item("rate")])
    typist = sit("k", "enter", Key("paste", "4\n"))
    assert "'k' does nothing here. 1 … 5: choose" in "\n".join(typist.frames[1])
    assert "choose a number first" in "\n".join(typist.frames[2])
    assert "pasted text does nothing here" in typist.screen
    assert kept(store) == []


def test_leaving_releases_the_item(store, make_item, sit):
    store.add_items([make_item("rate")])
    for steps in (["q"], ["ctrl-c"], [], ["3"]):
        held: list[int] = []
        sit(lambda held=held: held.append(leased(store)), *steps)
        assert held == [1]
        assert leased(store) == 0
        assert store.next_assignment("bob") is not None
        store.release("bob")


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("rows", [10, 24])
@pytest.mark.parametrize("kind", ["demonstrate", "rate", "rank", "compare"])
def test_every_screen_fits(store, make_item, sit, kind, columns, rows):
    answers = tuple(Answer("word " * 300 + "x" * 300 + "中" * 200) for _ in make_item(kind).answers)
    store.add_items([Item(kind, "long " * 200, answers)])
    sit("?", "?", " ", "pagedown", "tab", "shift-tab", "esc", "end", "home", "s", "1", columns=columns, rows=rows)
    # the typist checks each frame


def test_long_answers_are_read_by_space_and_tab(store, sit):
    text = "\n".join(f"line {number}" for number in range(100))
    store.add_items([Item("compare", "prompt", (Answer(text), Answer("the end of it")))])
    typist = sit("tab", "tab", "i", "end", "home")

    assert "more lines: space" in "\n".join(typist.frames[0])
    assert "the end of it" in "\n".join(typist.frames[4])
    assert typist.frames[5][1] == "Prompt"
    assert typist.frames[2][1].startswith("Answer A")


def test_texts_are_shown_as_text(store, sit):
    evil = "\x1b[2J\x1b]0;owned\x07[bold]big[/bold] [link=x]\u202edrow\x9b31m\r"
    store.add_items([Item("rate", evil, (Answer(evil),), scale=Scale(1, 5, {1: evil}))])
    typist = sit("?", "?", "1")

    everything = "".join(line for frame in typist.frames for line in frame)
    assert everything.isprintable()
    assert "␛[2J␛]0;owned␇[bold]big[/bold] [link=x]<U+202E>drow<U+009B>31m␍" in everything


def test_evil_instructions_and_names_are_text(store, sit):
    store.add_items([Item("rate", "p", (Answer("a"),), instructions="**be** [red]kind\x1b[1m")])
    typist = sit(rater="ann [blink]")
    assert "be [red]kind" in typist.screen
    assert "ann [blink] · 0 done" in typist.screen
    assert "\x1b" not in typist.screen


def test_conversations_show_who_speaks(store, sit):
    turns = ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"})
    store.add_items([Item("rate", "user: hi", (Answer("a"),), messages=turns)])
    assert "Conversation\nuser:\n  hi\nassistant:\n  hello\n" in sit().screen


@pytest.mark.parametrize(
    ("scale", "keys", "score"),
    [
        (Scale(0, 100, {}), "75", 75),
        (Scale(0, 100, {}), "759", 9),
        (Scale(-3, 3, {}), "-2", -2),
        (Scale(1, 10, {}), "0", 10),
        (Scale(0, 9, {}), "0", 0),
    ],
)
def test_all_scales_have_keys(store, sit, scale, keys, score):
    store.add_items([Item("rate", "p", (Answer("a"),), scale=scale)])
    sit(*keys, "enter")
    assert kept(store)[0].payload == {"score": score}


def test_new_items_appear_by_themselves(store, make_item, sit):
    typist = sit(lambda: store.add_items([make_item("rate")]), None, "3", "enter")
    assert "Nothing left for now" in typist.frames[0][0]
    assert len(kept(store)) == 1


def test_a_label_made_elsewhere_meanwhile_is_told(store, make_item, sit):
    store.add_items([make_item("rate")])

    def elsewhere():
        source = StoreSource(store, "ann")
        source.save(Label("other", make_item("rate").id, "ann", {"score": 1}))

    assert "The label was not taken: ann has labelled item" in sit("3", elsewhere, "enter").screen
    assert [label.id for label in kept(store)] == ["other"]


class Flaky(StoreSource):
    """Loses the answer to the first saves: kept, but not acknowledged."""

    def __init__(self, store, failures: int, *, kept: bool) -> None:
        super().__init__(store, "ann")
        self.failures, self.kept = failures, kept

    def save(self, label):
        self.failures -= 1
        if self.failures < 0 or self.kept:
            super().save(label)
        if self.failures >= 0:
            raise SourceError("no connection")


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_save_that_failed_is_tried_again_and_counts_once(store, make_item, sit, is_kept):
    store.add_items([make_item("rate")])
    typist = sit("3", "enter", "4", "enter", "enter", source=Flaky(store, 2, kept=is_kept))

    assert [label.payload for label in kept(store)] == [{"score": 3}]
    assert "Not saved yet: no connection. ↵ tries again" in "\n".join(typist.frames[2])
    assert "Not saved yet. ↵ tries again" in "\n".join(typist.frames[3])
    assert "Saved" in typist.screen


def test_no_more_items_for_a_rater_who_was_stopped(store, make_item, sit):
    store.add_items([make_item("rate"), make_item("rate", 1)])
    typist = sit("3", "enter", lambda: store.set_rater_active("ann", False), "3", "enter")
    assert "The label was not taken: the rater 'ann' is not active" in " ".join(typist.screen.split())
    with pytest.raises(DataError, match="not active"):
        sit()
