"""Stock Stable-Baselines3 PPO trains a language model.

    python -m examples.sb3_ppo

A tiny Llama on ``Toy-v0``, whose best possible reward is 1; ``examples/sb3_quickstart.py`` does it on a reward model.
"""

import gymnasium as gym
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor
from transformers import LlamaConfig, LlamaForCausalLM

from agents import CausalLMPolicy
from agents.sb3 import SequenceRolloutBuffer, TextPolicy, as_vec_env
from textenv.envs.toy import ToyVocabulary


class Letters(ToyVocabulary):
    """The toy vocabulary, with the id that fills up observations."""

    pad_token_id = 4


def tiny_llama(seed: int) -> CausalLMPolicy:
    """A language model of four letters."""
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=5, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    return CausalLMPolicy(LlamaForCausalLM(config), Letters(4))


def main(steps: int = 16_000, seed: int = 0) -> float:
    """Train; returns the mean reward of the last hundred answers."""
    envs = VecMonitor(as_vec_env(gym.make_vec("textenv/Toy-v0", num_envs=32)))
    model = PPO(
        TextPolicy,
        envs,
        policy_kwargs={"policy": tiny_llama(seed)},
        rollout_buffer_class=SequenceRolloutBuffer,
        learning_rate=lambda left: 3e-3 * left,
        n_steps=16,
        batch_size=128,
        n_epochs=4,
        gamma=1.0,
        seed=seed,
        device="cpu",
    )
    model.learn(steps)
    assert model.ep_info_buffer is not None
    return sum(episode["r"] for episode in model.ep_info_buffer) / len(model.ep_info_buffer)


if __name__ == "__main__":
    print(f"{main():.3f} of 1")
