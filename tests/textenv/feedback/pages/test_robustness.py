"""No label lost and none twice, whatever happens between browser and server; and no text ever becomes markup."""

from collections import Counter
from typing import Any

import pytest

from tests.textenv.feedback.pages.conftest import all_labels, item, settle
from tests.textenv.feedback.pages.live import ServerProcess

pytestmark = pytest.mark.slow


def rate(page, key):
    settle(page)
    page.keyboard.press(key)
    page.keyboard.press("Enter")


def scores(store):
    return [each.label.payload["score"] for each in all_labels(store)]


def test_reload_in_the_middle_keeps_a_text_in_progress(store, address, visit):
    store.add_items([item("demonstrate", prompt=f"Why {number}?") for number in range(3)])
    page = visit(address)
    settle(page)
    prompt = page.inner_text(".prompt .text")
    page.keyboard.type("half an ans")
    page.reload()
    settle(page)
    assert page.inner_text(".prompt .text") == prompt
    assert page.input_value("textarea") == "half an ans"
    page.keyboard.press("Control+End")
    page.keyboard.type("wer")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#count:text('1 of 3')")
    assert [each.label.payload for each in all_labels(store)] == [{"text": "half an answer"}]
    assert page.input_value("textarea") == ""


def test_reload_after_a_lost_answer_of_the_server_saves_once(store, address, visit):
    store.add_items([item("rate", (f"text {number}",)) for number in range(2)])
    page = visit(address)
    settle(page)

    def save_but_lose_the_answer(route):
        route.fetch()
        route.abort()

    page.route("**/api/labels", save_but_lose_the_answer)
    rate(page, "4")
    page.wait_for_selector("#notice:not([hidden])")
    assert scores(store) == [4]
    assert "kept here and will be sent" in page.inner_text("#notice")
    page.unroute("**/api/labels")
    page.reload()
    page.wait_for_selector("#count:text('1 of 2')")
    rate(page, "2")
    page.wait_for_selector("text=Nothing left for now")
    assert scores(store) == [4, 2]


def test_reload_before_the_server_heard_of_a_label_sends_it(store, address, visit):
    store.add_items([item("rate", ("text",))])
    page = visit(address)
    settle(page)
    page.route("**/api/labels", lambda route: route.abort())
    rate(page, "5")
    page.wait_for_selector("#notice:not([hidden])")
    assert scores(store) == []
    page.unroute("**/api/labels")
    page.reload()
    page.wait_for_selector("text=Nothing left for now")
    assert scores(store) == [5]


def test_two_tabs_with_the_same_unsent_label_save_it_once(store, address, visit):
    store.add_items([item("rate", ("text",))])
    page = visit(address)
    settle(page)
    page.route("**/api/labels", lambda route: route.abort())
    rate(page, "1")
    page.wait_for_selector("#notice:not([hidden])")
    page.unroute("**/api/labels")
    other = page.context.new_page()
    other.goto(f"{address}/label")
    for each in (other, page):
        each.wait_for_selector("text=Nothing left for now")
    assert scores(store) == [1]


def test_two_tabs_with_the_same_item_keep_the_first_label_and_say_so(store, address, visit):
    store.add_items([item("rate", ("text",))])
    page = visit(address)
    settle(page)
    other = page.context.new_page()
    other.goto(f"{address}/label")
    rate(page, "1")
    page.wait_for_selector("text=Nothing left for now")
    rate(other, "2")
    other.wait_for_selector("#notice:has-text('was not taken')")
    assert scores(store) == [1]


@pytest.mark.parametrize("refusal", [429, 503])
def test_busy_server_is_asked_again(store, address, visit, refusal):
    store.add_items([item("rate", ("text",))])
    page = visit(address)
    settle(page)
    answers = iter([refusal, refusal])

    def busy_twice(route):
        status = next(answers, None)
        if status is None:
            return route.continue_()
        return route.fulfill(status=status, headers={"retry-after": "0"}, json={"error": "busy"})

    page.route("**/api/labels", busy_twice)
    rate(page, "3")
    page.wait_for_selector("text=Nothing left for now")
    assert scores(store) == [3]


def test_session_that_ended_keeps_the_label_until_the_link_is_opened(store, address, visit):
    store.add_items([item("rate", ("text",))])
    page = visit(address)
    settle(page)
    page.context.clear_cookies()
    rate(page, "3")
    page.wait_for_selector("#notice:has-text('Open your own link again')")
    assert scores(store) == []
    page.goto(f"{address}/label/enter?rater=mia")
    page.wait_for_selector("text=Nothing left for now")
    assert scores(store) == [3]


