"""One browser per module, one store and server per test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.textenv.feedback.pages.live import serving
from textenv.feedback.store import Answer, FeedbackStore, Item, LabelledItem

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_browser() -> str | None:
    return os.environ.get("TEXTENV_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra [dev]")
    path = find_browser()
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is in PATH, and TEXTENV_CHROMIUM is not set")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeedbackStore]:
    with FeedbackStore(tmp_path / "feedback.db", gold_share=0.0) as opened:
        yield opened


@pytest.fixture
def address(store: FeedbackStore) -> Iterator[str]:
    with serving(store) as found:
        yield found


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open the labelling page as somebody, in a browser of their own that reports errors."""
    contexts: list[Any] = []
    errors: list[str] = []

    def enter(address: str, rater: str = "mia", **options: Any) -> Any:
        context = browser.new_context(
            **({"viewport": {"width": 1200, "height": 900}, "reduced_motion": "reduce"} | options)
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: (errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(f"{address}/label/enter?rater={rater}")
        return page

    yield enter
    for context in contexts:
        context.close()
    assert errors == []


def settle(page: Any) -> None:
    """Wait until an item, or the end of them, is shown and can be worked on."""
    page.wait_for_selector("main[aria-busy=false] h1")


def item(kind: str, texts: tuple[str, ...] = (), prompt: str = "Why?", **fields: Any) -> Item:
    fields = {"wanted": 5} | fields
    answers = tuple(Answer(text, policy=f"secret-{number}", version="7") for number, text in enumerate(texts))
    return Item(kind, prompt, answers, **fields)  # type: ignore[arg-type]  # kind is a plain str here


def all_labels(store: FeedbackStore) -> list[LabelledItem]:
    return list(store.labels(include_skipped=True, include_undone=True))
