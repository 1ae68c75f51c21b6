import subprocess
import sys

import numpy as np
import pytest

from reward_models.benchmarking.scoring import MAX_FAILURES, Scorer, model_parts


class Counting:
    def __init__(self):
        self.asked = []

    def score(self, prompts, responses):
        self.asked += list(zip(prompts, responses, strict=True))
        return np.array([len(response) for response in responses], dtype=np.float32)


class Picky(Counting):
    def score(self, prompts, responses):
        if any("bad" in response for response in responses):
            raise ValueError("cannot read this")
        return super().score(prompts, responses)


def test_each_distinct_text_is_scored_once_across_calls():
    model = Counting()
    scorer = Scorer("m", model)
    assert scorer.score(["p", "p", "q"], ["a", "a", "a"]).tolist() == [1, 1, 1]
    assert scorer.score(["q", "p"], ["a", "bb"]).tolist() == [1, 2]
    assert model.asked == [("p", "a"), ("q", "a"), ("p", "bb")]
    assert scorer.speed()["texts"] == 3


def test_a_raising_model_loses_the_texts_concerned_only():
    scorer = Scorer("m", Picky())
    texts = [f"text {i}" for i in range(40)]
    texts[7] = texts[33] = "bad one"
    texts[12] = "bad two"
    found = scorer.score(["p"] * 40, texts)
    assert np.flatnonzero(np.isnan(found)).tolist() == [7, 12, 33]
    assert sorted(failure.response for failure in scorer.failures) == ["bad one", "bad two"]
    assert scorer.failures[0].error == "ValueError: cannot read this"
    assert scorer.broken == ""
    assert scorer.speed()["failed_texts"] == 2


def test_a_nan_is_a_failure_of_that_text():
    class Half:
        def score(self, prompts, responses):
            return np.array([np.nan if "x" in response else 1.0 for response in responses])

    scorer = Scorer("m", Half())
    assert np.isnan(scorer.score(["p", "p"], ["x", "y"])).tolist() == [True, False]
    assert scorer.failures[0].error == "returned nan"


def test_a_model_that_always_raises_is_given_up_soon():
    class Broken:
        calls = 0

        def score(self, prompts, responses):
            Broken.calls += 1
            raise RuntimeError("no weights")

    scorer = Scorer("m", Broken())
    assert np.isnan(scorer.score(["p"] * 2000, [str(i) for i in range(2000)])).all()
    assert Broken.calls < 4 * MAX_FAILURES
    assert "20 texts in a row failed; the last with RuntimeError: no weights" in scorer.broken


def test_a_result_of_another_shape_is_a_failure():
    class Short:
        def score(self, prompts, responses):
            return np.zeros(len(responses) + 1, dtype=np.float32)

    scorer = Scorer("m", Short())
    assert np.isnan(scorer.score(["p"], ["r"])).all()
    assert scorer.failures[0].error == "returned shape (2,) for 1 texts"


def test_several_seeds_become_members_of_a_kind():
    single, kinds = model_parts({"a": 1, "b": [2, 3]})
    assert single == {"a": 1, "b #1": 2, "b #2": 3}
    assert kinds == {"b": ["b #1", "b #2"]}


HUNGRY = """
import numpy as np
from reward_models.benchmarking.scoring import Scorer

class Hungry:
    def score(self, prompts, responses):
        block = np.ones(30_000_000)
        return np.full(len(responses), block[0])

scorer = Scorer("m", Hungry())
scorer.score(["p"], ["r"])
print(scorer.speed()["peak_megabytes"])
"""


def test_memory_is_seen_to_rise():
    # In a process of its own: one that keeps freed memory, as training makes it, may have the room already.
    ran = subprocess.run([sys.executable, "-c", HUNGRY], capture_output=True, text=True, check=True)
    assert float(ran.stdout) == pytest.approx(230, rel=0.5)
