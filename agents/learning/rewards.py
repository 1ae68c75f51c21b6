"""From what the environment pays to what the learner maximises, the KL aside."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agents.learning.config import LearnerConfig
from agents.learning.rollouts import Rollout


def shape_rewards(
    rewards: NDArray[np.floating[Any]],
    action_mask: NDArray[np.bool_],
    cut: NDArray[np.bool_],
    *,
    scale: float = 1.0,
    clip: float | None = None,
    penalty: float = 0.0,
    missing_eos: Literal["subtract", "replace"] = "subtract",
) -> NDArray[np.floating[Any]]:
    """Scale, clip, then punish answers without an end; the KL comes after all of this.

    Args:
        rewards: What the environment paid for each token, shape ``(N, T)``.
        action_mask: True on tokens that the policy chose, shape ``(N, T)``.
        cut: True where the length limit ended the answer, shape ``(N,)``.
        scale: Multiplies every reward.
        clip: Bounds every scaled reward to ± this; None does not.
        penalty: Of an answer that was cut, in units of the shaped reward.
        missing_eos: ``"subtract"``: off what its last token is paid; ``"replace"``: in its place.

    Returns:
        Shape ``(N, T)``, 0 off the mask.
    Source: replacing, Ziegler et al. 2019, arXiv:1909.08593 (code); subtracting, TRL's ``missing_eos_penalty``.
    """
    shaped = np.where(action_mask, rewards * rewards.dtype.type(scale), rewards.dtype.type(0))
    if clip is not None:
        shaped = shaped.clip(-clip, clip)
    if penalty:
        last = action_mask.shape[1] - 1 - action_mask[:, ::-1].argmax(1)
        rows = np.flatnonzero(cut)
        kept = shaped[rows, last[rows]] if missing_eos == "subtract" else 0
        shaped[rows, last[rows]] = kept - penalty
    return shaped


def shaped_rewards(rollout: Rollout, config: LearnerConfig) -> NDArray[np.floating[Any]]:
    """What the environment paid in a rollout, as a learner's settings shape it, shape ``(N, T)``."""
    return shape_rewards(
        rollout.rewards,
        rollout.action_mask,
        rollout.cut,
        scale=config.reward_scale,
        clip=config.reward_clip,
        penalty=config.missing_eos_penalty,
        missing_eos=config.missing_eos,
    )
