"""TorchRL: ``check_env_specs`` on our environments, with warnings as errors; and the example learns."""

# The client is not installed where types are checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import sys
import warnings

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from textenv.envs.registration import IDS

GENERATION = {
    "tokenizer": "toy",
    "prompts": ["a", "bc"],
    "reward": "tests.compat.rewards:length",
    "max_new_tokens": 5,
}
ARGUMENTS = {"textenv/TextGeneration-v0": GENERATION, "textenv/Toy-v0": {}}
FORMS = {
    "tokens": {},
    "float32": {"obs_dtype": "float32"},
    "int32": {"obs_dtype": "int32"},
    "left": {"padding_side": "left"},
    "dict": {"observation": "dict"},
}


def main() -> None:
    """Checks every id in every form that TorchRL supports."""
    from torchrl.envs import GymWrapper
    from torchrl.envs.utils import check_env_specs

    warnings.simplefilter("error")

    for env_id in IDS:
        for form, options in (FORMS | {"text": {"observation": "text"}}).items():
            env = gym.make(env_id, **ARGUMENTS[env_id], **options)
            check_env_specs(GymWrapper(env, categorical_action_encoding=True))
            sys.stdout.write(f"{env_id} {form}: single ok\n")
        for form, options in FORMS.items():
            for mode in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED):
                envs = gym.make_vec(env_id, num_envs=3, autoreset_mode=mode, **ARGUMENTS[env_id], **options)
                check_env_specs(GymWrapper(envs, categorical_action_encoding=True))
                sys.stdout.write(f"{env_id} {form}: vector {mode.name} ok\n")

    warnings.simplefilter("ignore")  # the collector announces its next version
    from examples import torchrl_ppo

    reward = torchrl_ppo.main()
    sys.stdout.write(f"example: {reward:.3f} of 1\n")
    assert reward >= 0.95


if __name__ == "__main__":
    main()
