from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from reward_models.adapters.common import Fallbacks, checked_scores
from reward_models.adapters.function import FunctionReward
from textenv.episode import Episode, FinishReason
from textenv.errors import ConfigError, RewardError, ShapeError
from textenv.rewards import score_episodes


def lengths(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(len(response)) for response in responses]


def test_function_of_lists_and_of_single_texts() -> None:
    assert FunctionReward(lengths).score(["a", "b"], ["xy", ""]).tolist() == [2.0, 0.0]
    assert FunctionReward(lambda p, r: len(p) - len(r), each=True).score(("a",), ("xyz",)).tolist() == [-2.0]
    found = FunctionReward(lambda p, r: [np.array([1.0, 2.0]), np.zeros(0)]).score(["", ""], ["", ""])
    assert (found.dtype, found.tolist()) == (np.float32, [3.0, 0.0])


def test_dense_function_stays_dense_for_the_environment() -> None:
    shown = Episode("p", 0, (1,), "abc", (5, 6, 7), FinishReason.EOS, 0.0)
    dense = FunctionReward(lambda p, r: [np.arange(3.0) for _ in r])
    assert [row.tolist() for row in score_episodes(dense, [shown]).token_rewards or []] == [[0.0, 1.0, 2.0]]
    single = FunctionReward(lambda p, r: len(r), each=True)
    assert score_episodes(single, [shown]).scores.tolist() == [3.0]


def test_function_that_raises_or_returns_rubbish_is_a_reward_error() -> None:
    def broken(*texts: Any) -> Any:
        raise KeyError("gone")

    with pytest.raises(RewardError, match="raised KeyError: 'gone'; prompt 'a', response 'b'"):
        FunctionReward(broken, each=True).score(["a"], ["b"])
    with pytest.raises(RewardError, match="raised KeyError: 'gone'"):
        FunctionReward(broken).score(["a"], ["b"])
    with pytest.raises(RewardError, match="returned nan for prompt 'a', response 'b'"):
        FunctionReward(lambda p, r: float("nan"), each=True).score(["a"], ["b"])
    with pytest.raises(ShapeError, match="got 1 prompts for 0 responses"):
        FunctionReward(lengths).score(["a"], [])
    with pytest.raises(ConfigError, match="needs a function, got int"):
        FunctionReward(3)
    with pytest.raises(ConfigError, match="is saved as `module:function`"):
        FunctionReward(lengths).to_spec()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["x"], "returned \"\\['x'\\]\", expected 1 numbers"),
        ([[1.0]], r"returned an array of shape \(1, 1\) for 1 responses"),
        ([1e39], "returned 1e\\+39 for prompt 'p{59}…', response ''"),
    ],
)
def test_checked_scores_names_what_is_wrong(values: Any, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        checked_scores(values, ["p" * 99], [""], source="it")


def test_fallbacks_warn_at_powers_of_ten_only(caplog: pytest.LogCaptureFixture) -> None:
    fallbacks = Fallbacks(0.5, "the judge")
    for _ in range(25):
        assert fallbacks.use("said nothing.") == 0.5
    assert fallbacks.count == 25
    assert [record.levelname for record in caplog.records].count("WARNING") == 2  # the first and the tenth
    with pytest.raises(RewardError, match=r"the judge: said nothing\. Give a `fallback_score`"):
        Fallbacks(None, "the judge").use("said nothing.")
