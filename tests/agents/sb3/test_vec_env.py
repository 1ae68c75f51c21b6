"""as_vec_env beside SB3's DummyVecEnv of single environments."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import textenv
from agents.sb3 import as_vec_env
from textenv.envs import toy
from textenv.errors import ConfigError
from textenv.wrappers import vector as vector_wrappers
from textenv.wrappers.terms import LengthPenaltyHook

TOY = "textenv/Toy-v0"


def ours(num_envs: int = 3, **options: Any) -> Any:
    return as_vec_env(gym.make_vec(TOY, num_envs=num_envs, **options))


def theirs(num_envs: int = 3, **options: Any) -> Any:
    return DummyVecEnv([lambda: gym.make(TOY, **options)] * num_envs)


class Rewards(BaseCallback):
    """Keeps what the algorithm was paid, and its actions."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[np.ndarray] = []

    def _on_step(self) -> bool:
        self.seen += [self.locals["rewards"].copy(), np.asarray(self.locals["actions"]).ravel()]
        return True


ALGORITHMS = {
    "PPO": (sb3.PPO, {"n_steps": 16, "batch_size": 16, "n_epochs": 2}),
    "A2C": (sb3.A2C, {}),
    "DQN": (sb3.DQN, {"learning_starts": 20, "buffer_size": 200, "batch_size": 8}),
    "MaskablePPO": (sb3_contrib.MaskablePPO, {"n_steps": 16, "batch_size": 16, "n_epochs": 2}),
}


