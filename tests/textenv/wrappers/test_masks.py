"""Token masks, in both forms."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction
from gymnasium.vector import AutoresetMode

import textenv.wrappers.vector as vector_wrappers
from tests.textenv.envs.helpers import AB, EOS, A, B, C, X, make_env, make_envs
from textenv import ConfigError, wrappers
from textenv.envs import toy
from textenv.wrappers.masks import top_k_mask, top_p_mask

PROBS = np.array([[0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25], [0.0, 0.0, 1.0, 0.0]])
with np.errstate(divide="ignore"):
    LOGPROBS = np.log(PROBS)


def fixed(tokens, lengths):
    """A policy that prefers low ids, whatever came before."""
    scores = -np.arange(9, dtype=np.float64)
    return np.tile(scores - np.log(np.exp(scores).sum()), (len(tokens), 1))


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, [[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 0]]),
        (2, [[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 1, 0]]),
        (9, [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 0]]),
    ],
)
def test_top_k_mask_by_hand(k, expected):
    assert top_k_mask(LOGPROBS, k).astype(int).tolist() == expected


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.3, [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]]),
        (0.45, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]]),
        (1.0, [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 0]]),
    ],
)
def test_top_p_mask_by_hand(p, expected):
    assert top_p_mask(LOGPROBS, p).astype(int).tolist() == expected


def test_top_p_mask_renormalises_what_an_inner_mask_left():
    cut = LOGPROBS[:1].copy()
    cut[0, 0] = -np.inf  # 0.3, 0.2, 0.1 are left; half of them is 0.3
    assert top_p_mask(cut, 0.5).astype(int).tolist() == [[0, 1, 0, 0]]


WRAPPERS = {
    "allow": (lambda ns, env: ns.AllowTokens(env, [EOS, A, B]), [EOS, A, B]),
    "deny": (lambda ns, env: ns.DenyTokens(env, [X]), [1, 2, 3, 4, 5, 6, 7]),
    "top-k": (lambda ns, env: ns.TopK(env, fixed, 3), [1, 2, 3]),
    "top-p": (lambda ns, env: ns.TopP(env, fixed, 0.6), [1]),
    "learned": (lambda ns, env: ns.LearnedMask(env, lambda: fixed, 0.9), [1, 2, 3]),
    "nested": (lambda ns, env: ns.TopK(ns.DenyTokens(env, [2]), fixed, 2), [1, 3]),
}
every_mask = pytest.mark.parametrize(("make", "allowed"), WRAPPERS.values(), ids=list(WRAPPERS))


@every_mask
def test_masks_are_the_same_in_both_forms(make, allowed):
    env, envs = make(wrappers, make_env()), make(vector_wrappers, make_envs(2))
    env.reset(seed=0)
    envs.reset(seed=0)
    assert np.flatnonzero(env.action_masks()).tolist() == allowed
    assert env.action_masks().dtype == np.bool_
    assert [np.flatnonzero(row).tolist() for row in envs.action_masks()] == [allowed] * 2


@every_mask
def test_masked_actions_are_refused(make, allowed):
    env, envs = make(wrappers, make_env()), make(vector_wrappers, make_envs(2))
    env.reset(seed=0)
    envs.reset(seed=0)
    with pytest.raises(InvalidAction, match=r"action 8 of slot 0 is masked by \w+, which allows \d tokens there"):
        env.step(X)
    with pytest.raises(InvalidAction, match="action 8 of slot 1 is masked by"):
        envs.step(np.array([allowed[-1], X]))
    assert env.step(allowed[-1])[4]["response_tokens"] == 1
    assert envs.step(np.full(2, allowed[-1]))[4]["response_tokens"].tolist() == [1, 1]


def test_masks_reach_through_gymnasium_wrappers():
    env = gym.wrappers.RecordEpisodeStatistics(wrappers.AllowTokens(make_env(), [EOS, A]))
    env.reset(seed=0)
    assert env.get_wrapper_attr("action_masks")().sum() == 2
    inner = gym.wrappers.vector.RecordEpisodeStatistics(make_envs(2))
    outer = vector_wrappers.AllowTokens(inner, [EOS, A])
    outer.reset(seed=0)
    assert outer.action_masks().sum(axis=1).tolist() == [2, 2]
    assert outer.autoreset_mode is AutoresetMode.NEXT_STEP
    assert outer.last_episodes == [None, None]


def test_masks_keep_to_the_minimum_length():
    env = wrappers.AllowTokens(make_env(min_new_tokens=1), [EOS, A])
    env.reset(seed=0)
    assert np.flatnonzero(env.action_masks()).tolist() == [A]
    env.step(A)
    assert np.flatnonzero(env.action_masks()).tolist() == [EOS, A]


def test_idle_and_ended_slots_need_no_allowed_action():
    envs = vector_wrappers.AllowTokens(make_envs(2, autoreset_mode=AutoresetMode.DISABLED), [EOS, A])
    envs.reset(seed=0)
    envs.step(np.array([EOS, A]))
    assert envs.step(np.array([-1, A]))[1].tolist() == [0.0, 0.0]


def test_mask_is_computed_once_per_state():
    calls = []

    def counting(tokens, lengths):
        calls.append(len(tokens))
        return fixed(tokens, lengths)

    envs = vector_wrappers.TopK(make_envs(3), counting, 2)
    envs.reset(seed=0)
    envs.action_masks()
    envs.action_masks()
    envs.step(np.array([EOS, A, A]))
    assert calls == [3]


def test_learned_mask_is_renewed_for_real():
    version = {"now": 0}
    taken = []

    def snapshot():
        favourite = [A, B, C, AB][version["now"]]
        taken.append(favourite)

        def logprobs(tokens, lengths):
            probs = np.full((len(tokens), 9), 1e-3)
            probs[:, favourite] = 1 - 8e-3
            return np.log(probs)

        return logprobs

    envs = vector_wrappers.LearnedMask(make_envs(2, max_new_tokens=50), snapshot, 0.9, refresh_every_tokens=4)
    envs.reset(seed=0)
    favourites = []
    for _ in range(6):
        allowed = np.flatnonzero(envs.action_masks()[0]).tolist()
        favourites.append(allowed[0])
        version["now"] = min(version["now"] + 1, 3)  # the policy moves on after every step
        envs.step(np.full(2, allowed[0]))
    assert favourites == [A, A, C, C, AB, AB]
    assert taken == [A, C, AB, AB]
    assert envs.source.refreshes == 4


def test_policy_that_excludes_all_allowed_tokens_leaves_them_allowed():
    def only_x(tokens, lengths):
        with np.errstate(divide="ignore"):
            return np.log(np.tile(np.eye(9)[X], (len(tokens), 1)))

    env = wrappers.TopP(wrappers.DenyTokens(make_env(), [X]), only_x, 0.9)
    env.reset(seed=0)
    assert env.action_masks().sum() >= 1
    assert not env.action_masks()[X]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda env: wrappers.AllowTokens(env, []), "a list of allowed tokens must not be empty"),
        (lambda env: wrappers.TopK(env, fixed, 0), "k must be ≥ 1, got 0"),
        (lambda env: wrappers.TopP(env, fixed, 1.5), r"p must lie in \(0, 1\], got 1.5"),
        (lambda env: wrappers.LearnedMask(env, lambda: fixed, 0.9, 0), "refresh_every_tokens must be ≥ 1"),
        (lambda env: wrappers.TopK(gym.make("CartPole-v1"), fixed, 1), "TopK needs a textenv environment"),
    ],
)
def test_unusable_arguments_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make(make_env())


def test_lists_that_do_not_fit_are_refused():
    env = wrappers.AllowTokens(make_env(), [99])
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"token lists must hold ids in 0 … 8, got \[99\]"):
        env.action_masks()
    env = wrappers.DenyTokens(wrappers.AllowTokens(make_env(), [A]), [A])
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="leave slot 0 no token to choose"):
        env.step(A)


def test_maskable_ppo_runs_on_a_masked_environment():
    maskable = pytest.importorskip("sb3_contrib").MaskablePPO
    env = wrappers.AllowTokens(toy.ToyEnv(), [1, 2])
    model = maskable("MlpPolicy", env, n_steps=32, batch_size=16, n_epochs=1, seed=0, device="cpu")
    model.learn(64)
    assert model.num_timesteps == 64
