"""Trajectories to test with: full ones, random ones, and answers on toy problems with everything exact."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textenv.envs.toy_mdp import ENDED, ToyMDP
from textenv.trajectories import Ragged, Trajectory


def make(length: int = 3, seed: int = 0, **changes: Any) -> Trajectory:
    """A trajectory as ``generate`` makes them."""
    rng = np.random.default_rng(seed)
    logprobs = -rng.exponential(size=length).astype(np.float32)
    given: dict[str, Any] = {
        "prompt": "say something",
        "prompt_ids": np.array([1, 2, 3]),
        "token_ids": rng.integers(0, 50_000, length),
        "response": f"answer {seed}",
        "behaviour_logprobs": logprobs,
        "logprobs": logprobs.copy(),
        "finish_reason": "eos",
        "sampling": {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
        "seed": seed,
    }
    return Trajectory(**(given | changes))


def make_full(length: int = 4) -> Trajectory:
    """A trajectory with every field set, each to something else than its default."""
    rng = np.random.default_rng(7)

    def floats() -> NDArray[np.float32]:
        return -rng.exponential(size=length).astype(np.float32)

    return Trajectory(
        prompt="Grüße, 世界 🌍\nzweite Zeile",
        prompt_ids=np.array([5, 0, 49_151]),
        token_ids=np.arange(length) * 9000,
        response="naïve\u2028“ответ” \x00 </script>",
        behaviour_logprobs=floats(),
        logprobs=floats(),
        finish_reason="stop",
        ref_logprobs=floats(),
        values=floats(),
        entropy=-floats(),
        rewards=floats(),
        action_mask=np.arange(length) % 2 == 0,
        score=-0.25,
        sampling={"temperature": 0.5, "deny_tokens": [3, 4]},
        seed=2**62,
        policy_version=12,
        extra={"nested": {"list": [1, None, "x"]}},
        traj_id="mine",
        prompt_id="p-9",
        group_id="g",
        sample_index=3,
        parent_id="theirs",
        branch_position=0,
        source="smc",
        turn_ids=np.arange(length, dtype=np.int32),
        terminated=False,
        truncated=True,
        kept_counts=np.full(length, 7, np.int32),
        exact_kl=-floats(),
        last_value=0.0,
        advantages=floats(),
        returns=floats(),
        loss_weight=0.5,
        score_parts={"style": 1.5, "length": -0.5},
        reward_parts={"kl": floats(), "score": floats()},
        reward_model="rm@1",
        log_weight=-np.inf,
        policy="runs/x",
        policy_hash="abc",
        tokenizer_hash="def",
        provenance={"dtype": "float32"},
    )


def assert_same(one: Trajectory, other: Trajectory) -> None:
    for entry in fields(Trajectory):
        a, b = getattr(one, entry.name), getattr(other, entry.name)
        if entry.name == "reward_parts" and a is not None:
            assert a.keys() == b.keys()
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])
        elif isinstance(a, np.ndarray):
            assert b is not None, entry.name
            np.testing.assert_array_equal(a, b, err_msg=entry.name)
            assert a.dtype.kind == b.dtype.kind, entry.name
        else:
            assert a == b, entry.name


class ToyAnswers(NamedTuple):
    """Answers on a toy problem.

    Attributes:
        states: State before each token, shape ``(N,)``.
        actions: Tokens, shape ``(N,)``.
        offsets: Where each answer begins, shape ``(n + 1,)``.
        prompts: Prompt of each answer, shape ``(n,)``.
        returns: Sum of rewards of each answer, shape ``(n,)``.
    """

    states: NDArray[np.int64]
    actions: NDArray[np.int64]
    offsets: NDArray[np.int64]
    prompts: NDArray[np.int64]
    returns: NDArray[np.float64]

    def ragged(self, values: NDArray[Any]) -> Ragged:
        return Ragged(values, self.offsets, np.ones(len(self.prompts), bool))

    def of(self, table: NDArray[np.float64]) -> Ragged:
        """Entries ``(state, action)`` of a table along the answers."""
        return self.ragged(table[self.states, self.actions])


def sample_toy(mdp: ToyMDP, policy: NDArray[np.float64], n: int, rng: np.random.Generator) -> ToyAnswers:
    """``n`` answers drawn from a table of probabilities, all at once."""
    prompts = rng.integers(mdp.num_prompts, size=n)
    state = mdp.start_states[prompts]
    states, actions = np.full((n, mdp.horizon), ENDED), np.zeros((n, mdp.horizon), np.int64)
    for step in range(mdp.horizon):
        running = np.flatnonzero(state != ENDED)
        cumulative = policy[state[running]].cumsum(1)
        drawn = (cumulative < rng.random(len(running))[:, None] * cumulative[:, -1:]).sum(1)
        states[running, step], actions[running, step] = state[running], drawn
        state[running] = mdp.next_states[state[running], drawn]
    taken = states != ENDED
    offsets = np.concatenate([[0], taken.sum(1).cumsum()])
    returns = np.where(taken, mdp.rewards[states, actions], 0.0).sum(1)
    return ToyAnswers(states[taken], actions[taken], offsets, prompts, returns)


def assert_unbiased(value: float, standard_error: float, exact: float, *, errors: float = 4.0) -> None:
    assert standard_error > 0
    assert abs(value - exact) < errors * standard_error, (value, standard_error, exact)
