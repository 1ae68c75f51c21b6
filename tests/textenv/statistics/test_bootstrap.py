import numpy as np
import pytest

from textenv.errors import ConfigError, ShapeError
from textenv.statistics import ClusterBootstrap, Interval, Resampled, bootstrap_interval, two_sided_p


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


@pytest.mark.parametrize("clusters", [2, 3, 5, 8, 12, 20, 60], ids=lambda count: f"{count} clusters")
def test_interval_of_a_mean_covers_it_as_often_as_it_says(clusters):
    # Items of one cluster share most of what they are: taken for independent they would cover a third of the time.
    rng = np.random.default_rng(3)
    hits, index = 0, np.repeat(np.arange(clusters), 8)
    for _ in range(600):
        values = rng.normal(size=clusters)[index] + 0.3 * rng.normal(size=len(index))
        found = ClusterBootstrap(index, rng, resamples=400).item_mean(values).interval()
        hits += found.low <= 0 <= found.high
    assert 0.915 <= hits / 600 <= 0.985


@pytest.mark.parametrize(("clusters", "truth"), [(6, 0.7), (15, 0.9), (60, 0.95)])
def test_interval_of_a_share_covers_it_where_nearly_all_say_yes(clusters, truth):
    rng = np.random.default_rng(4)
    hits, index = 0, np.repeat(np.arange(clusters), 3)
    for _ in range(300):
        own = rng.beta(4, 4 * (1 - truth) / truth, size=clusters)[index]
        values = (rng.random(len(index)) < own).astype(float)
        found = ClusterBootstrap(index, rng, resamples=300).item_mean(values).interval((0, 1))
        hits += found.low <= truth <= found.high
    assert hits / 300 >= 0.92


def test_where_all_resamples_agree_a_share_still_has_an_interval():
    found = ClusterBootstrap(np.arange(10), np.random.default_rng(0), resamples=50).item_mean(np.ones(10))
    assert found.interval((0, 1))[:3] == pytest.approx((1.0, 0.05**0.1, 1.0), abs=1e-4)


def test_one_cluster_has_no_interval():
    found = ClusterBootstrap(np.zeros(9, int), np.random.default_rng(0)).item_mean(np.arange(9.0)).interval()
    assert (found.value, found.clusters) == (4, 1)
    assert np.isnan([found.low, found.high]).all()


def test_answers_to_one_prompt_alone_are_units_of_their_own():
    values = np.random.default_rng(0).normal(size=40)
    alone = bootstrap_interval(values, np.random.default_rng(1))
    assert bootstrap_interval(values, np.random.default_rng(1), groups=np.zeros(40)) == alone


def test_a_difference_of_figures_of_the_same_resamples_is_paired():
    rng = np.random.default_rng(0)
    bootstrap, base = ClusterBootstrap(np.arange(50), rng), rng.normal(0, 10, 50)
    found = (bootstrap.item_mean(base + 1 + 0.1 * rng.normal(size=50)) - bootstrap.item_mean(base)).interval()
    assert 0.9 < found.low < 1 < found.high < 1.1


def test_a_mean_of_figures_weighs_them():
    parts = [Resampled(1.0, np.array([1.0, 1.5]), 5, 3), Resampled(3.0, np.array([3.0, 2.5]), 7, 20)]
    found = Resampled.mean(parts, [1, 3])
    assert (found.value, found.n, found.clusters) == (2.5, 12, 3)
    assert found.draws.tolist() == [2.5, 2.25]


def test_an_interval_is_written_with_its_ends():
    assert f"{Interval(0.812, 0.79, 0.83):.2f}" == "0.81 [0.79, 0.83]"
    assert f"{Interval(0.812):.0%}" == "81%"


def test_means_leave_missing_values_out():
    means, draws = ClusterBootstrap(np.arange(3), np.random.default_rng(0), resamples=4).means([1.0, np.nan, 3.0])
    assert means[0] == 2
    assert draws.shape == (4, 1)


def test_a_ratio_over_nothing_is_missing_and_its_interval_too():
    resampled = ClusterBootstrap([0, 1], np.random.default_rng(0), resamples=3).item_mean([np.nan, np.nan])
    found = resampled.interval()
    assert np.isnan([found.value, found.low, found.high]).all()
    assert np.isnan(resampled.draws).all()
    assert found.to_json() == {"value": None, "low": None, "high": None, "n": 0}


def test_figures_are_cut_to_their_bounds():
    assert Resampled(0.99, np.array([0.9, 1.2, 1.3]), 3, 3).interval((-1, 1)).high == 1


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
