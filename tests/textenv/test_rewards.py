import pickle

import numpy as np
import pytest

import textenv
from textenv import Episode, FinishReason
from textenv.errors import ConfigError, RewardError
from textenv.rewards import (
    LazyReward,
    LengthPenaltyReward,
    SumReward,
    call_reward,
    resolve_reward,
    score_episodes,
)


def lengths(prompts, responses):
    return [float(len(r)) for r in responses]


class Model:
    def score(self, prompts, responses):
        return np.array([len(r) for r in responses], dtype=np.float32)


def episode(response="ab", tokens=2, reason=FinishReason.EOS):
    return Episode("p", 0, (3,), response, tuple(range(tokens)), reason, 0.0)


@pytest.mark.parametrize("reward", [lengths, Model(), lambda p, r: np.array([len(x) for x in r])])
def test_call_reward_gives_float64_scores(reward):
    scores = call_reward(reward, ["p", "q"], ["a", "abc"])
    assert scores.dtype == np.float64
    assert scores.tolist() == [1.0, 3.0]


def test_call_reward_takes_tensors_with_a_history():
    torch = pytest.importorskip("torch")
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    assert call_reward(lambda p, r: weight * 2, ["p", "q"], ["a", "b"]).tolist() == [2.0, 4.0]


def test_call_reward_sums_dense_rewards():
    assert call_reward(lambda p, r: [[1.0, 2.0], [3.0]], ["p", "q"], ["a", "b"]).tolist() == [3.0, 3.0]


def test_call_reward_of_nothing_calls_nobody():
    assert call_reward(None, [], []).shape == (0,)


def raising(prompts, responses):
    raise KeyError("gone")


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda p, r: [1.0], r"returned 1 scores for 2 responses; the first: prompt 'why', response 'a'"),
        (lambda p, r: [1.0, float("nan")], r"returned nan for response 1, .*prompt 'how', response 'b'"),
        (lambda p, r: [float("inf"), 1.0], r"returned inf for response 0, .*prompt 'why', response 'a'"),
        (lambda p, r: [1.0, "x"], r"returned 'x' for response 1, which is no number; prompt 'how'"),
        (lambda p, r: [1.0, None], r"returned None for response 1"),
        (lambda p, r: None, r"returned None of type NoneType instead of one number for each of 2 responses"),
        (lambda p, r: 1.0, r"returned 1.0 of type float instead"),
        (lambda p, r: [[1.0], 2.0], r"returned an array for response 0 but a number for response 1"),
        (lambda p, r: np.ones((2, 2, 2)), r"expected a finite number"),
        (raising, r"raised KeyError: 'gone'; while scoring 2 responses, the first of them: prompt 'why', response 'a'"),
        (5, r"must be a function of \(prompts, responses\) or have a \.score method"),
    ],
)
def test_call_reward_names_what_is_wrong(reward, message):
    with pytest.raises(RewardError, match=message):
        call_reward(reward, ["why", "how"], ["a", "b"])


def test_call_reward_of_unequal_lists_is_refused():
    with pytest.raises(RewardError, match="there are 1 prompts but 2 responses"):
        call_reward(lengths, ["p"], ["a", "b"])


def test_long_texts_are_shortened_in_messages():
    with pytest.raises(RewardError, match="…") as caught:
        call_reward(lambda p, r: [float("nan")], ["p" * 500], ["r"])
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_score_episodes_prefers_what_sees_episodes():
    class ByTokens:
        def score_episodes(self, episodes):
            return [len(e.response_ids) for e in episodes]

    assert score_episodes(ByTokens(), [episode(tokens=5)]).scores.tolist() == [5.0]


def test_score_episodes_keeps_dense_rewards():
    found = score_episodes(lambda p, r: [[0.5, 1.0]], [episode(tokens=2)])
    assert found.scores.tolist() == [1.5]
    assert found.token_rewards is not None
    assert found.token_rewards[0].tolist() == [0.5, 1.0]


