from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from reward_models.adapters.function import FunctionReward
from reward_models.base import RewardModel
from reward_models.ensembles import AGGREGATES, Clipped, Ensemble, WeightedSum, ZScored, aggregate_scores
from reward_models.lexicon import Lexicon
from reward_models.sequence import SequenceRewardModel
from reward_models.weight_averaging import average_weights
from tests.reward_models.tiny import tiny_bert, tiny_llama, word_tokenizer
from textenv.errors import ConfigError, DataError, RewardError, ShapeError

# Three members, two responses.
MEMBERS = np.array([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]])


class Given:
    """Says what it was told, for the responses "0", "1", …"""

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
        return np.array([self.values[int(response)] for response in responses], np.float32)


def ensemble(aggregate: str, coefficient: float | None = None) -> Ensemble:
    return Ensemble([Given(list(row)) for row in MEMBERS], aggregate, coefficient)  # type: ignore[arg-type]


ASK = (["", ""], ["0", "1"])


@pytest.mark.parametrize(
    ("aggregate", "coefficient", "first"),
    [
        ("mean", None, 3.0),
        ("min", None, 1.0),
        ("median", None, 2.0),
        ("mean_std", 2.0, 3.0 - 2.0 * (14 / 3) ** 0.5),  # variance ((−2)² + (−1)² + 3²) / 3
        ("mean_std", None, 3.0 - (14 / 3) ** 0.5),
        ("uwo", 0.25, 3.0 - 0.25 * 14 / 3),
        ("uwo", None, 3.0 - 0.5 * 14 / 3),
    ],
)
def test_ensemble_aggregates_as_worked_by_hand(aggregate: str, coefficient: float | None, first: float) -> None:
    made = ensemble(aggregate, coefficient)
    assert isinstance(made, RewardModel)
    found = made.score(*ASK)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [first, 5.0], rtol=1e-6)  # where all agree, every aggregate says the same


def test_ensemble_gives_members_and_uncertainty() -> None:
    found = ensemble("min").score_with_uncertainty(*ASK)
    np.testing.assert_array_equal(found.members, MEMBERS.astype(np.float32))
    np.testing.assert_allclose(found.std, [(14 / 3) ** 0.5, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(found.scores, [1.0, 5.0])
    assert ensemble("min").member_scores([], []).shape == (3, 0)


def test_ensemble_of_one_member_is_that_member_whatever_the_aggregate() -> None:
    scores = [np.asarray(aggregate_scores([[1.5, -2.0]], aggregate, 3.0)) for aggregate in AGGREGATES]
    np.testing.assert_array_equal(scores, [[1.5, -2.0]] * len(AGGREGATES))


def test_ensemble_order_of_members_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    members = rng.normal(size=(5, 20))
    for aggregate in AGGREGATES:
        one, other = (aggregate_scores(m, aggregate, 0.7) for m in (members, members[rng.permutation(5)]))
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_ensemble_unusable_settings_and_members_are_errors() -> None:
    with pytest.raises(ConfigError, match="at least one member"):
        Ensemble([])
    with pytest.raises(ConfigError, match="`aggregate` must be one of mean, min"):
        Ensemble([Lexicon()], "max")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="`coefficient` must be ≥ 0 and finite, got -1"):
        Ensemble([Lexicon()], "uwo", -1.0)
    with pytest.raises(ConfigError, match="`aggregate` must be one of"):
        aggregate_scores([[1.0]], "max")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"must have shape \(M, n\) with M ≥ 1, got \(2,\)"):
        aggregate_scores([1.0, 2.0], "mean")
    with pytest.raises(RewardError, match="member 1 returned nan"):
        Ensemble([Given([0.0]), Given([float("nan")])]).score([""], ["0"])
    with pytest.raises(ShapeError, match="got 1 prompts for 2 responses"):
        ensemble("mean").score([""], ["0", "1"])


