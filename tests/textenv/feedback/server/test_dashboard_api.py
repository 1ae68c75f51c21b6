from __future__ import annotations

import asyncio
import io
import re
from datetime import UTC
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from markupsafe import escape
from rich.console import Console

from tests.textenv.feedback.server.conftest import TOKEN
from textenv.cli.serve import ServeConfig, _announce_when_up
from textenv.feedback.measures.figures import Dashboard
from textenv.feedback.pages.dashboard import _pace
from textenv.feedback.server.security import HEADERS, Security
from textenv.feedback.store import Answer, Item, Label

BEARER = {"authorization": f"Bearer {TOKEN}"}
EVIL = '</script><script>alert("1")</script><img src=x onerror=alert(1)>'


class Tags(HTMLParser):
    """Names of the elements and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A busy machine gives figures too."""
    monkeypatch.setitem(Dashboard.__init__.__kwdefaults__, "patience", 60.0)


PATHS = ("/dashboard", "/dashboard/parts", "/admin/dashboard")


@pytest.mark.parametrize("path", PATHS)
def test_dashboard_needs_the_token(people, guarded, path):
    rater = {"authorization": f"Bearer {guarded.credential('ann')}"}

    assert people.get(path).status_code == 401
    assert people.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401
    assert people.get(path, headers=rater).status_code == 401
    assert people.get(path, headers=BEARER).status_code == 200


def test_a_raters_session_opens_no_dashboard(people, guarded):
    people.get(guarded.rater_link("ann"))

    assert people.get("/api/session").json()["rater"] == "ann"
    assert [people.get(path).status_code for path in PATHS] == [401] * 3


def test_browser_without_a_token_signs_in_and_comes_back(people):
    sent = people.get("/dashboard", headers={"accept": "text/html"}, follow_redirects=False)
    assert sent.headers["location"] == "/signin?next=%2Fdashboard"
    answer = people.post("/signin", data={"token": TOKEN, "next": "/dashboard"}, follow_redirects=False)

    assert answer.headers["location"] == "/dashboard"
    assert people.get("/dashboard").status_code == 200
    assert people.get("/admin/dashboard").json()["labels"] == 0


def test_sign_in_leads_to_the_dashboard_unless_told_otherwise(people):
    answer = people.post("/signin", data={"token": TOKEN}, follow_redirects=False)

    assert answer.headers["location"] == "/dashboard"


def test_without_a_token_the_dashboard_is_open(make_client, security):
    assert make_client(security).get("/admin/dashboard").status_code == 200


def test_page_and_sign_in_hold_nothing_inline(people):
    for path in ("/dashboard", "/dashboard/parts", "/signin"):
        page = people.get(path, headers=BEARER)
        assert page.status_code == 200
        assert page.headers["content-security-policy"] == HEADERS["content-security-policy"]
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=|https?://", page.text)


def test_figures_are_json_whatever_names_say(people, store):
    answers = (Answer("a", EVIL, "v1"), Answer("longer", "ppo", "v2"))
    item = Item("compare", EVIL, answers, wanted=2)
    store.add_items([item])
    for rater in ("ann", EVIL):
        store.save_label(Label(f"l-{rater[:3]}", item.id, rater, {"preferred": 0}, 3.0))
    answer = people.get("/admin/dashboard", headers=BEARER)

    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    found = answer.json()
    assert found["win_rates"][0]["first"] == f"{EVIL}@v1"
    assert {each["name"] for each in found["raters"]} == {"ann", EVIL}
    assert (found["labels"], found["ceiling"][0]["pairs"]) == (2, 1)
    parts = people.get("/dashboard/parts", headers=BEARER)
    assert parts.headers["content-type"] == "text/html; charset=utf-8"
    assert EVIL not in parts.text
    assert str(escape(EVIL)) in parts.text
    tags = Tags(parts.text)
    assert not {"script", "img"} & tags.names
    assert not {name for name in tags.attributes if name.startswith("on") or name == "style"}


def test_parts_say_how_far_reading_came(people, monkeypatch):
    monkeypatch.setattr(Dashboard, "figures", lambda self: {"preparing": 1200})
    assert people.get("/dashboard/parts", headers=BEARER).text.strip() == (
        '<p id="waiting">Reading the labels: 1,200 so far…</p>'
    )


@pytest.mark.parametrize(
    ("behind", "shown"),
    [("0", "12:30:00"), ("-90", "14:00:00"), ("300", "07:30:00"), ("", "12:30:00"), ("--5", "12:30:00")],
)
def test_times_are_those_of_the_readers_clock(people, monkeypatch, behind, shown):
    found = people.get("/admin/dashboard", headers=BEARER).json() | {
        "now": 1_700_000_000 // 86400 * 86400 + 12.5 * 3600
    }
    monkeypatch.setattr(Dashboard, "figures", lambda self: found)
    parts = people.get(f"/dashboard/parts?minutes_behind={behind}", headers=BEARER).text
    assert f'<span id="live">as of {shown}</span>' in parts


@pytest.mark.parametrize(
    ("width", "count", "words", "marks"),
    [
        (3600, 8, "Tue 14 Nov, 22:00–23:00: 1 labels", ["22:00", "00:00", "02:00", "04:00"]),
        (3600, 60, "Thu 16 Nov, 00:00–01:00: 1 labels", ["Wed 15 Nov", "Thu 16 Nov", "Fri 17 Nov"]),
        (86400, 12, "Sat 18 Nov: 1 labels", ["14 Nov", "16 Nov", "18 Nov", "20 Nov", "22 Nov", "24 Nov"]),
        (7 * 86400, 3, "Tue 28 Nov and 6 days after: 1 labels, still running", ["14 Nov", "21 Nov", "28 Nov"]),
    ],
    ids=["hours", "days-of-hours", "days", "weeks"],
)
def test_bars_of_labels_name_their_times(width, count, words, marks):
    begins = [1_699_999_200 + width * place for place in range(count)]
    drawn = _pace({"width": width, "begins": begins, "labels": [1] * count, "per_hour": [0.5] * count}, UTC)
    assert f'data-tip="{words}"' in drawn
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
    assert texts == ["1 per hour", *marks]


def test_a_form_of_ours_without_a_referrer_may_sign_in(people):
    """Browsers send ``Origin: null`` with the forms of pages that never tell where they are, as ours."""
    form = {"data": {"token": TOKEN}, "follow_redirects": False}

    own = {"origin": "null", "sec-fetch-site": "same-origin"}
    assert people.post("/signin", headers=own, **form).status_code == 303
    for foreign in ({"origin": "null"}, {"origin": "null", "sec-fetch-site": "cross-site"}):
        assert people.post("/signin", headers=foreign, **form).status_code == 403


def test_the_command_prints_where_the_dashboard_is():
    async def startup(sockets=None) -> None:
        pass

    listening = SimpleNamespace(sockets=[SimpleNamespace(getsockname=lambda: ("127.0.0.1", 8123))])
    server = SimpleNamespace(startup=startup, started=True, servers=[listening])
    printed = io.StringIO()
    _announce_when_up(server, ServeConfig(), Security(b"k" * 64, TOKEN), {}, {}, Console(file=printed))
    asyncio.run(server.startup())

    assert "dashboard: http://127.0.0.1:8123/dashboard" in printed.getvalue()
    assert TOKEN not in printed.getvalue()
