import numpy as np
import pytest

from reward_models.benchmarking import builtin_suites, file_suite, labels_suite, ratings_suite, simulated_suite
from reward_models.benchmarking.overoptimization.world import gold_scores
from reward_models.benchmarking.suites.ratings import preference_shares
from reward_models.benchmarking.suites.resolve import resolve_suites
from reward_models.labels import BestOf, Comparison, Ranking, Rating, write_labels
from textenv.errors import ConfigError, DataError


def test_preference_shares_by_hand():
    shares = preference_shares([[1, 3], [2, 2], [3]])
    assert shares[0].tolist() == [0.5, 0.5, 0.25]
    assert shares[2, 1] == 1
    assert shares + shares.T == pytest.approx(np.ones((3, 3)))


def test_a_rated_suite_holds_every_pair_with_different_means_once():
    suite = ratings_suite("s", "S", ["p"] * 3, ["a", "b", "c"], [[1, 1], [3, 2], [1, 1]])
    assert list(zip(suite.pairs.better, suite.pairs.worse, strict=True)) == [(1, 0), (1, 2)]
    assert suite.pairs.gap.tolist() == [1.5, 1.5]
    with pytest.raises(DataError, match="response 1 has no rating"):
        ratings_suite("s", "S", ["p"] * 2, ["a", "b"], [[1], []])
    with pytest.raises(DataError, match="all mean ratings are equal"):
        ratings_suite("s", "S", ["p"] * 2, ["a", "b"], [[1], [1]])


def test_labels_of_several_raters_become_one_pair_with_their_share():
    labels = [Comparison("p", "a", "b"), Comparison("p", "a", "b"), Comparison("p", "b", "a"),
              Comparison("p", "a", "c", tie=True), Comparison("q", "x", "y", confidence=0.8)]  # fmt: skip
    suite = labels_suite("mine", labels)
    assert suite.pairs.share == pytest.approx([2 / 3, 0.8])
    assert [suite.responses[i] for i in suite.pairs.better] == ["a", "x"]
    assert suite.clusters.tolist() == [0, 0, 0, 1, 1]
    assert suite.within_prompts


def test_rankings_best_of_and_ratings_become_pairs():
    labels = [Ranking("p", ("a", "b", "c"), (2, 1, 3)), BestOf("q", ("x", "y", "z"), 2), Rating("r", "m", 1.0),
              Rating("r", "n", 4.0)]  # fmt: skip
    suite = labels_suite("mine", labels)
    found = {
        (suite.responses[a], suite.responses[b]) for a, b in zip(suite.pairs.better, suite.pairs.worse, strict=True)
    }
    assert found == {("b", "a"), ("b", "c"), ("a", "c"), ("z", "x"), ("z", "y"), ("n", "m")}


def test_labels_that_order_nothing_are_refused():
    with pytest.raises(DataError, match="no two responses to one prompt are ordered by the 2 labels"):
        labels_suite("mine", [Rating("p", "a", 1.0), Rating("q", "b", 2.0)])


def test_a_label_file_becomes_a_suite(tmp_path):
    write_labels(tmp_path / "mine.jsonl", [Comparison("p", "a", "b"), Comparison("q", "c", "d")])
    suite = file_suite(tmp_path / "mine.jsonl")
    assert suite.name == "mine"
    assert len(suite.pairs) == 2


def test_a_malformed_label_file_names_the_line(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n{"prompt": "p"}\n', "utf-8")
    with pytest.raises(DataError, match=r"bad\.jsonl:2"):
        file_suite(tmp_path / "bad.jsonl")


def test_the_simulated_suite_knows_its_truth_and_is_the_same_every_time():
    suite = simulated_suite(responses=4, raters=3)
    assert suite.truth_known
    assert suite.gold == pytest.approx(gold_scores(suite.prompts, suite.responses).astype(float))
    assert suite.sha256() == simulated_suite(responses=4, raters=3).sha256()
    assert suite.sha256() != simulated_suite(responses=4, raters=3, seed=1).sha256()
    with pytest.raises(ConfigError, match="need `responses` ≥ 2"):
        simulated_suite(responses=1)


def test_builtin_suites_are_the_four_domains():
    suites = builtin_suites(limit=20)
    assert [suite.name for suite in suites] == ["builtin/movies", "builtin/amazon", "builtin/tweets", "builtin/nyt"]
    assert {len(suite) for suite in suites} == {20}


def test_suites_are_found_by_name_and_doubles_dropped(tmp_path):
    write_labels(tmp_path / "mine.jsonl", [Comparison("p", "a", "b")])
    names = ["builtin/nyt", "builtin/nyt", "simulated", "overoptimization", str(tmp_path / "mine.jsonl"),
             [Comparison("p", "a", "b")]]  # fmt: skip
    found = resolve_suites(names, quick=True)
    assert [suite.name for suite in found] == ["builtin/nyt", "simulated", "overoptimization", "mine", "labels-6"]


@pytest.mark.parametrize(
    ("suites", "message"),
    [
        (["humans"], "unknown suite 'humans'; there are human, builtin"),
        ([], "no suites: give some of"),
        ([simulated_suite(responses=2), simulated_suite(responses=3)], "two different suites are called 'simulated'"),
    ],
    ids=["unknown", "none", "same-name"],
)
def test_wrong_suites_are_explained(suites, message):
    with pytest.raises(ConfigError, match=message):
        resolve_suites(suites, quick=True)
