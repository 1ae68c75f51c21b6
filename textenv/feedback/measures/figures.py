"""The dashboard's figures as JSON, computed seldom enough that labelling does not notice.

Labels are read incrementally (:mod:`.judgements`), the figures about them are computed again only where a label came or
went, and never so often that this takes more than a twentieth of a processor. Everything reads; nothing waits for it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import numpy as np

from textenv.feedback.measures.activity import pace, queue_state
from textenv.feedback.measures.agreement import alpha_estimate, choice_values, pairwise_agreement
from textenv.feedback.measures.bias import length_bias, position_bias, rank_correlation
from textenv.feedback.measures.ceiling import best_correlation, noise_ceiling
from textenv.feedback.measures.judgements import JudgementLog, Judgements, Pairs, Ratings
from textenv.feedback.measures.rater_quality import RaterQuality, rater_quality
from textenv.feedback.measures.win_rates import mean_ratings, win_rates
from textenv.feedback.store import KINDS, Database
from textenv.statistics import Estimate, Interval

_SHARE_OF_TIME = 0.05
_LEAST_AGE_SECONDS = 1.0
_MOST_RATERS = 100
_MOST_WIN_RATES = 60
_CHOICES = ("compare", "rank")

NEEDS_TWO = "needs two raters on the same item"


class Dashboard:
    """Figures of a store, for any number of threads; they may be some seconds old.

    Args:
        database: Of the store.
        clock: Unix seconds.
        patience: Seconds that a caller waits for new figures before the last ones must do.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time, *, patience: float = 1.0) -> None:
        self._database = database
        self._clock = clock
        self._patience = patience
        self._log = JudgementLog(database)
        self._turn = threading.Lock()
        self._work: Future[None] | None = None
        self._judgements: Judgements | None = None
        self._measured: dict[str, Any] = {}
        self._last: dict[str, Any] | None = None
        self._next = 0.0

    def figures(self) -> dict[str, Any]:
        """All figures; ``{"preparing": labels read so far}`` while the first ones take longer than the patience.

        Raises:
            Exception: What computing them raised.
        """
        with self._turn:
            if self._work is None and time.monotonic() >= self._next:
                self._work = Future()
                threading.Thread(target=self._renew, args=(self._work,), name="textenv-dashboard", daemon=True).start()
            work = self._work
        if work is not None and wait([work], self._patience).done:
            work.result()
        return self._last or {"preparing": len(self._log)}

    def _renew(self, work: Future[None]) -> None:
        begun = time.monotonic()
        try:
            self._last = self._compute()
            self._done(begun)
            work.set_result(None)
        except Exception as error:  # noqa: BLE001  # whatever it is, it belongs to who waits for the figures
            self._done(begun)
            work.set_exception(error)

    def _done(self, begun: float) -> None:
        """Say when to compute again: after a rest in proportion to the work."""
        now = time.monotonic()
        with self._turn:
            self._work = None
            self._next = now + max(_LEAST_AGE_SECONDS, (now - begun) / _SHARE_OF_TIME)

    def _compute(self) -> dict[str, Any]:
        changed = self._log.update()
        if changed or self._judgements is None:
            self._judgements = self._log.judgements()
            self._measured = measures(self._judgements)
        said, now = self._judgements.labels, self._clock()
        given = ~said.skipped
        activity = pace(said.time[given], said.rater[given], now)
        found = {
            "now": now,
            "labels": int(given.sum()),
            "skips": int(said.skipped.sum()),
            "pace": {**activity._asdict(), "per_hour": activity.per_hour},
            "queue": [each._asdict() for each in queue_state(self._database, now)],
            **self._measured,
        }
        return _plain(found)


def measures(judgements: Judgements) -> dict[str, Any]:
    """What the labels say, apart from when they came; values are numbers, NaN where there is too little data."""
    pairs, ratings = judgements.pairs, judgements.ratings
    sources = win_rates(
        pairs.value, pairs.first_source, pairs.second_source, pairs.prompt, judgements.sources, pairs.both_bad
    )
    rated = mean_ratings(ratings.worth, ratings.source, ratings.prompt, judgements.sources)
    raters = rater_quality(judgements)
    length = length_bias(pairs.value, pairs.first_length, pairs.second_length, pairs.prompt)
    kinds = _by_kind(pairs)
    agreement = _agreement(kinds, ratings)
    return {
        "agreement": agreement,
        "ceiling": _ceilings(kinds, agreement),
        "win_rates": [{**each._asdict(), "share": _share(each.share)} for each in sources[:_MOST_WIN_RATES]],
        "win_rates_left_out": max(0, len(sources) - _MOST_WIN_RATES),
        "mean_ratings": [{**each._asdict(), "share": _share(each.share)} for each in rated[:_MOST_WIN_RATES]],
        "mean_ratings_left_out": max(0, len(rated) - _MOST_WIN_RATES),
        "position": [
            {"kind": kind, "share": _share(position_bias(of.value, of.first_shown, of.label))} for kind, of in kinds
        ],
        "length": {
            "longer": _share(length.longer),
            "classes": [{"from": low, "to": high, "share": _share(share)} for low, high, share in length.classes],
            "ratings": _length_of_ratings(ratings),
        },
        "raters": [_rater(each) for each in raters[:_MOST_RATERS]],
        "raters_left_out": max(0, len(raters) - _MOST_RATERS),
    }


