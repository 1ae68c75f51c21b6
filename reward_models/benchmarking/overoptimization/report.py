"""A benchmark report that holds nothing but paths of optimisation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from reward_models.benchmarking.overoptimization.curves import Curve
from reward_models.benchmarking.result import SCHEMA_VERSION, BenchmarkReport, as_json


def overoptimization_report(
    curves: Sequence[Curve],
    *,
    title: str,
    note: str,
    prompts: int,
    samples: int,
    seed: int,
    resamples: int,
    seconds: float,
) -> BenchmarkReport:
    """The report of some paths, under their names.

    Args:
        curves: Best-of-n and policy paths.
        title: Of the section.
        note: What was done.
        prompts: How many were measured on.
        samples: Per prompt.
        seed: Of the experiment.
        resamples: Bootstrap resamples.
        seconds: What it took.
    """
    found = as_json({curve.name: curve for curve in curves})
    digest = hashlib.sha256(repr(sorted((name, curve["gold"]) for name, curve in found.items())).encode()).hexdigest()
    figures: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "seed": seed,
        "resamples": resamples,
        "quick": False,
        "versions": {name: _version(name) for name in ("textenv", "numpy", "torch", "transformers")},
        "suites": {},
        "overoptimization": {
            "overoptimize": {
                "title": title,
                "note": note,
                "prompts": prompts,
                "samples": samples,
                "sha256": digest,
                "curves": found,
                "left_out": {},
            }
        },
        "probes": None,
        "seed_spread": {},
        "models": {},
        "seconds": round(seconds, 2),
    }
    return BenchmarkReport(figures)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
