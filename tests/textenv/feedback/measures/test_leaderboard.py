"""Leaderboards: against an independent fit, where ratings exist, what files and stores hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from textenv.cli.main import main
from textenv.errors import DataError
from textenv.feedback.measures.leaderboard import (
    MEAN_RATING,
    POINTS,
    Battles,
    bradley_terry,
    elo,
    leaderboard,
    read_battles,
)
from textenv.feedback.store import Answer, FeedbackStore, Item, Label


def battles_of(rows: list[tuple[str, str, float]]) -> Battles:
    names = tuple(dict.fromkeys(name for row in rows for name in row[:2]))
    first, second = (np.array([names.index(row[side]) for row in rows]) for side in (0, 1))
    return Battles(np.array([row[2] for row in rows]), first, second, np.arange(len(rows)), None, names)


def random_battles(seed: int, policies: int, count: int) -> Battles:
    rng = np.random.default_rng(seed)
    ability = rng.normal(0, 1, policies)
    first = rng.integers(policies, size=count)
    second = (first + rng.integers(1, policies, size=count)) % policies
    chance = 1 / (1 + np.exp(ability[second] - ability[first]))
    values = np.where(rng.random(count) < 0.2, 0.5, (rng.random(count) < chance).astype(float))
    return Battles(values, first, second, np.arange(count), None, tuple(f"p{k}" for k in range(policies)))


@pytest.mark.parametrize(("seed", "policies", "count"), [(0, 2, 30), (1, 5, 200), (2, 12, 3000)])
def test_bradley_terry_is_the_maximum_of_the_likelihood(seed: int, policies: int, count: int):
    battles = random_battles(seed, policies, count)

    def loss(abilities: np.ndarray) -> tuple[float, np.ndarray]:
        z = abilities[battles.first] - abilities[battles.second]
        slope = 1 / (1 + np.exp(-z)) - battles.values
        gradient = np.bincount(battles.first, slope, policies) - np.bincount(battles.second, slope, policies)
        return float((np.logaddexp(0, z) - battles.values * z).sum()), gradient

    fitted: Any = minimize(loss, np.zeros(policies), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    ours = bradley_terry(battles.values, battles.first, battles.second, policies)
    assert ours == pytest.approx(fitted - fitted.mean(), abs=1e-6)


def test_three_of_four_is_log_three_on_the_scale_of_elo():
    found = leaderboard(battles_of([("a", "b", 1.0)] * 3 + [("b", "a", 1.0)]), np.random.default_rng(0))
    assert [each.policy for each in found] == ["a", "b"]
    assert found[0].rating.value - found[1].rating.value == pytest.approx(400 * np.log10(3))
    assert found[0].rating.value + found[1].rating.value == pytest.approx(2 * MEAN_RATING)
    assert (found[0].battles, found[0].score) == (4, 0.75)


def test_a_tie_is_half_a_win():
    tied = battles_of([("a", "b", 0.5)] * 2 + [("a", "b", 1.0)] * 2)
    assert leaderboard(tied, np.random.default_rng(0))[0].rating.value == pytest.approx(
        MEAN_RATING + 0.5 * POINTS * np.log(3)
    )


def test_who_won_or_lost_everything_has_no_number():
    middle = [("a", "b", 1.0), ("b", "a", 1.0)] * 4
    found = leaderboard(battles_of([*middle, ("top", "a", 1.0), ("b", "low", 1.0)]), np.random.default_rng(0))
    told = {each.policy: each.note for each in found}
    assert told["top"].startswith("above all with a rating")
    assert told["low"].startswith("below all with a rating")
    assert {each.policy: each.rating.value for each in found if not each.note} == pytest.approx(
        {"a": MEAN_RATING, "b": MEAN_RATING}
    )
    alone = leaderboard(battles_of([("a", "b", 1.0)] * 9), np.random.default_rng(0))
    assert all("only the order is known" in each.note and np.isnan(each.rating.value) for each in alone)


def test_policies_that_never_met_stand_in_leagues_of_their_own():
    found = leaderboard(
        battles_of([("a", "b", 1.0), ("b", "a", 1.0)] * 3 + [("c", "d", 0.5)] * 2), np.random.default_rng(0)
    )
    assert [(each.policy, each.league) for each in found] == [("a", 1), ("b", 1), ("c", 2), ("d", 2)]
    assert all(each.rating.value == pytest.approx(MEAN_RATING) for each in found)


def test_elo_of_one_battle_by_hand():
    # Equal ratings: the winner takes half of the largest step of 4.
    found = elo(battles_of([("a", "b", 1.0)]), np.random.default_rng(0))
    assert [each.value for each in found] == [1002, 998]


def test_elo_nears_bradley_terry_with_many_battles():
    battles = random_battles(3, 4, 6000)
    found = elo(battles, np.random.default_rng(0))
    truth = MEAN_RATING + POINTS * bradley_terry(battles.values, battles.first, battles.second, 4)
    assert [each.value for each in found] == pytest.approx(truth, abs=12)


def test_battles_on_one_prompt_count_once():
    battles = random_battles(4, 3, 300)
    values, first, second, prompts = (np.repeat(column, 4) for column in battles[:4])
    copied = Battles(values, first, second, prompts, None, battles.policies)
    once, copies = (leaderboard(each, np.random.default_rng(0)) for each in (battles, copied))
    assert [each.rating.low for each in copies] == pytest.approx([each.rating.low for each in once], rel=1e-3)


ARENA = [
    {"model_a": "m1", "model_b": "m2", "winner": "model_a", "judge": "u1"},
    {"model_a": "m2", "model_b": "m1", "winner": "model_a", "judge": "u2"},
    {"model_a": "m1", "model_b": "m2", "winner": "tie (bothbad)", "judge": "u1"},
    {"model_a": "m1", "model_b": "m1", "winner": "model_a", "judge": "u1"},
    {"model_a": "m1", "model_b": "m2", "winner": None, "judge": "u1"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_arena_rows_are_read_and_what_is_left_out_is_counted(tmp_path: Path):
    found = read_battles(write(tmp_path / "arena.jsonl", ARENA))
    assert found.policies == ("m1", "m2")
    assert found.values.tolist() == [1, 1, 0.5]
    assert found.first.tolist() == [0, 1, 0]
    assert found.raters is not None
    assert len(np.unique(found.raters)) == 2
    assert found.left_out == {"no winner": 1, "a policy against itself": 1}


def test_one_hot_winners_are_read_and_prompts_belong_together(tmp_path: Path):
    row = {"model_a": "m", "model_b": "n", "prompt": '["Hi"]', "winner_model_a": 0, "winner_model_b": 1}
    told = read_battles(write(tmp_path / "kaggle.jsonl", [row, row, {**row, "prompt": '["Ho"]', "winner_tie": 0}]))
    assert told.values.tolist() == [0, 0, 0]
    assert len(np.unique(told.prompts)) == 2
    assert told.raters is None


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"model_a": "m", "model_b": "n", "winner": "left"}, r"battles.jsonl:1: `winner` is 'left'"),
        ({"model_a": "m", "winner": "tie"}, r"battles.jsonl:1: `model_a` and `model_b` must name two policies"),
        ({"model_a": "m", "model_b": "n"}, r"battles.jsonl:1: has no column `winner`"),
        ({"model_a": "m", "model_b": "n", "winner_model_a": 1, "winner_tie": 1}, "more than one of"),
        ({"model_a": "m", "model_b": "m", "winner": "tie"}, r"no battle .*\(a policy against itself: 1\)"),
    ],
)
def test_what_is_no_battle_is_said(row: dict[str, Any], said: str, tmp_path: Path):
    with pytest.raises(DataError, match=said):
        read_battles(write(tmp_path / "battles.jsonl", [row]))


def test_the_stores_comparisons_are_battles(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with FeedbackStore(tmp_path / "people.sqlite") as store:
        items = [Item("compare", f"p{n}", (Answer("good", "new"), Answer("bad", "old"))) for n in range(12)]
        store.add_items(items)
        for number, item in enumerate(items):
            store.save_label(Label(f"l{number}", item.id, f"r{number % 3}", {"preferred": int(number % 4 == 0)}))
    found = read_battles(tmp_path / "people.sqlite")
    assert len(found.values) == 12
    assert main(["labels", "leaderboard", str(tmp_path / "people.sqlite")]) == 0
    shown = capsys.readouterr().out
    assert "12 battles on 12 prompts, 3 raters" in shown
    assert main(["labels", "leaderboard", str(tmp_path / "people.sqlite"), "--json", "true"]) == 0
    best, last = json.loads(capsys.readouterr().out)["policies"]
    assert (best["policy"].split("@")[0], best["score"]) == ("new", 0.75)
    assert best["rating"]["value"] - last["rating"]["value"] == pytest.approx(400 * np.log10(3))
