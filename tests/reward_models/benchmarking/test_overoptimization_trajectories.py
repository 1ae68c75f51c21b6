import numpy as np
import pytest

from reward_models.benchmarking.baselines import LengthModel
from reward_models.benchmarking.overoptimization.trajectories import path_of_trajectories
from reward_models.benchmarking.overoptimization.world import GoldModel
from textenv.errors import DataError
from textenv.trajectories import Trajectory


def answer(prompt, response, kl, **changes):
    logprobs = np.full(4, -1.0, np.float32)
    given = {
        "prompt": prompt,
        "prompt_ids": np.array([1]),
        "token_ids": np.arange(4),
        "response": response,
        "behaviour_logprobs": logprobs,
        "logprobs": logprobs,
        "finish_reason": "eos",
        "ref_logprobs": logprobs - np.float32(kl / 4),
        "score": float(len(response.split())),
    }
    return Trajectory(**(given | changes))


def checkpoints():
    """Prompts come in mixed order; more exclamations with every checkpoint."""
    order = ["a", "b", "c", "d", "b", "a", "d", "c"]
    bases = [f" The cast is {'good' if place % 2 else 'bad'}." for place in range(len(order))]
    return {
        100 * k: [answer(p, base + " Wow!" * 2 * k, float(k)) for p, base in zip(order, bases, strict=True)]
        for k in range(4)
    }


def test_kl_proxy_and_gold_come_from_the_answers():
    curve = path_of_trajectories(checkpoints(), GoldModel(), np.random.default_rng(0), resamples=50)
    assert curve.steps.tolist() == [0, 100, 200, 300]
    assert curve.kl == pytest.approx([0, 1, 2, 3], abs=1e-5)
    spread = 1.2 * np.tanh([0.5, -0.8])
    assert [found.value for found in curve.gold] == pytest.approx(np.array([0, 1.2, -0.6, -2.4]) / np.std(spread))
    assert np.diff([found.value for found in curve.proxy]).min() > 0


def test_a_proxy_model_takes_the_place_of_the_stored_scores():
    stored = path_of_trajectories(checkpoints(), GoldModel(), np.random.default_rng(0), resamples=5)
    given = path_of_trajectories(checkpoints(), GoldModel(), np.random.default_rng(0), proxy=LengthModel(), resamples=5)
    assert [f.value for f in given.proxy] == pytest.approx([f.value for f in stored.proxy])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda found: found.clear(), "there are no answers"),
        (lambda found: found[0].pop(), "equally many answers"),
        (lambda found: found[200].reverse(), "checkpoint 200 answers other prompts than checkpoint 0"),
        (lambda found: setattr(found[100][3], "ref_logprobs", None), "checkpoint 100: .* no reference log-probs"),
        (lambda found: setattr(found[300][0], "score", None), "checkpoint 300: the answer .* has no score"),
    ],
    ids=["none", "uneven", "other-prompts", "no-reference", "no-score"],
)
def test_answers_that_do_not_fit_are_explained(spoil, message):
    found = checkpoints()
    spoil(found)
    with pytest.raises(DataError, match=message):
        path_of_trajectories(found, GoldModel(), np.random.default_rng(0), resamples=5)
