"""``Toy-v0``: text generation small enough to know every answer, and the exact oracles to check algorithms with.

>>> import gymnasium, textenv
>>> from textenv.envs import toy
>>> env = gymnasium.make("textenv/Toy-v0")
>>> truth = toy.solve(env.unwrapped.mdp, beta=0.1)
>>> round(truth.expected_reward, 3), round(truth.kl, 3)
(0.833, 3.173)
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict, Unpack

import numpy as np
from gymnasium.vector import AutoresetMode

from textenv.envs.text_generation import TextGenerationEnv
from textenv.envs.toy_mdp import EOS, ToyMDP, ToyReward, ToyVocabulary
from textenv.envs.toy_oracle import (
    TablePolicy,
    ToySolution,
    answer_distribution,
    answer_kl,
    best_of_n_distribution,
    evaluate,
    policy_gradient,
    sampler_distribution,
    softmax_policy,
    solve,
    state_occupancy,
)
from textenv.envs.vector import TextGenerationVectorEnv
from textenv.errors import ConfigError

__all__ = [
    "EOS",
    "TablePolicy",
    "ToyEnv",
    "ToyMDP",
    "ToyReward",
    "ToySolution",
    "ToyVectorEnv",
    "ToyVocabulary",
    "answer_distribution",
    "answer_kl",
    "best_of_n_distribution",
    "evaluate",
    "make_mdp",
    "policy_gradient",
    "sampler_distribution",
    "softmax_policy",
    "solve",
    "state_occupancy",
]


def make_mdp(task: str = "copy", vocab_size: int = 4, horizon: int = 4, mdp_seed: int = 0) -> ToyMDP:
    """The problem that ``Toy-v0``'s arguments stand for.

    Raises:
        ConfigError: If the task is unknown or a size is out of range.
    """
    if task == "copy":
        return ToyMDP.copying(vocab_size, horizon)
    if task == "random":
        return ToyMDP.random(np.random.default_rng(mdp_seed), vocab_size, horizon, num_prompts=1)
    raise ConfigError(f"task must be 'copy' or 'random', got {task!r}")


class ToyOptions(TypedDict, total=False):
    """What of :class:`textenv.envs.task.GenerationTask` can be chosen for a toy problem; the rest is the problem."""

    observation: Literal["tokens", "dict", "text"]
    obs_dtype: str
    padding_side: Literal["right", "left"]
    min_new_tokens: int
    on_length_limit: Literal["terminate", "truncate"]
    info_level: Literal["flat", "full"]
    max_episode_steps: int | None


def _arguments(mdp: ToyMDP, options: ToyOptions) -> dict[str, Any]:
    """A toy problem as arguments of a text-generation environment."""
    unknown = sorted(set(options) - set(ToyOptions.__annotations__))
    if unknown:
        raise ConfigError(f"Toy-v0 takes no {unknown[0]!r}; its options are {', '.join(ToyOptions.__annotations__)}")
    return {
        **options,
        "tokenizer": ToyVocabulary(mdp.vocab_size, mdp.has_eos),
        "prompts": [[prompt + 1] for prompt in range(mdp.num_prompts)],
        "reward": ToyReward(mdp),
        "max_new_tokens": mdp.horizon,
        "token_reward": mdp.token_reward if mdp.is_dense else None,
    }


class ToyEnv(TextGenerationEnv):
    """Repeat the prompt's letter: learnable by an MLP in a minute, and every exact answer is known.

    Action: ``Discrete(vocab_size)``; token 0 ends the answer. Observation: ``Box`` of token ids ``(1 + horizon,)``,
    padded with the id ``vocab_size``. Reward, at the end: the share of ``horizon`` places that hold the prompt's
    letter (``task="copy"``), or a random table's entry (``task="random"``).

    Args:
        task: ``"copy"`` or ``"random"``.
        vocab_size: Number of tokens, 2 to 8.
        horizon: Most tokens of an answer, 1 to 6.
        mdp_seed: Seed of the random table.
        mdp: A problem of one's own, instead of the four arguments above.
        render_mode: As in :class:`textenv.TextGenerationEnv`.
        **options: See :class:`ToyOptions`.

    Raises:
        ConfigError: If an argument is unusable.

    Version history: v0, the first.
    """

    def __init__(
        self,
        *,
        task: Literal["copy", "random"] = "copy",
        vocab_size: int = 4,
        horizon: int = 4,
        mdp_seed: int = 0,
        mdp: ToyMDP | None = None,
        render_mode: str | None = None,
        **options: Unpack[ToyOptions],
    ) -> None:
        self.mdp = mdp if mdp is not None else make_mdp(task, vocab_size, horizon, mdp_seed)
        super().__init__(**_arguments(self.mdp, options), render_mode=render_mode)


class ToyVectorEnv(TextGenerationVectorEnv):
    """Vector form of :class:`ToyEnv`.

    Args:
        num_envs: Number of slots.
        task: ``"copy"`` or ``"random"``.
        vocab_size: Number of tokens, 2 to 8.
        horizon: Most tokens of an answer, 1 to 6.
        mdp_seed: Seed of the random table.
        mdp: A problem of one's own, instead of the four arguments above.
        autoreset_mode: As in :class:`textenv.TextGenerationVectorEnv`.
        prompt_dealing: As in :class:`textenv.TextGenerationVectorEnv`.
        render_mode: As in :class:`textenv.TextGenerationVectorEnv`.
        **options: See :class:`ToyOptions`.

    Raises:
        ConfigError: If an argument is unusable.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        task: Literal["copy", "random"] = "copy",
        vocab_size: int = 4,
        horizon: int = 4,
        mdp_seed: int = 0,
        mdp: ToyMDP | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        prompt_dealing: Literal["per_slot", "shared"] = "per_slot",
        render_mode: str | None = None,
        **options: Unpack[ToyOptions],
    ) -> None:
        self.mdp = mdp if mdp is not None else make_mdp(task, vocab_size, horizon, mdp_seed)
        super().__init__(
            num_envs,
            **_arguments(self.mdp, options),
            autoreset_mode=autoreset_mode,
            prompt_dealing=prompt_dealing,
            render_mode=render_mode,
        )
