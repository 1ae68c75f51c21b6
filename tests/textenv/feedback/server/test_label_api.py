from __future__ import annotations

import time

import pytest

from textenv.feedback.store import Item


@pytest.fixture
def ann(make_client, security, store, make_item):
    store.add_items(make_item("rank", n) for n in range(3))
    return make_client(security)


@pytest.fixture
def bearer(security):
    return {"authorization": f"Bearer {security.credential('ann')}"}


def payload(assignment) -> dict:
    return {"ranks": [1] * len(assignment["answers"])}


def test_next_is_blind(ann, bearer, store, make_item):
    store.add_items([make_item("rank", 9, gold={"ranks": [1, 2, 3, 4]})])
    store.close_items(make_item("rank", n).id for n in range(3))
    store.gold_share = 1.0
    answer = ann.get("/api/next", headers=bearer)
    given = answer.json()["assignment"]

    assert [each["answer"] for each in given["answers"]] == given["order"]
    assert sorted(given["order"]) == [0, 1, 2, 3]
    for hidden in ("gold", "tiny", "v1", "temperature", "seed"):
        assert hidden not in answer.text


def test_labels_are_saved_once_and_the_next_comes_along(ann, bearer, store):
    given = ann.get("/api/next", headers=bearer).json()["assignment"]
    label = {"id": "a", "item": given["id"], "payload": payload(given), "seconds": 2.5, "order": given["order"]}
    first = ann.post("/api/labels?next=1&kinds=rank", json=label, headers=bearer).json()
    again = ann.post("/api/labels", json=label, headers=bearer).json()

    assert (first["new"], again["new"]) == (True, False)
    assert first["next"]["assignment"]["id"] != given["id"]
    assert first["next"]["progress"] == {"labelled": 1, "skipped": 0, "remaining": 2}
    (kept,) = store.labels()
    assert (kept.label.seconds, list(kept.label.order)) == (2.5, given["order"])


def test_skip_and_undo(ann, bearer, store):
    given = ann.get("/api/next", headers=bearer).json()["assignment"]
    ann.post("/api/labels", json={"id": "s", "item": given["id"], "skipped": "unclear"}, headers=bearer)
    assert ann.get("/api/progress", headers=bearer).json() == {"labelled": 0, "skipped": 1, "remaining": 2}

    assert ann.post("/api/undo", json={"label": "s"}, headers=bearer).json() == {"undone": "s"}
    assert ann.post("/api/undo", json={"label": "s"}, headers=bearer).json() == {"undone": None}
    assert ann.get("/api/next", headers=bearer).json()["assignment"]["id"] == given["id"]


def test_contradictions_are_conflicts(ann, bearer):
    given = ann.get("/api/next", headers=bearer).json()["assignment"]
    for number, status in enumerate((200, 409)):
        label = {"id": str(number), "item": given["id"], "payload": payload(given)}
        assert ann.post("/api/labels", json=label, headers=bearer).status_code == status


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"payload": {"ranks": [9]}}, "`ranks` must hold 4"),
        ({"payload": [1]}, "`payload` must be an object"),
        ({"order": "ab"}, "`order` must be a list of answer numbers"),
        ({"order": [0, 0, 1, 2]}, "`order` must name each"),
        ({"seconds": "long"}, "`seconds` must be a number"),
        ({"seconds": -1}, "`seconds` must be finite"),
        ({"skipped": 5}, "`skipped` a text or null"),
        ({"id": ""}, "`id` of a label"),
        ({"item": "none"}, "there is no item 'none'"),
    ],
)
def test_wrong_labels_are_refused(ann, bearer, change, message):
    given = ann.get("/api/next", headers=bearer).json()["assignment"]
    label = {"id": "a", "item": given["id"], "payload": payload(given), **change}
    answer = ann.post("/api/labels", json=label, headers=bearer)

    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_wrong_requests_are_refused(ann, bearer):
    json = {**bearer, "content-type": "application/json"}

    assert ann.post("/api/labels", content=b"[", headers=json).status_code == 400
    assert ann.post("/api/undo", json={"label": 3}, headers=bearer).status_code == 400
    assert ann.get("/api/next?kinds=guess", headers=bearer).status_code == 400
    assert ann.get("/api/next").status_code == 403


