"""Example scripts run, with settings that make them short."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NAMES = ["PPO", "A2C", "ReinforcePP", "RLOO", "GRPO", "DrGRPO", "ExpertIteration", "DPO"]


def run(monkeypatch: pytest.MonkeyPatch, script: str, **options: object) -> None:
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")


@pytest.mark.slow
def test_compare_algorithms_on_the_toy_task(monkeypatch, capsys, tmp_path: Path):
    out = tmp_path / "frontier.png"
    run(monkeypatch, "compare_algorithms.py", episodes=128, num_envs=64, answers=24, points=2, out=out)
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()] == [*NAMES, "plot:"]
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_compare_algorithms_on_a_quickstart(finished: Path, monkeypatch, capsys, tmp_path: Path):
    folder = finished / "runs" / "tiny"
    models = {"policy": folder / "sft", "reward": folder / "reward", "prompts": folder / "samples.jsonl"}
    sizes = {"episodes": 32, "num_envs": 16, "answers": 8, "points": 1}
    run(monkeypatch, "compare_algorithms.py", **models, **sizes, learning_rate=1e-4, out=tmp_path / "frontier.png")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [*NAMES, "plot:"]


@pytest.mark.slow
def test_block_of_the_algorithms_page_runs(finished: Path, monkeypatch, tmp_path: Path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(finished / "runs" / "tiny")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "algorithms.md").read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(block, "algorithms.md", "exec"), names)
    assert len(names["pairs"]) > 0
