"""Leaderboards: how good policies are by battles between their answers, Bradley-Terry and Elo, with intervals.

Both stand on Elo's scale: 400 points are odds of ten to one, and the mean of those that are rated is 1000. Ties count
as half a win and half a loss. What the battles do not say is said, not printed as a large number: a policy that won (or
lost) all battles against the others lies above (below) them by an unknown amount, and policies that have not met, nor
met a common opponent, cannot be compared.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textenv.errors import DataError
from textenv.feedback.measures.judgements import JudgementLog
from textenv.feedback.store import FeedbackStore
from textenv.records import each, read_rows
from textenv.statistics import Interval, cluster_numbers, grouped_ratio, two_way_error

MEAN_RATING = 1000.0
POINTS = 400 / np.log(10)
"""Points of Elo's scale per nat of log-odds."""

_ELO_STEP = 4.0
_ORDERS = 100
_WINNERS = {
    "model_a": 1.0, "a": 1.0, "model_b": 0.0, "b": 0.0,
    "tie": 0.5, "tie (bothbad)": 0.5, "bothbad": 0.5, "both_bad": 0.5,
}  # fmt: skip
_ONE_HOT = {"winner_model_a": 1.0, "winner_model_b": 0.0, "winner_tie": 0.5}

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Battles(NamedTuple):
    """Pairs of answers of which somebody preferred one, or neither.

    Attributes:
        values: 1 where the first policy's answer won, 0 the second's, ½ neither, shape ``(n,)``.
        first: The first policy, an index into `policies`, shape ``(n,)``.
        second: The other, never the same.
        prompts: What belongs together, integers, shape ``(n,)``.
        raters: Who judged, integers, shape ``(n,)``; None where nobody says.
        policies: Names.
        left_out: Battles that say nothing of policies, by reason.
    """

    values: Floats
    first: Ints
    second: Ints
    prompts: Ints
    raters: Ints | None
    policies: tuple[str, ...]
    left_out: Mapping[str, int] = {}


class Standing(NamedTuple):
    """A policy on the leaderboard.

    Attributes:
        policy: Its name.
        rating: Bradley-Terry; NaN where the battles do not say, see `note`.
        elo: Expected after these battles in random order; NaN where there is no rating.
        battles: Its battles.
        score: Share of them that it won, ties counting one half.
        league: Policies that can be compared share a number, from 1; ratings of two leagues cannot.
        note: Why there is no rating; empty where there is one.
    """

    policy: str
    rating: Interval
    elo: Interval
    battles: int
    score: float
    league: int
    note: str


def read_battles(source: str | Path) -> Battles:
    """Battles of a file of rows with ``model_a``, ``model_b`` and a winner, or of a store's comparisons and rankings.

    The winner is ``winner`` (``model_a``, ``model_b``, ``tie``, ``tie (bothbad)``) or one of ``winner_model_a``,
    ``winner_model_b`` and ``winner_tie`` is 1. Battles on one prompt (``prompt``, the first message of
    ``conversation_a``, or ``question_id``) belong together, and so do those of one rater (``judge``, ``rater``).

    Args:
        source: A file that :func:`textenv.records.read_rows` reads, or a store: an SQLite file or a URL.

    Raises:
        DataError: If the file is missing, a row has no such columns, or nothing is left.
    """
    battles = _of_store(str(source)) if _is_store(source) else _of_file(source)
    if not len(battles.values):
        reasons = ", ".join(f"{reason}: {count}" for reason, count in battles.left_out.items())
        raise DataError(f"{source}: holds no battle between two named policies{f' ({reasons})' if reasons else ''}")
    return battles