def test_weighted_sum_and_its_parts() -> None:
    total = WeightedSum({"a": Given([1.0, 2.0]), "b": Given([10.0, -1.0])}, [0.5, 2.0])
    np.testing.assert_allclose(total.score(*ASK), [20.5, -1.0])
    assert {name: list(part) for name, part in total.parts(*ASK).items()} == {"a": [1.0, 2.0], "b": [10.0, -1.0]}
    assert WeightedSum([Given([3.0]), Given([4.0])]).score([""], ["0"]).tolist() == [7.0]
    with pytest.raises(ConfigError, match="got 1 models and 2 weights"):
        WeightedSum([Lexicon()], [1.0, 2.0])
    with pytest.raises(ConfigError, match="`weights` must be finite"):
        WeightedSum([Lexicon()], [float("inf")])


def test_clipped() -> None:
    given = Given([-3.0, 0.5])
    assert Clipped(given, -1, 0.25).score(*ASK).tolist() == [-1.0, 0.25]
    assert Clipped(given, high=0.0).score(*ASK).tolist() == [-3.0, 0.0]
    assert Clipped(given).score(*ASK).tolist() == [-3.0, 0.5]
    with pytest.raises(ConfigError, match="`low` must not exceed `high`, got 1 and 0"):
        Clipped(given, 1, 0)


def test_zscored_has_mean_zero_and_deviation_one_on_its_samples() -> None:
    made = ZScored(Given([1.0, 2.0, 6.0]))
    with pytest.raises(ConfigError, match="has to be fitted before it scores"):
        made.score([""], ["0"])
    scores = made.fit([""] * 3, ["0", "1", "2"], policy="sft").score([""] * 3, ["0", "1", "2"])
    assert (scores.mean(), scores.std()) == (pytest.approx(0, abs=1e-6), pytest.approx(1, rel=1e-6))
    assert made.normalization is not None
    assert (made.normalization.policy, made.normalization.samples) == ("sft", 3)
    with pytest.raises(DataError, match="cannot be normalised"):
        ZScored(Given([1.0, 1.0])).fit(*ASK, policy="sft")


def make(seed: int, kind: str = "encoder", **options: object) -> SequenceRewardModel:
    tokenizer = word_tokenizer(["the film is a great and bad story"], encoder=kind == "encoder")
    trunk = tiny_bert(tokenizer) if kind == "encoder" else tiny_llama(tokenizer)
    return SequenceRewardModel.from_trunk(trunk, tokenizer, seed=seed, **options)  # type: ignore[arg-type]


def test_average_weights_of_a_linear_head_is_the_average_of_scores() -> None:
    models = [make(seed) for seed in range(3)]  # one trunk, three heads: the score is linear in what differs
    before = models[0].model.classifier.weight.detach().clone()
    merged = average_weights(models, [2.0, 1.0, 1.0])
    texts = (["the film"] * 2, [" is great", " is a bad story"])
    expected = np.average([model.score(*texts) for model in models], axis=0, weights=[2, 1, 1])
    np.testing.assert_allclose(merged.score(*texts), expected, atol=1e-6)
    assert torch.equal(models[0].model.classifier.weight, before)


@pytest.mark.parametrize("kind", ["encoder", "causal"])
def test_average_weights_of_equal_models_changes_nothing(kind: str) -> None:
    merged = average_weights([make(1, kind), make(1, kind)])
    texts = (["the film"], [" is great"])
    np.testing.assert_array_equal(merged.score(*texts), make(1, kind).score(*texts))


def test_average_weights_refuses_what_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="needs at least one model"):
        average_weights([])
    with pytest.raises(ConfigError, match="must be 2 positive numbers"):
        average_weights([make(0), make(1)], [1.0, 0.0])
    with pytest.raises(ConfigError, match="model 1 has another architecture than model 0"):
        average_weights([make(0), make(0, "causal")])
    with pytest.raises(ConfigError, match="model 1 reads"):
        average_weights([make(0), make(0, template="{prompt} {response}")])
    other = make(0)
    other.tokenizer = word_tokenizer(["the film is a great and bad novel"], encoder=True)
    with pytest.raises(ConfigError, match="model 1 has another vocabulary"):
        average_weights([make(0), other])


def test_combinations_nest() -> None:
    parts = [Clipped(Given([9.0, -9.0]), -1, 1), FunctionReward(lambda p, r: 2.0, each=True)]
    assert Ensemble([WeightedSum(parts), Given([0.0, 0.0])], "min").score(*ASK).tolist() == [0.0, 0.0]
