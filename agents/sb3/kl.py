"""KL-regularisation under algorithms that know nothing of it: the penalty is paid by a wrapper.

Where the policy is a :class:`agents.sb3.TextPolicy`, ``KLPenalty`` reads the log-probs it samples with
(:func:`connect_kl`). Algorithms that expose nothing and have the entropy in their return (soft Q-learning, SAC) take
``ReferenceLogProb``: the reward ``r + β log π_ref`` with an entropy of weight β is the same objective. An entropy bonus
beside the return, PPO's and A2C's, is not; :class:`agents.sb3.SequenceRolloutBuffer` makes it one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from agents.policy import CausalLMPolicy
from agents.policy.lora import base_model
from agents.sb3.policy import LanguageModelPolicy
from agents.sb3.vec_env import TextVecEnv
from textenv.errors import ConfigError
from textenv.sampling.next_token import CachedLogprobs
from textenv.wrappers.kl import KLPenaltyHook


class FrozenReference:
    """The log-probabilities of a language model as it stands now, for ``KLPenalty`` and ``ReferenceLogProb``.

    The weights are copied (a LoRA policy's without its adapter). The padding token is excluded, as
    :class:`agents.sb3.TextPolicy` does, so the divergence of a policy from itself is 0.

    Args:
        lm: The language model.
        envs: textenv's vector environment, wrapped or not; decides the sizes of the cache.
        temperature: Divides the logits; the policy's own.

    Raises:
        ConfigError: If the model is an encoder-decoder, its context is too short, or the temperature is not positive.
    """

    def __init__(self, lm: CausalLMPolicy, envs: Any, *, temperature: float = 1.0) -> None:
        if lm.causal_lm.config.is_encoder_decoder:
            raise ConfigError("FrozenReference takes causal language models; this one is an encoder-decoder")
        model = base_model(lm.model) if lm.has_adapter else copy.deepcopy(lm.compute.model)
        self._model = model.requires_grad_(False)
        self._pad = lm.pad_token_id
        self._cached = CachedLogprobs(
            self._model,
            num_slots=envs.num_envs,
            max_length=envs.unwrapped.slots.tokens.shape[1],
            vocab_size=lm.vocab_size,
            temperature=temperature,
        )

    def __call__(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], /) -> NDArray[np.float64]:
        """Log-probabilities in nats, shape ``(k, V)``; see :class:`textenv.wrappers.NextTokenLogprobs`."""
        logprobs = self._cached(tokens, lengths)
        if self._pad < logprobs.shape[1]:
            logprobs -= np.log1p(-np.exp(logprobs[:, self._pad : self._pad + 1]))
            logprobs[:, self._pad] = -np.inf
        return logprobs


def connect_kl(model: Any) -> None:
    """Let the ``KLPenalty`` wrappers of an algorithm's environment read the log-probs of its policy.

    Call it after making (or loading) the algorithm. What the penalty sees is what the tokens were sampled with, and it
    costs no forward pass.

    Args:
        model: A Stable-Baselines3 algorithm with a :class:`agents.sb3.TextPolicy`.

    Raises:
        ConfigError: If the policy is another, or there is no ``KLPenalty`` in this process around its environments.
    """
    if not isinstance(model.policy, LanguageModelPolicy):
        raise ConfigError(
            f"connect_kl needs a TextPolicy, got {type(model.policy).__name__}; other policies have no "
            "log-probs that the wrapper could read: call KLPenalty's give_logprobs(...) before each step"
        )
    hooks = [hook for hook in _hooks(model.get_env()) if isinstance(hook, KLPenaltyHook)]
    if not hooks:
        raise ConfigError(
            "there is no KLPenalty around the algorithm's environment: "
            "as_vec_env(textenv.wrappers.vector.KLPenalty(envs, reference))"
        )
    for hook in hooks:
        hook.policy = model.policy.next_token_logprobs


def _hooks(vec_env: Any) -> Iterator[Any]:
    """The hooks of all wrappers around environments of this process."""
    inner = None if vec_env is None else vec_env.unwrapped
    layers: list[Any] = [inner.envs] if isinstance(inner, TextVecEnv) else list(getattr(inner, "envs", []))
    while layers:
        layer = layers.pop()
        if "hook" in vars(layer):
            yield layer.hook
        if isinstance(layer, gym.Wrapper | gym.vector.VectorWrapper):
            layers.append(layer.env)
