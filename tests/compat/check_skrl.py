"""skrl: its wrapper around our environments, in the forms that it supports; the example learns."""

# The client is not installed where types are checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import sys

import gymnasium as gym
import torch
from skrl.envs.wrappers.torch import wrap_env

from examples import skrl_ppo


def main() -> None:
    """Resets and steps through episode ends."""
    for form in ({}, {"obs_dtype": "float32"}, {"observation": "dict"}):
        for made in (gym.make("textenv:textenv/Toy-v0", **form), gym.make_vec("textenv/Toy-v0", num_envs=3, **form)):
            env = wrap_env(made, wrapper="gymnasium")  # "auto" knows only classes of Gymnasium itself
            observation, _ = env.reset()
            assert torch.isfinite(observation.float()).all()
            ended = 0
            for _ in range(12):
                action = torch.ones((env.num_envs, 1), dtype=torch.int64)
                observation, reward, terminated, truncated, _ = env.step(action)
                assert torch.isfinite(reward).all()
                assert not truncated.any()
                ended += int(terminated.sum())
                if env.num_envs == 1 and terminated.any():
                    env.reset()
            assert ended > 0
            sys.stdout.write(f"{type(made).__name__} {form or 'tokens'}: {ended} episodes\n")
    reward = skrl_ppo.main()
    sys.stdout.write(f"example: {reward:.3f} of 1\n")
    assert reward >= 0.95


if __name__ == "__main__":
    main()
