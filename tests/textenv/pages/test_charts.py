import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv.pages.charts import (
    Axis,
    Frame,
    Line,
    clip_text,
    columns,
    element,
    grouped_chart,
    plot,
    share_points,
    small_chart,
    spread,
    stacked,
    thin,
    training_chart,
    training_curve,
    whisker,
)
from textenv.pages.numbers import ticks
from textenv.report.sections import Measured, reward_histogram, reward_kl_chart

numbers = st.floats(-1e99, 1e99, allow_nan=False, allow_infinity=False)


def curve(name: str = "train", n: int = 5, *, most: int = 160) -> Line:
    x = np.arange(float(n))
    return training_curve(name, "sft", x, np.sqrt(x), most=most)


def figure(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(svg).iter("text")]


def coordinates(svg: str) -> np.ndarray:
    pairs = [p for points in re.findall(r'points="([^"]*)"', svg) for p in points.split()]
    return np.array([[float(v) for v in pair.split(",")] for pair in pairs])


@given(st.lists(numbers, min_size=1, max_size=20))
def test_axis_holds_all_values_with_finite_ticks_inside(values: list[float]) -> None:
    axis = Axis.around(values)
    assert axis.low < axis.high
    assert axis.low <= min(values)
    assert max(values) <= axis.high
    assert 1 <= len(axis.marks) <= 10
    span = axis.high - axis.low
    assert all(axis.low - 1e-6 * span <= value <= axis.high + 1e-6 * span for value, _ in axis.marks)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_are_close_to_the_wanted_count(low: float, span: float, count: int) -> None:
    found = ticks(low, low + span, count)
    assert len(found) >= 1
    assert abs(len(found) - count) <= max(2, count)
    assert found == sorted(found)


def test_ticks_of_a_plain_range() -> None:
    assert ticks(0, 1, 5) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0, 3840, 4) == [0.0, 1000.0, 2000.0, 3000.0]
    assert ticks(2.0, 2.0) == [2.0]


def test_axis_without_values_and_with_one_value() -> None:
    assert (Axis.around([]).low, Axis.around([]).high) == pytest.approx((0.0, 1.04))
    axis = Axis.around([3.0])
    assert axis.low < 3.0 < axis.high


def test_frame_maps_corners_to_margins() -> None:
    frame = Frame(Axis(0, 10, ()), Axis(-1, 1, ()), width=100, height=50, left=10, right=20, top=5, bottom=15)
    assert frame.px([0, 10]).tolist() == [10, 80]
    assert frame.py([-1, 1]).tolist() == [35, 5]


@given(st.lists(st.floats(0, 100), max_size=8), st.floats(1, 30))
def test_spread_keeps_order_bounds_and_gap(positions: list[float], gap: float) -> None:
    placed = spread(positions, gap, 0, 100)
    assert len(placed) == len(positions)
    assert all(-1e-6 <= value <= 100 + 1e-6 for value in placed)
    fair = min(gap, 100 / max(len(positions) - 1, 1))
    order = np.argsort(positions, kind="stable")
    assert np.all(np.diff(np.array(placed)[order]) >= fair - 1e-6)


def test_spread_leaves_distant_labels_alone() -> None:
    assert spread([50.0, 10.0], 14, 0, 100) == [50.0, 10.0]


def test_thin_averages_in_equal_parts_and_keeps_the_mean() -> None:
    x = np.arange(1000.0)
    short_x, short_y = thin(x, 2 * x, most=100)
    assert len(short_x) == 100
    assert short_y.mean() == pytest.approx(999.0)
    assert short_x[0] == pytest.approx(4.5)
    assert thin(x[:100], x[:100], most=100)[0] is not None
    assert len(thin(x[:100], x[:100], most=100)[0]) == 100


def test_clip_text_marks_the_cut() -> None:
    assert clip_text("abcdef", 4) == "abc…"
    assert clip_text("abcd", 4) == "abcd"


def test_training_chart_labels_each_line_with_its_last_value() -> None:
    svg = training_chart([curve("train"), curve("held-out")], titles=("step", "nats"), description="loss")
    assert "train 2" in texts(svg)
    assert "held-out 2" in texts(svg)
    points = coordinates(svg)
    assert points.min() >= 0
    assert points[:, 0].max() <= 440


def test_charts_escape_every_text() -> None:
    evil = '"><script>alert(1)</script>'
    svg = training_chart([curve('<b onload="x">&')], titles=("</text>", "<i>"), description=evil)
    svg += whisker({"value": 0.5, "low": None, "high": None}, Axis(0, 1, ((0, evil),)), tip=evil)
    svg += stacked([(1, "sft", evil)]) + columns([1.0], [evil], [(0, evil)], unit=evil, description=evil)
    svg += element("text", evil, data_tip=evil)
    assert "<script" not in svg
    root = ElementTree.fromstring(f"<g>{svg}</g>")
    assert '<b onload="x">&' in {node.get("data-name") for node in root.iter("polyline")}
    assert evil in {node.get("data-tip") for node in root.iter("rect")}


def test_chart_tips_are_as_many_as_points() -> None:
    root = ElementTree.fromstring(small_chart(curve(n=400, most=120), description="d"))
    line = next(root.iter("polyline"))
    tips, points = json.loads(line.get("data-tips") or ""), (line.get("points") or "").split()
    assert len(tips) == len(points) == 120


