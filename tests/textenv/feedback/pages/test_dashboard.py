"""The dashboard in a browser: right figures, texts that stay texts, and what happens while it is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.textenv.feedback.pages.live import KEY, serving
from textenv.feedback.measures import figures
from textenv.feedback.server.security import Security
from textenv.feedback.store import Answer, FeedbackStore, Item, Label

pytestmark = pytest.mark.slow

TOKEN = "a-token-of-the-tests"
EVIL = '<script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'"><b>bold</b> &amp; "\'`${1}'


@pytest.fixture
def address(store: FeedbackStore) -> Iterator[str]:
    with serving(store, Security(KEY, TOKEN)) as found:
        yield found


@pytest.fixture
def opened(browser: Any, address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The dashboard after signing in; errors of the page and requests elsewhere fail the test."""
    monkeypatch.setattr(figures, "_LEAST_AGE_SECONDS", 0.1)
    errors: list[str] = []
    contexts = []

    def sign_in(**options: Any) -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if "Security Policy" in message.text else None)
        page.on("request", lambda each: None if each.url.startswith(address) else errors.append(each.url))
        page.goto(f"{address}/dashboard")
        assert page.inner_text("h1") == "Sign in"
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector("main[aria-busy=false]")
        return page

    yield sign_in
    for context in contexts:
        context.close()
    assert errors == []


def compare(number: int, **fields: Any) -> Item:
    answers = (Answer(f"short {number}", "sft", "v1"), Answer(f"a longer answer {number}", "ppo", "v2"))
    return Item("compare", f"prompt {number}", answers, **({"wanted": 2} | fields))  # type: ignore[arg-type]  # one dict of all fields


def say(store: FeedbackStore, item: Item, rater: str, preferred: int, order: tuple[int, ...] = (0, 1)) -> None:
    store.save_label(Label(f"{rater}-{item.id}", item.id, rater, {"preferred": preferred, "margin": 1}, 4.0, order))


def words(page: Any, part: str) -> str:
    return " ".join(page.inner_text(f"#{part}").split())


def test_an_empty_dashboard_says_what_it_needs(opened):
    page = opened()

    assert "No labels yet." in words(page, "pace")
    assert "No items yet" in words(page, "queue")
    assert "Needs comparisons or rankings of answers by two policies." in words(page, "wins")
    assert "Nobody has labelled yet." in words(page, "raters")
    assert "needs two raters on the same item" in words(page, "tiles")
    assert page.locator("svg").count() == 0


def test_one_rater_is_too_few_for_agreement(store, opened):
    store.add_items([compare(0)])
    say(store, compare(0), "ann", 1)
    page = opened()

    assert "needs two raters on the same item." in words(page, "agreement")
    assert "needs two raters on the same item." in words(page, "ceiling")
    assert "none answered" in words(page, "raters")


def test_figures_are_those_worked_by_hand(store, opened):
    items = [compare(number) for number in range(3)]
    gold = compare(9, gold={"preferred": 0})
    store.add_items([*items, gold, compare(5)])
    for rater, choices in {"ann": (0, 1, 1), "bob": (0, 1, 0)}.items():
        for item, preferred in zip(items, choices, strict=True):
            say(store, item, rater, preferred, order=(1, 0))
    say(store, gold, "ann", 0)
    say(store, gold, "bob", 1)
    page = opened()

    # Six labels of three prompts and two gold answers; ppo is preferred three times of six.
    tiles = words(page, "tiles")
    assert "Labels 8 8 in the last hour, by 2 people" in tiles
    assert "Open items 1 2 labels still wanted" in tiles
    assert "3 of 4 done 2 labels wanted · 1 gold question" in words(page, "queue")
    wins = words(page, "wins")
    assert "sft@v1 against ppo@v2" in wins
    assert "50 % [" in wins
    assert "6 pairs · 3 prompts · 0 % ties" in wins
    # Two of three pairs are agreed on: D = 1/12, the Beta distribution is even, the ceiling 3/4.
    assert "75 %" in words(page, "ceiling")
    assert "3 pairs · at least 67 %, at most 79 %" in words(page, "ceiling")
    assert "0.39" in words(page, "agreement")  # 1 − (4/12) / (72/132)
    assert "67 % say the same" in words(page, "agreement")
    assert "50 % [" in words(page, "position")
    rows = page.locator("#raters tbody tr").all_inner_texts()
    assert [" ".join(row.split())[:14] for row in rows] == ["ann 4 none 4.0", "bob 4 none 4.0"]
    assert "100 %" in rows[0]
    assert "0 % [0, 95]" in rows[1]  # the exact interval (mid-P) of nought in one


