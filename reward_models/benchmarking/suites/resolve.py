"""Suites by name: what the command line and ``benchmark(suites=[…])`` accept beside suites themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reward_models.benchmarking.data import SuiteData
from reward_models.benchmarking.suites.labels import file_suite, labels_suite
from reward_models.benchmarking.suites.pool import PoolSuite, generator_pool
from reward_models.benchmarking.suites.ratings import builtin_suites, human_suites
from reward_models.benchmarking.suites.rewardbench import rewardbench_suite
from reward_models.benchmarking.suites.simulated import simulated_suite
from textenv.datasets.rated_texts import DOMAINS
from textenv.errors import ConfigError
from textenv.records import SUFFIXES

NAMES = ("human", "builtin", "simulated", "overoptimization")
_QUICK_ITEMS = 120


def resolve_suites(suites: Sequence[Any], *, quick: bool = False, seed: int = 0) -> list[SuiteData | PoolSuite]:
    """The suites that are meant, in order, without doubles.

    Args:
        suites: Suites; sequences of labels; or texts: ``human`` (four domains) or ``human/movies``, ``builtin`` or
            ``builtin/nyt``, ``simulated``, ``overoptimization``, ``rewardbench:FILE``, or a label file's path.
        quick: Small versions.
        seed: Of what is simulated.

    Raises:
        ConfigError: If a name is unknown.
        DataError: If a file is malformed, or data cannot be fetched.
    """
    found: dict[str, SuiteData | PoolSuite] = {}
    for position, suite in enumerate(suites):
        if isinstance(suite, SuiteData | PoolSuite):
            made: list[SuiteData | PoolSuite] = [suite]
        elif isinstance(suite, str | Path):
            made = _by_name(str(suite), quick, seed)
        else:
            made = [labels_suite(f"labels-{position + 1}", suite)]
        for one in made:
            if one.name in found and found[one.name].sha256() != one.sha256():
                raise ConfigError(f"two different suites are called {one.name!r}; rename one (for a file, the file).")
            found[one.name] = one
    if not found:
        raise ConfigError(f"no suites: give some of {', '.join(NAMES)}, or a file of labels.")
    return list(found.values())


def _by_name(name: str, quick: bool, seed: int) -> list[SuiteData | PoolSuite]:
    group, _, part = name.partition("/")
    if group in ("human", "builtin") and part in ("", *DOMAINS):
        if group == "human":
            made = human_suites(limit=_QUICK_ITEMS) if quick else human_suites()
        else:
            made = builtin_suites(limit=_QUICK_ITEMS, seed=seed) if quick else builtin_suites(seed=seed)
        return [suite for suite in made if part in ("", suite.name.partition("/")[2])]
    if name == "simulated":
        return [simulated_suite(responses=4 if quick else 8, seed=seed)]
    if name == "overoptimization":
        return [generator_pool(prompts_count=8, samples=128, seed=seed) if quick else generator_pool(seed=seed)]
    if name.startswith("rewardbench:"):
        return [rewardbench_suite(name.removeprefix("rewardbench:"))]
    if Path(name.removesuffix(".gz")).suffix in SUFFIXES:
        return [file_suite(name)]
    raise ConfigError(
        f"unknown suite {name!r}; there are {', '.join(NAMES)}, human/<domain>, builtin/<domain>, rewardbench:FILE "
        f"and label files ({', '.join(SUFFIXES)})."
    )
