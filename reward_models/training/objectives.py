"""What training asks of the scores, one class per kind of label: the texts it needs, its loss and its accuracy.

Scores of a label's texts arrive as a row of a padded matrix. Parameters that belong to the raters and not to the
reward model (how readily they call a tie, where their scale's categories end) are learned beside it, in `Learned`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from reward_models.labels.conversion import ranking_from_best
from reward_models.labels.kinds import BestOf, Comparison, Label, Ranking, Rating, StepLabels
from reward_models.losses import (
    PADDING,
    UNRANKED,
    bradley_terry,
    davidson,
    gaussian_nll,
    increasing,
    ordinal,
    plackett_luce,
    ranked_pairs,
    rao_kupper,
    rated_pairs,
    squared_error,
    step_bce,
)
from reward_models.training.config import RewardModelConfig
from textenv.errors import DataError


class Outputs(NamedTuple):
    """What the model says about the texts of some labels.

    Attributes:
        scores: Shape ``(n, K)``; arbitrary beyond a label's own texts.
        log_stds: Logarithm of the spread, same shape, of a model with two outputs; None otherwise.
    """

    scores: Tensor
    log_stds: Tensor | None = None


class Objective(Protocol):
    """Learns from one kind of label."""

    def loss(self, outputs: Outputs, which: Tensor) -> tuple[Tensor, float]:
        """Mean loss over the labels with these numbers, and the share that is right (NaN where nothing can be)."""
        ...


class Learned(nn.Module):
    """Parameters of the raters, started from what the labels say of themselves.

    Args:
        labels: The training labels.
        config: Decides which parameters there are.

    Raises:
        DataError: If ordinal regression is asked for and a rating has no scale, or there are several.
    """

    def __init__(self, labels: Sequence[Label], config: RewardModelConfig) -> None:
        super().__init__()
        comparisons = [label for label in labels if isinstance(label, Comparison)]
        ratings = [label for label in labels if isinstance(label, Rating)]
        self.tie: nn.Parameter | None = None
        self.cutpoints: nn.Parameter | None = None
        self.affine: nn.Parameter | None = None
        self.scale = (0, 0)
        if config.ties != "leave_out" and any(label.tie for label in comparisons):
            share = min(0.95, float(np.mean([label.tie for label in comparisons])))
            # The parameter at which equal responses tie that often.
            davidson_start = math.log(2 * share / (1 - share))
            start = davidson_start if config.ties == "davidson" else _inverse_softplus(2 * math.atanh(share))
            self.tie = nn.Parameter(torch.tensor(start))
        if config.ratings_loss == "ordinal" and ratings:
            self.scale = _one_scale(ratings)
            self.cutpoints = nn.Parameter(_starting_cutpoints(ratings, self.scale))
        if config.ratings_loss in ("regression", "gaussian") and 0 < len(ratings) < len(labels):
            # Beside labels of other kinds, whose scores are in nats, ratings have units of their own.
            scores = [label.score for label in ratings]
            spread = max(float(np.std(scores)), 1e-3)
            self.affine = nn.Parameter(torch.tensor([float(np.mean(scores)), math.log(spread)]))

    def figures(self) -> dict[str, float]:
        """The parameters as they are used, by name."""
        found: dict[str, float] = {}
        if self.tie is not None:
            found["tie"] = float(self.tie.detach())
        if self.cutpoints is not None:
            for index, value in enumerate(increasing(self.cutpoints.detach()).tolist()):
                found[f"cutpoint_{self.scale[0] + index}"] = float(value)
        if self.affine is not None:
            offset, log_gain = self.affine.detach().tolist()
            found |= {"rating_offset": offset, "rating_gain": math.exp(log_gain)}
        return found


class RatingObjective:
    """Ratings: pairs of a batch, regression, regression with a spread, or categories."""

    def __init__(self, labels: Sequence[Rating], config: RewardModelConfig, learned: Learned) -> None:
        self._config = config
        self._learned = learned
        self._targets = torch.tensor([x.score for x in labels], dtype=torch.float32)
        self._weights = torch.tensor([x.weight for x in labels], dtype=torch.float32)
        self._counts = torch.tensor([x.count for x in labels], dtype=torch.float32)
        self._spreads = torch.tensor([x.spread or 0.0 for x in labels], dtype=torch.float32)

    def loss(self, outputs: Outputs, which: Tensor) -> tuple[Tensor, float]:
        """See `Objective`."""
        scores = outputs.scores[:, 0]
        device, config = scores.device, self._config
        targets, weights = self._targets[which].to(device), self._weights[which].to(device)
        better, worse = torch.nonzero(targets[:, None] - targets > config.min_gap, as_tuple=True)
        accuracy = float((scores[better] > scores[worse]).float().mean())
        if config.ratings_loss == "pairs":
            loss = rated_pairs(
                scores,
                targets,
                min_gap=config.min_gap,
                label_smoothing=config.label_smoothing,
                margin_scale=config.margin_scale,
                spreads=self._spreads[which].to(device) if config.soft_ratings else None,
                weights=None if bool((weights == 1).all()) else weights,
            )
            return loss, accuracy
        if config.ratings_loss == "ordinal":
            assert self._learned.cutpoints is not None
            categories = targets.round().long() - self._learned.scale[0]
            return ordinal(scores, categories, increasing(self._learned.cutpoints), weights=weights), accuracy
        if self._learned.affine is not None:
            scores = self._learned.affine[0] + self._learned.affine[1].exp() * scores
        if config.ratings_loss == "regression":
            return squared_error(scores, targets, weights=weights), accuracy
        if outputs.log_stds is None:
            raise DataError('`ratings_loss="gaussian"` needs a model with two outputs: score and log spread.')
        counts = self._counts[which].to(device)
        return gaussian_nll(scores, outputs.log_stds[:, 0], targets, counts=counts, weights=weights), accuracy


class ComparisonObjective:
    """Comparisons: Bradley-Terry, with ties Davidson or Rao-Kupper."""

    def __init__(self, labels: Sequence[Comparison], config: RewardModelConfig, learned: Learned) -> None:
        self._config = config
        self._learned = learned
        self._margins = torch.tensor([x.margin for x in labels], dtype=torch.float32)
        self._confidences = torch.tensor([x.confidence for x in labels], dtype=torch.float32)
        self._ties = torch.tensor([x.tie for x in labels], dtype=torch.bool)
        left_out = config.ties == "leave_out"
        weights = [0.0 if x.tie and left_out else x.weight for x in labels]
        self._weights = torch.tensor(weights, dtype=torch.float32)

    def loss(self, outputs: Outputs, which: Tensor) -> tuple[Tensor, float]:
        """See `Objective`."""
        chosen, rejected = outputs.scores[:, 0], outputs.scores[:, 1]
        device, config = chosen.device, self._config
        margins, confidences, weights, ties = (
            part[which].to(device) for part in (self._margins, self._confidences, self._weights, self._ties)
        )
        smoothing = config.label_smoothing
        confidences = confidences * (1 - smoothing) + (1 - confidences) * smoothing
        accuracy = float((chosen > rejected)[~ties].float().mean())
        tie = self._learned.tie
        if tie is None:
            loss = bradley_terry(chosen, rejected, margin=margins, confidence=confidences, weights=weights)
        elif config.ties == "davidson":
            loss = davidson(chosen, rejected, ties, tie, margin=margins, confidence=confidences, weights=weights)
        else:
            threshold = softplus(tie)
            loss = rao_kupper(chosen, rejected, ties, threshold, confidence=confidences, weights=weights)
        return loss, accuracy


class ListObjective:
    """Rankings and best-of-K: Plackett-Luce, or all pairs of a list."""

    def __init__(self, labels: Sequence[Ranking | BestOf], config: RewardModelConfig) -> None:
        rankings = [ranking_from_best(x) if isinstance(x, BestOf) else x for x in labels]
        self._config = config
        self._ranks = [[UNRANKED if rank is None else rank for rank in x.dense_ranks] for x in rankings]
        self._weights = torch.tensor([x.weight for x in rankings], dtype=torch.float32)

    def loss(self, outputs: Outputs, which: Tensor) -> tuple[Tensor, float]:
        """See `Objective`."""
        scores = outputs.scores
        rows = [self._ranks[index] + [PADDING] * (scores.shape[1] - len(self._ranks[index])) for index in which]
        ranks, weights = torch.tensor(rows, device=scores.device), self._weights[which].to(scores.device)
        if self._config.rankings_loss == "pairs":
            loss = ranked_pairs(scores, ranks, label_smoothing=self._config.label_smoothing, weights=weights)
        else:
            loss = plackett_luce(scores, ranks, weights=weights)
        keys = torch.where(ranks == UNRANKED, torch.full_like(ranks, 10**6), ranks)
        decided = (keys[:, :, None] < keys[:, None, :]) & (ranks != PADDING)[:, :, None]
        right = (scores[:, :, None] > scores[:, None, :])[decided]
        return loss, float(right.float().mean())


class StepObjective:
    """Steps: cross-entropy of right and wrong on the score of the response up to each step."""

    def __init__(self, labels: Sequence[StepLabels]) -> None:
        self._labels = [[math.nan if y is None else y for y in x.labels] for x in labels]
        self._weights = torch.tensor([x.weight for x in labels], dtype=torch.float32)

    def loss(self, outputs: Outputs, which: Tensor) -> tuple[Tensor, float]:
        """See `Objective`."""
        scores = outputs.scores
        rows = [self._labels[index] + [math.nan] * (scores.shape[1] - len(self._labels[index])) for index in which]
        labels = torch.tensor(rows, device=scores.device, dtype=scores.dtype)
        known = ~labels.isnan()
        loss = step_bce(scores, labels, known, weights=self._weights[which].to(scores.device))
        return loss, float(((scores > 0) == (labels > 0.5))[known].float().mean())


def texts_of(label: Label) -> list[tuple[str, str]]:
    """The prompts and responses whose scores a label needs, in the order of its row."""
    if isinstance(label, Rating):
        return [(label.prompt, label.response)]
    if isinstance(label, Comparison):
        return [(label.prompt, label.chosen), (label.prompt, label.rejected)]
    if isinstance(label, StepLabels):
        return [(label.prompt, "".join(label.steps[: count + 1])) for count in range(len(label.steps))]
    return [(label.prompt, response) for response in label.responses]


def make_objectives(
    labels: Sequence[Label], config: RewardModelConfig, learned: Learned
) -> tuple[list[Objective], list[tuple[int, int]]]:
    """The objectives that these labels need, and for each label which one it belongs to and its number there.

    Raises:
        DataError: If there are no labels, or something is none.
    """
    kinds: list[tuple[type | tuple[type, ...], Any]] = [
        (Rating, lambda found: RatingObjective(found, config, learned)),
        (Comparison, lambda found: ComparisonObjective(found, config, learned)),
        ((Ranking, BestOf), lambda found: ListObjective(found, config)),
        (StepLabels, StepObjective),
    ]
    if not labels:
        raise DataError("there are no labels to learn from.")
    groups: list[list[Label]] = [[] for _ in kinds]
    places = []
    for label in labels:
        kind = next((number for number, (types, _) in enumerate(kinds) if isinstance(label, types)), None)
        if kind is None:
            raise DataError(f"expected label records such as `Rating` or `Comparison`, got {type(label).__name__}.")
        places.append((kind, len(groups[kind])))
        groups[kind].append(label)
    used = [kind for kind, group in enumerate(groups) if group]
    objectives = [kinds[kind][1](groups[kind]) for kind in used]
    return objectives, [(used.index(kind), place) for kind, place in places]


def _one_scale(ratings: Sequence[Rating]) -> tuple[int, int]:
    scales = {label.scale for label in ratings}
    if len(scales) != 1 or None in scales or any(not float(label.score).is_integer() for label in ratings):
        raise DataError(
            '`ratings_loss="ordinal"` needs whole-number ratings on one `scale` (a mean of several is no category), '
            f"got the scales {sorted(map(str, scales))}."
        )
    (scale,) = scales
    assert scale is not None
    return scale


def _starting_cutpoints(ratings: Sequence[Rating], scale: tuple[int, int]) -> Tensor:
    """Cutpoints at which equal scores would give the shares that were seen, as `increasing` wants them."""
    low, high = scale
    counts = np.bincount([int(label.score) - low for label in ratings], minlength=high - low + 1) + 1.0
    shares = np.cumsum(counts)[:-1] / counts.sum()
    cutpoints = np.log(shares / (1 - shares))
    raw = [float(cutpoints[0]), *(_inverse_softplus(max(1e-3, step)) for step in np.diff(cutpoints).tolist())]
    return torch.tensor(raw, dtype=torch.float32)


def _inverse_softplus(value: float) -> float:
    return value + math.log(-math.expm1(-value))
