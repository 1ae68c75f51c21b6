"""Each of the four tasks, by keyboard and by mouse."""

import pytest

from tests.textenv.feedback.pages.conftest import all_labels, item, settle

pytestmark = pytest.mark.slow

TEXTS = ("first text", "second text", "third text", "fourth text")


def only_label(store):
    (found,) = all_labels(store)
    return found.label


def test_demonstrate_by_keyboard_saves_what_was_written(store, address, visit):
    store.add_items([item("demonstrate")])
    page = visit(address)
    settle(page)
    page.keyboard.type("Because.\nz s x")  # in a text, keys are text
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("text=Nothing left for now")
    label = only_label(store)
    assert label.payload == {"text": "Because.\nz s x"}
    assert label.rater == "mia"
    assert 0 < label.seconds < 60


def test_demonstrate_by_mouse_saves_what_was_written(store, address, visit):
    store.add_items([item("demonstrate")])
    page = visit(address)
    page.click("textarea")
    page.keyboard.insert_text("Pasted")
    page.click("#save")
    page.wait_for_selector("text=Nothing left for now")
    assert only_label(store).payload == {"text": "Pasted"}


def test_rate_by_keyboard_takes_digits_and_arrows(store, address, visit):
    store.add_items([item("rate", TEXTS[:1])])
    page = visit(address)
    settle(page)
    page.keyboard.press("Enter")
    assert page.inner_text("#status") == "Choose a number first."
    page.keyboard.press("2")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Nothing left for now")
    assert only_label(store).payload == {"score": 3}


def test_rate_by_mouse_shows_the_anchors(store, address, visit):
    store.add_items([item("rate", TEXTS[:1])])
    page = visit(address)
    page.click("text=very good")
    page.click("#save")
    page.wait_for_selector("text=Nothing left for now")
    assert only_label(store).payload == {"score": 5}


def shown_texts(page):
    return [page.inner_text(f".answer >> nth={i} >> .text") for i in range(page.locator(".answer").count())]


@pytest.mark.parametrize(
    ("keys", "margin", "side"), [(["ArrowLeft"], 1, 0), (["ArrowRight"] * 3, 3, 1), (["b"], 2, 1), (["t"], 0, None)]
)
def test_compare_by_keyboard_saves_preference_in_the_items_numbers(store, address, visit, keys, margin, side):
    store.add_items([item("compare", TEXTS[:2])])
    page = visit(address)
    settle(page)
    order = shown_texts(page)
    for key in [*keys, "Enter"]:
        page.keyboard.press(key)
    page.wait_for_selector("text=Nothing left for now")
    label = only_label(store)
    preferred = None if side is None else TEXTS.index(order[side])
    assert label.payload == {"preferred": preferred, "margin": margin, "both_bad": False}
    assert [TEXTS[number] for number in label.order] == order


def test_compare_by_mouse_takes_cards_scale_and_both_bad(store, address, visit):
    store.add_items([item("compare", TEXTS[:2])])
    page = visit(address)
    settle(page)
    order = shown_texts(page)
    page.click(".answer >> nth=1")
    assert page.is_checked("input[value='5']")
    page.click("text=B slightly better")
    page.click(".tick")
    page.click("#save")
    page.wait_for_selector("text=Nothing left for now")
    assert only_label(store).payload == {"preferred": TEXTS.index(order[1]), "margin": 1, "both_bad": True}


def ranks_shown(page):
    """Letters by level, as they stand on the page."""
    levels = page.locator(".level")
    return [levels.nth(i).locator(".letter").all_inner_texts() for i in range(levels.count())]


def test_rank_by_keyboard_places_moves_and_ties(store, address, visit):
    store.add_items([item("rank", TEXTS)])
    page = visit(address)
    settle(page)
    order = shown_texts(page)
    for key in "cab":
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    assert "Place every answer first" in page.inner_text("#status")
    page.keyboard.press("d")
    page.keyboard.press("ArrowUp")
    assert ranks_shown(page) == [["C"], ["A"], ["D"], ["B"]]
    page.keyboard.press("=")
    assert ranks_shown(page) == [["C"], ["A", "D"], ["B"]]
    page.keyboard.press("b")
    page.keyboard.press("Backspace")
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Nothing left for now")
    ranks = only_label(store).payload["ranks"]
    assert [ranks[TEXTS.index(text)] for text in order] == [2, 4, 1, 2]


def drag(page, letter, to_box, share):
    grip = page.locator(f".answer[data-letter={letter}] .grip").bounding_box()
    page.mouse.move(grip["x"] + 8, grip["y"] + 8)
    page.mouse.down()
    x, y = to_box["x"] + to_box["width"] / 2, to_box["y"] + share * to_box["height"]
    page.mouse.move(x, y - 5, steps=4)
    page.mouse.move(x, y)
    page.mouse.up()


