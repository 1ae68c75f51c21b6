"""Comparisons as tokens: what preference learning on a policy's log-probabilities reads."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.policy import CausalLMPolicy
from reward_models.labels import Comparison
from textenv.errors import DataError
from textenv.trajectories import Trajectory


@dataclass(frozen=True, slots=True)
class TokenPair:
    """Two answers to one prompt as token ids, of which one is preferred.

    Sampled answers keep the ids that were drawn: decoding and encoding them again may give others.

    Attributes:
        prompt_ids: The prompt, at least one token.
        chosen_ids: The preferred answer, its end token included where it has one; at least one token.
        rejected_ids: The other one.
        margin: By how much its implicit reward should at least be larger; 0 asks for larger only.
        weight: How much this pair counts, at least 0.

    Raises:
        DataError: If a sequence is empty, margin or weight is not finite, or the weight negative.
    """

    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    margin: float = 0.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
            if not getattr(self, name):
                raise DataError(f"`{name}` must hold at least one token: {self}")
        if not math.isfinite(self.margin) or not 0 <= self.weight < math.inf:
            raise DataError(f"`margin` must be finite and `weight` finite and ≥ 0, got {self.margin} and {self.weight}")

    def __len__(self) -> int:
        """Tokens of the prompt and the longer answer."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


def tokenize_comparisons(comparisons: Iterable[Comparison | TokenPair], policy: CausalLMPolicy) -> list[TokenPair]:
    """Comparisons of texts as a policy reads and writes them, an end token after each answer.

    Args:
        comparisons: Texts; pairs of tokens are taken as they are.
        policy: Whose tokenizer and context length decide.

    Raises:
        DataError: If there are none, or one is longer than the policy's context; the message names it.
    """
    answers, context = policy.answers, policy.context_length
    pairs: list[TokenPair] = []
    for number, comparison in enumerate(comparisons):
        if isinstance(comparison, Comparison):
            prompt = answers.encode_prompt(comparison.prompt, f"comparison {number}")
            said = answers.encode_responses([prompt] * 2, [comparison.chosen, comparison.rejected])
            chosen, rejected = (tuple(ids) for ids in said)
            comparison = TokenPair(tuple(prompt.ids), chosen, rejected, comparison.margin, comparison.weight)
        if context is not None and len(comparison) > context:
            raise DataError(
                f"comparison {number} has {len(comparison)} tokens, the policy's context {context}; leave it out or "
                "shorten it"
            )
        pairs.append(comparison)
    if not pairs:
        raise DataError("there are no comparisons to learn from; give at least one")
    return pairs


def pairs_from_trajectories(trajectories: Iterable[Trajectory], *, min_gap: float = 0.0) -> list[TokenPair]:
    """The best against the worst scored answer of each group, with the tokens that were drawn.

    Answers to one prompt with the same ``group_id`` are a group.

    Args:
        trajectories: A store, a part of one, or a list; all with scores.
        min_gap: Only pairs whose scores differ by more than this.

    Raises:
        DataError: If a trajectory has no score.
    """
    groups: dict[tuple[str | None, bytes], list[Trajectory]] = {}
    for number, trajectory in enumerate(trajectories):
        if trajectory.score is None:
            raise DataError(f"trajectory {number} has no score; score it first, or leave it out")
        key = (trajectory.group_id, np.asarray(trajectory.prompt_ids, np.int64).tobytes())
        groups.setdefault(key, []).append(trajectory)
    pairs = []
    for group in groups.values():
        best, worst = max(group, key=_score), min(group, key=_score)
        if _score(best) - _score(worst) > min_gap and len(best) and len(worst):
            prompt, chosen, rejected = (tuple(x.tolist()) for x in (best.prompt_ids, best.token_ids, worst.token_ids))
            pairs.append(TokenPair(prompt, chosen, rejected))
    return pairs


def _score(trajectory: Trajectory) -> float:
    assert trajectory.score is not None
    return trajectory.score


def fingerprint(pairs: Sequence[TokenPair]) -> str:
    """Tells one set of pairs from another, their order included."""
    digest = hashlib.sha256()
    for pair in pairs:
        line = [pair.prompt_ids, pair.chosen_ids, pair.rejected_ids, pair.margin, pair.weight]
        digest.update(json.dumps(line).encode())
    return digest.hexdigest()


class PairBatches:
    """Batches of pairs as a function of the step: whole epochs in random order, cut wherever a batch is full.

    Args:
        count: Number of pairs.
        batch_size: Pairs per batch.
        seed: The order of every epoch depends on it and on the epoch alone.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count = count
        self.batch_size = batch_size
        self.seed = seed

    def batch(self, step: int) -> NDArray[np.int64]:
        """Numbers of the pairs of a step (0-based), shape ``(batch_size,)``."""
        positions = step * self.batch_size + np.arange(self.batch_size)
        epochs, places = np.divmod(positions, self.count)
        numbers = np.empty(self.batch_size, np.int64)
        for epoch in np.unique(epochs):
            order = np.random.default_rng([self.seed, int(epoch)]).permutation(self.count)
            numbers[epochs == epoch] = order[places[epochs == epoch]]
        return numbers
