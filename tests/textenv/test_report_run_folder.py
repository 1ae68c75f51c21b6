import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests.textenv.report_runs import make_metrics, make_run, write_lines
from textenv.errors import CheckpointError
from textenv.pages.numbers import duration, fixed, percent, short, tick_labels
from textenv.report.run_folder import Series, against, cumulative, interval, number, read_run


def series(*values: float) -> Series:
    return Series(np.arange(1.0, len(values) + 1), np.array(values))


def test_read_run_complete_folder_has_no_problems(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "first"))
    assert run.problems == ()
    assert run.name == "first"
    assert run.stages() == ("pretrain", "sft", "reward", "ppo")
    assert len(run.samples) == 40
    loss = run.series("pretrain", "eval/loss/movies")
    assert loss is not None
    assert loss.steps.tolist() == list(range(0, 801, 100))
    assert run.series("pretrain", "eval/loss/opera") is None


def test_read_run_without_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere does not exist; pass the folder that a run wrote"):
        read_run(tmp_path / "nowhere")


def test_read_run_of_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"holds none of config\.yaml, metrics\.jsonl"):
        read_run(tmp_path)


def test_read_run_names_what_is_missing(tmp_path: Path) -> None:
    write_lines(tmp_path / "metrics.jsonl", make_metrics(["ppo"]))
    run = read_run(tmp_path)
    assert run.stages() == ("ppo",)
    assert run.name == tmp_path.name
    assert [problem.split()[0] for problem in run.problems] == ["config.yaml", "samples.jsonl", "summary.json"]


def test_read_run_leaves_out_damaged_lines_and_says_where(tmp_path: Path) -> None:
    good = json.dumps({"stage": "sft", "step": 1, "train/loss": 2.0})
    (tmp_path / "metrics.jsonl").write_text(f'{good}\n\n[1]\n{good}\n{{"stage": "sft", "st')
    (tmp_path / "summary.json").write_text("[]")
    run = read_run(tmp_path)
    assert "metrics.jsonl: 2 lines are no JSON object (first at line 3) and left out." in run.problems
    assert "summary.json holds a list and not an object; its figures are left out." in run.problems
    assert run.series("sft", "train/loss") is not None


def test_read_run_of_cut_off_summary_keeps_the_rest(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "summary.json").write_text('{"name": "x", ')
    run = read_run(tmp_path)
    assert run.summary == {}
    assert any("summary.json is not JSON" in problem for problem in run.problems)
    assert len(run.samples) == 40


def test_read_run_later_line_of_a_step_wins_and_steps_are_sorted(tmp_path: Path) -> None:
    lines = [{"stage": "ppo", "step": s, "objective/kl": v} for s, v in ((1, 1.0), (3, 9.0), (2, 2.0), (3, 3.0))]
    write_lines(tmp_path / "metrics.jsonl", lines)
    kl = read_run(tmp_path).series("ppo", "objective/kl")
    assert kl is not None
    assert kl.steps.tolist() == [1, 2, 3]
    assert kl.values.tolist() == [1, 2, 3]


def test_read_run_skips_values_that_are_no_finite_numbers(tmp_path: Path) -> None:
    odd = {
        "train/loss": math.nan,
        "eval/loss": math.inf,
        "a/text": "3",
        "a/flag": True,
        "a/none": None,
        "a/huge": 10**400,
    }
    write_lines(tmp_path / "metrics.jsonl", [{"stage": "sft", "step": 1, "a/good": 1, **odd}, {"step": 2, "a/b": 1.0}])
    assert set(read_run(tmp_path).metrics) == {"sft"}
    assert set(read_run(tmp_path).metrics["sft"]) == {"a/good"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1.0), (-2.5, -2.5), (True, None), ("1", None), (None, None), (math.nan, None), (1e200, None), ([1], None)],
)
def test_number_accepts_only_finite_numbers(value: object, expected: float | None) -> None:
    assert number({"a": {"b": value}}, "a", "b") == expected


def test_number_through_a_missing_or_wrong_parent_is_none() -> None:
    assert number({"a": 3.0}, "a", "b") is None
    assert number({}, "a", "b") is None


@pytest.mark.parametrize("value", [None, [1.0], [1.0, 2.0, 3.0], [1.0, None], "12", [1.0, math.inf]])
def test_interval_of_anything_else_is_none(value: object) -> None:
    assert interval({"i": value}, "i") is None
    assert interval({"i": [1, 2.5]}, "i") == (1.0, 2.5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((64, 64, 64), [64, 128, 192]),
        ((64, 128, 192), [64, 128, 192]),
        ((1000, 1100), [1000, 2100]),
        ((1000, 2100, 3050), [1000, 2100, 3050]),
        ((640, 1280), [640, 1280]),
        ((50,), [50]),
    ],
)
def test_cumulative_knows_counts_from_totals(values: tuple[float, ...], expected: list[float]) -> None:
    assert cumulative(series(*values)).values.tolist() == expected


def test_against_interpolates_the_clock_and_starts_at_zero() -> None:
    clock = Series(np.array([1.0, 2.0]), np.array([64.0, 128.0]))
    moved = against(Series(np.array([0.0, 1.5, 2.0]), np.array([7.0, 8.0, 9.0])), clock)
    assert moved.steps.tolist() == [0.0, 96.0, 128.0]
    assert moved.values.tolist() == [7.0, 8.0, 9.0]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (fixed(1.005, 1), "1.0"),
        (fixed(-0.001), "0.00"),
        (fixed(-1.5), "−1.50"),
        (fixed(1.5, signed=True), "+1.50"),
        (fixed(None), "–"),
        (fixed(12345.0, 0), "12,345"),
        (short(0.0), "0"),
        (short(3_412_992.0), "3.41 M"),
        (short(12_345.0), "12.3 k"),
        (short(1234.0), "1,234"),
        (short(-0.000_05), "−5.0e−5"),
        (short(1e30), "1.0e30"),
        (short(None), "–"),
        (percent(0.8254), "83%"),
        (percent(0.8254, 1), "82.5%"),
        (duration(4.13), "4.1 s"),
        (duration(59.4), "59 s"),
        (duration(125.0), "2 min 05 s"),
        (duration(3599.7), "1 h 00 min"),
        (duration(4320.0), "1 h 12 min"),
        (duration(None), "–"),
    ],
)
def test_numbers_as_people_read_them(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], ["0.0", "0.5", "1.0"]),
        ([0.0, 10_000.0, 25_000.0], ["0", "10k", "25k"]),
        ([-2.0, 0.0, 2.0], ["−2", "0", "2"]),
        ([0.0, 0.0002], ["0", "2e−4"]),
        ([0.0, 2e30], ["0", "2e30"]),
    ],
)
def test_tick_labels_share_their_form(values: list[float], expected: list[str]) -> None:
    assert tick_labels(values) == expected
