"""Minari: a dataset is recorded from our environment, saved and read back."""

# The client is not installed where types are checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import os
import sys
import tempfile

import gymnasium as gym
import minari
import numpy as np


def main() -> None:
    """Records five episodes in each form that Minari supports."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        for name, form in (("tokens", {}), ("dict", {"observation": "dict"}), ("text", {"observation": "text"})):
            env = minari.DataCollector(gym.make("textenv:textenv/Toy-v0", **form), record_infos=True)
            returns = []
            for seed in range(5):
                env.reset(seed=seed)
                over, total = False, 0.0
                while not over:
                    _, reward, terminated, truncated, _ = env.step(1)
                    over, total = terminated or truncated, total + float(reward)
                returns.append(total)
            env.create_dataset(
                f"toy/{name}-v0", algorithm_name="scripted", author="x", author_email="x@y.z", code_permalink="none"
            )
            again = minari.load_dataset(f"toy/{name}-v0")
            read = [float(np.sum(episode.rewards)) for episode in again.iterate_episodes()]
            assert read == returns, (read, returns)
            rebuilt = again.recover_environment()
            assert rebuilt.observation_space == env.observation_space
            sys.stdout.write(f"{name}: {again.total_episodes} episodes, {again.total_steps} steps\n")


if __name__ == "__main__":
    main()