def leaderboard(battles: Battles, rng: np.random.Generator, *, elo_too: bool = True) -> list[Standing]:
    """Ratings of all policies, by league and rating; those without one last.

    Args:
        battles: As :func:`read_battles` gives them, or made of win rates' arrays.
        rng: For the orders and resamples of Elo.
        elo_too: Whether Elo ratings are computed, which takes most of the time.

    Source: Bradley and Terry 1952, Biometrika 39; ties as halves, scale and anchor as in Chiang et al. 2024, "Chatbot
    Arena", arXiv:2403.04132, section 4; the Elo update as in Zheng et al. 2023, arXiv:2306.05685, with K = 4.
    """
    count = len(battles.policies)
    leagues, rated, notes = comparable(battles)
    ratings = [Interval(np.nan)] * count
    elos = [Interval(np.nan)] * count
    for league in np.unique(leagues[rated]):
        members = np.flatnonzero(rated & (leagues == league))
        among = np.isin(battles.first, members) & np.isin(battles.second, members)
        part = _part(battles, among, members)
        online_ratings = elo(part, rng) if elo_too else [Interval(np.nan)] * len(members)
        for place, found, online in zip(members, _ratings(part), online_ratings, strict=True):
            ratings[place], elos[place] = found, online
    played = np.bincount(battles.first, minlength=count) + np.bincount(battles.second, minlength=count)
    won = np.bincount(battles.first, battles.values, count) + np.bincount(battles.second, 1 - battles.values, count)
    table = [
        Standing(
            battles.policies[i], ratings[i], elos[i], int(played[i]), float(won[i] / played[i]), int(leagues[i]), note
        )
        for i, note in enumerate(notes)
        if played[i]
    ]
    return sorted(
        table, key=lambda each: (each.league, bool(each.note), -np.nan_to_num(each.rating.value), each.policy)
    )


def comparable(battles: Battles) -> tuple[Ints, NDArray[np.bool_], list[str]]:
    """Which policies have ratings at all.

    Returns:
        The league of each policy, shape ``(K,)``; whether it has a rating, shape ``(K,)``; and why not.

    Source: Ford 1957, "Solution of a Ranking Problem from Binary Comparisons", American Mathematical Monthly 64: the
    ratings exist where everybody has beaten somebody of every two halves that the policies could be split into.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(battles.policies)
    winners = np.concatenate([battles.first[battles.values > 0], battles.second[battles.values < 1]])
    losers = np.concatenate([battles.second[battles.values > 0], battles.first[battles.values < 1]])
    beats = coo_matrix((np.ones(len(winners)), (winners, losers)), shape=(count, count)).tocsr()
    _, league = connected_components(beats, directed=False)
    _, circle = connected_components(beats, connection="strong")
    rated, notes = np.zeros(count, np.bool_), [""] * count
    played = np.bincount(np.concatenate([battles.first, battles.second]), minlength=count)
    for number in np.unique(league):
        members = np.flatnonzero(league == number)
        sizes = {c: (int((circle[members] == c).sum()), int(played[members][circle[members] == c].sum()))
                 for c in np.unique(circle[members])}  # fmt: skip
        main = max(sizes, key=lambda c: sizes[c])
        rated[members] = (circle[members] == main) & (sizes[main][0] > 1)
        above, below = _reaching(beats, circle == main), _reaching(beats.T.tocsr(), circle == main)
        for place in members[~rated[members]]:
            if sizes[main][0] == 1:
                notes[place] = "no two policies have each won something against the other: only the order is known"
            elif above[place]:
                notes[place] = "above all with a rating: they never won against it, so by how much is not known"
            elif below[place]:
                notes[place] = "below all with a rating: it never won against them, so by how much is not known"
            else:
                notes[place] = "has not met those with a rating, nor anybody who says how it compares"
    largest = [n for n, _ in Counter(league[played > 0].tolist()).most_common()]
    numbers = {n: place for place, n in enumerate(largest, 1)}
    return np.array([numbers.get(n, 0) for n in league.tolist()]), rated, notes


def bradley_terry(values: Floats, first: Ints, second: Ints, count: int) -> Floats:
    """Abilities in nats by maximum likelihood, their mean 0: ``P(first wins) = σ(ability − ability)``.

    Args:
        values: As in :class:`Battles`; between 0 and 1, shape ``(n,)``.
        first: Likewise.
        second: Likewise.
        count: Policies, all of them comparable (:func:`comparable`).
    """
    abilities = np.zeros(count)
    score = np.bincount(first, values, count) + np.bincount(second, 1 - values, count)
    pairs, index = np.unique(np.stack([first, second]), axis=1, return_inverse=True)
    met = np.bincount(index.ravel(), minlength=pairs.shape[1]).astype(np.float64)
    a, b = pairs
    for _ in range(200):
        chance = 1 / (1 + np.exp(abilities[b] - abilities[a]))
        gradient = score - np.bincount(a, met * chance, count) - np.bincount(b, met * (1 - chance), count)
        step = np.linalg.solve(_information(met * chance * (1 - chance), a, b, count), gradient)
        abilities += step * min(1.0, 2.0 / max(np.abs(step).max(), 1e-300))  # far steps of Newton's may not return
        if np.abs(step).max() < 1e-12:
            break
    return abilities - abilities.mean()


def elo(battles: Battles, rng: np.random.Generator) -> list[Interval]:
    """Elo ratings after these battles, the mean over random orders: fixed policies have no first and last battle.

    A rating moves by at most 4 points a battle, so that after few battles it lies between 1000 and Bradley-Terry's; the
    interval is that of this figure, with prompts resampled, and without what the order alone changes.

    Args:
        battles: Of comparable policies.
        rng: Draws orders and resamples.
    """
    size, count = len(battles.values), len(battles.policies)
    index = cluster_numbers(battles.prompts, size)
    members = np.split(np.argsort(index, kind="stable"), np.cumsum(np.bincount(index))[:-1])
    clusters = len(members)
    orders = [rng.permutation(size) for _ in range(_ORDERS)]
    resamples = [
        rng.permutation(np.concatenate([members[c] for c in rng.integers(clusters, size=clusters)]))
        for _ in range(_ORDERS * 2)
    ]
    by_order, drawn = _played(battles, orders), _played(battles, resamples)
    found = []
    for k in range(count):
        draws, order = drawn[:, k], float(by_order[:, k].var())
        share = np.sqrt(max(draws.var() - order, 0.05 * draws.var()) / max(draws.var(), 1e-300))
        value = float(by_order[:, k].mean())
        found.append(Interval.of_draws(value, value + share * (draws - draws.mean()), n=size, clusters=clusters))
    return found


# --- pieces -----------------------------------------------------------------------------------------------------------


def _ratings(battles: Battles) -> list[Interval]:
    """Bradley-Terry on Elo's scale, with the errors that resampling clusters comes to where they are many."""
    values, first, second, count = battles.values, battles.first, battles.second, len(battles.policies)
    abilities = bradley_terry(values, first, second, count)
    chance = 1 / (1 + np.exp(abilities[second] - abilities[first]))
    inverse = np.linalg.inv(_information(chance * (1 - chance), first, second, count))
    size, found = len(values), []
    # What battles of these odds would leave unknown if they were independent, less what ties make them vary less.
    varying = ((values - chance) ** 2).sum() / (chance * (1 - chance)).sum() * size / max(size - count + 1, 1)
    ones = np.ones(size)
    for k in range(count):
        # How much each battle moves the rating, times n: the rating is the mean of these.
        moves = size * (values - chance) * (inverse[k, first] - inverse[k, second]) * POINTS
        estimate = grouped_ratio(moves, ones, battles.prompts)
        if battles.raters is not None and min(len(np.unique(x)) for x in (battles.raters, battles.prompts)) > 1:
            error, units = two_way_error(moves, battles.prompts, battles.raters)
            estimate = estimate._replace(standard_error=error, units=units)
        known = POINTS * np.sqrt(max(inverse[k, k] - 1 / count, 0) * min(varying, 1.0))
        estimate = estimate._replace(standard_error=float(np.fmax(estimate.standard_error, known)))
        _, low, high, _, clusters = estimate.interval()
        value = float(MEAN_RATING + POINTS * abilities[k])
        found.append(Interval(value, value + low - estimate.value, value + high - estimate.value, size, clusters))
    return found


