"""A policy's path from stored answers: the same prompts answered by each checkpoint (see `textenv sample`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from reward_models.base import RewardModel
from reward_models.benchmarking.overoptimization.curves import Curve, policy_path
from textenv.errors import DataError
from textenv.trajectories import Trajectory


def path_of_trajectories(
    checkpoints: Mapping[int, Sequence[Trajectory]],
    gold: RewardModel,
    rng: np.random.Generator,
    *,
    proxy: RewardModel | None = None,
    name: str = "policy",
    resamples: int = 1000,
) -> Curve:
    """Gold and proxy along a training run, from the answers of its checkpoints.

    The KL is Σ (log π − log π_ref) over an answer's tokens, so the answers have to be sampled plainly, at temperature
    1, and to carry a reference's log-probs.

    Args:
        checkpoints: Training answers so far → answers to the same prompts in the same order, equally many each; the
            smallest key is the starting policy.
        gold: What answers are truly worth.
        rng: For the bootstrap over prompts.
        proxy: What was optimised; None takes the scores stored with the answers.
        name: Of the path.
        resamples: Bootstrap resamples.

    Raises:
        DataError: If checkpoints differ in their prompts, or an answer has no reference log-probs or no score.
    """
    steps = sorted(checkpoints)
    if not steps or not checkpoints[steps[0]]:
        raise DataError("there are no answers; give at least one checkpoint with answers.")
    asked = [answer.prompt for answer in checkpoints[steps[0]]]
    prompts = list(dict.fromkeys(asked))
    order = np.argsort([prompts.index(prompt) for prompt in asked], kind="stable")
    shape = (len(prompts), len(asked) // len(prompts))
    if len({asked.count(prompt) for prompt in prompts}) != 1:
        raise DataError("every prompt needs equally many answers; sample with the same `n` for all.")
    rows = []
    for step in steps:
        answers = checkpoints[step]
        if [answer.prompt for answer in answers] != asked:
            raise DataError(f"checkpoint {step} answers other prompts than checkpoint {steps[0]}; sample both alike.")
        given = [answer.response for answer in answers]
        said = _stored(answers, step) if proxy is None else np.asarray(proxy.score(asked, given), np.float64)
        rows.append((_kl(answers, step), said, np.asarray(gold.score(asked, given), np.float64)))
    kl, scores, worth = (
        np.stack([values[order].reshape(shape) for values in column]) for column in zip(*rows, strict=True)
    )
    return policy_path(kl, scores, worth, steps, rng, name=name, resamples=resamples)


def _kl(answers: Sequence[Trajectory], step: int) -> np.ndarray:
    found = []
    for answer in answers:
        if answer.ref_logprobs is None:
            raise DataError(f"checkpoint {step}: an answer has no reference log-probs; sample with a reference.")
        found.append(float((answer.logprobs - answer.ref_logprobs).astype(np.float64).sum()))
    return np.array(found)


def _stored(answers: Sequence[Trajectory], step: int) -> np.ndarray:
    missing = next((answer for answer in answers if answer.score is None), None)
    if missing is not None:
        raise DataError(f"checkpoint {step}: the answer {missing.response[:60]!r} has no score; give `proxy`.")
    return np.array([answer.score for answer in answers], dtype=np.float64)