def test_server_killed_and_started_again_loses_nothing(store, tmp_path, visit):
    store.add_items([item("rate", (f"text {number}",)) for number in range(6)])
    server = ServerProcess(tmp_path / "feedback.db")
    server.start()
    try:
        page = visit(server.address)
        rate(page, "1")
        page.wait_for_selector("#count:text('1 of 6')")
        server.kill()
        rate(page, "2")
        page.wait_for_selector("#notice:has-text('kept here and will be sent')")
        server.start()
        page.wait_for_selector("#count:text('2 of 6')")
        assert page.is_hidden("#notice")
        settle(page)
        page.keyboard.press("3")
        page.keyboard.press("Enter")  # the server dies while this is on its way, or just after
        server.kill()
        server.start()
        for done, key in enumerate("45", start=3):
            page.wait_for_selector(f"#count:text('{done} of 6')", timeout=20_000)
            rate(page, key)
        page.wait_for_selector("#count:text('5 of 6')")
    finally:
        server.kill()
    assert scores(store) == [1, 2, 3, 4, 5]
    assert len({each.label.item for each in all_labels(store)}) == 5


def test_two_raters_at_once_each_label_every_item_once(store, address, visit):
    store.add_items([item("rate", (f"text {number}",), wanted=2) for number in range(5)])
    pages = {name: visit(address, name) for name in ("mia", "noah")}
    for done in range(1, 6):
        for page in pages.values():
            rate(page, str(done))
        for page in pages.values():
            page.wait_for_selector(f"#count:text('{done} of 5')" if done < 5 else "text=Nothing left for now")
    labels = [each.label for each in all_labels(store)]
    assert Counter(label.rater for label in labels) == {"mia": 5, "noah": 5}
    assert len({(label.rater, label.item) for label in labels}) == 10


def test_one_item_for_one_rater_goes_to_one_of_two(store, address, visit):
    store.add_items([item("rate", ("text",), wanted=1)])
    first, second = visit(address, "mia"), visit(address, "noah")
    settle(first)
    settle(second)
    titles = {first.inner_text("h1"), second.inner_text("h1")}
    assert titles == {"Rate the answer", "Nothing left for now"}


EVIL = '<script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'"><b>bold</b> &amp; "\'`${1}'


def test_script_tags_are_shown_as_text(store, address, visit):
    scripted = f"{EVIL}\n\n[click](javascript:alert(1)) **strong** ![picture](https://example.org/x.png)"
    fields: dict[str, Any] = {"prompt": EVIL, "instructions": scripted}
    chat = ({"role": "user", "content": EVIL}, {"role": EVIL, "content": EVIL})
    store.add_items(
        [
            item("demonstrate", **fields),
            item("rate", (EVIL,), **fields),
            item("rank", (EVIL, "b"), **fields, messages=chat),
            item("compare", (EVIL, "b"), **fields),
        ]
    )
    page = visit(address, EVIL.replace("&", "%26"))
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    for kind in ("demonstrate", "rate", "rank", "compare"):
        page.goto(f"{address}/label?kinds={kind}")
        settle(page)
        assert page.inner_text(".prompt .text >> nth=0") == EVIL
        if kind != "demonstrate":
            assert EVIL in page.locator(".answer .text").all_inner_texts()
        assert page.inner_text("#guide strong") == "strong"
        assert page.locator("main script, main img, main b, main [onerror], #guide a, header b").count() == 0
        assert page.inner_text(".who") == EVIL
        assert "owned" not in page.title()
    assert all(url.startswith(address) for url in requests)


def test_page_never_learns_where_answers_come_from(store, address, visit):
    store.add_items([item("compare", ("a", "b"), gold={"preferred": 1, "margin": 2, "both_bad": False})])
    store.gold_share = 1.0
    page = visit(address)
    with page.expect_response("**/label/next*") as answer:
        page.reload()
    settle(page)
    text = page.evaluate("address => fetch(address).then(answer => answer.text())", answer.value.url)
    assert "Why?" in text
    assert page.inner_text("h1") == "Compare two answers"
    for word in ("secret", "gold", "policy", "version", "sampling", "seed"):
        assert word not in text
    assert "secret" not in page.content()