def test_dense_rewards_must_fit_the_tokens():
    with pytest.raises(RewardError, match="returned 3 per-token rewards for a response of 2 tokens; prompt 'p'"):
        score_episodes(lambda p, r: [[1.0, 1.0, 1.0]], [episode(tokens=2)])


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (SumReward([lengths, Model()], [1.0, 10.0]), [22.0, 33.0]),
        (SumReward([lengths, lengths]), [4.0, 6.0]),
        (SumReward([SumReward([lengths]), lengths], [10.0, 1.0]), [22.0, 33.0]),
        (LengthPenaltyReward(lengths, 0.5, free_tokens=2), [2.0, 2.0]),
    ],
    ids=["weighted-sum", "sum", "nested", "length"],
)
def test_combinators(reward, expected):
    episodes = [episode("ab", 2), episode("abc", 4, FinishReason.LENGTH)]
    assert score_episodes(reward, episodes).scores.tolist() == expected


def test_combinators_can_be_called_with_texts():
    assert SumReward([lengths], [2.0])(["p"], ["abc"]).tolist() == [6.0]
    assert call_reward(SumReward([lengths]), ["p"], ["abc"]).tolist() == [3.0]


@pytest.mark.parametrize(
    ("rewards", "names"), [([lengths, Model()], ["0", "1"]), ({"text": lengths, "model": Model()}, ["text", "model"])]
)
def test_sum_reward_shows_its_parts(rewards, names):
    found = score_episodes(SumReward(rewards, [1.0, 10.0]), [episode("ab")])
    assert found.scores.tolist() == [22.0]
    assert found.parts is not None
    assert {name: values.tolist() for name, values in found.parts.items()} == {name: [2.0] for name in names}


@pytest.mark.parametrize("make", [lambda: SumReward([]), lambda: SumReward([lengths], [1.0, 2.0])])
def test_sum_reward_refuses_unequal_weights(make):
    with pytest.raises(ConfigError, match="rewards and"):
        make()


def test_rewards_are_found_by_name_and_by_path():
    textenv.register_reward("always-two", lambda: lambda p, r: [2.0] * len(r))
    assert call_reward(resolve_reward("always-two"), ["p"], ["a"]).tolist() == [2.0]
    assert resolve_reward("tests.textenv.test_rewards:lengths")(["p"], ["abc"]) == [3.0]


@pytest.mark.parametrize(
    ("reference", "message"),
    [("no-such", "no reward is registered as 'no-such'"), ("os:nothing", "cannot load the reward 'os:nothing'")],
)
def test_unknown_rewards_are_refused(reference, message):
    with pytest.raises(ConfigError, match=message):
        resolve_reward(reference)


def test_lazy_reward_loads_at_the_first_score_and_pickles_without_its_model():
    loaded = []

    def factory():
        loaded.append(1)
        return lambda p, r: [1.0] * len(r)  # cannot be pickled

    textenv.register_reward("lazy", factory)
    lazy = LazyReward("lazy")
    assert not loaded
    lazy.get()
    again = pickle.loads(pickle.dumps(lazy))
    assert call_reward(again.get(), ["p"], ["r"]).tolist() == [1.0]
    assert len(loaded) == 2


def test_call_reward_takes_bfloat16_and_refuses_a_single_number():
    torch = pytest.importorskip("torch")
    found = call_reward(lambda p, r: torch.tensor([0.5, 1.5], dtype=torch.bfloat16), ["a", "b"], ["c", "d"])
    assert found.tolist() == [0.5, 1.5]
    with pytest.raises(RewardError, match="instead of one number for each of 1 responses"):
        call_reward(lambda p, r: np.array(1.0), ["a"], ["b"])


@pytest.mark.parametrize(
    ("tokens", "message"), [([np.array([np.nan])], "expected a finite number"), ([], "has 0 entries for 1 responses")]
)
def test_per_token_rewards_of_a_combinator_are_checked(tokens, message):
    from textenv.rewards import Scores

    with pytest.raises(RewardError, match=message):
        call_reward(lambda p, r: Scores(np.array([1.0]), tokens), ["a"], ["b"])