@pytest.mark.parametrize("y", [[1.0], [2.0, 2.0, 2.0], [0.0, 0.0]])
def test_small_chart_of_constant_series_is_finite(y: list[float]) -> None:
    svg = small_chart(training_curve("c", "ppo", np.arange(float(len(y))), np.array(y)), description="d")
    assert "nan" not in svg
    assert "inf" not in svg


def test_bands_and_whiskers_reach_from_low_to_high() -> None:
    frame = {"width": 100, "height": 100, "left": 0, "right": 0, "top": 0, "bottom": 0}
    x, y = np.array([0.0, 10.0]), np.array([0.5, 0.5])
    line = Line("a", "sft", x, y, dots=3, low=np.array([0.25, np.nan]), high=np.array([0.75, np.nan]))
    drawn = plot([line], Axis(0, 10), Axis(0, 1), description="d", frame=frame)
    (whiskers,) = [node for node in ElementTree.fromstring(drawn).iter("line") if node.get("class") == "whisker"]
    assert [whiskers.get(end) for end in ("x1", "x2", "y1", "y2")] == ["0", "0", "75", "25"]
    band = Line("a", "sft", x, y, low=np.array([0.25, 0.25]), high=np.array([0.75, 1.0]), band=True)
    drawn = plot([band], Axis(0, 10), Axis(0, 1), description="d", frame=frame)
    polygon = next(ElementTree.fromstring(drawn).iter("polygon"))
    assert polygon.get("points") == "0.0,25.0 100.0,0.0 100.0,75.0 0.0,75.0"


def test_reward_kl_chart_marks_start_end_and_finals() -> None:
    path = (np.array([0.0, 2.0, 5.0]), np.array([0.0, 1.0, 1.5]))
    svg = reward_kl_chart(path, None, [Measured("ppo", 5.2, 1.4, (1.3, 1.5)), Measured("sft", 0.0, 0.0, None)])
    assert {"start", "end of training", "PPO, test: 1.40 at 5.2 nats"} <= set(texts(svg))
    assert svg.count('class="whisker"') == 1


def test_grouped_chart_draws_what_is_measured() -> None:
    groups = ["all\n1,234 pairs", "> 1"]
    lines = [
        share_points("reward model", "rm", [figure(0.8, 0.79, 0.81), figure(0.9)], groups),
        share_points("human rater", "human", [None, figure(0.95, 0.94, 0.96)], groups),
        share_points("nobody", "base", [None, None], groups),
    ]
    svg = grouped_chart(lines, groups, titles=("gap", "share"), description="d")
    assert svg.count('class="point"') == 3
    assert svg.count('class="whisker"') == 2
    assert {"reward model 0.90", "human rater 0.95", "1,234 pairs", "> 1"} <= set(texts(svg))


def test_histogram_shares_add_up_to_one_hundred_percent() -> None:
    rewards = np.repeat([-1.0, 0.0, 0.5, 4.0], [10, 60, 20, 10])
    svg = reward_histogram({"sft": rewards})
    assert "SFT mean 0.40" in texts(svg)
    root = ElementTree.fromstring(svg)
    outline = next(root.iter("polyline")).get("points") or ""
    heights = np.array([float(point.split(",")[1]) for point in outline.split()][::2])
    ticks_left = [
        node for node in root.iter("text") if node.get("class") == "tick" and node.get("text-anchor") == "end"
    ]
    (y0, zero), (y1, one) = [(float(node.get("y") or 0) - 4, float(node.text or 0)) for node in ticks_left[:2]]
    assert zero == 0
    shares = (y0 - heights) / (y0 - y1) * one
    assert shares.sum() == pytest.approx(100, abs=0.5)
    assert shares.max() == pytest.approx(60, abs=0.3)


def test_histogram_of_equal_rewards_is_finite() -> None:
    svg = reward_histogram({"sft": np.zeros(10)})
    assert "nan" not in svg
    assert "SFT mean 0.00" in texts(svg)


def test_whisker_puts_what_lies_outside_at_the_end() -> None:
    drawn = whisker(figure(0.75, 0.4, 1.2), Axis(0.5, 1.0), mark=0.5, band=(0.6, 0.7), tip="75 %")
    root = ElementTree.fromstring(drawn)
    assert [node.get("cx") for node in root.iter("circle")] == ["50%"]
    reach = next(node for node in root.iter("line") if node.get("class") == "reach")
    assert (reach.get("x1"), reach.get("x2")) == ("0%", "100%")
    band = next(root.iter("rect"))
    assert (band.get("x"), band.get("width")) == ("20%", "20%")
    assert root.get("aria-label") == root.get("data-tip") == "75 %"
    assert not list(ElementTree.fromstring(whisker(figure(None), Axis(0, 1))).iter("circle"))


def test_stacked_parts_fill_the_width_in_their_order() -> None:
    root = ElementTree.fromstring(stacked([(1, "a", "done"), (0, "b", "none"), (3, "c", "open")]))
    assert [(node.get("x"), node.get("width")) for node in root.iter("rect")] == [("0%", "25%"), ("25%", "75%")]
    assert root.get("aria-label") == "1 done, 0 none, 3 open"


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=30))
def test_columns_stay_inside(heights: list[float]) -> None:
    drawn = columns(heights, ["t"] * len(heights), [], unit="per hour", description="d", last_open=True)
    bars = list(ElementTree.fromstring(drawn).iter("rect"))
    assert [bar.get("class") for bar in bars] == ["bar"] * (len(heights) - 1) + ["bar open"]
    assert all(18 <= float(bar.get("y") or 0) <= 276 for bar in bars)