def _by_kind(pairs: Pairs) -> list[tuple[str, Pairs]]:
    found = []
    for kind in _CHOICES:
        chosen = pairs.kind == KINDS.index(kind)
        if chosen.any():
            columns: dict[str, Any] = {name: column[chosen] for name, column in pairs._asdict().items()}
            found.append((kind, Pairs(**columns)))
    return found


def _agreement(kinds: list[tuple[str, Pairs]], ratings: Ratings) -> list[dict[str, Any]]:
    found = []
    if len(ratings.item):
        alpha = alpha_estimate(ratings.worth, ratings.item, level="interval")
        same = pairwise_agreement(ratings.step, ratings.item)
        found.append({"kind": "rate", "alpha": _estimate(alpha, -1.0), "same": _estimate(same)})
        wide = ratings.tolerance > 0
        if wide.any():
            close = pairwise_agreement(ratings.step[wide], ratings.item[wide], tolerance=1)
            found[-1]["close"] = _estimate(close)
    for kind, of in kinds:
        choices = choice_values(of.value, of.unit, of.item)
        alpha = alpha_estimate(choices.values, choices.units, level="nominal", clusters=choices.clusters)
        same = pairwise_agreement(np.rint(2 * of.value), of.unit, clusters=of.item)
        found.append({"kind": kind, "alpha": _estimate(alpha, -1.0), "same": _estimate(same)})
    for each in found:
        each["note"] = _note_of_agreement(each)
    return sorted(found, key=lambda each: each["kind"] == "rate")


def _note_of_agreement(found: dict[str, Any]) -> str:
    if found["same"]["units"] == 0:
        return NEEDS_TWO
    return "everybody says the same of everything: alpha is not defined" if math.isnan(found["alpha"]["value"]) else ""


def _ceilings(kinds: list[tuple[str, Pairs]], agreement: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for kind, of in kinds:
        ceiling = noise_ceiling(of.value, of.unit, of.prompt)
        found.append({"kind": kind, **ceiling._asdict(), "note": "" if ceiling.pairs else NEEDS_TWO})
    for each in agreement:
        if each["kind"] == "rate":
            alpha = each["alpha"]
            ends = {name: best_correlation(alpha[name]) for name in ("value", "low", "high")}
            note = NEEDS_TWO if alpha["units"] == 0 else "" if math.isfinite(alpha["value"]) else "ratings do not vary"
            found.append({"kind": "rate", **ends, "pairs": alpha["units"], "note": note})
    return found


def _length_of_ratings(ratings: Ratings) -> dict[str, Any]:
    """Correlation of the items' mean ratings with the lengths of their answers."""
    _, first, index, sizes = np.unique(ratings.item, return_index=True, return_inverse=True, return_counts=True)
    found = rank_correlation(np.bincount(index, ratings.worth) / sizes, ratings.length[first])
    return {"value": found.value, "low": found.low, "high": found.high, "items": len(sizes)}


def _rater(quality: RaterQuality) -> dict[str, Any]:
    shares = {name: _share(getattr(quality, name)) for name in ("gold", "agreement", "first_shown")}
    return {**quality._asdict(), **shares}


def _share(share: Interval) -> dict[str, Any]:
    return {"value": share.value, "low": share.low, "high": share.high, "number": share.n, "clusters": share.clusters}


def _estimate(estimate: Estimate, least: float = 0.0) -> dict[str, Any]:
    """An estimate with its interval; without one where nothing varied, which a normal interval knows nothing about."""
    low = high = math.nan
    if estimate.standard_error > 0:
        low, high = (min(1.0, max(least, end)) for end in estimate.interval()[1:3])
    return {"value": estimate.value, "low": low, "high": high, "units": estimate.units}


def _plain(value: Any) -> Any:
    """The same for JSON: numbers that are not finite become null."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