def test_administration_gives_links_items_and_prompts(make_client, security, store, host):
    client = make_client(security, [host])
    given = client.post("/admin/links", json={"rater": "bob", "days": 1}).json()
    item = {"kind": "rate", "prompt": "p", "answers": [{"text": "a"}], "scale": {"low": 1, "high": 3, "anchors": {}}}

    assert client.get("/api/session", headers={"authorization": f"Bearer {given['credential']}"}).status_code == 200
    assert client.get(given["link"], follow_redirects=False).status_code == 303
    client.cookies.clear()
    assert (
        client.post("/admin/items", json={"items": [item, {"kind": "demonstrate", "prompt": "q"}]}).json()["new"] == 2
    )
    assert isinstance(store.items(kind="rate")[0], Item)
    assert client.post("/admin/prompts", json={"prompts": ["the old film", "the new"]}).json() == {"prompts": 2}
    made = client.post("/admin/make", json={"kind": "rate", "sampling": {"max_new_tokens": 3}, "limit": 1})
    assert (made.status_code, made.json()) == (202, {"waiting": 1})
    deadline = time.monotonic() + 60
    while (status := client.get("/admin/status").json())["making"]["orders"]:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert status["making"] == {"orders": 0, "made": 1, "error": ""}
    assert status["remaining"] == 3
    assert status["policies"]["tiny"]["version"] == host.current.version.version


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/admin/links", {"rater": 5}, "`rater` must be a name"),
        ("/admin/links", {"rater": "a", "days": 0}, "`days` a number"),
        ("/admin/items", {"items": 5}, "`items` must be a list"),
        ("/admin/items", {"items": [{"kind": "rate"}]}, "items[0]"),
        ("/admin/items", {"items": [], "overlap": 7}, "`overlap` must lie in"),
        ("/admin/prompts", {"prompts": [""]}, "`prompts` must be a list of texts"),
        ("/admin/make", {"kind": "guess"}, "`kind` must be one of"),
        ("/admin/make", {"colour": "red"}, "unknown fields ['colour']"),
        ("/admin/make", {"sampling": {"heat": 1}}, "unexpected keyword argument 'heat'"),
    ],
)
def test_wrong_orders_are_refused(make_client, security, path, body, message):
    answer = make_client(security).post(path, json=body)

    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_items_show_conversations_with_system_and_tool_turns(client, bearer, store):
    call = {"function": {"name": "weather", "arguments": '{"at": 1}'}}
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "17"},
    ]
    turns = [{"role": "assistant", "content": "Warm."}, {"role": "user", "content": "How warm?"}]
    item = {"kind": "rate", "prompt": said, "answers": [{"text": turns}]}
    assert client.post("/admin/items", json={"items": [item]}).json() == {"new": 1}
    assert client.post("/admin/prompts", json={"prompts": ["a text", said]}).json() == {"prompts": 2}

    given = client.get("/api/next", headers=bearer).json()["assignment"]
    assert [message["content"] for message in given["messages"]] == ["Be brief.", 'weather({"at": 1})', "17"]
    assert given["answers"][0]["text"].startswith("Assistant: Warm.\n\nUser: How warm?")
    (kept,) = store.items()
    assert kept.messages == tuple(said)
    assert kept.answers[0].text.messages == tuple(turns)
    assert [prompt.messages for prompt in store.prompts()] == [(), tuple(said)]
    bad = client.post("/admin/items", json={"items": [item | {"prompt": [{"role": "user"}]}]})
    assert bad.json()["error"].startswith("items[0]: `messages` or `prompt`: every chat message needs")
