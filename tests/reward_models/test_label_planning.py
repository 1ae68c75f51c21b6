"""Planning: more labels never hurt on average, perfect labels reach the truth, bad arguments are named."""

from __future__ import annotations

import numpy as np
import pytest

from reward_models.benchmarking.overoptimization.proxy import WordCountModel
from reward_models.labels import Comparison
from reward_models.simulation import Rater, WordGold, plan_labels
from textenv.errors import ConfigError

WORDS = {"ba": 1.0, "da": 0.5, "ga": 0.2, "ka": -0.3, "la": -0.6, "ma": -1.1}
GOLD = WordGold(WORDS)


def texts(prompts: int = 60, each: int = 4) -> tuple[list[str], list[list[str]]]:
    rng = np.random.default_rng(0)
    return [f"{i}?" for i in range(prompts)], [GOLD.sample(rng, each) for _ in range(prompts)]


def fit(labels: list[Comparison], seed: int) -> WordCountModel:
    return WordCountModel(strength=10.0).fit(labels)


def test_more_labels_bring_more_and_the_truth_is_reached():
    prompts, responses = texts()
    plan = plan_labels(fit, GOLD, prompts, responses, [Rater(noise=0.3)], counts=(400, 10, 60))
    assert [entry.labels for entry in plan] == [10, 60, 400]
    assert plan[0].accuracy < plan[1].accuracy < plan[2].accuracy
    assert plan[2].accuracy > 0.95


def test_noisier_people_need_more_labels():
    prompts, responses = texts()
    calm, noisy = (
        plan_labels(fit, GOLD, prompts, responses, [Rater(noise=noise)], counts=(100,))[0] for noise in (0.2, 3.0)
    )
    assert calm.accuracy > noisy.accuracy + 0.05


def test_several_people_on_a_pair_label_fewer_pairs():
    prompts, responses = texts()
    seen: list[list[Comparison]] = []

    def watch(labels: list[Comparison], seed: int) -> WordCountModel:
        seen.append(labels)
        return fit(labels, seed)

    plan_labels(watch, GOLD, prompts, responses, [Rater(noise=1.0)], counts=(30,), repeats=3, seeds=1)
    pairs = {(label.prompt, frozenset((label.chosen, label.rejected))) for label in seen[0]}
    assert len(seen[0]) == 30
    assert len(pairs) <= 10


@pytest.mark.parametrize("bad", [{"counts": (0,)}, {"counts": ()}, {"repeats": 0}, {"seeds": 0}, {"held_out": 1.0}])
def test_arguments_out_of_range_are_named(bad: dict[str, object]):
    prompts, responses = texts(8, 2)
    with pytest.raises(ConfigError, match="need `counts`, `repeats` and `seeds` ≥ 1"):
        plan_labels(fit, GOLD, prompts, responses, [Rater()], **bad)  # pyright: ignore[reportArgumentType]


def test_responses_that_are_all_alike_are_refused():
    with pytest.raises(ConfigError, match="no two responses of different worth"):
        plan_labels(fit, GOLD, ["a", "b"], [[" ba", " da"], [" ba", " ba"]], [Rater()], held_out=0.5)
