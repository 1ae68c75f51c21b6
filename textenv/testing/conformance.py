"""Whether an algorithm solves problems whose answers are known, and what it gets wrong where it does not.

Every problem is a ``Toy`` MDP: optimum, values and divergences are enumerated, so the checks compare with the truth and
not with another implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textenv.envs.toy_mdp import ToyMDP
from textenv.envs.toy_oracle import Table, ToySolution, evaluate, solve, state_occupancy
from textenv.errors import ConfigError
from textenv.testing import problems
from textenv.testing.problems import Problem, policy_table
from textenv.testing.report import AgentReport, Check

AgentFactory = Callable[[Problem], Any]

_BETA = 0.5
_BETA_TOLERANCE = 0.2
_MULTIPLES = np.geomspace(0.05, 20.0, 241)  # of the coefficient, among which the one that was learned is looked for


def check_agent(
    agent_factory: AgentFactory,
    *,
    total_episodes: int = 6_000,
    tolerance: float = 0.05,
    regularised: bool = True,
    only: Sequence[str] | None = None,
    seed: int = 0,
    raise_on_failure: bool = False,
) -> AgentReport:
    """Train an agent on exact problems and compare what it learned with the truth.

    ================================  ==================================================================================
    ``optimum``                       share of the possible gain on ``Toy-v0``'s own problem, no KL
    ``optimum with KL``               the same for ``E[r] − β·KL`` on answers of all lengths; also KL(π‖π*)
    ``KL units``                      the coefficient that the policy is optimal for, over the one that was given: 1 for
                                      nats per answer, 1.44 for bits, ``1/length`` for means per token
    ``reward placement, …``           share of the gain where the first, the last or every token is paid for as it is
                                      chosen, and where the first decides what is paid at the end
    ``same seed, same policy``        largest difference between two runs with one seed
    ``other seed, other policy``      the same for two seeds
    ================================  ==================================================================================

    Args:
        agent_factory: Makes an agent for a :class:`textenv.testing.Problem`: it takes environments from ``make`` or
            ``make_vec``, and applies ``beta · KL(π‖π_ref)`` with ``reference`` where ``beta`` is above 0. What it must
            have is in :class:`textenv.testing.CheckableAgent`.
        total_episodes: Passed to ``learn``, for each problem; a third of it for the two last checks.
        tolerance: Share of the gain over the reference policy that may be missing.
        regularised: Whether the agent applies a KL at all; False leaves out the two checks that need it.
        only: Names of the checks to make; None makes all.
        seed: Of the agents.
        raise_on_failure: Raise instead of only reporting.

    Returns:
        The report; ``print`` it.

    Raises:
        ConfigError: If the agent has no way to read its policy, a number is out of range or a check unknown.
        ShapeError: If its log-probs are no distribution.
        RunCheckError: If a check fails and ``raise_on_failure`` is set.
    """
    if total_episodes < 3 or not 0 < tolerance < 1:
        raise ConfigError(
            f"`total_episodes` must be ≥ 3 and `tolerance` between 0 and 1, got {total_episodes} and {tolerance}"
        )

    wanted = [name for name in CHECKS if regularised or "KL" not in name] if only is None else list(only)
    unknown = [name for name in wanted if name not in CHECKS]
    if unknown:
        raise ConfigError(f"there is no check {unknown[0]!r}; there are: {', '.join(CHECKS)}")
    training = _Training(agent_factory, total_episodes, seed)
    report = AgentReport(tuple(CHECKS[name](name, training, tolerance) for name in wanted))
    if raise_on_failure:
        report.raise_if_failed()
    return report


@dataclass(frozen=True)
class _Training:
    """Trains fresh agents and reads out what they learned."""

    factory: AgentFactory
    total_episodes: int
    seed: int

    def __call__(self, name: str, mdp: ToyMDP, beta: float = 0.0) -> Table:
        return self._table(Problem(name, mdp, beta, self.seed), self.total_episodes)

    def briefly(self, name: str, seed_offset: int) -> Table:
        """After a third of the episodes, with the seed or another."""
        problem = Problem(name, problems.copying(), 0.0, self.seed + seed_offset)
        return self._table(problem, self.total_episodes // 3)

    def _table(self, problem: Problem, episodes: int) -> Table:
        agent = self.factory(problem)
        agent.learn(episodes)
        return policy_table(agent, problem.mdp)


def _share(mdp: ToyMDP, policy: Table, beta: float) -> tuple[float, ToySolution, ToySolution]:
    """Share of the possible gain over the reference, with what is true of the policy and of the optimum."""
    found, best = evaluate(mdp, policy, beta), solve(mdp, beta)
    start = evaluate(mdp, mdp.ref_probs, beta).objective
    return (found.objective - start) / (best.objective - start), found, best


def _optimum(name: str, training: _Training, tolerance: float) -> Check:
    mdp, beta = (problems.mixed(), _BETA) if "KL" in name else (problems.copying(), 0.0)
    policy = training(name, mdp, beta)
    share, found, best = _share(mdp, policy, beta)
    detail = f"J {found.objective:.3f} of {best.objective:.3f}"
    if beta:
        distance = _divergence(mdp, policy, best.policy)
        detail += f", KL(π‖π_ref) {found.kl:.3f} of {best.kl:.3f}, KL(π‖π*) {distance:.3f} nats"
    return Check(name, share, f"≥ {1 - tolerance:g}", share >= 1 - tolerance, detail)


def _divergence(mdp: ToyMDP, policy: Table, other: Table) -> float:
    """KL(policy ‖ other) of answers, nats."""
    with np.errstate(divide="ignore", invalid="ignore"):  # log 0 where a policy excludes a token
        here = np.where(policy > 0, policy * (np.log(policy) - np.log(other)), 0.0).sum(1)
    occupancy = state_occupancy(mdp, policy)
    return float((occupancy[occupancy > 0] * here[occupancy > 0]).sum())


def _units(name: str, training: _Training, tolerance: float) -> Check:
    """Which coefficient the policy is optimal for."""
    del tolerance  # of gains, not of coefficients
    mdp = problems.two_tokens()
    policy = training(name, mdp, _BETA)
    distances = [_divergence(mdp, policy, solve(mdp, _BETA * multiple).policy) for multiple in _MULTIPLES]
    best = int(np.argmin(distances))
    ratio = float(_MULTIPLES[best])
    passed = abs(np.log(ratio)) <= np.log(1 + _BETA_TOLERANCE)
    known = {
        1 / np.log(2): "as a KL in bits would",
        1 / mdp.horizon: "as a mean per token would; the KL of an answer is the sum over its tokens",
    }
    detail = f"KL(π‖π*) there {distances[best]:.3f} nats"
    if not passed:
        near = [why for value, why in known.items() if abs(np.log(ratio / value)) <= np.log(1.12)]
        detail += f"; {near[0]}" if near else "; the KL is not paid, or not as β·log(π/π_ref) per token"
    return Check(name, ratio, f"1 ± {_BETA_TOLERANCE:g}", bool(passed), detail)


def _placement(name: str, training: _Training, tolerance: float) -> Check:
    mdp = _PLACED[name]()
    policy = training(name, mdp)
    share, found, best = _share(mdp, policy, 0.0)
    passed, detail = share >= 1 - tolerance, ""
    if not passed:
        paid = problems.paid_by_place(mdp, policy, found.occupancy)
        wanted = problems.paid_by_place(mdp, best.policy, best.occupancy)
        pairs = ", ".join(f"{have:.2f} of {want:.2f}" for have, want in zip(paid, wanted, strict=True))
        detail = f"earned at each place: {pairs}; is a reward credited to the token that earned it?"
    return Check(name, share, f"≥ {1 - tolerance:g}", passed, detail)


def _same_seed(name: str, training: _Training, tolerance: float) -> Check:
    del tolerance  # there is none
    difference = float(np.abs(training.briefly(name, 0) - training.briefly(name, 0)).max())
    hint = "" if difference == 0 else "the agent draws from a generator that its seed does not set"
    return Check(name, difference, "0", difference == 0, hint)


def _other_seed(name: str, training: _Training, tolerance: float) -> Check:
    del tolerance  # there is none
    difference = float(np.abs(training.briefly(name, 0) - training.briefly(name, 1)).max())
    return Check(name, difference, "> 0", difference > 0, "" if difference > 0 else "the agent does not use its seed")


_PLACED: dict[str, Callable[[], ToyMDP]] = {
    "reward placement, first token": lambda: problems.placed(0),
    "reward placement, last token": lambda: problems.placed(2),
    "reward placement, every token": lambda: problems.placed(None),
    "reward placement, delayed": problems.delayed,
}

CHECKS: dict[str, Callable[[str, _Training, float], Check]] = {
    "optimum": _optimum,
    "optimum with KL": _optimum,
    "KL units": _units,
    **dict.fromkeys(_PLACED, _placement),
    "same seed, same policy": _same_seed,
    "other seed, other policy": _other_seed,
}
"""All checks by name, in the order in which they are made."""
