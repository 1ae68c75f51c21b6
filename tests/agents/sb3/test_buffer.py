"""SequenceRolloutBuffer beside the stock buffer: the same update, with every token through the model once."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import TRPO, MaskablePPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import RolloutBuffer

from agents.policy.forward import SequenceBatch
from agents.sb3 import (
    MaskableSequenceRolloutBuffer,
    MaskableTextPolicy,
    SequenceRolloutBuffer,
    TextPolicy,
    as_vec_env,
)
from agents.sb3.buffer import _groups
from tests.agents.sb3.models import toy_envs, toy_lm
from textenv.envs import toy
from textenv.errors import ShapeError

WHOLE = {"n_steps": 16, "batch_size": 64, "n_epochs": 3}
ALGORITHMS: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
    "PPO": (PPO, TextPolicy, SequenceRolloutBuffer, WHOLE | {"ent_coef": 0.01}),
    "A2C": (A2C, TextPolicy, SequenceRolloutBuffer, {"n_steps": 16}),
    # More conjugate-gradient steps than the curvature has directions only magnify rounding.
    "TRPO": (
        TRPO,
        TextPolicy,
        SequenceRolloutBuffer,
        {"n_steps": 16, "batch_size": 64, "n_critic_updates": 2, "cg_max_steps": 4},
    ),
    "MaskablePPO": (MaskablePPO, MaskableTextPolicy, MaskableSequenceRolloutBuffer, WHOLE),
}


def trained(name: str, buffer: Any, double: bool, steps: int = 64, **options: Any) -> list[torch.Tensor]:
    algorithm, policy, _, settings = ALGORITHMS[name]
    lm = toy_lm(double=double)
    model = algorithm(
        policy,
        toy_envs(**options),
        policy_kwargs={"policy": lm},
        rollout_buffer_class=buffer,
        **(settings | {"seed": 0, "device": "cpu"}),
    )
    model.learn(steps)
    return [p.detach().clone() for p in lm.parameters()]


@pytest.mark.parametrize(
    ("double", "bound", "options"),
    [(False, 1e-5, {}), (False, 1e-5, {"on_length_limit": "truncate", "observation": "dict"}), (True, 2e-7, {})],
    ids=["float32", "float32, cut off", "float64"],
)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_weights_after_the_update_are_the_stock_buffers(name, options, double, bound):
    """Stock buffers keep float32 log-probs, values and advantages, which is what is left in float64."""
    if name == "MaskablePPO":
        options = {**options, "min_new_tokens": 3}
    ours = trained(name, ALGORITHMS[name][2], double, **options)
    stock = trained(name, None, double, **options)
    assert max(float((a - b).abs().max()) for a, b in zip(ours, stock, strict=True)) < bound
    start = [p.detach() for p in toy_lm(double=double).parameters()]
    assert max(float((a - b).abs().max()) for a, b in zip(start, stock, strict=True)) > 50 * bound


def filled(num_steps: int = 20, num_envs: int = 3, **options: Any) -> tuple[SequenceRolloutBuffer, RolloutBuffer]:
    """Both buffers with the same random rollout."""
    envs = toy_envs(num_envs, **options)
    envs.seed(0)
    spaces = (envs.observation_space, envs.action_space)
    both = (
        SequenceRolloutBuffer(num_steps, *spaces, device="cpu", n_envs=num_envs),
        RolloutBuffer(num_steps, *spaces, device="cpu", n_envs=num_envs),
    )
    rng, seen = np.random.default_rng(0), envs.reset()
    starts = dones = np.ones(num_envs)
    for _ in range(num_steps):
        actions = rng.integers(0, 4, num_envs)
        following, rewards, dones, _ = envs.step(actions)
        values, logprobs = torch.as_tensor(rng.normal(size=(2, num_envs)), dtype=torch.float32)
        for buffer in both:
            buffer.add(seen, actions.reshape(-1, 1), rewards, starts, values, logprobs)
        seen, starts = following, dones
    for buffer in both:
        buffer.compute_returns_and_advantage(torch.zeros(num_envs), dones)
    return both


def transitions(samples: Any) -> set[tuple[Any, ...]]:
    """Prefix, action and numbers of each action in a minibatch, of either buffer."""
    numbers = [samples.actions, samples.old_values, samples.old_log_prob, samples.advantages, samples.returns]
    columns = [tensor.flatten().tolist() for tensor in numbers]
    seen = samples.observations
    if isinstance(seen, SequenceBatch):
        rows, steps = seen.action_mask.nonzero(as_tuple=True)
        ends = seen.prompt_lengths[rows] + steps
        prefixes = [tuple(seen.tokens[row, :end].tolist()) for row, end in zip(rows, ends, strict=True)]
        assert seen.tokens[rows, ends].tolist() == samples.actions.flatten().tolist()
    else:
        prefixes = [tuple(i for i in row if i != 4) for row in seen.tolist()]
    return set(zip(prefixes, *columns, strict=True))


def test_minibatches_hold_the_stock_buffers_transitions():
    ours, stock = filled()
    (everything,) = ours.get(None)
    (expected,) = stock.get(None)
    assert transitions(everything) == transitions(expected)
    parts = list(ours.get(12))
    assert len(parts) > 2
    assert set.union(*map(transitions, parts)) == transitions(expected)
    assert sum(len(part.actions) for part in parts) == 60
    assert all(6 <= len(part.actions) <= 24 for part in parts)


def test_every_sequence_is_stored_once():
    ours, stock = filled(40)
    (batch,) = (samples.observations for samples in ours.get(None))
    assert isinstance(batch, SequenceBatch)
    assert int(batch.lengths.sum()) < 0.45 * stock.observations.size
    assert len(batch.lengths) == len(set(ours.sequences.flatten().tolist()))


def test_rows_that_are_no_continuation_begin_a_sequence():
    mdp = toy.ToyMDP(4, 4, 3, has_eos=False)
    envs = as_vec_env(gym.make_vec("textenv/Toy-v0", num_envs=1, mdp=mdp))
    buffer = SequenceRolloutBuffer(3, envs.observation_space, envs.action_space, device="cpu")
    zero = np.zeros(1), np.zeros(1), torch.zeros(1), torch.zeros(1)
    for row, action in (([1, 4, 4, 4, 4], 2), ([1, 2, 4, 4, 4], 3), ([1, 3, 4, 4, 4], 1)):
        buffer.add(np.array([row]), np.array([[action]]), *zero)
    (samples,) = buffer.get(None)
    batch = samples.observations
    rows = sorted(batch.tokens[i, : batch.lengths[i]].tolist() for i in range(2))  # type: ignore[attr-defined]
    assert rows == [[1, 2, 3], [1, 3, 1]]
    assert buffer.sequences.flatten().tolist() == [0, 0, 1]


def test_tokens_of_a_responder_are_seen_and_not_trained():
    buffer = SequenceRolloutBuffer(2, *(getattr(toy_envs(1), name) for name in ("observation_space", "action_space")))
    zero = np.zeros(1), np.zeros(1), torch.zeros(1), torch.zeros(1)
    buffer.add(np.array([[1, 4, 4, 4, 4]]), np.array([[2]]), *zero)
    buffer.add(np.array([[1, 2, 3, 3, 4]]), np.array([[1]]), *zero)  # two tokens of somebody else's
    (samples,) = buffer.get(None)
    batch: Any = samples.observations
    assert batch.tokens[0, :5].tolist() == [1, 2, 3, 3, 1]
    assert batch.action_mask.tolist() == [[True, False, False, True]]


def test_groups_cover_everything_and_leave_no_crumbs():
    counts = np.array([3, 5, 2, 4, 1, 1])
    groups = list(_groups(np.arange(6), counts, 8))
    assert [group.tolist() for group in groups] == [[0, 1], [2, 3, 4, 5]]
    assert [group.tolist() for group in _groups(np.arange(6), counts, 100)] == [[0, 1, 2, 3, 4, 5]]


def test_left_padding_is_refused():
    buffer, _ = filled()
    buffer.reset()
    zero = np.zeros(3), np.zeros(3), torch.zeros(3), torch.zeros(3)
    with pytest.raises(ShapeError, match="padded on the right"):
        buffer.add(np.array([[4, 4, 4, 4, 1], [4, 4, 4, 4, 2], [4, 4, 4, 4, 3]]), np.zeros((3, 1)), *zero)
