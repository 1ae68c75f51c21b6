"""The examples are short, run as they stand, and learn; those of other libraries run in ``make compat``."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples import (
    async_vector,
    check_my_agent,
    cleanrl_ppo,
    reinforce,
    sb3_maskable_ppo,
    sb3_ppo,
    sb3_quickstart,
)
from textenv.testing import check_agent

ROOT = Path(__file__).parents[1]
SHORT = (
    "async_vector check_my_agent cleanrl_ppo reinforce rllib_ppo sb3_maskable_ppo sb3_ppo sb3_quickstart skrl_ppo "
    "tianshou_ppo torchrl_ppo"
).split()
BRIEF: dict[str, Callable[[], float]] = {
    "reinforce": lambda: reinforce.main(updates=2),
    "cleanrl_ppo": lambda: cleanrl_ppo.main(cleanrl_ppo.Args(total_timesteps=1024)),
    "sb3_ppo": lambda: sb3_ppo.main(steps=512),
    "sb3_maskable_ppo": lambda: sb3_maskable_ppo.main(steps=512),
}
WHOLE: dict[str, Callable[[], float]] = {
    "reinforce": reinforce.main,
    "cleanrl_ppo": cleanrl_ppo.main,
    "async_vector": async_vector.main,
    "sb3_ppo": sb3_ppo.main,
    "sb3_maskable_ppo": sb3_maskable_ppo.main,
}


@pytest.mark.parametrize("name", SHORT)
def test_examples_are_short_and_name_their_command(name):
    text = (ROOT / "examples" / f"{name}.py").read_text("utf-8")
    assert len(text.splitlines()) < 120
    assert f"python -m examples.{name}" in text


@pytest.mark.parametrize("name", BRIEF)
def test_examples_run(name):
    assert 0.0 <= BRIEF[name]() <= 1.0


@pytest.mark.learning
@pytest.mark.parametrize("name", WHOLE)
def test_examples_come_within_five_percent_of_the_optimum(name):
    """The best reward of ``Toy-v0`` is 1."""
    assert WHOLE[name]() >= 0.95


def test_processes_score_what_random_tokens_score():
    assert 0.05 < async_vector.through_gymnasium(steps=60) < 0.35


@pytest.mark.learning
def test_stock_ppo_conforms():
    check_agent(check_my_agent.StockPPO, regularised=False, raise_on_failure=True)


def test_stock_ppo_can_be_checked():
    report = check_agent(check_my_agent.StockPPO, only=["same seed, same policy"], total_episodes=300)
    assert report.passed


@pytest.mark.slow
def test_sb3_takes_the_place_of_the_native_agent(finished: Path):
    found: dict[str, Any] = sb3_quickstart.main(finished / "runs" / "tiny", episodes=64, count=8)
    assert set(found) == {"sft", "ppo", "sb3"}
    assert found["sft"]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert found["sb3"]["kl"] != 0.0


def test_command_line_of_an_example(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cleanrl_ppo", "--total-timesteps", "1024"])
    runpy.run_path(str(ROOT / "examples" / "cleanrl_ppo.py"), run_name="__main__")
    assert "steps/s, return" in capsys.readouterr().out
