"""Pictures of the labelling pages and of the dashboard, with made-up people whose labels are simulated.

    python -m examples.feedback_screenshots              # into docs/feedback; needs Chromium and the extra [dev]
    python -m examples.feedback_screenshots --keep DIR   # and keeps the database, to look at with `textenv serve`

Three policies answer made-up prompts; the newest is the best, and its answers are longer. Eight people label: seven
look, each with noise of their own, one of them prefers what is shown first, and one guesses.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from reward_models.simulation import LikertScale, Rater, SimulatedRaters
from textenv.feedback.app import build_app
from textenv.feedback.server.security import Security
from textenv.feedback.store import Answer, FeedbackStore, Item, Label
from textenv.feedback.store.assignment import shown_order

LARGEST_BYTES = 140_000
TOKEN = "a-token-of-the-screenshots"
NOW = datetime(2026, 3, 12, 16, 40, tzinfo=UTC).timestamp()
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
POLICIES = {("sft", "v1"): (0.0, 170), ("ppo", "round-1"): (0.5, 220), ("ppo", "round-2"): (0.9, 260)}
"""Name and version: mean worth of the answers, mean length in characters."""

PEOPLE = (
    Rater("amira", noise=0.5, tie_threshold=0.25),
    Rater("ben", noise=0.7, tie_threshold=0.2),
    Rater("chiara", noise=0.6, tie_threshold=0.3),
    Rater("dae-jung", noise=0.9, tie_threshold=0.1, first_bonus=1.6),
    Rater("elif", noise=0.5, tie_threshold=0.3),
    Rater("farid", noise=0.8, lapse=0.9),
    Rater("greta", noise=0.7, tie_threshold=0.2),
    Rater("hugo", noise=0.6),
)
SECONDS = (9.0, 7.0, 14.0, 8.0, 11.0, 2.4, 10.0, 16.0)
PACE = dict(zip((person.name for person in PEOPLE), SECONDS, strict=True))
"""Seconds that somebody spends on a comparison."""

SEA = "Why is the sea salty, but rivers are not?"
SEA_ANSWERS = (
    "Rivers are a little salty, too. Rain dissolves minerals from rock, and rivers carry them to the sea. Water leaves "
    "the sea only by evaporating, and the salt stays behind, so it has piled up over hundreds of millions of years.",
    "The sea is salty because it has salt in it. Rivers do not have salt because they are fresh water.",
    "Because fish and whales give off salt, and because of the many underwater volcanoes, which are made of salt.",
    "Salt comes from rocks on land. Rivers wash it into the sea, where it collects: water evaporates, salt cannot.",
)


class Clock:
    """The time that the store and the server believe in."""

    now = NOW

    def __call__(self) -> float:
        """Unix seconds."""
        return self.now


# --- labels -----------------------------------------------------------------------------------------------------------


def simulate(store: FeedbackStore, clock: Clock, *, seed: int = 0, scale: float = 1.0) -> None:
    """Fill a store with what made-up people say about made-up answers in the course of three days.

    Args:
        store: On the clock.
        clock: Is left at the end of it all.
        seed: Of everything random.
        scale: Factor of the number of items.
    """
    rng = np.random.default_rng(seed)
    worth: dict[str, float] = {}

    def gold(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [worth[response] for response in responses]

    def answer(number: int, policy: tuple[str, str]) -> Answer:
        mean, length = POLICIES[policy]
        words = max(6, int(length / 5 * rng.lognormal(0, 0.35)))
        text = f"Answer {number}.{len(worth)} " + "word " * words
        worth[text] = mean + 1.8 * rng.normal() + 0.6 * np.log(words / 40)
        return Answer(text, *policy, {"temperature": 0.8}, number)

    people = {person.name: SimulatedRaters(gold, [person], seed=seed + i) for i, person in enumerate(PEOPLE)}
    names = list(POLICIES)
    made = []
    for number in range(int(480 * scale)):
        kind = ("compare", "compare", "rank", "rate")[number % 4]
        pairs = [(names[0], names[1]), (names[0], names[2]), (names[1], names[2])]
        from_whom = {"compare": pairs[number // 4 % 3], "rank": (*names, names[2]), "rate": (names[number % 3],)}[kind]
        answers = tuple(answer(number, policy) for policy in from_whom)
        made.append(Item(kind, f"prompt {number}", answers, wanted=3 if number % 5 < 2 else 1))  # type: ignore[arg-type]  # kind is a plain str here
    made += [Item("demonstrate", f"write {number}", wanted=1) for number in range(int(60 * scale))]
    store.add_items([*made, *_gold_questions(12, worth)])
    for when in _times(rng, int(900 * scale)):
        clock.now = when
        name = str(rng.choice([p.name for p in PEOPLE], p=[0.2, 0.17, 0.14, 0.14, 0.12, 0.11, 0.08, 0.04]))
        _label(store, people[name], name, rng)
    clock.now = NOW
    for name in ("amira", "elif", "greta"):
        store.next_assignment(name)


def _gold_questions(count: int, worth: dict[str, float]) -> list[Item]:
    """Comparisons of a good and a bad answer."""
    found = []
    for number in range(count):
        good, bad = f"Good answer {number}.", f"Bad answer {number}."
        worth[good], worth[bad] = 3.0, -2.0
        found.append(Item("compare", f"gold {number}", (Answer(good), Answer(bad)), gold={"preferred": 0}))
    return found


def _times(rng: np.random.Generator, count: int) -> list[float]:
    """Within the working hours of three days, up to now."""
    hours = np.where(rng.random(4 * count) < 0.5, rng.normal(10.3, 1.2, 4 * count), rng.normal(14.9, 1.5, 4 * count))
    times = NOW - NOW % 86400 - 86400 * rng.integers(0, 3, 4 * count) + 3600 * hours
    return sorted(rng.choice(times[times < NOW], count, replace=False).tolist())


def _label(store: FeedbackStore, person: SimulatedRaters, name: str, rng: np.random.Generator) -> None:
    """One label, or a skip, of the next item."""
    given = store.next_assignment(name)
    if given is None:
        return
    item, order = given.item, given.order
    seconds = (
        PACE[name] * {"rank": 2.6, "rate": 0.7, "demonstrate": 9.0}.get(item.kind, 1.0) * float(rng.lognormal(0, 0.4))
    )
    fields: dict[str, Any] = {"seconds": round(seconds, 1), "order": order}
    if rng.random() < (0.06 if name == "chiara" else 0.02):
        store.save_label(Label(f"{name}-{item.id}", item.id, name, skipped="I do not know enough about this", **fields))
        return
    texts = [item.answers[number].text for number in order]
    if item.kind == "compare":
        said = person.compare([item.prompt], [texts[0]], [texts[1]])[0]
        preferred = None if said.tie else order[texts.index(said.chosen)]
        payload: dict[str, Any] = {"preferred": preferred, "margin": int(rng.integers(1, 4))}
    elif item.kind == "rank":
        ranks = person.rank([item.prompt], [texts])[0].ranks
        payload = {"ranks": [ranks[order.index(number)] for number in range(len(order))]}
    elif item.kind == "rate":
        payload = {"score": int(person.rate([item.prompt], texts, scale=LikertScale(1, 5, 0.4, 1.2))[0].score)}
    else:
        payload = {"text": "What somebody wrote."}
    store.save_label(Label(f"{name}-{item.id}", item.id, name, payload, **fields))


def showcase(store: FeedbackStore) -> None:
    """One item of each kind to take a picture of, and some that are done or waiting, for the progress."""
    for number in range(30):
        item = Item("rate", f"filler {number}", (Answer(f"text {number}"),))
        store.add_items([item])
        if number < 11:
            store.save_label(Label(f"done-{number}", item.id, "mia", {"score": 3}, 5.0))
    answers = tuple(Answer(text, "policy", str(number)) for number, text in enumerate(SEA_ANSWERS))
    shown = [
        Item("demonstrate", "Explain to a ten-year-old what a black hole is. Three sentences at most."),
        Item("rate", SEA, answers[3:]),
        Item("rank", SEA, answers),
        Item("compare", SEA, (answers[0], answers[1])),
    ]
    store.add_items(shown)
    wanted = {item.id for item in shown}
    store.reprioritise(lambda items: [2.0 if item.id in wanted else 0.5 for item in items])
    assert all(sorted(shown_order("mia", item)) == list(range(len(item.answers))) for item in shown)


# --- server and browser -----------------------------------------------------------------------------------------------


@contextmanager
def serving(store: FeedbackStore, security: Security) -> Iterator[str]:
    """The address of a server in a thread."""
    server = uvicorn.Server(uvicorn.Config(build_app(store, {}, security), log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


def find_browser() -> str:
    """Chromium, or whatever TEXTENV_CHROMIUM names."""
    found = os.environ.get("TEXTENV_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise SystemExit(f"no browser: none of {', '.join(BROWSERS)} is in PATH, and TEXTENV_CHROMIUM is not set")
    return found


def keep(page: Any, path: Path, *, full: bool = False) -> None:
    """A picture; in few colours where it would be large."""
    image = Image.open(io.BytesIO(page.screenshot(full_page=full, animations="disabled"))).convert("RGB")
    image.save(path, optimize=True)
    if path.stat().st_size > LARGEST_BYTES:
        image.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} KB")


def labelling(page: Any, address: str, link: str, out: Path) -> None:
    """The four tasks, half done."""
    page.goto(address + link)
    page.wait_for_selector("main[aria-busy=false] h1")
    for kind in ("demonstrate", "rate", "rank", "compare"):
        page.goto(f"{address}/label?kinds={kind}")
        page.wait_for_selector("main[aria-busy=false] h1")
        if kind == "demonstrate":
            page.click("textarea")
            page.keyboard.type(
                "A black hole is a place in space where gravity pulls so hard that nothing gets out, not even light."
            )
        elif page.is_visible("#guide"):
            page.keyboard.press("i")
        if kind == "rate":
            page.keyboard.press("4")
        elif kind == "rank":
            for text in (SEA_ANSWERS[0], SEA_ANSWERS[3]):
                page.keyboard.press(str(page.get_attribute(f".answer:has-text({text[:30]!r})", "data-letter")).lower())
        elif kind == "compare":
            letter = page.get_attribute(f".answer:has-text({SEA_ANSWERS[0][:30]!r})", "data-letter")
            page.keyboard.press("ArrowLeft" if letter == "A" else "ArrowRight")
            page.keyboard.press("ArrowLeft" if letter == "A" else "ArrowRight")
        page.wait_for_timeout(300)
        keep(page, out / f"{kind}.png")


def pictures(store: FeedbackStore, shown: FeedbackStore, clock: Clock, out: Path) -> None:
    """All pictures."""
    from playwright.sync_api import sync_playwright

    security = Security(b"k" * 64, TOKEN, clock)
    desk: dict[str, Any] = {"viewport": {"width": 1120, "height": 760}}
    wide: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
    phone: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    common: dict[str, Any] = {"timezone_id": "UTC", "locale": "en-GB", "reduced_motion": "reduce"}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox", "--disable-gpu"])
        with serving(shown, security) as address:
            labelling(browser.new_context(**desk, **common).new_page(), address, security.rater_link("mia"), out)
            page = browser.new_context(**phone, **common).new_page()
            page.goto(address + security.rater_link("mia"))
            page.goto(f"{address}/label?kinds=compare")
            page.wait_for_selector("main[aria-busy=false] h1")
            page.locator(".choice").nth(5).tap()
            page.wait_for_timeout(300)
            page.evaluate("scrollTo(0, document.body.scrollHeight)")
            keep(page, out / "phone.png")
        with serving(store, security) as address:
            for name, options in (("dashboard", wide), ("dashboard-phone", phone | {"color_scheme": "dark"})):
                page = browser.new_context(**options, **common).new_page()
                page.goto(f"{address}/dashboard")
                if name == "dashboard":
                    page.set_viewport_size({"width": 640, "height": 460})
                    keep(page, out / "signin.png")
                    page.set_viewport_size(wide["viewport"])
                page.fill("#token", TOKEN)
                page.keyboard.press("Enter")
                page.wait_for_selector("main[aria-busy=false]")
                keep(page, out / f"{name}.png", full=name == "dashboard")
        browser.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the labels, serve them, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/feedback"))
    parser.add_argument("--keep", type=Path, help="folder for the databases")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        place = options.keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        clock = Clock()
        with (
            FeedbackStore(place / "dashboard.db", clock=clock) as store,
            FeedbackStore(place / "labelling.db", clock=clock, gold_share=0.0) as shown,
        ):
            simulate(store, clock)
            showcase(shown)
            pictures(store, shown, clock, options.out)


if __name__ == "__main__":
    main()
