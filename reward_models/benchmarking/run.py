"""``benchmark(models, suites)``: every model on every suite, and a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_models.benchmarking.data import SuiteData
from reward_models.benchmarking.measures.accuracy import AccuracyResult, suite_accuracy
from reward_models.benchmarking.measures.calibration import calibration
from reward_models.benchmarking.measures.ceiling import human_ceiling
from reward_models.benchmarking.measures.choices import choice_accuracy
from reward_models.benchmarking.measures.comparison import agreement, compare_models
from reward_models.benchmarking.measures.length import length_bias
from reward_models.benchmarking.measures.probing import ProbeBase, probe, probe_base
from reward_models.benchmarking.measures.ranking import ranking
from reward_models.benchmarking.overoptimization.curves import best_of_n_path
from reward_models.benchmarking.result import SCHEMA_VERSION, BenchmarkReport, as_json
from reward_models.benchmarking.scoring import Scorer, model_parts
from reward_models.benchmarking.suites.pool import PoolSuite
from reward_models.benchmarking.suites.resolve import resolve_suites
from textenv.errors import ConfigError
from textenv.statistics import ClusterBootstrap

Progress = Callable[[str, int, int], None]
"""``progress(what, done, total)``: called while texts are scored."""

DEFAULT_SUITES = ("human", "simulated", "overoptimization")
_BINS = 40


def benchmark(
    models: Mapping[str, Any],
    suites: Sequence[Any] = DEFAULT_SUITES,
    *,
    quick: bool = False,
    probes: bool = True,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> BenchmarkReport:
    """Measure reward models.

    A model that raises or returns something that is not finite on some texts loses those texts only; the report names
    them. Every distinct text is scored once per model.

    Args:
        models: Name → reward model, or name → list of models of one kind that differ by seed.
        suites: Names, files, labels or suites; see `resolve_suites`.
        quick: Small suites, few resamples: for trying.
        probes: Also change texts (robustness, format, names, worthless responses).
        resamples: Bootstrap resamples behind every interval.
        seed: Of the bootstrap, of splits, and of what is simulated.
        progress: Called while texts are scored.

    Raises:
        ConfigError: If there are no models, one has no ``score``, or a suite is unknown.
        DataError: If a suite's data is malformed or cannot be fetched.
    """
    single, kinds = model_parts(models)
    _check_models(single)
    found = resolve_suites(suites, quick=quick, seed=seed)
    resamples = min(resamples, 200) if quick else resamples
    began = time.perf_counter()
    ordered = [suite for suite in found if isinstance(suite, SuiteData)]
    base = probe_base(ordered, _rng(seed, "probes"), pairs=40 if quick else 120) if probes and ordered else None
    scorers = {name: Scorer(name, model) for name, model in single.items()}
    _score_everything(scorers, found, progress)
    results = {
        suite.name: _suite_results(suite, scorers, resamples, seed)
        for suite in ordered
        if _say(progress, f"measuring {suite.name}")
    }
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "seed": seed,
        "resamples": resamples,
        "quick": quick,
        "versions": {name: _version(name) for name in ("textenv", "numpy", "torch", "transformers")},
        "suites": results,
        "overoptimization": {
            suite.name: _pool_results(suite, scorers, resamples, seed)
            for suite in found
            if isinstance(suite, PoolSuite)
        },
        "probes": _probe_results(base, scorers, resamples, seed, progress),
        "seed_spread": _seed_spread(kinds, results),
    }
    report["models"] = {name: _model_facts(scorer, kinds) for name, scorer in scorers.items()}
    report["seconds"] = round(time.perf_counter() - began, 2)
    return BenchmarkReport(as_json(report))


def _check_models(models: Mapping[str, Any]) -> None:
    if not models:
        raise ConfigError("no models: give at least one, e.g. `benchmark({'lexicon': Lexicon()})`.")
    for name, model in models.items():
        if not callable(getattr(model, "score", None)):
            raise ConfigError(f"model {name!r} ({type(model).__name__}) has no method `score(prompts, responses)`.")


def _say(progress: Progress | None, what: str) -> bool:
    if progress is not None:
        progress(what, 0, 1)
    return True


def _rng(seed: int, *names: str) -> np.random.Generator:
    """A stream of its own for each use, so that adding a suite changes no figure of another."""
    return np.random.default_rng([seed, *(byte for name in names for byte in name.encode())])


def _score_everything(
    scorers: Mapping[str, Scorer], suites: Sequence[SuiteData | PoolSuite], progress: Progress | None
) -> None:
    """Fill the caches, model after model, so that progress and throughput mean something."""
    texts: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    for suite in suites:
        if isinstance(suite, SuiteData):
            texts.append((suite.prompts, suite.responses))
        else:
            texts += [((prompt,) * len(row), row) for prompt, row in zip(suite.prompts, suite.responses, strict=True)]
    pairs = dict.fromkeys((p, r) for prompts, rows in texts for p, r in zip(prompts, rows, strict=True))
    prompts, responses = [p for p, _ in pairs], [r for _, r in pairs]
    for number, (name, scorer) in enumerate(scorers.items()):
        done = number * len(pairs)

        def advance(count: int, name: str = name) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(f"scoring with {name}", done, len(scorers) * len(pairs))

        scorer.advance = advance
        scorer.score(prompts, responses)
        scorer.advance = None


def _suite_results(suite: SuiteData, scorers: Mapping[str, Scorer], resamples: int, seed: int) -> dict[str, Any]:
    bootstrap = ClusterBootstrap(suite.clusters, _rng(seed, suite.name, "bootstrap"), resamples=resamples)
    scores = {name: scorer.score(suite.prompts, suite.responses) for name, scorer in scorers.items()}
    accuracies = {name: suite_accuracy(own, suite, bootstrap) for name, own in scores.items()}
    ceiling = None
    if suite.raters is not None and min(map(len, suite.raters)) >= 2:
        ceiling = human_ceiling(suite, bootstrap, _rng(seed, suite.name, "ceiling"))
    group, _, part = suite.name.partition("/")
    return {
        "title": suite.title,
        "note": suite.note,
        "group": group if part else None,
        "items": len(suite),
        "pairs": len(suite.pairs),
        "prompts": bootstrap.count,
        "sha256": suite.sha256(),
        "truth_known": suite.truth_known,
        "within_prompts": suite.within_prompts,
        "ceiling": ceiling,
        "models": {
            name: _model_results(own, accuracies[name], suite, bootstrap, _rng(seed, suite.name, "halves"))
            for name, own in scores.items()
        },
        "comparisons": compare_models(scores, accuracies, suite, _rng(seed, suite.name, "mcnemar")),
        "agreement": agreement(scores, suite),
    }


def _model_results(
    scores: NDArray[np.float64],
    accuracy: AccuracyResult,
    suite: SuiteData,
    bootstrap: ClusterBootstrap,
    rng: np.random.Generator,
) -> dict[str, Any]:
    choices = choice_accuracy(scores, suite, bootstrap)
    headline = accuracy.overall
    if choices is not None:
        headline = choices.mean
    elif accuracy.section_mean is not None:
        headline = accuracy.section_mean
    return {
        "headline": headline,
        "accuracy": {name: figure for name, figure in accuracy._asdict().items() if name != "resampled"},
        "ranking": ranking(scores, suite, bootstrap),
        "calibration": calibration(scores, suite, bootstrap, rng),
        "length": length_bias(scores, suite, bootstrap),
        "choices": choices,
        "distribution": distribution(scores, suite),
        "missing": int(np.isnan(scores).sum()),
    }


def distribution(scores: NDArray[np.float64], suite: SuiteData) -> dict[str, Any]:
    """Mean, spread and histogram of a model's scores, and their histograms among better and worse responses."""
    known = scores[np.isfinite(scores)]
    if not len(known):
        return {"mean": float("nan"), "sd": float("nan"), "edges": [], "counts": [], "distinct": 0}
    low, high = (float(value) for value in np.quantile(known, [0.001, 0.999]))
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _BINS + 1)
    return {
        "mean": float(known.mean()),
        "sd": float(known.std()),
        "edges": edges,
        "counts": np.histogram(np.clip(known, low, high), edges)[0],
        "distinct": len(np.unique(known)),
    }


