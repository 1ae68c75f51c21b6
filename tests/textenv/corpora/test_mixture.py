from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from textenv.corpora import Mixture, MixtureConfig, MixturePoint, Permutation
from textenv.corpora.mixture import mixture_shares
from textenv.errors import ConfigError, DataError

BLOCKS = {"a": 50, "b": 300, "c": 650}


def make(config: MixtureConfig | None = None, *, steps: int = 2000, draws: int = 8, seed: int = 0) -> Mixture:
    return Mixture(BLOCKS, config or MixtureConfig(), draws_per_step=draws, steps=steps, seed=seed)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_permutation_has_every_entry_once_and_depends_on_its_key(size: int):
    orders = [list(Permutation(size, (seed, 1))[i] for i in range(size)) for seed in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(size))
    assert size < 7 or orders[0] != orders[1] != list(range(size))


def test_permutation_is_uniform_enough():
    first = Counter(Permutation(10, (key,))[0] for key in range(5000))
    assert chisquare([first[i] for i in range(10)]).pvalue > 0.01


def test_permutation_refuses_nonsense():
    with pytest.raises(ConfigError, match="at least one entry, got 0"):
        Permutation(0, (1,))
    with pytest.raises(IndexError):
        Permutation(3, (1,))[3]


@pytest.mark.parametrize(
    ("weights", "temperature", "expected"),
    [
        ({}, 1.0, [0.05, 0.3, 0.65]),
        ({}, 1e9, [1 / 3, 1 / 3, 1 / 3]),
        ({}, 2.0, np.sqrt([50, 300, 650]) / np.sqrt([50, 300, 650]).sum()),
        ({"a": 1, "b": 1, "c": 2}, 1.0, [0.25, 0.25, 0.5]),
    ],
    ids=["proportional", "uniform", "tempered", "weights"],
)
def test_shares_are_the_formula(weights, temperature, expected):
    assert mixture_shares(BLOCKS, weights, temperature) == pytest.approx(expected)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(MixtureConfig(), id="sizes", marks=pytest.mark.slow),
        pytest.param(MixtureConfig(temperature=3), id="temperature", marks=pytest.mark.slow),
        pytest.param(MixtureConfig({"a": 5, "b": 3, "c": 2}), id="weights"),
    ],
)
def test_realised_proportions_are_the_asked_ones_also_after_resume_and_in_several_processes(config: MixtureConfig):
    straight = make(config)
    whole = [straight.draws(step) for step in range(1000)]
    seen = Counter(name for drawn in whole for name, _ in drawn)
    asked = straight.shares(0)
    found = chisquare([seen[n] for n in BLOCKS], [8000 * asked[n] for n in BLOCKS])
    assert found.pvalue > 0.99  # nearer than chance would be
    resumed = make(config)
    assert [resumed.draws(step) for step in range(700, 1000)] == whole[700:]
    parts = [make(config) for _ in range(4)]
    for step in (0, 5, 999):
        joined = [draw for rank in range(4) for draw in parts[rank].draws(step, rank=rank, world=4)]
        assert sorted(joined) == sorted(whole[step])
    per_rank = Counter(name for step in range(1000) for name, _ in parts[2].draws(step, rank=2, world=4))
    assert chisquare([per_rank[n] for n in BLOCKS], [2000 * asked[n] for n in BLOCKS]).pvalue > 0.01


def test_each_block_comes_once_before_any_comes_again():
    mixture = make(MixtureConfig({"a": 1, "b": 0, "c": 0}), draws=10)
    for epoch in range(3):
        blocks = [block for step in range(epoch * 5, epoch * 5 + 5) for _, block in mixture.draws(step)]
        assert sorted(blocks) == list(range(50))


def test_a_schedule_moves_the_shares_along_straight_lines_and_the_draws_follow():
    points = [MixturePoint(0.25, {"a": 1, "b": 0, "c": 0}), MixturePoint(0.75, {"a": 0, "b": 1, "c": 0})]
    mixture = make(MixtureConfig(schedule=points), steps=1000)
    assert mixture.shares(100) == {"a": 1, "b": 0, "c": 0}
    assert mixture.shares(500) == pytest.approx({"a": 0.5, "b": 0.5, "c": 0})
    assert mixture.shares(900) == {"a": 0, "b": 1, "c": 0}
    assert mixture.counts(0, 250) == {"a": 2000, "b": 0, "c": 0}
    middle = mixture.counts(250, 750)
    assert middle["a"] == pytest.approx(2000, abs=8)
    assert middle["a"] + middle["b"] == 4000
    assert Counter(name for step in range(400, 500) for name, _ in mixture.draws(step)) == {
        name: count for name, count in mixture.counts(400, 500).items() if count
    }


def test_draws_depend_on_the_seed():
    assert make(seed=0).draws(3) == make(seed=0).draws(3) != make(seed=1).draws(3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"weights": {"a": -1.0}}, "must be ≥ 0 and not all 0"),
        ({"weights": {"a": 0.0}}, "must be ≥ 0 and not all 0"),
        ({"temperature": 0.0}, "`temperature` must be positive, got 0"),
        ({"schedule": [MixturePoint(0.5), MixturePoint(0.2)]}, r"must ascend from 0 to 1, got \[0.5, 0.2\]"),
    ],
)
def test_mixture_config_refuses_nonsense(config, message):
    with pytest.raises(ConfigError, match=message):
        MixtureConfig(**config)


def test_mixture_refuses_what_does_not_fit():
    with pytest.raises(ConfigError, match=r"weights name \['x'\], the tasks are \['a', 'b', 'c'\]"):
        make(MixtureConfig({"x": 1.0}))
    with pytest.raises(DataError, match=r"no blocks for task\(s\): b"):
        Mixture({"a": 1, "b": 0}, MixtureConfig(), draws_per_step=1, steps=1, seed=0)
    with pytest.raises(ConfigError, match="8 sequences a step cannot be divided among 3 processes"):
        make().draws(0, world=3)
