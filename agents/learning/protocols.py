"""What a learner is, and the functions that make an algorithm of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from agents.learning.experience import Advantages, Experience, OldTokens, TokenLoss
from agents.policy import PolicyOutputs


@runtime_checkable
class Agent(Protocol):
    """Anything that learns by playing episodes."""

    def learn(self, total_episodes: int) -> Any:
        """Train until this many episodes have been played in all, those before a resume included."""
        ...


AdvantageEstimator = Callable[[Experience, Any], Advantages]
"""``estimator(experience, config)``: advantages of an iteration, and returns where there is a critic."""

Loss = Callable[[PolicyOutputs, OldTokens, Any], TokenLoss]
"""``loss(new, old, config)``: what each token adds to the loss, from the policy's scores now and at rollout time."""

Callback = Callable[[Any, dict[str, float]], None]
"""``callback(agent, metrics)`` after every iteration; what it adds to the metrics is logged."""
