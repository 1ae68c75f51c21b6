"""Exporters, summary, frontier and heat map."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from tests.textenv.trajectories.helpers import make, make_full
from textenv.errors import ConfigError, DataError
from textenv.trajectories import (
    FrontierPoint,
    Trajectory,
    TrajectoryStore,
    preference_pairs,
    summarize,
    trl_rows,
    write_frontier,
    write_heatmap,
    write_jsonl,
)
from textenv.trajectories.views.heatmap import token_texts
from textenv.trajectories.views.summary import compare_scores

RNG = np.random.default_rng(0)


# --- exporters --------------------------------------------------------------------------------------------------------


def test_trl_rows_have_trl_names_and_plain_types():
    (row,) = trl_rows([make(2, behaviour_logprobs=np.array([-0.5, -1.5], np.float32), score=1.0)])
    assert list(row) == ["prompt", "completion", "prompt_ids", "completion_ids", "logprobs", "score"]
    assert row["logprobs"] == [-0.5, -1.5]
    assert row["prompt_ids"] == [1, 2, 3]
    assert len(row["completion_ids"]) == 2
    json.dumps(row)


def test_trl_rows_refuse_unknown_draws():
    with pytest.raises(DataError, match=r"trajectory 0 \(demonstration\) has no log-probs of its draws"):
        list(trl_rows([make(behaviour_logprobs=np.full(3, np.nan), source="demonstration")]))


def scored(group: str | None, prompt: str, *scores: float) -> list[Trajectory]:
    return [make(prompt=prompt, response=f"{prompt}{s}", score=s, group_id=group) for s in scores]


def test_preference_pairs_take_best_and_worst_of_each_group():
    rows = list(preference_pairs(scored(None, "p", 1, 3, 2) + scored("g", "q", 5, 5) + scored("h", "q", 0, 1)))
    assert [(r["prompt"], r["chosen"], r["rejected"]) for r in rows] == [("p", "p3", "p1"), ("q", "q1", "q0")]
    assert rows[0]["score_chosen"] - rows[0]["score_rejected"] == 2


def test_preference_pairs_of_every_two_with_a_margin():
    answers = scored(None, "p", 1, 3, 2)
    assert len(list(preference_pairs(answers, pairs="all"))) == 3
    assert [r["chosen"] for r in preference_pairs(answers, pairs="all", margin=1)] == ["p3"]
    with pytest.raises(DataError, match="trajectory 1 has no score"):
        list(preference_pairs([*answers[:1], make()]))
    with pytest.raises(ConfigError, match="`pairs` must be"):
        list(preference_pairs(answers, margin=-1))


def test_jsonl_holds_every_field_and_null_for_the_unknown(tmp_path: Path):
    path = write_jsonl([make_full(), make(behaviour_logprobs=np.full(3, np.nan))], tmp_path / "rows.jsonl")
    full, plain = (json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:2])
    assert set(full) == {entry.name for entry in fields(Trajectory)}
    assert full["prompt"] == make_full().prompt
    assert full["log_weight"] is None
    assert plain["behaviour_logprobs"] == [None] * 3
    assert plain["values"] is None
    write_jsonl(preference_pairs(scored(None, "p", 1, 3)), path)
    assert json.loads(path.read_text())["chosen"] == "p3"


# --- summary ----------------------------------------------------------------------------------------------------------


def answers(shift: float = 0.0, prompts: int = 6, each: int = 4) -> list[Trajectory]:
    rng = np.random.default_rng(1)
    out = []
    for p in range(prompts):
        for i in range(each):
            t = make(int(rng.integers(1, 6)), seed=p * each + i, prompt=f"p{p}", score=float(p + i / 10) + shift)
            t.ref_logprobs = t.logprobs - rng.exponential(0.2, len(t)).astype(np.float32)
            t.entropy = np.full(len(t), 1.5, np.float32)
            t.exact_kl = np.full(len(t), 0.1, np.float32)
            t.finish_reason = "eos" if i else "length"
            out.append(t)
    return out


def test_summary_of_a_store_equals_that_of_a_list(tmp_path: Path):
    store = TrajectoryStore(tmp_path / "s")
    store.append(answers())
    one = summarize(store, np.random.default_rng(0))
    other = summarize(answers(), np.random.default_rng(0))
    for name, value in vars(one).items():
        if name not in ("best_of_n", "kl"):
            assert value == getattr(other, name), name
    assert one.kl["k1"].value == pytest.approx(other.kl["k1"].value)


def test_summary_figures_by_hand():
    found = summarize(answers(), RNG)
    assert (found.answers, found.prompts) == (24, 6)
    assert found.finish_reasons == {"eos": 0.75, "length": 0.25}
    assert found.score is not None
    assert found.score.value == pytest.approx(2.5 + 0.15)
    assert found.score.units == 6
    assert found.entropy is not None
    assert found.entropy.value == pytest.approx(1.5)
    ratios = [float((t.logprobs - t.ref_logprobs).sum()) for t in answers() if t.ref_logprobs is not None]
    assert found.kl["k1"].value == pytest.approx(np.mean(ratios), abs=1e-6)
    assert found.kl["exact"].value == pytest.approx(0.1 * found.tokens / 24)
    assert found.best_kl == found.kl["exact"]
    assert set(found.kl) == {"k1", "k2", "k3", "exact"}
    assert found.ess_share == pytest.approx(1)
    assert found.best_of_n is not None
    assert found.best_of_n.values[-1] == pytest.approx(2.5 + 0.3)


def test_summary_takes_prompts_as_units_or_answers_of_a_single_one():
    found = summarize(answers(), RNG)
    figures = [found.length, found.entropy, found.score, *found.kl.values()]
    assert [f.units for f in figures if f is not None] == [6] * 7
    alone = summarize(answers(prompts=1, each=8), RNG)
    figures = [alone.length, alone.entropy, alone.score, *alone.kl.values()]
    assert [f.units for f in figures if f is not None] == [8] * 7
    assert alone.score_interval is not None
    assert alone.score_interval[0] < alone.score_interval[1]


def test_summary_leaves_out_what_is_not_known():
    found = summarize([make(seed=1), make(seed=2)], RNG)
    assert (found.score, found.score_interval, found.entropy, found.best_of_n, found.kl) == (None, None, None, None, {})
    assert found.prompt_scores == {}
    with pytest.raises(DataError, match="no trajectories to summarise"):
        summarize([], RNG)


def test_truncated_samplers_have_no_k3():
    rows = answers()
    rows[0].sampling = {"top_k": 3}
    found = summarize(rows, RNG)
    assert found.truncated_answers == 1
    assert "k3" not in found.kl
    assert found.ess_share is None


def test_repeated_draws_count_once():
    rows = answers()
    for number, t in enumerate(rows):
        t.seed, t.sample_index, t.prompt_id, t.group_id = 0, number % 4, t.prompt, "g"
    once, twice = summarize(rows, np.random.default_rng(0)), summarize(rows * 2, np.random.default_rng(0))
    assert (once.repeated_answers, twice.repeated_answers) == (0, 24)
    assert (twice.answers, twice.kl, twice.score) == (once.answers, once.kl, once.score)
    assert twice.best_of_n is not None
    assert twice.best_of_n.n[-1] == 4
    others = [{"seed": 1}, {"policy": "b"}, {"sample_index": 5}, {"group_id": "h"}, {"prompt_id": "x"}]
    for changes in [*others, {"sampling": {}}]:
        assert summarize([rows[0], replace(rows[0], **changes)], RNG).repeated_answers == 0, changes
    for unknown in ("seed", "sample_index", "prompt_id", "group_id"):
        assert summarize([replace(rows[0], **{unknown: None})] * 2, RNG).repeated_answers == 0, unknown


def test_selected_answers_are_left_out_of_kl_and_effective_size():
    rows, chosen = answers(), answers()
    for t in chosen:
        t.source, t.sampling, t.exact_kl = "best_of_n", {"top_k": 3}, np.full(len(t), 9.0, np.float32)
    plain, mixed = summarize(rows, np.random.default_rng(0)), summarize([*rows, *chosen], np.random.default_rng(0))
    assert mixed.kl == plain.kl
    assert mixed.ess_share == plain.ess_share
    assert (plain.selected_answers, mixed.selected_answers) == (0, 24)
    alone = summarize(chosen, RNG)
    assert (alone.kl, alone.ess_share) == ({}, None)
    with pytest.raises(DataError, match="best: a method chose the answers, so their log-probs give no KL"):
        FrontierPoint.of("best", alone)


def test_weighted_samples_have_the_effective_size_of_their_weights():
    rows = [make(seed=i, log_weight=w, sampling={"top_k": 3}) for i, w in enumerate([0.0, 0.0, -np.inf, -np.inf])]
    assert summarize(rows, RNG).ess_share == pytest.approx(0.5)


def test_paired_comparison_looks_at_shared_prompts_only():
    one = summarize(answers(), RNG)
    other = summarize(answers(0.5, prompts=4), RNG)
    found = compare_scores(one, other)
    assert found is not None
    assert (found.prompts, found.wins) == (4, 1.0)
    assert found.difference.value == pytest.approx(0.5)
    assert np.isnan(found.interval).all()  # all prompts differ by the same, so nothing is known of its error
    assert compare_scores(one, summarize([make(prompt="else", score=1.0)], RNG)) is None


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_frontier_is_drawn_with_best_of_n(tmp_path: Path):
    summary = summarize(answers(), RNG)
    points = [
        FrontierPoint.of("a", summary, series="s"),
        FrontierPoint.of("b", summarize(answers(1.0), RNG), series="s"),
    ]
    path = write_frontier(points, tmp_path / "f.png", best_of_n=summary.best_of_n, title="t")
    with Image.open(path) as image:
        assert image.size == (1152, 736)
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 50


def test_frontier_names_a_series_without_labels_in_a_legend(tmp_path: Path, monkeypatch):
    named: list[list[str]] = []
    legend = Axes.legend
    monkeypatch.setattr(
        Axes, "legend", lambda axes, **o: named.append(axes.get_legend_handles_labels()[1]) or legend(axes, **o)
    )
    points = [FrontierPoint("", kl, (kl, kl), kl, (kl, kl), "ours") for kl in (1.0, 2.0)]
    write_frontier([*points, FrontierPoint("theirs", 1.5, (1, 2), 1.0, (1, 1))], tmp_path / "f.png")
    assert named == [["ours"]]
    write_frontier([FrontierPoint("theirs", 1.5, (1, 2), 1.0, (1, 1))], tmp_path / "f.png")
    assert len(named) == 1


def test_frontier_says_what_is_missing(tmp_path: Path):
    with pytest.raises(DataError, match="x: the answers have no scores"):
        FrontierPoint.of("x", summarize([make(seed=1), make(seed=2)], RNG))
    with pytest.raises(DataError, match="x: the answers have no log-probs of a reference"):
        FrontierPoint.of("x", summarize([make(score=1.0), make(score=2.0)], RNG))
    with pytest.raises(DataError, match="no point to draw"):
        write_frontier([], tmp_path / "f.png")
    with pytest.raises(DataError, match="must be finite"):
        write_frontier([FrontierPoint("x", np.inf, (0, 1), 1.0, (0, 1))], tmp_path / "f.png")


def page_data(path: Path) -> dict:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_heatmap_holds_tokens_quantities_and_no_foreign_assets(tmp_path: Path):
    letters = "abcdefgh"
    row = make(3, token_ids=np.array([0, 1, 2]), ref_logprobs=np.full(3, -2, np.float32), score=0.5)
    row.values = np.array([0.0, 1.0, -1.0], np.float32)
    path = write_heatmap([row, make(2)], tmp_path / "h.html", decode=lambda ids: "".join(letters[i % 8] for i in ids))
    data = page_data(path)
    assert data["answers"][0]["tokens"] == ["a", "b", "c"]
    assert [q["key"] for q in data["quantities"]] == ["log_ratio", "values", "surprise"]
    np.testing.assert_allclose(data["answers"][0]["q"]["log_ratio"], row.logprobs + 2, atol=1e-4)
    assert "values" not in data["answers"][1]["q"]
    text = path.read_text("utf-8")
    assert not re.search(r"(src|href)\s*=|@import|url\(|https?://", text)
    assert "prefers-color-scheme: dark" in text


def test_heatmap_hostile_texts_stay_data(tmp_path: Path):
    full = make_full()
    full.prompt = "</script><script>alert(1)</script>"
    path = write_heatmap([full], tmp_path / "h.html", title="<b>&")
    assert page_data(path)["answers"][0]["prompt"] == full.prompt
    text = path.read_text("utf-8")
    assert "alert(1)</script>" not in text
    assert "<h1>&lt;b&gt;&amp;</h1>" in text
    assert page_data(path)["answers"][0]["mask"] == [1, 0, 1, 0]


def test_heatmap_without_a_tokenizer_shows_ids_and_the_text(tmp_path: Path):
    (answer,) = page_data(write_heatmap([make()], tmp_path / "h.html"))["answers"]
    assert answer["response"] == "answer 0"
    assert "tokens" not in answer


def test_heatmap_refuses_nothing_to_show(tmp_path: Path):
    unknown = np.full(3, np.nan, np.float32)
    with pytest.raises(DataError, match="no trajectories to show"):
        write_heatmap([], tmp_path / "h.html")
    with pytest.raises(DataError, match="no trajectory says anything about its tokens"):
        write_heatmap([make(behaviour_logprobs=unknown, logprobs=unknown)], tmp_path / "h.html")
    with pytest.raises(ConfigError, match="`limit` must be ≥ 1"):
        write_heatmap([make()], tmp_path / "h.html", limit=0)


def test_token_texts_join_characters_that_span_tokens():
    raw = "é🌍x".encode()
    pieces = token_texts(list(raw), lambda ids: bytes(ids).decode("utf-8", errors="replace"))
    assert pieces == ["", "é", "", "", "", "🌍", "x"]
    assert token_texts([0xF0, 0x9F], lambda ids: bytes(ids).decode("utf-8", errors="replace"))[-1] == "\ufffd"
