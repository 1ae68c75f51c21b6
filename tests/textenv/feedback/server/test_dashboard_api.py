from __future__ import annotations

import asyncio
import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from tests.textenv.feedback.server.conftest import TOKEN
from textenv.cli.serve import ServeConfig, _announce_when_up
from textenv.feedback.measures.figures import Dashboard
from textenv.feedback.server.security import HEADERS, Security
from textenv.feedback.store import Answer, Item, Label

BEARER = {"authorization": f"Bearer {TOKEN}"}
EVIL = '</script><script>alert("1")</script><img src=x onerror=alert(1)>'


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A busy machine gives figures too."""
    monkeypatch.setitem(Dashboard.__init__.__kwdefaults__, "patience", 60.0)


@pytest.mark.parametrize("path", ["/dashboard", "/admin/dashboard"])
def test_dashboard_needs_the_token(people, guarded, path):
    rater = {"authorization": f"Bearer {guarded.credential('ann')}"}

    assert people.get(path).status_code == 401
    assert people.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401
    assert people.get(path, headers=rater).status_code == 401
    assert people.get(path, headers=BEARER).status_code == 200


def test_a_raters_session_opens_no_dashboard(people, guarded):
    people.get(guarded.rater_link("ann"))

    assert people.get("/api/session").json()["rater"] == "ann"
    assert people.get("/dashboard").status_code == 401
    assert people.get("/admin/dashboard").status_code == 401


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
    for page in (people.get("/dashboard", headers=BEARER), people.get("/signin")):
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
    assert EVIL not in people.get("/dashboard", headers=BEARER).text


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
    _announce_when_up(server, ServeConfig(), Security(b"k" * 64, TOKEN), {}, Console(file=printed))
    asyncio.run(server.startup())

    assert "dashboard: http://127.0.0.1:8123/dashboard" in printed.getvalue()
    assert TOKEN not in printed.getvalue()
