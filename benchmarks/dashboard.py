"""What the dashboard costs with many labels: reading them once, keeping up with new ones, and what saves notice of it.

    python benchmarks/dashboard.py                  # 100,000 labels; prints one line per figure
    python benchmarks/dashboard.py --labels 10000 --check

``--check`` exits with status 1 where keeping up takes more than a second of work, or the median save takes more
than 20 ms longer while somebody looks at the dashboard.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Any

from textenv.feedback.measures.figures import Dashboard
from textenv.feedback.measures.judgements import JudgementLog
from textenv.feedback.store import Answer, FeedbackStore, Item, Label
from textenv.feedback.store.assignment import shown_order
from textenv.feedback.store.rows import item_row, label_row
from textenv.feedback.store.schema import items, labels, raters

RATERS = 40
WORK_TARGET_SECONDS = 1.0
SAVE_TARGET_SECONDS = 0.02


def make_item(number: int) -> Item:
    """Comparisons, ratings and rankings of four, with answers of some 600 characters."""
    kind, size = (("compare", 2), ("rate", 1), ("rank", 4))[number % 3]
    text = "words and more words " * (10 + number % 40)
    answers = tuple(Answer(f"{number} {j} {text}", ("sft", "ppo")[j % 2], f"v{number % 3}") for j in range(size))
    return Item(kind, f"prompt number {number}", answers, wanted=3)  # type: ignore[arg-type]  # kind is a plain str here


def payload(item: Item, rng: Random) -> dict[str, Any]:
    """What somebody says."""
    if item.kind == "rate":
        return {"score": rng.randint(1, 5)}
    if item.kind == "compare":
        return {"preferred": rng.choice([0, 1, 1, None]), "margin": 0, "both_bad": False}
    return {"ranks": [rng.randint(1, 4) for _ in item.answers]}


def fill(store: FeedbackStore, count: int) -> None:
    """Put labels into the database as the store would, in few transactions."""
    rng, now = Random(0), time.time()
    names = [f"rater-{number:02d}" for number in range(RATERS)]
    done = dict.fromkeys(names, 0)
    for begin in range(0, count, 9000):
        made = [make_item(number) for number in range(begin // 3, (begin + min(9000, count - begin)) // 3)]
        said = []
        for item in made:
            for rater in rng.sample(names, 3):
                order = shown_order(rater, item)
                when = now - 86400 * 10 * (1 - len(said) / 9000)
                label = Label(f"{rater}-{item.id}", item.id, rater, payload(item, rng), 5.0, order, kind=item.kind)
                said.append(label_row(label) | {"time": when})
                done[rater] += 1
        with store.database.write() as connection:
            rows = [item_row(item, priority=0.5, wanted=3, now=now) | {"done": 3, "is_open": False} for item in made]
            connection.execute(items.insert(), rows)
            if begin == 0:
                new = {"active": True, "created": now, "note": "", "labelled": 0, "skipped": 0}
                connection.execute(raters.insert(), [new | {"name": name} for name in names])
            connection.execute(labels.insert(), said)
    with store.database.write() as connection:
        for name, number in done.items():
            connection.execute(raters.update().where(raters.c.name == name).values(labelled=number))


def saves(store: FeedbackStore, first: int, seconds: float, pause: float = 0.005) -> list[float]:
    """Seconds that each save takes while new labels come in."""
    took, end, number = [], time.monotonic() + seconds, first
    rng = Random(1)
    while time.monotonic() < end:
        item = make_item(number)
        store.add_items([item])
        label = Label(f"new-{number}", item.id, "rater-00", payload(item, rng), 1.0)
        begun = time.monotonic()
        store.save_label(label)
        took.append(time.monotonic() - begun)
        number += 1
        time.sleep(pause)
    return took


def show(name: str, value: float, unit: str) -> None:
    """One line."""
    print(f"{name:58s} {value:9.1f} {unit}")


def saved_line(name: str, took: list[float]) -> None:
    """Median and 95th percentile of saves."""
    print(f"{name:58s} {1e3 * median(took):9.1f} ms, p95 {1e3 * quantiles(took, n=20)[-1]:.1f} ms ({len(took)} saves)")


def main() -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, FeedbackStore(Path(folder) / "feedback.db") as store:
        fill(store, options.labels)
        show("labels", options.labels, "")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        log = JudgementLog(store.database)
        begun = time.monotonic()
        log.update()
        show("reading them once", time.monotonic() - begun, "s")
        dashboard = Dashboard(store.database, patience=600.0)
        begun = time.monotonic()
        dashboard.figures()
        show("first figures, reading included", time.monotonic() - begun, "s")
        show("memory of two such readers, and of the figures", (resource.getrusage(0).ru_maxrss - before) / 1024, "MiB")

        costs = []
        for number in range(5):
            saves(store, 10_000_000 + number, 0.0001)
            begun = time.process_time(), time.monotonic()
            dashboard._compute()
            costs.append((time.process_time() - begun[0], time.monotonic() - begun[1]))
        work = median(cpu for cpu, _ in costs)
        show("figures after a new label: work", 1e3 * work, "ms")
        show("figures after a new label: time", 1e3 * median(wall for _, wall in costs), "ms")
        begun = time.monotonic()
        for _ in range(100):
            dashboard.figures()
        show("figures that are still new", 1e6 * (time.monotonic() - begun) / 100, "µs")

        alone = saves(store, 20_000_000, options.seconds)
        saved_line("a save, nobody looks", alone)
        watching = threading.Event()

        def watch() -> None:
            while not watching.wait(0.2):
                dashboard.figures()

        watchers = [threading.Thread(target=watch) for _ in range(5)]
        for thread in watchers:
            thread.start()
        watched = saves(store, 30_000_000, options.seconds)
        saved_line("a save, five people look at the dashboard", watched)
        reader = threading.Thread(target=JudgementLog(store.database).update)
        reader.start()
        first = []
        while reader.is_alive():
            first += saves(store, 40_000_000 + len(first), 0.1)
        saved_line("a save while all labels are read for the first time", first)
        watching.set()
        for thread in watchers:
            thread.join()
    slow = work > WORK_TARGET_SECONDS or median(watched) - median(alone) > SAVE_TARGET_SECONDS
    return int(options.check and slow)


if __name__ == "__main__":
    sys.exit(main())
