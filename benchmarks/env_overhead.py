"""What a step of the environment costs, with scripted actions and no model.

    python -m benchmarks.env_overhead            # prints the figures
    python -m benchmarks.env_overhead --check    # and fails where one misses its bound

Four figures in CPU time, which neighbours disturb least, each the best of several rounds on one core:

* a vector step of 64 slots against Gymnasium's ``SyncVectorEnv`` over 64 of our single environments (bound: 1/20)
* token-steps a second at 1,024 slots (bound: a million, and 40 times the SyncVectorEnv's)
* the cost of a step after 2,048 tokens against after 64, in the same environment (bound: 1.25, noise included), for the
  vector and the single environment
* the cost of stop strings and of left padding beside the plain step (no bound)

Episodes end and are scored all the time, by a reward function that does nothing; resets are part of every figure.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from textenv import TextGenerationEnv, TextGenerationVectorEnv

LETTER = 5
BOUNDS = {
    "sync_ratio_64": 20.0,
    "sync_ratio_1024": 40.0,
    "token_steps_per_second_1024": 1e6,
    "growth_vector": 1.25,
    "growth_single": 1.25,
}


def no_reward(prompts: list[str], responses: list[str]) -> list[float]:
    """Scores nothing."""
    return [0.0] * len(responses)


def arguments(max_new_tokens: int, **changes: Any) -> dict[str, Any]:
    """Arguments of the measured environments: prompts of 32 tokens, answers of ``max_new_tokens``."""
    prompts = ["abcdefgh" * 4, "hgfedcba" * 4]
    return {
        "tokenizer": "toy",
        "prompts": prompts,
        "reward": no_reward,
        "max_new_tokens": max_new_tokens,
    } | changes


def seconds_per_call(call: Callable[[], object], calls: int, rounds: int) -> float:
    """Fastest mean time of a call over several rounds."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(calls):
            call()
        times.append((time.process_time() - start) / calls)
    return min(times)


def vector_step_seconds(num_envs: int, rounds: int, *, calls: int = 256, **changes: Any) -> float:
    """Time of a vector step; every 64th ends and resets all episodes."""
    envs = TextGenerationVectorEnv(num_envs, autoreset_mode=AutoresetMode.SAME_STEP, **arguments(64, **changes))
    envs.reset(seed=0)
    actions = np.full(num_envs, LETTER)
    return seconds_per_call(lambda: envs.step(actions), calls, rounds)


def sync_step_seconds(num_envs: int, rounds: int) -> float:
    """Time of a step of SyncVectorEnv over bare single environments, without the checks that ``gym.make`` adds."""
    envs = gym.vector.SyncVectorEnv(
        [lambda: TextGenerationEnv(**arguments(64))] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP
    )
    envs.reset(seed=0)
    actions = np.full(num_envs, LETTER)
    return seconds_per_call(lambda: envs.step(actions), 64, rounds)


def growth(rounds: int, make: Callable[[], Any], actions: Any) -> tuple[float, float]:
    """Time of a step after 64 and after 2,048 tokens of one episode, seconds."""
    early, late = [], []
    for _ in range(rounds):
        env = make()
        env.reset(seed=0)
        for start, found in ((64, early), (2048, late)):
            while int(env.slots.response_tokens[0]) < start:
                env.step(actions)
            found.append(seconds_per_call(partial(env.step, actions), 8, 8))
    return min(early), min(late)


def measure(rounds: int) -> dict[str, float]:
    """All figures."""
    native, sync = vector_step_seconds(64, rounds), sync_step_seconds(64, rounds)
    large = vector_step_seconds(1024, rounds)
    vector_early, vector_late = growth(
        rounds, lambda: TextGenerationVectorEnv(64, **arguments(2200)), np.full(64, LETTER)
    )
    single_early, single_late = growth(rounds, lambda: TextGenerationEnv(**arguments(2200)), LETTER)
    return {
        "vector_step_us_64": 1e6 * native,
        "sync_step_us_64": 1e6 * sync,
        "sync_ratio_64": sync / native,
        "vector_step_us_1024": 1e6 * large,
        "sync_ratio_1024": (sync / 64) / (large / 1024),
        "token_steps_per_second_1024": 1024 / large,
        "vector_step_us_after_64_tokens": 1e6 * vector_early,
        "vector_step_us_after_2048_tokens": 1e6 * vector_late,
        "growth_vector": vector_late / vector_early,
        "single_step_us_after_64_tokens": 1e6 * single_early,
        "single_step_us_after_2048_tokens": 1e6 * single_late,
        "growth_single": single_late / single_early,
        "vector_step_us_64_stop_strings": 1e6 * vector_step_seconds(64, rounds, stop=["\n\n", "###"]),
        "vector_step_us_64_left_padding": 1e6 * vector_step_seconds(64, rounds, padding_side="left"),
        "vector_step_us_64_dict": 1e6 * vector_step_seconds(64, rounds, observation="dict"),
    }


def misses(figures: dict[str, float], *, undisturbed: bool = True) -> list[str]:
    """Figures outside their bound, one line each.

    Args:
        figures: What :func:`measure` found.
        undisturbed: Whether nothing else ran meanwhile; else only what is measured against a peer counts.
    """
    found = []
    for name, bound in BOUNDS.items():
        if not undisturbed and name == "token_steps_per_second_1024":
            continue
        most = name.startswith("growth")
        if figures[name] > bound if most else figures[name] < bound:
            found.append(f"{name} is {figures[name]:.3g}, expected at {'most' if most else 'least'} {bound:g}")
    return found


def main() -> None:
    """Measures, prints and, where asked, checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail where a figure misses its bound")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement; the fastest counts")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core
    figures = measure(options.rounds)
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:36} {value:14,.2f}")
    failed = misses(figures)
    if options.check and failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
