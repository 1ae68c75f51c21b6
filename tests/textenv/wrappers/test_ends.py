"""What wrappers do at ends that are not plain: cut off from outside, unscored, or without a finite divergence."""

import json

import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit

from tests.textenv.envs.helpers import EOS, A, B, make_env, make_envs
from textenv import ShapeError, wrappers
from textenv.envs import toy


def play(env, actions):
    """The last step's reward."""
    env.reset(seed=0)
    reward = 0.0
    for action in actions:
        _, reward, *_ = env.step(action)
    return reward


@pytest.mark.parametrize(
    "wrapper", [lambda e: wrappers.LengthPenalty(e, 1.0), lambda e: wrappers.MissingEosPenalty(e, 5.0)]
)
def test_a_time_limit_inside_does_not_bring_back_the_episode_before(wrapper):
    env = wrapper(TimeLimit(make_env(reward=lambda p, r: [0.0] * len(r)), 2))
    play(env, [A, EOS])
    assert play(env, [A, B]) == 0.0


def test_a_time_limit_inside_writes_no_episode_twice(tmp_path):
    path = tmp_path / "episodes.jsonl"
    env = wrappers.RecordTrajectories(TimeLimit(make_env(), 2), str(path))
    play(env, [A, EOS])
    play(env, [A, B])
    env.close()
    assert [json.loads(line)["finish_reason"] for line in path.read_text().splitlines()] == ["eos"]


@pytest.mark.parametrize("vector", [False, True], ids=["single", "vector"])
@pytest.mark.parametrize("name", ["LengthPenalty", "MissingEosPenalty"])
def test_an_unscored_length_limit_is_not_penalised(name, vector):
    import textenv.wrappers.vector as vector_wrappers

    options = {"max_new_tokens": 2, "on_length_limit": "truncate"}
    env = make_envs(1, **options) if vector else make_env(**options)
    env = getattr(vector_wrappers if vector else wrappers, name)(env, 5.0)
    env.reset(seed=0)
    action = np.array([A]) if vector else A
    env.step(action)
    _, reward, terminated, truncated, _ = env.step(action)
    assert bool(np.all(truncated))
    assert not np.any(terminated)
    assert float(np.sum(reward)) == 0.0


def test_whitening_learns_nothing_from_an_unscored_end():
    env = wrappers.WhitenReward(make_env(max_new_tokens=2, on_length_limit="truncate"))
    play(env, [A, A])
    assert env.hook.count == 0
    play(env, [A, EOS])
    assert env.hook.count == 1


def excluding(token):
    """A reference that never takes a token."""

    def logprobs(tokens, lengths):
        p = np.full((len(tokens), 3), 0.5)
        p[:, token] = 0.0
        with np.errstate(divide="ignore"):
            return np.log(p)

    return logprobs


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_a_token_that_the_reference_excludes_is_named_instead_of_paid(estimator):
    mdp = toy.ToyMDP.random(np.random.default_rng(0), 3, 3)
    env = wrappers.KLPenalty(
        toy.ToyEnv(mdp=mdp), excluding(1), toy.TablePolicy(mdp, mdp.ref_probs), coef=0.0, estimator=estimator
    )
    env.reset(seed=0)
    with pytest.raises(ShapeError, match=r"of token 1 in slot 0 is .*inf.*forbid the token with a mask wrapper"):
        env.step(1)
    env = wrappers.ReferenceLogProb(toy.ToyEnv(mdp=mdp), excluding(1), 0.1)
    env.reset(seed=0)
    with pytest.raises(ShapeError, match="the reference's log-probability of token 1 in slot 0 is -inf"):
        env.step(1)


def test_log_probs_that_are_nan_or_too_narrow_are_refused():
    mdp = toy.ToyMDP.random(np.random.default_rng(0), 3, 3)
    env = wrappers.KLPenalty(toy.ToyEnv(mdp=mdp), toy.TablePolicy(mdp, mdp.ref_probs), target_kl=1.0)
    env.reset(seed=0)
    env.give_logprobs(np.nan)
    with pytest.raises(ShapeError, match="is nan"):
        env.step(1)
    assert np.isfinite(env.hook.controller.coef)
    env.give_logprobs(np.zeros(2))
    with pytest.raises(ShapeError, match="2 log-probs per slot"):
        env.step(1)
