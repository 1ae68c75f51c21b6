"""The quickstart on the human ratings keeps what the README promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


SHORTER = [
    *("--pretrain.training.steps", "300"),
    *("--sft.training.steps", "150"),
    *("--reward.training.epochs", "0.6"),
]
"""Half as many steps before PPO: worse models, but the same marks (about twenty minutes on one core)."""


@pytest.mark.network
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(SHORTER, id="shorter", marks=pytest.mark.slow(minutes=20)),
        pytest.param([], id="as it is", marks=pytest.mark.release),
    ],
)
def test_quickstart_on_human_ratings_reaches_its_figures(flags: list[str], tmp_path: Path):
    command = [sys.executable, "-m", "textenv", "quickstart", "--runs_dir", str(tmp_path), *flags]
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
