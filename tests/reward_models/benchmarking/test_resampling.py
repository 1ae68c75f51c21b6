import numpy as np
import pytest

from reward_models.benchmarking.resampling import ClusterBootstrap, figure, ratio_figure, two_sided_p
from textenv.errors import ConfigError, ShapeError


def test_sums_in_a_resample_count_each_item_as_often_as_its_cluster():
    bootstrap = ClusterBootstrap([0, 0, 1, 2], np.random.default_rng(0), resamples=5)
    values = np.array([1.0, 2.0, 4.0, 8.0])
    totals, draws = bootstrap.item_sums(values)
    assert totals[0] == 15
    assert draws[:, 0] == pytest.approx(bootstrap.item_weights @ values)


def test_pair_sums_within_clusters_are_exact():
    bootstrap = ClusterBootstrap([0, 0, 1, 1], np.random.default_rng(0), resamples=7)
    totals, draws = bootstrap.pair_sums(np.array([0, 2]), np.array([1, 3]), [1.0, 10.0])
    assert totals[0] == 11
    assert draws[:, 0] == pytest.approx(bootstrap.weights @ [1.0, 10.0])


def test_pair_sums_across_clusters_are_the_product_bootstrap_to_first_order():
    rng = np.random.default_rng(1)
    n = 300
    a, b = np.triu_indices(n, 1)
    quality = rng.normal(size=n)
    values = (quality[a] + quality[b] > 0).astype(float)
    bootstrap = ClusterBootstrap(np.arange(n), rng, resamples=2000)
    totals, draws = bootstrap.pair_sums(a, b, np.stack([values, np.ones(len(a))], 1))
    exact = []
    for weights in bootstrap.weights[:300].astype(float):
        both = weights[a] * weights[b]
        exact.append((both * values).sum() / both.sum())
    ours = draws[:, 0] / draws[:, 1]
    assert np.std(ours) == pytest.approx(np.std(exact), rel=0.12)
    assert np.corrcoef(ours[:300], exact)[0, 1] > 0.99
    assert totals[0] / totals[1] == pytest.approx(values.mean())


def test_interval_of_a_mean_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        bootstrap = ClusterBootstrap(np.arange(60), rng, resamples=300)
        means, draws = bootstrap.means(rng.normal(size=60))
        found = figure(means[0], draws[:, 0], n=60)
        hits += found.low <= 0 <= found.high
    assert 0.89 <= hits / 200 <= 0.99


def test_means_leave_missing_values_out():
    means, draws = ClusterBootstrap(np.arange(3), np.random.default_rng(0), resamples=4).means([1.0, np.nan, 3.0])
    assert means[0] == 2
    assert draws.shape == (4, 1)


def test_a_ratio_over_nothing_is_missing_and_its_interval_too():
    found, draws = ratio_figure((0.0, np.zeros(3)), (0.0, np.zeros(3)), n=0)
    assert np.isnan([found.value, found.low, found.high]).all()
    assert np.isnan(draws).all()
    assert found.to_json() == {"value": None, "low": None, "high": None, "n": 0}


def test_figures_are_cut_to_their_bounds():
    assert figure(0.99, np.array([0.9, 1.2, 1.3]), n=3, bounds=(0, 1)).high == 1


@pytest.mark.parametrize(
    ("draws", "expected"),
    [(np.zeros(9), 1.0), (np.ones(99), 2 / 100), (np.array([-1.0, 1.0, 1.0]), 1.0), (np.array([np.nan]), np.nan)],
    ids=["equal", "clear", "few", "none"],
)
def test_two_sided_p_of_draws(draws, expected):
    assert two_sided_p(draws) == pytest.approx(expected, nan_ok=True)


def test_wrong_arguments_are_refused():
    with pytest.raises(ConfigError, match="`resamples` must be ≥ 0, got -1"):
        ClusterBootstrap([0], np.random.default_rng(0), resamples=-1)
    with pytest.raises(ShapeError, match="`clusters` must have shape"):
        ClusterBootstrap([[0]], np.random.default_rng(0))
