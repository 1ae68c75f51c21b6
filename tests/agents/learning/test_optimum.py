"""Where theory promises it, the algorithms beside PPO reach π* ∝ π_ref·exp(r/β) on a toy problem."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agents.algorithms.a2c import A2C, A2CConfig
from agents.algorithms.grpo import GRPO, DrGRPO, DrGRPOConfig, GRPOConfig
from agents.algorithms.reinforce_pp import ReinforcePP, ReinforcePPConfig
from agents.algorithms.rloo import RLOO, RLOOConfig
from tests.agents.groups import every_group, variation
from tests.agents.tabular import TabularPolicy
from textenv.envs import toy

GROUPS = {"group_size": 4}
IN_REWARD = {"kl_placement": "reward", "kl_estimator": "k1"}
KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "RLOO": (RLOO, RLOOConfig, GROUPS),
    "Dr. GRPO": (DrGRPO, DrGRPOConfig, GROUPS),
    "GRPO, KL in the reward": (GRPO, GRPOConfig, GROUPS | IN_REWARD),
    "REINFORCE++": (ReinforcePP, ReinforcePPConfig, {}),
    "REINFORCE++ without normalisation": (ReinforcePP, ReinforcePPConfig, {"whiten_advantages": False}),
    "REINFORCE++-baseline": (ReinforcePP, ReinforcePPConfig, GROUPS | {"baseline": "group"}),
    "A2C": (A2C, A2CConfig, {}),
}


def train(name: str, mdp: toy.ToyMDP, beta: float, *, iterations: int, num_envs: int = 128) -> Any:
    kind, make_config, options = KINDS[name]
    config = make_config(learning_rate=0.1, micro_batch_size=1000, kl_coef=beta, max_grad_norm=1e9, **options)
    agent = kind(TabularPolicy(mdp), toy.ToyVectorEnv(num_envs, mdp=mdp), config=config)
    return agent.learn(num_envs * iterations)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.learning if "without" in name else ()) for name in KINDS],
)
@pytest.mark.parametrize(
    "beta", [1.0, pytest.param(0.3, marks=pytest.mark.learning), pytest.param(3.0, marks=pytest.mark.learning)]
)
def test_regularised_optimum_is_reached(name: str, beta: float):
    mdp = toy.ToyMDP.random(np.random.default_rng(11), 3, 3, num_prompts=1)
    quick = beta == 1.0
    noisy = name.startswith("REINFORCE++") and "baseline" not in name  # their advantages do not vanish at the optimum
    agent = train(name, mdp, beta, iterations=80 if quick else 300, num_envs=512 if noisy else 128)
    best, found = toy.solve(mdp, beta), toy.evaluate(mdp, agent.policy.probabilities, beta)
    assert found.objective > best.objective - 0.01 * abs(best.objective)
    wanted = toy.answer_distribution(mdp, best.policy)
    assert variation(mdp, agent.policy.probabilities, wanted) < 0.01
    assert variation(mdp, mdp.ref_probs, wanted) > 0.05


@pytest.mark.parametrize("name", [name for name in KINDS if "REINFORCE" not in name or "baseline" in name])
def test_no_answer_has_an_advantage_at_the_optimum(name: str):
    """There r − β·log(π*/π_ref) is the same for all answers to a prompt: nothing is left to learn, and no noise."""
    mdp, beta = toy.ToyMDP.random(np.random.default_rng(1), 3, 2), 0.5
    kind, make_config, options = KINDS[name]
    config = make_config(kl_coef=beta, **options | ({"group_size": 2} if "group_size" in options else {}))
    best = toy.solve(mdp, beta)
    policy = TabularPolicy(mdp, np.log(best.policy), values=best.values)
    agent = kind(policy, toy.ToyVectorEnv(4, mdp=mdp), reference=TabularPolicy(mdp), config=config)
    rollout, _ = every_group(mdp, policy, config.group_size)
    experience = agent.assess(rollout, agent.deal(rollout))
    assert experience.sequence_rewards.std() > 1e-3, "prompts differ, answers to one do not"
    np.testing.assert_allclose(agent.estimate(experience).advantages.numpy(), 0.0, atol=1e-9)


def test_grpo_with_its_own_kl_ends_elsewhere():
    """The loss's k3 pulls towards the reference by KL(π_ref‖π), and each step by itself."""
    mdp, beta = toy.ToyMDP.random(np.random.default_rng(11), 3, 3, num_prompts=1), 1.0
    config = GRPOConfig(group_size=4, learning_rate=0.1, micro_batch_size=1000, kl_coef=beta, max_grad_norm=1e9)
    agent: Any = GRPO(TabularPolicy(mdp), toy.ToyVectorEnv(128, mdp=mdp), config=config).learn(128 * 80)
    wanted = toy.answer_distribution(mdp, toy.solve(mdp, beta).policy)
    assert variation(mdp, agent.policy.probabilities, wanted) > 0.03
