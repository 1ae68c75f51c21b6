"""The figures of a set of answers, and what two sets have in common."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from textenv.errors import DataError
from textenv.statistics import Estimate, bootstrap_interval, group_means, grouped_mean, paired_difference
from textenv.trajectories import schema
from textenv.trajectories.columns import Columns, Ragged
from textenv.trajectories.estimators.best_of_n import BestOfNCurve, best_of_n_curve
from textenv.trajectories.estimators.divergence import kl_estimate, log_ratios, per_token, rao_blackwell_kl
from textenv.trajectories.estimators.diversity import distinct_n, self_bleu
from textenv.trajectories.estimators.importance import SELECTED, effective_sample_size, truncates_support
from textenv.trajectories.reader import TrajectoryReader
from textenv.trajectory import Trajectory

_DRAW = ("policy", "policy_hash", "policy_version", "seed", "prompt_id", "group_id", "sample_index")
_COLUMNS = (
    *_DRAW,
    "prompt",
    "response",
    "finish_reason",
    "source",
    "sampling",
    "score",
    "log_weight",
    "token_ids",
    "behaviour_logprobs",
    "logprobs",
    "ref_logprobs",
    "entropy",
    "exact_kl",
    "action_mask",
)
_MOST_TEXTS = 2000  # of which diversity is measured: the figures depend on the number of texts, and time is limited


@dataclass(frozen=True, eq=False)
class Summary:
    """What is known about a set of answers; None where the records do not say.

    Attributes:
        answers: Number of answers, each draw once.
        prompts: Number of distinct prompts.
        tokens: Answer tokens in all.
        length: Tokens per answer; standard errors here and below take prompts as units where they have several
            answers, or the answers where all are to one prompt.
        finish_reasons: Share of answers by finish reason.
        score: Mean score.
        score_interval: Bootstrap interval of the mean score, prompts resampled (answers where there is one prompt); NaN
            of a single answer.
        score_std: Standard deviation of the scores.
        entropy: Of the policy, nats per token.
        kl: KL of the distribution that was drawn from to the reference, nats per answer, by estimator (``k1``, ``k2``,
            ``k3``, ``exact`` for Rao-Blackwell); k3 is left out where the sampler left tokens out. Of plain draws only:
            the tokens of selected answers say nothing about the distribution that the selection made.
        distinct_1: See :func:`textenv.trajectories.distinct_n`, over at most 2,000 answers.
        distinct_2: The same for pairs of words.
        self_bleu: Within each prompt's answers and averaged, or over all answers where prompts have one.
        ess_share: Effective sample size as a share of the answers when they are weighted towards the policy at
            temperature 1 (plain draws only), None where the sampler left tokens out; or of the weights that a weighted
            sampler gave them.
        truncated_answers: Answers whose sampler left tokens out.
        selected_answers: Answers that a method chose among others or moved on (best-of-n, rejection, beams, …).
        repeated_answers: Records that are left out since they are the same draw as another: the same policy, settings,
            seed, prompt, group, number and tokens, all of them known.
        best_of_n: Expected best score of several answers, where every prompt has as many.
        prompt_scores: Mean score by prompt.
    """

    answers: int
    prompts: int
    tokens: int
    length: Estimate
    finish_reasons: dict[str, float]
    score: Estimate | None
    score_interval: tuple[float, float] | None
    score_std: float | None
    entropy: Estimate | None
    kl: dict[str, Estimate]
    distinct_1: float
    distinct_2: float
    self_bleu: float | None
    ess_share: float | None
    truncated_answers: int
    selected_answers: int
    repeated_answers: int
    best_of_n: BestOfNCurve | None
    prompt_scores: dict[str, float]

    @property
    def best_kl(self) -> Estimate | None:
        """The KL estimate with the least variance among the unbiased ones: exact per step, else k1."""
        return self.kl.get("exact", self.kl.get("k1"))


class PairedComparison(NamedTuple):
    """Mean scores of two sets on the prompts that both have.

    Attributes:
        difference: Second minus first, prompts as units.
        interval: Its interval; NaN where all prompts differ by the same.
        wins: Share of prompts on which the second is better; a tie counts half.
        prompts: Number of shared prompts.
    """

    difference: Estimate
    interval: tuple[float, float]
    wins: float
    prompts: int


def summarize(source: TrajectoryReader | Iterable[Trajectory], rng: np.random.Generator) -> Summary:
    """Figures of a store, a part of one, or a list of trajectories.

    Args:
        source: The trajectories; of a store only the needed columns are read.
        rng: For the bootstrap.

    Raises:
        DataError: If there are none.
    """
    if isinstance(source, TrajectoryReader):
        columns = source.columns(_COLUMNS)
    else:
        columns = Columns.from_arrow(schema.to_table(list(source)), _COLUMNS)
    if not columns.count:
        raise DataError("there are no trajectories to summarise; loosen the filter, or sample some")
    first = _first_of_each_draw(columns)
    columns = columns.take(first)
    prompts, responses = columns.array("prompt"), columns.array("response").tolist()
    names, index = np.unique(prompts.astype(str), return_inverse=True)
    truncated = _truncated(columns.array("sampling"))
    drawn = ~np.isin(columns.array("source").astype(str), list(SELECTED))
    draws, cut = columns.take(drawn), bool(truncated[drawn].any())
    scores, scored = columns.array("score"), ~np.isnan(columns.array("score"))
    reasons, counts = np.unique(columns.array("finish_reason").astype(str), return_counts=True)
    kept = responses[:_MOST_TEXTS]
    means = group_means(scores[scored], index[scored]) if scored.any() else np.zeros(0)
    with_scores = names[np.unique(index[scored])].tolist()
    return Summary(
        answers=columns.count,
        prompts=len(names),
        tokens=len(columns.ragged("token_ids").values),
        length=grouped_mean(columns.ragged("token_ids").lengths, index),
        finish_reasons=dict(zip(reasons.tolist(), (counts / columns.count).tolist(), strict=True)),
        score=grouped_mean(scores[scored], index[scored]) if scored.any() else None,
        score_interval=bootstrap_interval(scores[scored], rng, groups=index[scored]) if scored.any() else None,
        score_std=float(scores[scored].std()) if scored.any() else None,
        entropy=_entropy(columns.ragged("entropy"), index),
        kl=_divergences(draws, index[drawn], cut),
        distinct_1=distinct_n(kept, 1),
        distinct_2=distinct_n(kept, 2),
        self_bleu=_self_bleu(responses, index),
        ess_share=_ess_share(columns.array("log_weight"), draws, cut),
        truncated_answers=int(truncated.sum()),
        selected_answers=int((~drawn).sum()),
        repeated_answers=int((~first).sum()),
        best_of_n=_best_of_n(scores, index) if scored.all() else None,
        prompt_scores=dict(zip(with_scores, means.tolist(), strict=True)),
    )


def compare_scores(first: Summary, second: Summary) -> PairedComparison | None:
    """Paired comparison on the prompts that both sets have scores for; None where they share none.

    Args:
        first: What is compared with.
        second: What is compared.
    """
    shared = sorted(first.prompt_scores.keys() & second.prompt_scores.keys())
    if not shared:
        return None
    a = np.array([first.prompt_scores[prompt] for prompt in shared])
    b = np.array([second.prompt_scores[prompt] for prompt in shared])
    wins = float(((b > a) + 0.5 * (b == a)).mean())
    difference = paired_difference(a, b)
    return PairedComparison(difference, difference.interval()[1:3], wins, len(shared))


def _first_of_each_draw(columns: Columns) -> NDArray[np.bool_]:
    """False for records of a draw that was recorded before; what does not say which draw it is never counts as one."""
    names = [columns.array(name).tolist() for name in (*_DRAW, "source", "sampling", "prompt")]
    told = ~np.isnan(columns.array("seed")) & ~np.isnan(columns.array("sample_index"))
    told &= np.array([place is not None for place in columns.array("prompt_id")], bool)
    told &= np.array([group is not None for group in columns.array("group_id")], bool)
    tokens, seen = columns.ragged("token_ids"), set()
    first = np.ones(columns.count, bool)
    for row in np.flatnonzero(told).tolist():
        answer = tokens.values[tokens.offsets[row] : tokens.offsets[row + 1]].tobytes()
        key = (*(column[row] for column in names), answer)
        first[row] = key not in seen
        seen.add(key)
    return first


def _truncated(sampling: NDArray[np.object_]) -> NDArray[np.bool_]:
    found = {text: truncates_support(json.loads(text)) for text in set(sampling.tolist())}
    return np.array([found[text] for text in sampling.tolist()], bool)


def _known(ragged: Ragged) -> Ragged | None:
    """Only the rows that are known; None where there are none."""
    return ragged.take(ragged.known) if ragged.known.any() else None


def _entropy(entropy: Ragged, index: NDArray[np.int64]) -> Estimate | None:
    known = _known(entropy)
    if known is None or not len(known.values):
        return None
    return per_token(known, groups=index[entropy.known])


def _divergences(columns: Columns, index: NDArray[np.int64], truncated: bool) -> dict[str, Estimate]:
    out: dict[str, Estimate] = {}
    every = log_ratios(
        columns.ragged("behaviour_logprobs"), columns.ragged("ref_logprobs"), columns.ragged("action_mask")
    )
    ratios, groups = _known(every), index[every.known]
    if ratios is not None:
        out["k1"] = kl_estimate(ratios, estimator="k1", groups=groups)
        out["k2"] = kl_estimate(ratios, estimator="k2", groups=groups)
        if not truncated:
            out["k3"] = kl_estimate(ratios, estimator="k3", groups=groups)
    steps = columns.ragged("exact_kl")
    exact = _known(steps)
    if exact is not None:
        out["exact"] = rao_blackwell_kl(exact, groups=index[steps.known])
    return out


def _self_bleu(responses: list[str], index: NDArray[np.int64]) -> float | None:
    groups: dict[int, list[str]] = {}
    for response, prompt in zip(responses[:_MOST_TEXTS], index.tolist(), strict=False):
        groups.setdefault(prompt, []).append(response)
    several = [self_bleu(group) for group in groups.values() if len(group) > 1]
    if several:
        return float(np.mean(several))
    return self_bleu(responses[:_MOST_TEXTS]) if len(responses) > 1 else None


def _ess_share(weights: NDArray[np.float64], draws: Columns, truncated: bool) -> float | None:
    if np.isnan(weights).any():
        if truncated:  # no weight makes up for tokens that could not be drawn
            return None
        drawn, mask = draws.ragged("behaviour_logprobs"), draws.ragged("action_mask")
        ours = log_ratios(draws.ragged("logprobs"), drawn, mask)
        weights = ours.sums()[ours.known]
    return effective_sample_size(weights) / len(weights) if len(weights) else None


def _best_of_n(scores: NDArray[np.float64], index: NDArray[np.int64]) -> BestOfNCurve | None:
    sizes = np.bincount(index)
    if sizes.min() != sizes.max() or sizes[0] < 2:
        return None
    return best_of_n_curve(scores[np.argsort(index, kind="stable")].reshape(len(sizes), sizes[0]))
