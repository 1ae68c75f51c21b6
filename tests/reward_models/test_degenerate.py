from __future__ import annotations

import numpy as np
import pytest

from reward_models.degenerate import degenerate_ratings
from reward_models.labels import Rating, ratings_from_texts
from textenv.datasets import builtin_ratings
from textenv.errors import ConfigError

LABELS = ratings_from_texts(builtin_ratings(200))


def made(share: float = 0.3, seed: int = 0, score: float | None = None) -> list[Rating]:
    return degenerate_ratings(LABELS, np.random.default_rng(seed), share=share, score=score)


def test_degenerate_ratings_are_rated_as_the_worst() -> None:
    lowest = min(label.score for label in LABELS)
    assert {label.score for label in made()} == {lowest}
    assert {label.score for label in made(score=-7.0)} == {-7.0}


def test_degenerate_ratings_number_is_the_share() -> None:
    assert [len(made(share)) for share in (0.0, 0.004, 0.03, 1.0)] == [0, 0, 6, 200]


def test_degenerate_ratings_use_known_prompts_and_words() -> None:
    prompts = {label.prompt for label in LABELS}
    words = {word for label in LABELS for word in label.response.split()}
    for label in made():
        assert label.prompt in prompts
        assert label.response.startswith(" ")
        assert set(label.response.split()) <= words


def test_degenerate_ratings_of_the_first_and_last_kind_repeat_themselves() -> None:
    labels = made(1.0)
    for label in labels[0::3]:
        words = label.response.split()
        assert any(words[-size:] == words[-2 * size : -size] for size in (1, 2, 3))
    for label in labels[2::3]:
        words = label.response.split()
        assert words[: len(words) // 2] == words[len(words) // 2 :]


def test_degenerate_ratings_same_seed_same_labels() -> None:
    assert made(seed=1) == made(seed=1)
    assert made(seed=1) != made(seed=2)


def test_degenerate_ratings_of_empty_responses_work() -> None:
    labels = [Rating("p", "", 1.0)] * 6
    assert len(degenerate_ratings(labels, np.random.default_rng(0), share=1.0)) == 6


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_degenerate_ratings_share_out_of_range_is_an_error(share: float) -> None:
    with pytest.raises(ConfigError, match=r"`share` must be in \[0, 1\]"):
        made(share)
