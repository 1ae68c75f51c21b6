"""The conformance kit on somebody else's algorithm, stock SB3 PPO with an MLP.

python -m examples.check_my_agent
"""

from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO

from agents.sb3 import as_vec_env
from textenv.testing import Problem, check_agent


class StockPPO:
    """What the kit needs: ``learn``, and the policy's log-probs for given rows of tokens."""

    def __init__(self, problem: Problem) -> None:
        self.model = PPO(
            "MlpPolicy",
            as_vec_env(problem.make_vec(16)),
            learning_rate=lambda left: 3e-3 * left,
            n_steps=32,
            n_epochs=5,
            batch_size=128,
            gamma=1.0,
            seed=problem.seed,
            device="cpu",
        )
        self.horizon = problem.mdp.horizon

    def learn(self, total_episodes: int) -> Any:
        """SB3 counts steps, not episodes."""
        return self.model.learn(total_episodes * self.horizon)

    @torch.no_grad()
    def logprobs(self, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Log-probs of every next token in nats."""
        self.model.policy.set_training_mode(False)
        distribution: Any = self.model.policy.get_distribution(torch.as_tensor(tokens)).distribution
        return distribution.logits.log_softmax(-1).numpy()


if __name__ == "__main__":
    print(check_agent(StockPPO, regularised=False))
