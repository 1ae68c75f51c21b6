"""What a model does with changed texts: robustness, format, names and identities, and responses without worth.

Shifts are in standard deviations of the model's own scores of the unchanged texts, so that models compare.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reward_models.benchmarking.data import SuiteData
from reward_models.benchmarking.measures.comparison import independent_pairs
from reward_models.benchmarking.probes.hacks import HACKS
from reward_models.benchmarking.probes.perturbations import FORMAT, ROBUSTNESS
from reward_models.benchmarking.probes.words import IDENTITIES, IDENTITY_TEMPLATES, NAME_TEMPLATES, NAMES
from reward_models.benchmarking.scoring import Scorer
from textenv.statistics import ClusterBootstrap, Interval, mean_estimate

_LOG = logging.getLogger(__name__)


@runtime_checkable
class PairwiseJudge(Protocol):
    """A judge that reads two responses at once, and may therefore prefer a place."""

    def compare(self, prompts: list[str], first: list[str], second: list[str]) -> ArrayLike:
        """Probability that the first response is the better one, shape ``(n,)``."""
        ...


class ProbeBase(NamedTuple):
    """Unchanged texts that the probes start from: pairs of which no two share a prompt.

    Attributes:
        prompts: Twice as many as pairs: those of the better responses, then those of the worse ones.
        responses: The same.
    """

    prompts: list[str]
    responses: list[str]

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return len(self.prompts) // 2


class Effect(NamedTuple):
    """What a change does to the scores.

    Attributes:
        shift: Mean change of the score, standard deviations.
        size: Mean absolute change, standard deviations.
        flips: Share of pairs whose order turns round when both texts are changed.
        changed: Share of texts that the change does anything to; the others are left out.
    """

    shift: Interval
    size: Interval
    flips: Interval
    changed: float


class HackResult(NamedTuple):
    """What one kind of worthless response earns.

    Attributes:
        wins: Share of them that score above the median of the unchanged responses; ties half.
        shift: Their mean minus that of the unchanged responses, standard deviations.
        example: One of them.
    """

    wins: Interval
    shift: Interval
    example: str


class ProbeResult(NamedTuple):
    """All probes of one model.

    Attributes:
        robustness: Change → effect.
        format: Change → effect.
        names: Group of names → mean deviation from the mean of all groups, standard deviations.
        identities: Identity → the same.
        hacks: Kind → what it earns.
        pass_rate: Share of worthless responses that score below the median of the unchanged ones, ties half.
        position: Share of pairs that a pairwise judge decides alike in both orders; None without one.
        first_place: Share of decisions for the response shown first; None without one.
    """

    robustness: dict[str, Effect]
    format: dict[str, Effect]
    names: dict[str, Interval]
    identities: dict[str, Interval]
    hacks: dict[str, HackResult]
    pass_rate: Interval
    position: Interval | None
    first_place: Interval | None


def probe_base(suites: list[SuiteData], rng: np.random.Generator, *, pairs: int) -> ProbeBase:
    """Texts for the probes, evenly from all suites that have pairs.

    Args:
        suites: Where they come from.
        rng: Chooses them.
        pairs: About how many pairs in all.
    """
    usable = [suite for suite in suites if len(suite.pairs)]
    prompts: tuple[list[str], list[str]] = ([], [])
    responses: tuple[list[str], list[str]] = ([], [])
    for suite in usable:
        for index in independent_pairs(suite, rng)[: -(-pairs // len(usable))]:
            for side, item in enumerate((suite.pairs.better[index], suite.pairs.worse[index])):
                prompts[side].append(suite.prompts[item])
                responses[side].append(suite.responses[item])
    return ProbeBase(prompts[0] + prompts[1], responses[0] + responses[1])


def probe(scorer: Scorer, base: ProbeBase, rng: np.random.Generator, *, resamples: int) -> ProbeResult:
    """All probes of one model.

    Args:
        scorer: The model behind its cache.
        base: Unchanged texts.
        rng: For the bootstrap over pairs.
        resamples: How many.
    """
    clusters = np.concatenate([np.arange(base.pairs)] * 2)
    bootstrap = ClusterBootstrap(clusters, rng, resamples=resamples)
    own = scorer.score(base.prompts, base.responses)
    spread = float(np.nanstd(own)) if np.isfinite(own).any() else float("nan")
    scale = spread if spread > 0 else 1.0  # a constant model shifts by nothing

    def effects(changes: Mapping[str, Callable[[str], str]]) -> dict[str, Effect]:
        return {name: _effect(scorer, base, own / scale, change, scale, bootstrap) for name, change in changes.items()}

    hacks, rates = _hacks(scorer, base, own, scale, bootstrap)
    pass_rate = bootstrap.item_mean(1 - rates).interval((0, 1)) if len(rates) else Interval(float("nan"))
    position, first = _position(scorer.model, base, bootstrap)
    return ProbeResult(
        effects(ROBUSTNESS),
        effects(FORMAT),
        _names(scorer, scale),
        _identities(scorer, scale),
        hacks,
        pass_rate,
        position,
        first,
    )


def _effect(
    scorer: Scorer,
    base: ProbeBase,
    own: NDArray[np.float64],
    change: Callable[[str], str],
    scale: float,
    bootstrap: ClusterBootstrap,
) -> Effect:
    changed = [change(response) for response in base.responses]
    differs = np.array([new != old for new, old in zip(changed, base.responses, strict=True)])
    new = scorer.score(base.prompts, changed) / scale
    shift = new - own
    usable = differs & np.isfinite(shift)
    half = base.pairs
    before, after = np.sign(own[:half] - own[half:]), np.sign(new[:half] - new[half:])
    # From or to a tie is half a flip; a pair counts where either text changes and both have scores.
    both = (differs[:half] | differs[half:]) & np.isfinite(before) & np.isfinite(after)
    (flips,) = bootstrap.cluster_means(np.where(both, 0.5 * np.abs(before - after), np.nan))
    return Effect(
        bootstrap.item_mean(shift, usable).interval(),
        bootstrap.item_mean(np.abs(shift), usable).interval((0, np.inf)),
        flips.interval((0, 1)),
        float(differs.mean()) if len(differs) else float("nan"),
    )


def _hacks(
    scorer: Scorer, base: ProbeBase, own: NDArray[np.float64], scale: float, bootstrap: ClusterBootstrap
) -> tuple[dict[str, HackResult], NDArray[np.float64]]:
    """Every kind of hack, and per text the share of hacks that win."""
    median = float(np.nanmedian(own)) if np.isfinite(own).any() else float("nan")
    found, rates = {}, []
    for name, hack in HACKS.items():
        made = [hack(prompt, response) for prompt, response in zip(base.prompts, base.responses, strict=True)]
        scores = scorer.score(base.prompts, made)
        wins = 0.5 * (np.sign(scores - median) + 1)
        rates.append(wins)
        shift = bootstrap.item_mean((scores - np.nanmean(own)) / scale, np.isfinite(wins))
        found[name] = HackResult(bootstrap.item_mean(wins).interval((0, 1)), shift.interval(), made[0])
    return found, np.nan_to_num(np.mean(rates, axis=0), nan=0.5)


def _names(scorer: Scorer, scale: float) -> dict[str, Interval]:
    """Mean deviation per group of names; names are the units, since they stand for a group."""
    rows = [(group, name) for group, names in NAMES.items() for name in names]
    prompts = [prompt for _ in rows for prompt, _ in NAME_TEMPLATES]
    texts = [response.format(name) for _, name in rows for _, response in NAME_TEMPLATES]
    scores = scorer.score(prompts, texts).reshape(len(rows), len(NAME_TEMPLATES)) / scale
    deviations = (scores - scores.mean(0)).mean(1)
    found = {}
    for group in NAMES:
        found[group] = mean_estimate(deviations[[i for i, row in enumerate(rows) if row[0] == group]]).interval()
    return found


def _identities(scorer: Scorer, scale: float) -> dict[str, Interval]:
    """Mean deviation per identity; sentences are the units."""
    prompts = [prompt for _ in IDENTITIES for prompt, _ in IDENTITY_TEMPLATES]
    texts = [response.format(who) for who in IDENTITIES for _, response in IDENTITY_TEMPLATES]
    scores = scorer.score(prompts, texts).reshape(len(IDENTITIES), len(IDENTITY_TEMPLATES)) / scale
    deviations = scores - scores.mean(0)
    return {who: mean_estimate(own).interval() for who, own in zip(IDENTITIES, deviations, strict=True)}


def _position(model: object, base: ProbeBase, bootstrap: ClusterBootstrap) -> tuple[Interval | None, Interval | None]:
    """How often a pairwise judge decides alike in both orders, and for the first place; None for other models."""
    if not isinstance(model, PairwiseJudge):
        return None, None
    half = base.pairs
    prompts, first, second = base.prompts[:half], base.responses[:half], base.responses[half:]
    try:
        forward = np.asarray(model.compare(prompts, first, second), dtype=np.float64)
        backward = np.asarray(model.compare(prompts, second, first), dtype=np.float64)
    except Exception as error:  # noqa: BLE001 a foreign judge may raise anything, and the others must go on
        _LOG.warning("%s.compare failed, so its place bias is not measured: %s", type(model).__name__, error)
        return None, None
    alike = 0.5 * (np.sign(forward - 0.5) * np.sign(0.5 - backward) + 1)
    place = 0.25 * (np.sign(forward - 0.5) + np.sign(backward - 0.5)) + 0.5
    both_orders, first_place = bootstrap.cluster_means(np.stack([alike, place], axis=1))
    return both_orders.interval((0, 1)), first_place.interval((0, 1))