def _information(weights: Floats, first: Ints, second: Ints, count: int) -> Floats:
    """Fisher information of the abilities, with 1/K added throughout so that it has an inverse on their differences."""
    table = np.bincount(first * count + second, weights, count * count).reshape(count, count)
    table = -(table + table.T)
    np.fill_diagonal(table, -table.sum(1))
    return np.asarray(table + 1 / count, np.float64)


def _played(battles: Battles, orders: Sequence[Ints]) -> Floats:
    """Elo ratings after the battles in each order, shape ``(orders, K)``; all orders step by step together."""
    longest = max(len(order) for order in orders)
    steps = np.stack([np.pad(order, (0, longest - len(order)), constant_values=-1) for order in orders], axis=1)
    ratings, rows = np.full((len(orders), len(battles.policies)), MEAN_RATING), np.arange(len(orders))
    for places in steps:
        first, second = battles.first[places], battles.second[places]
        expected = 1 / (1 + np.exp((ratings[rows, second] - ratings[rows, first]) / POINTS))
        move = np.where(places >= 0, _ELO_STEP * (battles.values[places] - expected), 0.0)
        ratings[rows, first] += move
        ratings[rows, second] -= move
    return ratings


def _reaching(edges: Any, targets: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which nodes have a path to a target."""
    reached = targets.copy()
    while True:
        grown = reached | (edges @ reached.astype(np.float64) > 0)
        if (grown == reached).all():
            return reached
        reached = grown


def _part(battles: Battles, kept: NDArray[np.bool_], members: Ints) -> Battles:
    """The battles among some policies, numbered anew."""
    return Battles(
        battles.values[kept],
        np.searchsorted(members, battles.first[kept]),
        np.searchsorted(members, battles.second[kept]),
        battles.prompts[kept],
        None if battles.raters is None else battles.raters[kept],
        tuple(battles.policies[i] for i in members),
    )


def _is_store(source: str | Path) -> bool:
    if "://" in str(source):
        return True
    path = Path(source)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(15) == b"SQLite format 3"


def _of_store(source: str) -> Battles:
    """Comparisons and rankings of a store; answers that no policy gave are in no battle."""
    with FeedbackStore(source) as store:
        log = JudgementLog(store.database)
        log.update()
        pairs, _, sources = (said := log.judgements()).pairs, said.ratings, said.sources
    named = np.array([bool(source) for source in sources] or [False])
    between = pairs.first_source != pairs.second_source
    kept = between & named[pairs.first_source] & named[pairs.second_source]
    left_out = {
        "both answers by one policy": int((~between).sum()),
        "an answer of nobody": int((between & ~kept).sum()),
    }
    return Battles(
        pairs.value[kept],
        pairs.first_source[kept],
        pairs.second_source[kept],
        pairs.prompt[kept],
        pairs.rater[kept],
        sources,
        {reason: count for reason, count in left_out.items() if count},
    )


def _of_file(path: str | Path) -> Battles:
    policies: dict[str, int] = {}
    rows: list[tuple[float, int, int]] = []
    prompts, raters, left_out = [], [], Counter[str]()
    for where, row in ((row.where, row.columns) for row in read_rows(path)):
        names = [row.get(name) for name in ("model_a", "model_b")]
        if not all(isinstance(name, str) and name for name in names):
            raise DataError(
                f"{where}: `model_a` and `model_b` must name two policies, got {names[0]!r} and {names[1]!r}"
            )
        value = _winner(row, where)
        if value is None:
            left_out["no winner"] += 1
        elif names[0] == names[1]:
            left_out["a policy against itself"] += 1
        else:
            first, second = (policies.setdefault(str(name), len(policies)) for name in names)
            rows.append((value, first, second))
            prompts.append(_prompt_of(row) or f"row {len(rows)}")
            rater = next((row[name] for name in ("judge", "rater") if row.get(name) not in (None, "")), None)
            raters.append(f"row {len(rows)}" if rater is None else f"by {rater}")
    values, first, second = np.array(rows, np.float64).reshape(-1, 3).T
    known = any(rater.startswith("by ") for rater in raters)
    numbers = [
        np.unique(names, return_inverse=True)[1] if names else np.zeros(0, np.int64) for names in (prompts, raters)
    ]
    return Battles(
        values,
        first.astype(np.int64),
        second.astype(np.int64),
        numbers[0],
        numbers[1] if known else None,
        tuple(policies),
        left_out,
    )


def _winner(row: Mapping[str, Any], where: str) -> float | None:
    """What the first policy's answer won; None where nobody says."""
    if row.get("winner") not in (None, ""):
        word = str(row["winner"]).strip().lower()
        if word not in _WINNERS:
            raise DataError(f"{where}: `winner` is {row['winner']!r}, expected model_a, model_b, tie or tie (bothbad)")
        return _WINNERS[word]
    if not row.keys() & {"winner", *_ONE_HOT}:
        raise DataError(f"{where}: has no column `winner`, nor `winner_model_a`, `winner_model_b` and `winner_tie`")
    told = [value for name, value in _ONE_HOT.items() if str(row.get(name)).strip().lower() in ("1", "1.0", "true")]
    if len(told) > 1:
        raise DataError(f"{where}: more than one of {', '.join(f'`{name}`' for name in _ONE_HOT)} is 1")
    return told[0] if told else None


def _prompt_of(row: Mapping[str, Any]) -> str:
    """What battles on the same prompt share; empty where the row does not say."""
    if row.get("prompt"):
        return json.dumps(row["prompt"], ensure_ascii=False, default=str)
    messages = row.get("conversation_a")
    asked = [m for m in each(messages) if isinstance(m, Mapping) and m.get("role") == "user"] if messages else []
    return json.dumps(asked[0], ensure_ascii=False, default=str) if asked else str(row.get("question_id") or "")
