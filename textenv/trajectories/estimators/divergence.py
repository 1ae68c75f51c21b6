"""KL divergences and entropies from sampled answers, in nats.

All log-ratios are ``log π − log π_ref`` of tokens drawn from ``π``. The unit of a standard error is the answer, or the
group where ``groups`` says which answers belong together: answers to one prompt are not independent.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from textenv.errors import ConfigError, ShapeError
from textenv.kl import ESTIMATORS, KLEstimator
from textenv.statistics import Estimate, grouped_mean, grouped_ratio
from textenv.trajectories.columns import Ragged


def kl_estimate(
    log_ratios: Ragged,
    *,
    estimator: KLEstimator = "k1",
    level: Literal["token", "sequence"] = "token",
    groups: ArrayLike | None = None,
) -> Estimate:
    """KL(π ‖ π_ref) in nats per answer, from answers drawn from π.

    With ``r`` the log-ratio: k1 is ``r``, k2 is ``r²/2``, k3 is ``exp(−r) − 1 + r``. k1 and k3 are unbiased, k3 where
    π can draw whatever π_ref can; it is never negative. k2 is biased (third order in r), with little variance near 0.

    Args:
        log_ratios: Of each token; 0 on tokens that the policy did not choose.
        estimator: Which one.
        level: Whether it is applied to tokens and then summed, or to the sum over an answer.
        groups: Prompt of each answer, shape ``(n,)``; see :func:`textenv.trajectories.grouped_mean`.

    Raises:
        ConfigError: If an argument is unknown.
        ShapeError: If an answer's log-ratios are not known.
    Source: Schulman 2020, "Approximating KL divergence".
    """
    if estimator not in ("k1", "k2", "k3") or level not in ("token", "sequence"):
        raise ConfigError(f"`estimator` must be k1, k2 or k3 and `level` token or sequence, got {estimator}, {level}")
    _check_known(log_ratios, "log_ratios")
    with np.errstate(over="ignore"):  # an infinite estimate is what a vanishing π deserves
        if level == "sequence" or estimator == "k1":
            return grouped_mean(ESTIMATORS[estimator](log_ratios.sums()), groups)
        per_token = ESTIMATORS[estimator](log_ratios.values.astype(np.float64))
    return grouped_mean(Ragged(per_token, log_ratios.offsets, log_ratios.known).sums(), groups)


def rao_blackwell_kl(step_kl: Ragged, *, groups: ArrayLike | None = None) -> Estimate:
    """KL(π ‖ π_ref) in nats per answer from the exact KL of the next-token distributions at each sampled prefix.

    Unbiased and never negative: the expectation over each token is taken exactly, only the prefixes are sampled. It
    has less variance than k1 except where what follows a prefix happens to make up for the prefix's own log-ratio.

    Args:
        step_kl: ``KL(π(·|prefix) ‖ π_ref(·|prefix))`` before each answer token.
        groups: Prompt of each answer, shape ``(n,)``; see :func:`textenv.trajectories.grouped_mean`.

    Raises:
        ShapeError: If an answer's divergences are not known.
    Source: Amini, Vieira and Cotterell 2025, arXiv:2504.10637.
    """
    _check_known(step_kl, "step_kl")
    return grouped_mean(step_kl.sums(), groups)


def entropy_estimate(entropy: Ragged, *, groups: ArrayLike | None = None) -> Estimate:
    """Entropy of a policy over answers in nats per answer, from the exact next-token entropies at sampled prefixes.

    Args:
        entropy: Before each answer token; or ``−log π`` of the drawn tokens, which needs nothing but the sample and
            varies more.
        groups: Prompt of each answer, shape ``(n,)``; see :func:`textenv.trajectories.grouped_mean`.

    Raises:
        ShapeError: If an answer's entropies are not known.
    """
    _check_known(entropy, "entropy")
    return grouped_mean(entropy.sums(), groups)


def per_token(values: Ragged, *, groups: ArrayLike | None = None) -> Estimate:
    """Mean over all tokens: long answers weigh more, and so do groups with many tokens.

    Args:
        values: Of each token.
        groups: Prompt of each answer, shape ``(n,)``; see :func:`textenv.trajectories.grouped_ratio`.

    Raises:
        ShapeError: If an answer's values are not known.
        ConfigError: If there are no tokens.
    """
    _check_known(values, "values")
    return grouped_ratio(values.sums(), values.lengths, groups)


def log_ratios(logprobs: Ragged, ref_logprobs: Ragged, action_mask: Ragged | None = None) -> Ragged:
    """``log π − log π_ref`` of each token, 0 where the mask says that the policy did not choose it.

    Args:
        logprobs: Under the distribution that was drawn from.
        ref_logprobs: Under the reference.
        action_mask: True on the policy's own tokens; None, or an unknown row, means all of them.

    Raises:
        ShapeError: If the rows have different lengths.
    """
    known = logprobs.known & ref_logprobs.known
    if not np.array_equal(logprobs.lengths[known], ref_logprobs.lengths[known]):
        raise ShapeError("`logprobs` and `ref_logprobs` differ in length")
    ours = logprobs.values[known[logprobs.row_of]].astype(np.float64)
    difference = ours - ref_logprobs.values[known[ref_logprobs.row_of]].astype(np.float64)
    lengths = np.where(known, logprobs.lengths, 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    if action_mask is not None:
        masked = known & action_mask.known
        rows = np.repeat(np.arange(len(known)), lengths)
        kept = np.ones(len(difference), bool)
        kept[masked[rows]] = action_mask.values[masked[action_mask.row_of]].astype(bool)
        difference = np.where(kept, difference, 0.0)
    return Ragged(difference, offsets, known)


def _check_known(values: Ragged, name: str) -> None:
    if not values.known.all():
        row = int(np.flatnonzero(~values.known)[0])
        raise ShapeError(f"`{name}` of answer {row} is not known; leave such answers out")
