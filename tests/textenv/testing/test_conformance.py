"""The conformance kit passes a right algorithm and names what wrong ones get wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import textenv
from tests.textenv.testing.tabular_agent import Mistakes, TabularAgent
from textenv.envs import toy
from textenv.errors import ConfigError, RunCheckError, ShapeError
from textenv.testing import AgentReport, Check, Problem, check_agent, policy_table
from textenv.testing.conformance import CHECKS
from textenv.testing.problems import paid_by_place, placed, state_rows

EPISODES = 4_000


def wrong(**mistakes: Any) -> Callable[[Problem], TabularAgent]:
    return lambda problem: TabularAgent(problem, Mistakes(**mistakes))


def test_a_right_algorithm_passes_everything():
    report = textenv.testing.check_agent(TabularAgent, total_episodes=EPISODES, raise_on_failure=True)
    assert report.passed
    assert [check.name for check in report.checks] == list(CHECKS)
    assert report["optimum"].found > 0.95
    assert report["KL units"].found == pytest.approx(1.0, abs=0.15)
    lines = str(report).splitlines()
    assert len(lines) == 1 + len(CHECKS)
    assert lines[0].split() == ["check", "found", "wanted"]
    assert "J 0.9" in lines[1]


@pytest.mark.parametrize(
    ("mistake", "name", "hint"),
    [
        ({"kl_unit": 1 / np.log(2)}, "KL units", "as a KL in bits would"),
        ({"kl_mean": True}, "KL units", "as a mean per token would"),
        ({"kl_unit": 0.0}, "KL units", "the KL is not paid"),
        ({"kl_unit": 0.0}, "optimum with KL", "nats"),
        ({"shift": 1}, "reward placement, last token", "0.25 of 1.00"),
        ({"shift": -1}, "reward placement, first token", "0.25 of 1.00"),
        ({"shift": 1}, "reward placement, every token", "is a reward credited"),
        ({"unseeded": True}, "same seed, same policy", "its seed does not set"),
        ({"ignores_seed": True}, "other seed, other policy", "does not use its seed"),
    ],
)
def test_mistakes_are_found_and_named(mistake, name, hint):
    report = check_agent(wrong(**mistake), only=[name], total_episodes=EPISODES)
    assert not report.passed
    assert hint in report[name].detail
    with pytest.raises(RunCheckError, match=rf"failed 1 checks\n.*\n{name}.*FAILED"):
        report.raise_if_failed()


def test_agents_without_a_kl_are_not_asked_for_one():
    asked = []

    def factory(problem: Problem) -> TabularAgent:
        asked.append(problem)
        return TabularAgent(problem)

    report = check_agent(factory, regularised=False, total_episodes=60)
    assert [check.name for check in report.checks] == [name for name in CHECKS if "KL" not in name]
    assert {problem.beta for problem in asked} == {0.0}


def test_policies_that_only_act_are_estimated():
    class Acts:
        def __init__(self) -> None:
            self.rng = np.random.default_rng(0)

        def act(self, observations: np.ndarray) -> np.ndarray:
            return self.rng.choice(4, size=len(observations), p=[0.1, 0.2, 0.3, 0.4])

    found = policy_table(Acts(), toy.make_mdp())
    assert np.abs(found - [0.1, 0.2, 0.3, 0.4]).max() < 0.1
    assert np.allclose(found.sum(1), 1.0)


def test_problems_have_environments_and_a_reference():
    problem = Problem("x", placed(1))
    envs = problem.make_vec(2, observation="dict")
    assert envs.reset(seed=0)[0]["tokens"].shape == (2, 4)
    env = problem.make()
    env.reset(seed=0)
    assert [env.step(action)[1] for action in (1, 2, 0)] == [0.0, 1.0, 0.0]
    rows, lengths = state_rows(problem.mdp)
    assert np.allclose(np.exp(problem.reference(rows, lengths)), 0.25)
    best = toy.solve(problem.mdp, 0.0)
    assert paid_by_place(problem.mdp, best.policy, best.occupancy) == pytest.approx([0.0, 1.0, 0.0])


def test_unusable_agents_and_arguments_are_refused():
    class Mute:
        def learn(self, total_episodes: int) -> None:
            pass

    class Bits(Mute):
        def logprobs(self, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
            return np.full((len(tokens), 4), -2.0)

    class Narrow(Mute):
        def logprobs(self, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
            return np.zeros((len(tokens), 1))

    with pytest.raises(ConfigError, match="Mute needs a method `logprobs"):
        check_agent(lambda problem: Mute(), only=["optimum"])
    with pytest.raises(ShapeError, match=r"in nats: those of row 0 \(\[1\]\) sum to 0.5413"):
        check_agent(lambda problem: Bits(), only=["optimum"])
    with pytest.raises(ShapeError, match=r"returned shape \(120, 1\), expected \(120, 4\)"):
        check_agent(lambda problem: Narrow(), only=["optimum"])
    with pytest.raises(ConfigError, match="`total_episodes` must be ≥ 3"):
        check_agent(TabularAgent, total_episodes=1)
    with pytest.raises(ConfigError, match="there is no check 'speed'"):
        check_agent(TabularAgent, only=["speed"])


def test_reports_are_tables():
    report = AgentReport((Check("a", 0.5, "≥ 1", False, "because"), Check("long name", 2.0, "≥ 1", True)))
    assert (
        str(report)
        == "check      found  wanted\na          0.5    ≥ 1     FAILED  because\nlong name  2      ≥ 1     ok"
    )
    with pytest.raises(KeyError, match="b"):
        report["b"]
