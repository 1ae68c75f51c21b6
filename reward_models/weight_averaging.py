"""Weight averaging (WARM): one reward model out of several of the same architecture."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch

from reward_models.sequence import SequenceRewardModel
from textenv.errors import ConfigError


def average_weights(
    models: Sequence[SequenceRewardModel], weights: Sequence[float] | None = None
) -> SequenceRewardModel:
    """One model whose weights are the average of several models' (WARM); as fast as one of them.

    The models should come from one trunk (and the same initial head) and differ in seeds, data order or settings of
    the training. The average is not normalised; call its `normalize`.

    Args:
        models: Models of the same architecture, template and tokenizer; none is changed.
        weights: Share of each, positive, made to sum to 1; equal shares for None.

    Raises:
        ConfigError: If there is no model, the shares are unusable, or the models do not fit together.

    Source: Ramé et al. 2024, arXiv:2401.12187, eq. 2.
    """
    if not models:
        raise ConfigError("averaging needs at least one model.")
    shares = np.ones(len(models)) if weights is None else np.asarray(weights, dtype=np.float64)
    if shares.shape != (len(models),) or not np.isfinite(shares).all() or not (shares > 0).all():
        raise ConfigError(f"`weights` must be {len(models)} positive numbers, got {weights}.")
    shares = shares / shares.sum()
    first = models[0]
    for index, other in enumerate(models[1:], 1):
        _check_fit(first, other, index)
    states = [model.model.state_dict() for model in models]
    merged = copy.deepcopy(first.model)
    with torch.no_grad():
        for name, target in merged.state_dict().items():
            if target.is_floating_point():
                total = torch.zeros_like(target, dtype=torch.float64)
                for share, state in zip(shares, states, strict=True):
                    total += float(share) * state[name].to(target.device, torch.float64)
                target.copy_(total)
    return SequenceRewardModel(
        merged,
        first.tokenizer,
        template=first.template.template,
        max_tokens=first.max_tokens,
        truncation_side=first.truncation_side,
        add_special_tokens=first.add_special_tokens,
        autocast=first.autocast,
    )


def _check_fit(first: SequenceRewardModel, other: SequenceRewardModel, index: int) -> None:
    """Refuse models whose weights, template or vocabulary differ in kind."""
    own, foreign = ({name: tuple(w.shape) for name, w in m.model.state_dict().items()} for m in (first, other))
    if own != foreign:
        different = sorted(name for name in own.keys() | foreign.keys() if own.get(name) != foreign.get(name))
        raise ConfigError(f"model {index} has another architecture than model 0: weight `{different[0]}` differs.")
    if first.template.template != other.template.template:
        raise ConfigError(
            f"model {index} reads {other.template.template!r}, model 0 {first.template.template!r}: the same text is "
            "needed."
        )
    if first.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        raise ConfigError(f"model {index} has another vocabulary than model 0.")
