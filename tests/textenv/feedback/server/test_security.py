from __future__ import annotations

import logging
import re
import stat
from typing import Any

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.textenv.feedback.server.conftest import TOKEN
from textenv.errors import ConfigError
from textenv.feedback.app import build_app
from textenv.feedback.server.guard import RateLimiter, RateLimits
from textenv.feedback.server.security import HEADERS, Security, check_address, load_key

JSON = {"content-type": "application/json"}


def enter(client: TestClient, security: Security, rater: str = "ann") -> str:
    """Open a rater's link; the CSRF token of the session."""
    assert client.get(security.rater_link(rater), follow_redirects=False).status_code == 303
    return client.get("/api/session").json()["csrf"]


# --- addresses and tokens ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.9"])
def test_loopback_needs_no_token(host):
    check_address(host, "")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_any_other_address_needs_a_token(host):
    with pytest.raises(ConfigError, match="needs a `token`"):
        check_address(host, "")
    check_address(host, TOKEN)


def test_short_token_is_refused():
    with pytest.raises(ConfigError, match="at least 16 characters, got 5"):
        check_address("127.0.0.1", "short")


@pytest.mark.parametrize("path", ["/v1/models", "/admin/status"])
def test_token_opens_api_and_administration(people, path):
    assert people.get(path).status_code == 401
    assert people.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401
    assert people.get(path, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_a_raters_credential_opens_no_administration(people, guarded):
    bearer = {"authorization": f"Bearer {guarded.credential('ann')}"}

    assert people.get("/api/progress", headers=bearer).status_code == 200
    assert people.get("/admin/status", headers=bearer).status_code == 401
    assert people.get("/v1/models", headers=bearer).status_code == 401


def test_sign_in_turns_the_token_into_a_session(people):
    refused = people.post("/signin", data={"token": "wrong", "next": "/admin/status"})
    assert refused.status_code == 401
    assert "the access token is wrong" in refused.text
    people.post("/signin", data={"token": TOKEN, "next": "/admin/status"}, follow_redirects=False)

    assert people.get("/admin/status").status_code == 200
    assert people.post("/admin/items", json={"items": []}).status_code == 403  # a session needs its CSRF token


def test_browser_without_a_token_is_sent_to_sign_in_and_back(people):
    answer = people.get("/admin/status", headers={"accept": "text/html"}, follow_redirects=False)

    assert answer.headers["location"] == "/signin?next=%2Fadmin%2Fstatus"
    assert 'name="next" value="/admin/status"' in people.get(answer.headers["location"]).text


@pytest.mark.parametrize("target", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_sign_in_sends_nobody_elsewhere(people, target):
    answer = people.post("/signin", data={"token": TOKEN, "next": target}, follow_redirects=False)

    assert answer.headers["location"] == "/dashboard"


def test_key_is_made_once_and_private(tmp_path):
    path = tmp_path / "x.key"
    key = load_key(path)

    assert load_key(path) == key
    assert len(key) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("short")
    with pytest.raises(ConfigError, match="holds no signing key"):
        load_key(path)


# --- rater links ------------------------------------------------------------------------------------------------------


def test_rater_link_opens_a_session(people, guarded):
    enter(people, guarded)

    assert people.get("/api/session").json()["rater"] == "ann"


def test_session_cookie_is_out_of_reach_of_scripts_and_other_sites(people, guarded):
    cookie = people.get(guarded.rater_link("ann"), follow_redirects=False).headers["set-cookie"].lower()

    assert "httponly" in cookie
    assert "samesite=lax" in cookie


@pytest.mark.parametrize(
    "change",
    [
        lambda link: link.replace("rater=ann", "rater=bob"),
        lambda link: re.sub(r"expires=(\d)", r"expires=9\1", link),
        lambda link: re.sub(r"signature=.*", "signature=00", link),
        lambda link: re.sub(r"&signature=.*", "", link),
        lambda link: "/label/enter",
    ],
    ids=["other name", "later end", "other signature", "no signature", "nothing"],
)
def test_forged_links_are_refused(people, guarded, change):
    answer = people.get(change(guarded.rater_link("ann")), follow_redirects=False)

    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_links_and_sessions_end(people, guarded, clock):
    link = guarded.rater_link("ann", seconds=100)
    assert people.get(link, follow_redirects=False).status_code == 303
    bearer = {"authorization": f"Bearer {guarded.credential('bob', seconds=100)}"}
    clock.now += 101

    assert people.get(link, follow_redirects=False).status_code == 403
    assert people.get("/api/session", headers=bearer).status_code == 403


def test_links_of_another_server_are_refused(people, clock):
    assert people.get(Security(b"x" * 64, TOKEN, clock).rater_link("ann"), follow_redirects=False).status_code == 403


def test_name_alone_is_enough_on_loopback_without_a_token(make_client, security):
    client = make_client(security)

    assert client.get("/label/enter?rater=ann", follow_redirects=False).status_code == 303
    assert client.get("/api/session").json()["rater"] == "ann"


# --- forgery from other pages -----------------------------------------------------------------------------------------


def test_saving_needs_the_csrf_token_of_the_session(people, guarded, store, make_item):
    store.add_items([make_item()])
    csrf = enter(people, guarded)
    label = {"id": "one", "item": make_item().id, "payload": {"preferred": 1}}

    for headers in ({}, {"x-csrf-token": "wrong"}, {"x-csrf-token": csrf[:-1]}):
        assert people.post("/api/labels", json=label, headers=headers).status_code == 403
        assert people.post("/api/undo", json={}, headers=headers).status_code == 403
    assert list(store.labels()) == []
    assert people.post("/api/labels", json=label, headers={"x-csrf-token": csrf}).json() == {"number": 1, "new": True}


def test_csrf_token_of_another_session_is_refused(people, make_client, guarded):
    other = enter(make_client(guarded), guarded, "bob")
    enter(people, guarded)

    assert people.post("/api/undo", json={}, headers={"x-csrf-token": other}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}],
)
def test_requests_from_other_sites_pages_are_refused(people, headers):
    answer = people.post("/admin/items", json={"items": []}, headers={"authorization": f"Bearer {TOKEN}", **headers})

    assert answer.status_code == 403
    assert "other sites" in answer.json()["error"]["message"]