def test_ratings_by_policy_and_both_bad(store, opened):
    rated = [Item("rate", f"p{n}", (Answer(f"t{n}", ("sft", "ppo")[n % 2], "v1"),), wanted=2) for n in range(4)]
    pairs = [compare(number) for number in range(4)]
    store.add_items([*rated, *pairs])
    for item, score in zip(rated, (1, 5, 3, 4), strict=True):
        store.save_label(Label(item.id, item.id, "ann", {"score": score}, 3.0))
    page = opened()
    wins = words(page, "wins")
    assert "Needs comparisons or rankings of answers by two policies." in wins
    assert wins.index("ppo@v1") < wins.index("sft@v1")  # the best first
    assert "88 % [" in wins
    assert "25 % [" in wins
    assert "2 ratings · 2 prompts" in wins

    store.save_label(Label("bad", pairs[0].id, "ann", {"preferred": None, "both_bad": True}, 3.0))
    for item in pairs[1:]:
        say(store, item, "ann", 1)
    page.wait_for_selector("#wins >> text=4 pairs · 4 prompts · 25 % ties · 25 % both bad")


def test_script_tags_are_shown_as_text(store, opened):
    answers = (Answer(EVIL, EVIL, "v1"), Answer("other", "ppo", EVIL))
    item = Item("compare", EVIL, answers, instructions=EVIL, wanted=2)
    store.add_items([item])
    for rater in (EVIL, "ann"):
        store.save_label(Label(f"x{len(rater)}", item.id, rater, {"preferred": 0}, 3.0))
    page = opened()

    assert page.inner_text("#wins .name b") == f"{EVIL}@v1"
    assert page.inner_text("#wins .against") == f"against ppo@{EVIL}"
    assert EVIL in page.locator("#raters .rater").all_inner_texts()
    assert page.locator("main script, main img, main [onerror], #wins .name b b").count() == 0
    assert page.title() == "Dashboard"


def test_a_new_label_shows_without_reloading_and_what_is_the_same_stays(store, opened):
    items = [compare(number) for number in range(3)]
    store.add_items(items)
    say(store, items[0], "ann", 1)
    page = opened()
    assert words(page, "tiles").startswith("Labels 1 ")
    page.evaluate("document.querySelector('#position .row').dataset.kept = 'yes'")
    page.evaluate("window.sameWindow = true")
    store.save_label(Label("skip", items[1].id, "bob", skipped="unclear"))
    page.wait_for_selector("#raters tbody tr >> nth=1")
    assert page.get_attribute("#position .row", "data-kept") == "yes"  # a skip says nothing of positions
    say(store, items[2], "ann", 0)
    page.wait_for_selector("#tiles .tile >> nth=0 >> text='2'")
    assert page.evaluate("window.sameWindow")
    store.undo("ann")
    page.wait_for_selector("#tiles .tile >> nth=0 >> text='1'")


def test_a_session_that_ends_and_a_server_that_is_away_are_said(store, opened):
    page = opened()
    page.route("**/dashboard/parts*", lambda route: route.abort())
    page.wait_for_selector("#notice:has-text('No connection to the server')")
    page.unroute("**/dashboard/parts*")
    page.wait_for_selector("#notice", state="hidden")
    page.context.clear_cookies()
    page.wait_for_selector("#notice:has-text('Your session has ended')")
    page.click("#notice a")
    assert page.inner_text("h1") == "Sign in"


def test_reading_for_the_first_time_is_said(opened, monkeypatch):
    page, original = opened(), figures.Dashboard.figures
    answers: list[dict[str, Any]] = [{"preparing": 1200}]
    monkeypatch.setattr(figures.Dashboard, "figures", lambda self: answers.pop() if answers else original(self))
    page.reload()
    page.wait_for_selector("text=Reading the labels: 1,200 so far…")
    page.wait_for_selector("main[aria-busy=false]")
    assert page.is_hidden("#waiting")


def test_wrong_token_is_refused(browser, address):
    page = browser.new_page()
    page.goto(f"{address}/signin")
    page.fill("#token", "wrong")
    page.click("button")
    page.wait_for_selector("text=the access token is wrong")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_has_no_sideways_scrolling(store, opened, scheme):
    answers = (Answer("short", "a-policy-with-quite-a-long-name-" + "x" * 60, "v1"), Answer("longer", "ppo", "v2"))
    items = [Item("compare", f"p{number}", answers, wanted=2) for number in range(4)]
    store.add_items(items)
    for item in items:
        for rater in ("ann", "a-rater-with-a-long-name" + "y" * 100):
            say(store, item, rater, 0)
    page = opened(color_scheme=scheme, has_touch=True)
    page.set_viewport_size({"width": 360, "height": 740})

    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 300) == (scheme == "dark")