def _pool_results(suite: PoolSuite, scorers: Mapping[str, Scorer], resamples: int, seed: int) -> dict[str, Any]:
    curves, notes = {}, {}
    for name, scorer in scorers.items():
        proxy = np.stack(
            [scorer.score([p] * len(row), row) for p, row in zip(suite.prompts, suite.responses, strict=True)]
        )
        if not np.isfinite(proxy).all():
            notes[name] = "left out: some texts have no score"
            continue
        curves[name] = best_of_n_path(proxy, suite.gold, _rng(seed, suite.name), name=name, resamples=resamples)
    return {
        "title": suite.title,
        "note": suite.note,
        "prompts": len(suite.prompts),
        "samples": suite.gold.shape[1],
        "sha256": suite.sha256(),
        "curves": curves,
        "left_out": notes,
    }


def _probe_results(
    base: ProbeBase | None, scorers: Mapping[str, Scorer], resamples: int, seed: int, progress: Progress | None
) -> dict[str, Any] | None:
    if base is None or not base.pairs:
        return None
    found = {}
    for name, scorer in scorers.items():
        _say(progress, f"probing {name}")
        found[name] = probe(scorer, base, _rng(seed, "probe bootstrap"), resamples=resamples)
    return {"pairs": base.pairs, "models": found}


def _seed_spread(kinds: Mapping[str, list[str]], results: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of the headline figure, and how far the seeds agree, per suite."""
    spread: dict[str, Any] = {}
    for kind, members in kinds.items():
        spread[kind] = {}
        for suite, result in results.items():
            values = np.array([result["models"][name]["headline"].value for name in members])
            others = [result["agreement"][a][b] for a in members for b in members if a < b]
            spread[kind][suite] = {
                "members": len(members),
                "mean": float(values.mean()),
                "sd": float(values.std(ddof=1)) if len(values) > 1 else float("nan"),
                "lowest": float(values.min()),
                "highest": float(values.max()),
                "agreement": float(np.mean(others)) if others else float("nan"),
            }
    return spread


def _model_facts(scorer: Scorer, kinds: Mapping[str, list[str]]) -> dict[str, Any]:
    return {
        "type": type(scorer.model).__name__,
        "kind": next((kind for kind, members in kinds.items() if scorer.name in members), None),
        "broken": scorer.broken,
        "failures": [vars(failure) for failure in scorer.failures],
        "speed": scorer.speed(),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