def test_requests_of_own_pages_pass(people):
    headers = {"authorization": f"Bearer {TOKEN}", "origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}

    assert people.post("/admin/items", json={"items": []}, headers=headers).json() == {"new": 0}


@pytest.mark.parametrize("path", ["/v1/completions", "/admin/items", "/api/labels"])
def test_bodies_that_a_foreign_form_can_send_are_refused(people, path):
    answer = people.post(path, content=b"{}", headers={"content-type": "text/plain"})

    assert answer.status_code == 415


def test_foreign_host_names_are_refused(make_client, security):
    client = make_client(security, allowed_hosts=("127.0.0.1", "localhost", "[::1]"))

    assert client.get("/health").status_code == 200
    assert client.get("/health", headers={"host": "[::1]:8000"}).status_code == 200
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example"):
        assert client.get("/health", headers={"host": host}).status_code == 421


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_large_requests_are_refused(make_client, security):
    client = make_client(security, max_body_bytes=1000)
    told = client.post("/v1/completions", content=b"x" * 2000, headers=JSON)
    untold = client.post("/v1/completions", content=(b"x" * 100 for _ in range(20)), headers=JSON)

    assert (told.status_code, untold.status_code) == (413, 413)


def test_requests_come_at_a_bounded_rate(make_client, guarded):
    client = make_client(guarded, rates=RateLimits(api=8, labelling=40))
    bearer = {"authorization": f"Bearer {TOKEN}"}
    answers = [client.get("/admin/status", headers=bearer) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert int(answers[-1].headers["retry-after"]) >= 1
    ann, bob = ({"authorization": f"Bearer {guarded.credential(rater)}"} for rater in ("ann", "bob"))
    assert [client.get("/api/session", headers=ann).status_code for _ in range(11)] == [200] * 10 + [429]
    assert client.get("/api/session", headers=bob).status_code == 200


def test_rate_limiter_fills_up_again_and_forgets():
    now = [0.0]
    limiter = RateLimiter(lambda: now[0])
    waits = [limiter.wait("api", "x", 8) for _ in range(3)]

    assert waits == pytest.approx([0, 0, 7.5])
    now[0] = 7.5
    assert limiter.wait("api", "x", 8) == 0
    for client in range(10_001):
        limiter.wait("api", str(client), 8)
    assert len(limiter._buckets) <= 10_000


# --- what leaves ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health", "/signin", "/nothing", "/api/session", "/v1/models"])
def test_every_answer_has_the_security_headers(people, path):
    answer = people.get(path)

    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_pages_hold_nothing_inline(people, guarded):
    enter(people, guarded)
    for page in (people.get("/label"), people.get("/signin")):
        assert page.status_code == 200
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", page.text)


@pytest.mark.parametrize(("path", "status"), [("/v1/models", 500), ("/admin/status", 500), ("/health", 500)])
def test_no_stack_trace_leaves_the_server(store, security, path, status, monkeypatch, caplog):
    def explode(request):
        raise RuntimeError("secret inside")

    app: Any = build_app(store, {}, security)
    for route in app._app.routes:
        if isinstance(route, Route) and route.path == path:
            monkeypatch.setattr(route, "app", lambda scope, receive, send: explode(scope))
    with caplog.at_level(logging.CRITICAL), TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get(path)

    assert answer.status_code == status
    assert "The server had an error" in answer.text
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.headers["content-security-policy"] == HEADERS["content-security-policy"]