@pytest.mark.parametrize("options", [{}, {"on_length_limit": "truncate"}], ids=["terminate", "truncate"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithms_get_the_same_results_as_on_dummy_vec_env(name, options):
    algorithm, settings = ALGORITHMS[name]
    found = []
    for make in (ours, theirs):
        kept = Rewards()
        model = algorithm(
            "MlpPolicy", make(**options), **settings, seed=3, device="cpu", policy_kwargs={"net_arch": [8]}
        )
        model.learn(96, callback=kept)
        found.append((kept.seen, [p.detach().clone() for p in model.policy.parameters()]))
    (our_steps, our_weights), (their_steps, their_weights) = found
    assert len(our_steps) == len(their_steps) > 0
    assert all(np.array_equal(a, b) for a, b in zip(our_steps, their_steps, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(our_weights, their_weights, strict=True))


@pytest.mark.parametrize("observation", ["tokens", "dict"])
@pytest.mark.parametrize("limit", ["terminate", "truncate"])
def test_steps_equal_those_of_dummy_vec_env(observation, limit):
    mine, other = (make(observation=observation, on_length_limit=limit) for make in (ours, theirs))
    rng = np.random.default_rng(0)
    for env in (mine, other):
        env.seed(5)
    assert_same(mine.reset(), other.reset())
    assert mine.reset_infos == other.reset_infos
    for _ in range(40):
        actions = rng.integers(0, 4, 3)
        for mine_part, other_part in zip(mine.step(actions), other.step(actions), strict=True):
            assert_same(mine_part, other_part)
        assert mine.reset_infos == other.reset_infos


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b) or isinstance(a, dict)
    if isinstance(a, dict):
        assert set(a) == set(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert np.array_equal(a, b)
        assert getattr(a, "dtype", None) == getattr(b, "dtype", None)


def test_only_an_answer_cut_from_outside_counts_as_truncated():
    for limit, expected in (("terminate", False), ("truncate", True)):
        env = ours(1, on_length_limit=limit)
        env.reset()
        for _ in range(3):
            assert not env.step(np.array([1]))[2][0]
        _, _, dones, infos = env.step(np.array([1]))
        assert dones[0]
        assert infos[0]["TimeLimit.truncated"] is expected
        assert infos[0]["terminal_observation"][1:].tolist() == [1, 1, 1, 1]
        assert infos[0]["finish_reason"] == textenv.FinishReason.LENGTH


def test_reset_options_reach_their_slots_once():
    env = ours(2)
    env.set_options([{"prompt_index": 2}, {"prompt_index": 1, "prefix": [3]}])
    assert env.reset()[:, :2].tolist() == [[3, 4], [2, 3]]
    env.seed(0)
    first = env.reset()
    assert [info["response_tokens"] for info in env.reset_infos] == [0, 0]
    env.seed(0)
    assert np.array_equal(first, env.reset())
    env.set_options({"nonsense": 1})
    with pytest.raises(ConfigError, match="unknown reset option 'nonsense'"):
        env.reset()


def test_masks_and_states_of_each_slot():
    env = as_vec_env(vector_wrappers.DenyTokens(gym.make_vec(TOY, num_envs=2, min_new_tokens=2), [3]))
    env.reset()
    assert np.stack(env.env_method("action_masks")).tolist() == [[False, True, True, False]] * 2
    assert env.env_method("action_masks", indices=1)[0].shape == (4,)
    assert env.has_attr("action_masks")
    env.step(np.array([1, 2]))
    (state,) = env.env_method("get_state", indices=[0])
    env.env_method("set_state", state, indices=[1])
    assert [s.response_ids for s in env.env_method("get_state")] == [(1,), (1,)]


def test_attributes_are_found_through_wrappers_and_set_where_they_are():
    envs = vector_wrappers.LengthPenalty(gym.make_vec(TOY, num_envs=2), 0.1)
    env: Any = as_vec_env(envs)
    env.reset()
    for _ in range(4):
        env.step(np.array([1, 0]))
    assert [episode.response_ids for episode in env.get_attr("last_episode")] == [(1, 1, 1, 1), (0,)]
    assert isinstance(env.get_attr("mdp", indices=0)[0], toy.ToyMDP)
    assert isinstance(env.get_attr("hook")[1], LengthPenaltyHook)
    env.set_attr("prompt_dealing", "shared")
    assert env.envs.unwrapped.prompt_dealing == "shared"
    with pytest.raises(ConfigError, match="all slots share one environment"):
        env.set_attr("prompt_dealing", "per_slot", indices=[0])
    with pytest.raises(AttributeError, match="nothing"):
        env.set_attr("nothing", 1)
    assert not env.has_attr("nothing")
    assert env.env_is_wrapped(vector_wrappers.LengthPenalty) == [True, True]
    assert env.env_is_wrapped(Monitor, indices=0) == [False]


def test_wrappers_pay_and_report_in_the_last_step():
    env = VecMonitor(as_vec_env(vector_wrappers.LengthPenalty(gym.make_vec(TOY, num_envs=1), 0.1)))
    env.set_options({"prompt_index": 0})
    env.reset()
    for _ in range(3):
        env.step(np.array([1]))
    _, rewards, _, infos = env.step(np.array([1]))
    assert rewards[0] == pytest.approx(1.0 - 0.4)
    assert infos[0]["episode"]["r"] == pytest.approx(0.6)
    assert infos[0]["score"] == 1.0


def test_pictures_and_texts():
    env = ours(2, render_mode="rgb_array")
    env.reset()
    assert env.get_images()[1].shape == (400, 640, 3)
    assert env.render().shape == (800, 640, 3)
    env = ours(1, render_mode="ansi")
    env.reset()
    assert isinstance(env.env_method("render")[0], str)
    assert env.get_images() == [None]
    env.close()


def test_spaces_are_those_of_a_single_environment():
    env = ours(2)
    single = gym.make(TOY)
    check_env(single.unwrapped)
    assert (env.observation_space, env.action_space) == (single.observation_space, single.action_space)


def test_foreign_environments_and_texts_are_refused():
    with pytest.raises(ConfigError, match="takes textenv's own vector environment, got SyncVectorEnv"):
        as_vec_env(gym.make_vec(TOY, num_envs=1, vectorization_mode="sync"))
    with pytest.raises(ConfigError, match='observation="tokens"'):
        as_vec_env(gym.make_vec(TOY, num_envs=1, observation="text"))
