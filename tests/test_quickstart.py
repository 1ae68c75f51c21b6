"""The quickstart on the human ratings keeps what the README promises (about a quarter of an hour on one core)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow(minutes=15)
@pytest.mark.network
def test_quickstart_on_human_ratings_reaches_its_figures(tmp_path: Path):
    command = [sys.executable, "-m", "textenv", "quickstart", "--runs_dir", str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    summary = json.loads((tmp_path / "quickstart" / "summary.json").read_text())
    sft, ppo = summary["policy"]["sft"], summary["policy"]["ppo"]
    assert sft["answers"] == ppo["answers"] >= 256
    assert summary["reward_model"]["accuracy_gap_0_5"] >= 0.84
    assert summary["reward_model"]["accuracy_gap_0_5"] > summary["tfidf"]["accuracy_gap_0_5"]
    assert summary["human_rater"]["accuracy_gap_0_5"] == pytest.approx(0.901, abs=0.005)
    assert summary["lexicon"]["accuracy_gap_0_5"] == pytest.approx(0.680, abs=0.005)
    assert ppo["reward_mean"] - sft["reward_mean"] >= sft["reward_std"]
    assert 0 < ppo["kl"] <= 12
    assert ppo["vader_positive"] - sft["vader_positive"] >= 0.20
    assert ppo["distinct_2"] >= 0.6 * sft["distinct_2"]
    assert all(summary["checks"].values())
    assert (tmp_path / "quickstart" / "report.html").stat().st_size > 100_000
