"""What an agent is asked to solve, and how the policy that it learned is read out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Unpack

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from textenv.envs.toy import ToyEnv, ToyOptions, ToyVectorEnv
from textenv.envs.toy_mdp import ENDED, ToyMDP
from textenv.envs.toy_oracle import Table, TablePolicy
from textenv.errors import ConfigError, ShapeError

_DRAWS = 400  # per state, where a policy only acts


class CheckableAgent(Protocol):
    """What :func:`textenv.testing.check_agent` needs of an agent.

    Instead of ``logprobs`` it may have ``act(observations (k, L)) -> tokens (k,)``, which samples; its policy is then
    estimated from draws.
    """

    def learn(self, total_episodes: int) -> Any:
        """Train on about this many episodes."""
        ...

    def logprobs(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], /) -> NDArray[np.floating]:
        """The policy's log-probs of every next token in nats, ``(k, V)``, for right-padded rows ``(k, L)``."""
        ...


@dataclass(frozen=True)
class Problem:
    """One thing to learn, with its environments.

    Attributes:
        name: For messages.
        mdp: The problem; its reference policy is where agents that take a reference start from.
        beta: Weight of the KL against the reference that the agent shall apply, score units per nat; 0 for none.
        seed: Of the agent.
    """

    name: str
    mdp: ToyMDP
    beta: float = 0.0
    seed: int = 0

    @property
    def reference(self) -> TablePolicy:
        """Log-probabilities of the reference policy (``textenv.wrappers.NextTokenLogprobs``)."""
        return TablePolicy(self.mdp, self.mdp.ref_probs)

    def make(self, **options: Unpack[ToyOptions]) -> gym.Env[Any, Any]:
        """A single environment; options as of ``textenv/Toy-v0``."""
        return ToyEnv(mdp=self.mdp, **options)

    def make_vec(
        self, num_envs: int, *, autoreset_mode: AutoresetMode = AutoresetMode.SAME_STEP, **options: Unpack[ToyOptions]
    ) -> VectorEnv[Any, Any, Any]:
        """A vector environment; options as of ``textenv/Toy-v0``."""
        return ToyVectorEnv(num_envs, mdp=self.mdp, autoreset_mode=autoreset_mode, **options)


def state_rows(mdp: ToyMDP) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every state as an observation: tokens ``(S, 1 + horizon)`` and lengths ``(S,)``."""
    tokens = np.full((mdp.num_states, 1 + mdp.horizon), mdp.vocab_size, np.int64)
    lengths = np.zeros(mdp.num_states, np.int64)
    for state, (prompt, prefix) in enumerate(mdp.states()):
        lengths[state] = 1 + len(prefix)
        tokens[state, : lengths[state]] = [prompt + 1, *prefix]
    return tokens, lengths


def policy_table(agent: Any, mdp: ToyMDP) -> Table:
    """The probability of every token in every state, shape ``(S, V)``.

    Args:
        agent: With ``logprobs``, or else with ``act``; see :class:`CheckableAgent`.
        mdp: The problem.

    Raises:
        ConfigError: If it has neither.
        ShapeError: If what ``logprobs`` returns is no distribution over the tokens.
    """
    tokens, lengths = state_rows(mdp)
    if hasattr(agent, "logprobs"):
        found = np.exp(np.asarray(agent.logprobs(tokens, lengths), dtype=np.float64))
        if found.shape != mdp.rewards.shape:
            raise ShapeError(f"`logprobs` returned shape {found.shape}, expected {mdp.rewards.shape} (rows, tokens)")
        sums = found.sum(1)
        if not np.allclose(sums, 1.0, atol=1e-3):
            worst = int(np.abs(sums - 1.0).argmax())
            raise ShapeError(
                f"`logprobs` must return log-probabilities in nats: those of row {worst} "
                f"({tokens[worst, : lengths[worst]].tolist()}) sum to {sums[worst]:.4f} after exp"
            )
        return found / sums[:, None]
    if not hasattr(agent, "act"):
        raise ConfigError(f"{type(agent).__name__} needs a method `logprobs(tokens, lengths)` or `act(observations)`")
    counts = np.zeros(mdp.rewards.shape)
    for _ in range(_DRAWS):
        np.add.at(counts, (np.arange(mdp.num_states), np.asarray(agent.act(tokens)).reshape(-1)), 1.0)
    return counts / _DRAWS


def copying() -> ToyMDP:
    """``Toy-v0``'s own problem: repeat the prompt's letter."""
    return ToyMDP.copying()


def mixed() -> ToyMDP:
    """Answers of every length, a lopsided reference, rewards of both signs."""
    return ToyMDP.random(np.random.default_rng(3), vocab_size=3, horizon=3, num_prompts=2)


def two_tokens() -> ToyMDP:
    """Two tokens, scored together at the end: a KL per answer is twice a KL per token."""
    return ToyMDP.random(np.random.default_rng(5), vocab_size=3, horizon=2, num_prompts=1, has_eos=False)


def placed(place: int | None, horizon: int = 3) -> ToyMDP:
    """Each token is paid for being the right one of its place, as it is chosen.

    Args:
        place: Only this place pays; None means all.
        horizon: Places.
    """
    blank = ToyMDP(4, horizon, 1, has_eos=False)
    rewards = np.zeros_like(blank.rewards)
    for state, (_, prefix) in enumerate(blank.states()):
        if place is None or place == len(prefix):
            rewards[state, (len(prefix) + 1) % 4] = 1.0 / (horizon if place is None else 1)
    return ToyMDP(4, horizon, 1, False, rewards=rewards)


def delayed(horizon: int = 3) -> ToyMDP:
    """The first token decides what is paid for at the end."""
    blank = ToyMDP(4, horizon, 1, has_eos=False)
    rewards = np.zeros_like(blank.rewards)
    for state, (_, prefix) in enumerate(blank.states()):
        if (blank.next_states[state] == ENDED).all() and prefix[0] == 2:
            rewards[state] = 1.0
    return ToyMDP(4, horizon, 1, False, rewards=rewards)


def paid_by_place(mdp: ToyMDP, policy: Table, occupancy: NDArray[np.float64]) -> list[float]:
    """Expected reward of the token at each place of an answer."""
    paid = (occupancy[:, None] * policy * mdp.rewards).sum(1)
    return [float(paid[mdp.level(place)].sum()) for place in range(mdp.horizon)]
