from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from reward_models.active import EnsembleDisagreement, pair_disagreement, ranking_disagreement
from reward_models.ensembles import Ensemble
from textenv.errors import ConfigError, ShapeError
from textenv.feedback.store import Answer, FeedbackStore, Item


class Table:
    """Scores by the response's text; counts its calls."""

    def __init__(self, **scores: float) -> None:
        self.scores, self.calls = scores, 0

    def score(self, prompts, responses):
        self.calls += 1
        return np.array([self.scores.get(text, 0.0) for text in responses], dtype=np.float32)


def items(kind, *texts: str) -> list[Item]:
    return [Item(kind, f"prompt {number}", tuple(map(Answer, text))) for number, text in enumerate(texts)]


def test_information_by_hand():
    # two members sure of opposite things: log 2 minus next to nothing; two that agree: nothing
    found = pair_disagreement([[20.0, 3.0, 0.0], [-20.0, 3.0, 0.0]])
    assert found == pytest.approx([np.log(2), 0.0, 0.0], abs=1e-6)

    p, q = 1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(-3.0))
    middle = (p + q) / 2

    def entropy(x: float) -> float:
        return -x * np.log(x) - (1 - x) * np.log(1 - x)

    expected = entropy(middle) - (entropy(p) + entropy(q)) / 2
    assert pair_disagreement([[1.0], [3.0]]) == pytest.approx([expected])


def test_std_by_hand():
    assert pair_disagreement([[1.0, 2.0], [3.0, 2.0]], "std") == pytest.approx([1.0, 0.0])


def test_disagreement_does_not_depend_on_the_order_of_members_or_responses():
    scores = np.random.default_rng(0).normal(size=(4, 5))
    for measure in ("information", "std"):
        first = ranking_disagreement(scores, measure)
        assert first == pytest.approx(ranking_disagreement(scores[::-1, ::-1], measure))
        assert first > 0


def test_ranking_is_the_mean_over_pairs():
    scores = np.array([[0.0, 1.0, 5.0], [1.0, 0.0, -5.0]])
    pairs = [pair_disagreement(scores[:, [i]] - scores[:, [j]])[0] for i, j in ((0, 1), (0, 2), (1, 2))]
    assert ranking_disagreement(scores) == pytest.approx(np.mean(pairs))


def test_wrong_shapes_and_names_are_refused():
    with pytest.raises(ShapeError, match=r"shape \(M, n\)"):
        pair_disagreement([1.0, 2.0])
    with pytest.raises(ShapeError, match="K ≥ 2"):
        ranking_disagreement([[1.0]])
    with pytest.raises(ConfigError, match="`measure` must be one of information, std"):
        pair_disagreement([[1.0]], "votes")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ConfigError, match="at least two reward models, got 1"):
        EnsembleDisagreement([Table()])
    with pytest.raises(ConfigError, match="`explore` from 0 to 1"):
        EnsembleDisagreement([Table(), Table()], explore=2.0)


def test_selector_asks_first_what_members_order_differently():
    one = Table(a=2.0, b=-2.0, c=2.0, d=-2.0, e=0.1, f=-0.1)
    two = Table(a=-2.0, b=2.0, c=2.0, d=-2.0, e=0.1, f=-0.1)
    asked = items("compare", "cd", "ab", "ef")
    values = EnsembleDisagreement([one, two], explore=0.0)(asked)

    assert max(range(3), key=values.__getitem__) == 1
    assert sorted(values) == pytest.approx([1 / 6, 3 / 6, 5 / 6])


def test_ratings_are_valued_by_the_spread_of_scores():
    one, two = Table(a=1.0, b=0.0, c=-1.0), Table(a=1.0, b=-1.0, c=0.0)
    found = EnsembleDisagreement([one, two]).disagreement(items("rate", "a", "b"))
    scores = np.array([[1.0, -1.0], [1.0, -1.0]])
    assert found == pytest.approx(scores.std(axis=0))

    three = Table(a=1.0, b=0.5, c=-1.5)
    found = EnsembleDisagreement([one, three]).disagreement(items("rate", "a", "b", "c"))
    table = np.array([[1.0, 0.0, -1.0], [1.0, 0.5, -1.5]])
    z = (table - table.mean(1, keepdims=True)) / table.std(1, keepdims=True)
    assert found == pytest.approx(z.std(axis=0))


def test_members_on_different_scales_count_alike():
    rng = np.random.default_rng(0)
    tables = [dict(zip("abcdefgh", rng.normal(size=8).tolist(), strict=True)) for _ in range(3)]
    stretched = [{k: 50 * v + 7 for k, v in tables[0].items()}, *tables[1:]]
    asked = items("rank", "abcd", "efgh", "bdfh")
    plain, other = (
        EnsembleDisagreement([Table(**t) for t in each]).disagreement(asked) for each in (tables, stretched)
    )
    assert plain == pytest.approx(other, rel=1e-4)


def test_kinds_stay_mixed_and_demonstrations_keep_their_place():
    rng = np.random.default_rng(0)
    names = [chr(97 + n) for n in range(26)]
    models = [Table(**dict(zip(names, rng.normal(size=26).tolist(), strict=True))) for _ in range(3)]
    asked = [*items("rate", *names), *items("compare", *(a + b for a, b in pairwise(names)))]
    written = [Item("demonstrate", "write")]
    selector = EnsembleDisagreement(models, explore=0.0)
    values = selector(asked + written)

    assert np.mean(values[:26]) == pytest.approx(0.5)
    assert np.mean(values[26:-1]) == pytest.approx(0.5)
    assert values[-1] == selector(written)[0]


def test_explored_items_keep_a_random_place_and_are_not_scored():
    one, two = Table(a=1.0), Table(b=1.0)
    EnsembleDisagreement([one, two], explore=1.0)(items("compare", "ab", "ba"))
    assert one.calls == 0


def test_scoring_is_batched_and_capped():
    one, two = Table(a=1.0), Table(b=1.0)
    asked = [Item("rate", f"p{number}", (Answer("a"),)) for number in range(100)]
    selector = EnsembleDisagreement([one, two], explore=0.0, most=40, batch=16)
    assert len(selector(asked)) == 100
    assert one.calls == two.calls == 3


def test_equal_responses_are_scored_once():
    one = Table(a=1.0)
    seen: list[int] = []
    one.score = lambda prompts, responses: seen.append(len(responses)) or np.zeros(len(responses), np.float32)
    asked = [Item("rate", "p", (Answer("a", version=str(number)),)) for number in range(5)]
    EnsembleDisagreement(Ensemble([one, Table()]), explore=0.0)(asked)
    assert seen == [1]


def test_selector_orders_a_store(tmp_path):
    one, two = Table(a=2.0, b=-2.0, c=2.0, d=-2.0), Table(a=-2.0, b=2.0, c=2.0, d=-2.0)
    asked = items("compare", "cd", "ab")
    with FeedbackStore(tmp_path / "people.db", gold_share=0.0) as store:
        store.add_items(asked)
        assert store.reprioritise(EnsembleDisagreement([one, two], explore=0.0)) == 2
        given = store.next_assignment("ann")
        assert given is not None
        assert given.item.id == asked[1].id
