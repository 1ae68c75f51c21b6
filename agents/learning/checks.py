"""What a policy-gradient run must satisfy: each function is one check, silent where it holds, loud where it does not.

The usual ways in which RLHF code is subtly wrong (shifted rewards, log-probs from two different computations, a sampler
that is not the policy) all show in the first iteration, before anything has been learned from wrong numbers.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from agents.learning.config import LearnerConfig
from agents.learning.experience import Experience
from agents.learning.minibatches import MiniBatch
from agents.learning.rollouts import Rollout
from agents.policy import CausalLMPolicy
from textenv.errors import ConfigError, RunCheckError


def check_finite_rows(
    tensors: Mapping[str, torch.Tensor], rollout: Rollout, where: str, *, last_checkpoint: Any
) -> None:
    """No number of any episode is NaN or infinite.

    Args:
        tensors: Quantities by name, one row per episode.
        rollout: The episodes.
        where: Names the phase and the iteration in the message.
        last_checkpoint: The newest good checkpoint, or None.

    Raises:
        RunCheckError: Naming phase, quantity, rows, the first one's prompt and the checkpoint.
    """
    # One sum tells whether a look at single rows is needed.
    broken = [name for name, tensor in tensors.items() if not math.isfinite(float(tensor.double().sum()))]
    for name in broken:
        rows = (~tensors[name].reshape(len(tensors[name]), -1).isfinite().all(1)).nonzero().flatten().tolist()
        if rows:
            raise RunCheckError(
                f"{where}: `{name}` is not finite in {describe_rows(rows, rollout)}; last good checkpoint: "
                f"{last_checkpoint or 'none'}"
            )


def describe_losses(losses: Mapping[int, torch.Tensor], rollout: Rollout) -> str:
    """Rows whose share of a loss is not finite, for a message; all rows where none stands out."""
    broken = [row for row, loss in losses.items() if not math.isfinite(float(loss))]
    return f", in {describe_rows(broken or list(losses), rollout)}"


def describe_rows(rows: Sequence[int], rollout: Rollout) -> str:
    """Rows of a rollout for a message: their numbers, and prompt and answer of the first."""
    shown = ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")
    first = rollout.episodes[rows[0]]
    return f"row(s) {shown} of the batch (the first: prompt {first.prompt[:60]!r}, response {first.response[:60]!r})"


def check_reported(figures: Container[str]) -> None:
    """A loss reports what the learner checks itself by.

    Args:
        figures: Names of what it reports.

    Raises:
        ConfigError: If something is missing.
    """
    if "policy/ratio" not in figures or "policy/approx_kl" not in figures:
        raise ConfigError("the loss must report `policy/ratio` and `policy/approx_kl` per token in its `figures`")


def check_first_ratio(ratio: float, approx_kl: float) -> None:
    """Before the first step, old and new policy are one.

    Args:
        ratio: Mean probability ratio of the first minibatch; what is not finite is reported elsewhere.
        approx_kl: Its approx-KL, nats per token.

    Raises:
        RunCheckError: If the ratio is not 1 or approx-KL not 0.
    """
    if abs(ratio - 1) > 1e-5 or abs(approx_kl) > 1e-6:
        raise RunCheckError(
            f"on the first minibatch the ratio must be 1 and approx-KL 0, got {ratio:.6g} and {approx_kl:.3g}: old and "
            "new log-probs do not come from the same computation"
        )


def check_own_reference(log_ratio: torch.Tensor, mask: torch.Tensor) -> None:
    """Where the reference is the policy as it stood, their log-probs are the same numbers before the first update.

    Args:
        log_ratio: log π − log π_ref, nats, shape ``(N, T)``.
        mask: True on tokens that the policy chose, shape ``(N, T)``.

    Raises:
        RunCheckError: If they differ by more than 1e-4 anywhere: what a layer's hooks or recomputed activations change
            is the order of sums, which moves float32 log-probs of a 135 M-parameter model by up to 2e-5.
    """
    worst = float(torch.where(mask, log_ratio, 0.0).abs().max())
    if not worst <= 1e-4:
        raise RunCheckError(
            "KL(policy‖reference) must be 0 before the first update, but log-probs differ by up to "
            f"{worst:.3g} nats: the two are not computed in the same way"
        )


def check_batch_invariance(
    together: torch.Tensor, alone: torch.Tensor, mask: torch.Tensor, *, tolerance: float
) -> None:
    """The log-probs of a sequence do not depend on the sequences beside it (padding, positions).

    Args:
        together: From the whole batch, nats, shape ``(B, T)``.
        alone: Of the same rows from another batch, shape ``(B, T)``.
        mask: True on real tokens, shape ``(B, T)``.
        tolerance: Allowed mean difference, nats per token.

    Raises:
        RunCheckError: If they differ by more.
    """
    apart = float((alone - together)[mask].abs().mean())
    if not apart <= tolerance:
        raise RunCheckError(f"log-probs of a sequence change by {apart:.3g} nats per token with the batch around it")


def check_sampler(
    behaviour_logprobs: NDArray[np.float32], logprobs: NDArray[np.float32], mask: NDArray[np.bool_], *, tolerance: float
) -> None:
    """What drew the tokens is the policy that learns from them.

    Args:
        behaviour_logprobs: Of the drawn tokens when they were drawn, nats, shape ``(N, T)``.
        logprobs: The learner's, nats, shape ``(N, T)``.
        mask: True on drawn tokens, shape ``(N, T)``.
        tolerance: Allowed mean difference, nats per token.

    Raises:
        RunCheckError: If they differ by more.
    """
    mismatch = float(np.abs(behaviour_logprobs - logprobs)[mask].mean())
    if not mismatch <= tolerance:
        raise RunCheckError(
            f"sampler and learner disagree by {mismatch:.3g} nats per token on average; their distributions differ"
        )


def check_score_placement(
    rewards: NDArray[np.float32], scores: NDArray[np.float64], action_mask: NDArray[np.bool_]
) -> None:
    """All that is paid is the score, on the last action token.

    Args:
        rewards: What the environment paid, shape ``(N, T)``.
        scores: What the reward model said, shape ``(N,)``.
        action_mask: True on tokens that the policy chose, shape ``(N, T)``.

    Raises:
        RunCheckError: If anything was paid elsewhere, or something else on the last token.
    """
    last = action_mask.shape[1] - 1 - action_mask[:, ::-1].argmax(1)
    expected = np.zeros_like(rewards)
    expected[np.arange(len(last)), last] = scores
    if not np.allclose(rewards, expected, atol=1e-5):
        raise RunCheckError("the score must be paid on the last action token, and nothing on any other")


def check_experience(
    policy: CausalLMPolicy,
    experience: Experience,
    minibatches: Sequence[MiniBatch],
    config: LearnerConfig,
    *,
    own_reference: bool,
    bare: bool,
) -> dict[str, bool]:
    """All that must hold of the first experience of every process, before its first update.

    Args:
        policy: That played.
        experience: What it played.
        minibatches: As the update will see it.
        config: The learner's.
        own_reference: Whether the reference is the policy as it still stands.
        bare: Whether the environment is played without wrappers.

    Returns:
        What was checked.

    Raises:
        RunCheckError: If a check fails.
    """
    rollout, passed = experience.rollout, {}
    if own_reference:
        check_own_reference(experience.log_ratio, experience.action_mask)
        passed["KL(reference‖reference) is 0"] = True
    tolerance = 1e-3 if policy.computes_in in (torch.float32, torch.float64) else 0.1
    parts = [part for minibatch in minibatches for part in minibatch.parts]
    rows = np.array([parts[0].rows[0], parts[-1].rows[-1]])
    with torch.no_grad():
        alone = policy.evaluate(
            rollout.batch(rows, policy.device), temperature=config.temperature, values=False
        ).logprobs
    width = alone.shape[1]
    together, mask = experience.logprobs[rows, :width], experience.action_mask[rows, :width]
    check_batch_invariance(together, alone, mask, tolerance=tolerance)
    passed["log-probs do not depend on the batch"] = True
    if config.importance_cap is None:
        learned = experience.logprobs.cpu().numpy()
        check_sampler(rollout.behaviour_logprobs, learned, rollout.action_mask, tolerance=tolerance)
        passed["sampler and learner agree"] = True
    dense = any(episode.rewards is not None for episode in rollout.episodes)
    if bare and not dense:
        check_score_placement(rollout.rewards, rollout.scores, rollout.action_mask)
        passed["score on the last action token"] = True
    return passed


def check_settings(
    config: LearnerConfig, envs: VectorEnv, *, name: str, uses_critic: bool, has_ptx: bool, processes: int
) -> None:
    """A learner's settings fit its environment, its hooks and each other.

    Args:
        config: The settings.
        envs: The environment of each process.
        name: Of the algorithm, for messages.
        uses_critic: Whether it has one.
        has_ptx: Whether it is given texts to mix in.
        processes: That train together.

    Raises:
        ConfigError: If they do not.
    """
    if (config.ptx_coef > 0) != has_ptx:
        raise ConfigError(f"`ptx` batches and `ptx_coef` > 0 belong together; `ptx_coef` is {config.ptx_coef}")
    if config.critic_warmup_iterations and not uses_critic:
        raise ConfigError(f"`critic_warmup_iterations` is set, but {name} has no critic")
    at_limit = getattr(getattr(envs.unwrapped, "task", None), "on_length_limit", None)
    if config.missing_eos_penalty and not uses_critic and at_limit == "truncate":
        raise ConfigError(
            f"`missing_eos_penalty` has no effect: {name} leaves out answers that were not scored, and the "
            "environment's on_length_limit='truncate' does not score those at the limit; make it 'terminate'"
        )
    episodes = envs.num_envs * processes
    if episodes < config.num_minibatches:
        raise ConfigError(
            f"{config.num_minibatches} minibatches need as many episodes per iteration, there are {episodes}; raise "
            "`num_envs` or lower `num_minibatches`"
        )
    if envs.num_envs % config.group_size:
        raise ConfigError(f"`num_envs` ({envs.num_envs}) must be a multiple of `group_size` ({config.group_size})")