def test_rank_by_mouse_drags_between_onto_and_out(store, address, visit):
    store.add_items([item("rank", TEXTS)])
    page = visit(address, viewport={"width": 1200, "height": 1400})
    settle(page)
    order = shown_texts(page)
    drag(page, "A", page.locator(".dropzone").bounding_box(), 0.5)
    assert ranks_shown(page) == [["A"]]
    drag(page, "B", page.locator(".level").bounding_box(), 0.1)
    assert ranks_shown(page) == [["B"], ["A"]]
    page.click(".answer[data-letter=C] .text")
    drag(page, "D", page.locator(".level >> nth=1").bounding_box(), 0.5)
    assert ranks_shown(page) == [["B"], ["A", "D"], ["C"]]
    drag(page, "D", page.locator(".level >> nth=2").bounding_box(), 0.95)
    assert ranks_shown(page) == [["B"], ["A"], ["C"], ["D"]]
    page.click("button[aria-label='Move D up']")
    page.click("button[aria-label='Take B out']")
    drag(page, "B", page.locator(".level >> nth=2").bounding_box(), 0.5)
    assert ranks_shown(page) == [["A"], ["D"], ["C", "B"]]
    page.click("#save")
    page.wait_for_selector("text=Nothing left for now")
    ranks = only_label(store).payload["ranks"]
    assert [ranks[TEXTS.index(text)] for text in order] == [1, 3, 3, 2]


@pytest.mark.parametrize("by", ["keyboard", "mouse"])
def test_skip_keeps_the_reason(store, address, visit, by):
    store.add_items([item("rate", TEXTS[:1])])
    page = visit(address)
    settle(page)
    if by == "keyboard":
        page.keyboard.press("s")
        page.keyboard.press("3")
        page.keyboard.press("Enter")
    else:
        page.click("#skip")
        page.click("text=The text is broken")
        page.click("#skip-confirm")
    page.wait_for_selector("text=Nothing left for now")
    label = only_label(store)
    assert label.skipped == "The text is broken, or in another language"
    assert label.payload == {}


def test_skip_can_be_left_without_a_trace(store, address, visit):
    store.add_items([item("rate", TEXTS[:1])])
    page = visit(address)
    settle(page)
    page.keyboard.press("s")
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Nothing left for now")
    assert only_label(store).skipped is None


@pytest.mark.parametrize("by", ["keyboard", "mouse"])
def test_undo_brings_the_item_back_with_what_was_chosen(store, address, visit, by):
    store.add_items([item("compare", TEXTS[:2]), item("compare", TEXTS[2:])])
    page = visit(address)
    settle(page)
    before = shown_texts(page)
    page.keyboard.press("7")
    page.keyboard.press("x")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"text={before[0]}", state="detached")
    settle(page)
    if by == "keyboard":
        page.keyboard.press("z")
    else:
        page.click("#undo")
    page.wait_for_selector(f"text={before[0]}")
    assert shown_texts(page) == before
    assert page.is_checked("input[value='6']")
    assert page.is_checked("#both-bad")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"text={before[0]}", state="detached")
    first, second = all_labels(store)
    assert first.label.undone is not None
    assert second.label.undone is None
    assert first.label.payload == second.label.payload


def test_progress_and_instructions_are_shown(store, address, visit):
    texts = "# Please\n\nBe **fair**. See [the guide](https://example.org/guide)."
    store.add_items([item("rate", (text,), instructions=texts) for text in TEXTS])
    page = visit(address)
    settle(page)
    assert page.inner_text("#count") == "0 of 4"
    assert page.inner_text("#guide strong") == "fair"
    assert page.get_attribute("#guide a", "rel") == "noopener noreferrer"
    page.keyboard.press("i")
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    page.wait_for_selector("#count:text('1 of 4')")
    assert page.is_hidden("#guide")  # read once
    page.keyboard.press("?")
    assert "in this browser" not in page.inner_text("#keys")
    assert "skip, with a reason" in page.inner_text("#keys")


def test_kinds_in_the_address_choose_the_tasks(store, address, visit):
    store.add_items([item("rate", TEXTS[:1]), item("demonstrate")])
    page = visit(address)
    page.goto(f"{address}/label?kinds=demonstrate")
    settle(page)
    assert page.inner_text("h1") == "Write an answer"


def test_phone_has_no_sideways_scrolling_and_takes_taps(store, address, visit):
    long_word = "x" * 400
    store.add_items([item("compare", (long_word, "b")), item("rank", TEXTS), item("rate", (long_word,))])
    page = visit(address, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    seen = set()
    while True:
        settle(page)
        title = page.inner_text("h1")
        if title == "Nothing left for now":
            break
        seen.add(title)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        if title == "Order the answers":
            for letter in "ABCD":
                page.tap(f".answer[data-letter={letter}] .text")
        else:
            page.locator(".choice").last.tap()
        page.tap("#save")
        page.wait_for_function("title => document.querySelector('h1').textContent !== title", arg=title)
    assert seen == {"Compare two answers", "Order the answers", "Rate the answer"}
    assert len(all_labels(store)) == 3
