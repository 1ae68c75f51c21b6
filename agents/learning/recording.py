"""Every episode that a learner sees, in a trajectory store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from textenv.trajectories import Trajectory, TrajectoryStore

if TYPE_CHECKING:
    from agents.learning.learner import Learner


class StoreRecorder:
    """A callback that appends each iteration's episodes to a store, with all that the learner knew of them.

    Episodes are named by run and number. What a store already holds of an iteration is not appended again, so that a
    run that was killed after it had recorded an iteration, and before its checkpoint, leaves no episode twice.

    Args:
        store: Where they go; several processes and runs may share it.
        name: Begins the episodes' names; runs that share a store need different ones.
    """

    def __init__(self, store: TrajectoryStore, name: str) -> None:
        self.store = store
        self.name = name
        self._known: set[str] | None = None

    def __call__(self, agent: Learner[Any], metrics: dict[str, float]) -> None:
        """Append the episodes of the iteration that just ended."""
        if self._known is None:
            names = self.store.columns(["traj_id"])["traj_id"]
            self._known = {name for name in names if name.startswith(f"{self.name}-")}
        self.store.append([t for t in iteration_trajectories(agent, self.name) if t.traj_id not in self._known])


def iteration_trajectories(agent: Learner[Any], name: str) -> list[Trajectory]:
    """An agent's latest iteration as trajectories, this process's rows.

    Args:
        agent: After an iteration.
        name: Begins ``traj_id`` and ``group_id``.
    """
    experience, estimated = agent.experience, agent.estimated
    assert experience is not None
    assert estimated is not None
    rollout, config = experience.rollout, agent.config
    slots = agent.envs.num_envs
    first = agent.episodes - agent.episodes_per_iteration + agent.world.rank * slots
    plain = config.temperature == 1.0
    columns: dict[str, Any] = {
        "entropy": experience.entropy,
        "rewards": experience.rewards,
        "advantages": estimated.advantages,
        "behaviour_logprobs": rollout.behaviour_logprobs,
        # The record's log-probabilities are those at temperature 1, which a learner at another one never computes.
        "logprobs": experience.logprobs if plain else np.full(rollout.action_mask.shape, np.nan),
    }
    if plain:
        columns["ref_logprobs"] = experience.ref_logprobs
    if agent.uses_critic:
        columns |= {"values": experience.values, "returns": estimated.returns}
    arrays = {key: np.asarray(x.cpu() if hasattr(x, "cpu") else x, np.float32) for key, x in columns.items()}
    trajectories = []
    for row, episode in enumerate(rollout.episodes):
        number, length = first + row, len(episode.response_ids)
        trajectory = Trajectory.from_episode(episode)
        trajectory.truncated = bool(rollout.truncated[row])
        trajectory.terminated = not trajectory.truncated
        for key, array in arrays.items():
            setattr(trajectory, key, array[row, :length].copy())
        trajectory.traj_id = f"{name}-{number:010d}"
        trajectory.group_id = f"{name}-{agent.iteration - 1}-{number // config.group_size}"
        trajectory.sample_index = number % config.group_size
        trajectory.policy_version = agent.iteration - 1
        trajectory.seed = config.seed
        trajectory.sampling = vars(agent.collector.params).copy()
        trajectory.source = "policy"
        trajectories.append(trajectory)
    return trajectories
