"""What every registered environment must do, whoever steps it."""

import copy
import pickle
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import textenv
from tests.textenv.envs.helpers import arguments
from textenv.envs.registration import IDS

KWARGS = {"textenv/TextGeneration-v0": arguments, "textenv/Toy-v0": dict}
FORMS = {
    "tokens": {},
    "tokens-float32": {"obs_dtype": "float32"},
    "tokens-int32": {"obs_dtype": "int32"},
    "tokens-left": {"padding_side": "left"},
    "dict": {"observation": "dict"},
    "dict-left": {"observation": "dict", "padding_side": "left"},
    "text": {"observation": "text"},
    "full-info": {"info_level": "full"},
}
every_id = pytest.mark.parametrize("env_id", IDS)
every_form = pytest.mark.parametrize("form", FORMS)


def make(env_id, form="tokens", **changes) -> Any:
    return gym.make(env_id, **(KWARGS[env_id]() | FORMS[form] | changes))


def make_vec(env_id, num_envs, mode, form="tokens", vectorization_mode="vector_entry_point", **changes) -> Any:
    kwargs = KWARGS[env_id]() | FORMS[form] | changes
    if vectorization_mode == "sync":
        return gym.make_vec(env_id, num_envs, "sync", vector_kwargs={"autoreset_mode": mode}, **kwargs)
    return gym.make_vec(env_id, num_envs, vectorization_mode, autoreset_mode=mode, **kwargs)


def test_every_registered_id_is_tested():
    registered = {name for name in gym.registry if name.startswith("textenv/")}
    assert registered == set(IDS) == set(KWARGS)


@every_id
@every_form
def test_gymnasium_checker_is_silent(env_id, form, capsys):
    check_env(make(env_id, form).unwrapped)


@every_id
@every_form
def test_stable_baselines3_checker_is_silent(env_id, form):
    if form == "text":
        pytest.skip("Stable-Baselines3 has no text spaces")
    sb3_check_env(make(env_id, form))


@every_id
def test_spec_rebuilds_an_equal_environment(env_id):
    env = make(env_id)
    again = gym.make(env.spec)
    assert data_equivalence(rollout(env, 0), rollout(again, 0))


def test_spec_of_identifiers_survives_json(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('"ab"\n{"prompt": "b", "task": "t"}\n')
    textenv.register_reward("constant", lambda: lambda prompts, responses: [1.0] * len(responses))
    env = gym.make("textenv/TextGeneration-v0", tokenizer="toy", prompts=str(path), reward="constant", max_new_tokens=3)
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert data_equivalence(rollout(env, 1), rollout(again, 1))


def test_spec_copies_no_reward_model():
    class Heavy:
        def __deepcopy__(self, memo):
            raise AssertionError("a reward model must not be copied")

        def score(self, prompts, responses):
            return np.ones(len(responses))

    env: Any = gym.make("textenv/TextGeneration-v0", **arguments(reward=Heavy()))
    assert env.spec is not None
    assert copy.deepcopy(env.unwrapped).unwrapped.task is env.unwrapped.task


def rollout(env, seed, steps=25):
    """Everything an environment returns over some steps of seeded random actions."""
    seen = [env.reset(seed=seed)]
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        seen.append(env.step(int(rng.integers(env.action_space.n))))
        if seen[-1][2] or seen[-1][3]:
            seen.append(env.reset())
    return seen


@every_id
@every_form
def test_two_copies_with_one_seed_are_identical(env_id, form):
    assert data_equivalence(rollout(make(env_id, form), 7), rollout(make(env_id, form), 7), exact=True)


@every_id
@pytest.mark.parametrize(
    "copy_of", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["copy", "pickle"]
)
def test_copies_go_on_identically_and_apart(env_id, copy_of):
    env = make(env_id)
    env.reset(seed=3)
    env.step(env.action_space.n - 1)
    again = copy_of(env)
    first = [env.step(env.action_space.n - 2), env.reset(), env.reset()]
    second = [again.step(env.action_space.n - 2), again.reset(), again.reset()]
    assert data_equivalence(first, second, exact=True)


def test_same_seed_gives_the_same_episodes_in_another_process():
    program = (
        "import gymnasium, numpy; env = gymnasium.make('textenv:textenv/Toy-v0'); "
        "print([env.reset(seed=5 if i == 0 else None)[0].tolist() for i in range(6)])"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    env = gym.make("textenv/Toy-v0")
    assert printed.strip() == str([env.reset(seed=5 if i == 0 else None)[0].tolist() for i in range(6)])


@every_id
def test_close_may_be_called_twice(env_id):
    env = make(env_id)
    env.close()
    env.close()
    envs = make_vec(env_id, 2, AutoresetMode.NEXT_STEP)
    envs.close()
    envs.close()
    assert envs.closed


@every_id
@every_form
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector_equals_gymnasiums_own_vector_of_single_environments(env_id, form, mode):
    own = make_vec(env_id, 3, mode, form)
    sync = make_vec(env_id, 3, mode, form, "sync")
    assert own.observation_space == sync.observation_space
    assert own.action_space == sync.action_space
    assert own.metadata["autoreset_mode"] is own.autoreset_mode is mode
    rng = np.random.default_rng(0)
    assert data_equivalence(own.reset(seed=11), sync.reset(seed=11), exact=True)
    for _ in range(40):
        actions = rng.integers(own.single_action_space.n, size=3)
        mine, theirs = own.step(actions), sync.step(actions)
        assert data_equivalence(mine, theirs, exact=True)
        over = mine[2] | mine[3]
        if mode is AutoresetMode.DISABLED and over.any():
            options = {"reset_mask": over}
            assert data_equivalence(own.reset(options=dict(options)), sync.reset(options=dict(options)), exact=True)


@every_id
def test_vector_seeds_may_be_a_list(env_id):
    own = make_vec(env_id, 3, AutoresetMode.NEXT_STEP)
    sync = make_vec(env_id, 3, AutoresetMode.NEXT_STEP, vectorization_mode="sync")
    assert data_equivalence(own.reset(seed=[4, None, 9])[0][[0, 2]], sync.reset(seed=[4, None, 9])[0][[0, 2]])


@every_id
def test_vector_environment_pickles(env_id):
    envs = make_vec(env_id, 2, AutoresetMode.SAME_STEP)
    envs.reset(seed=0)
    again = pickle.loads(pickle.dumps(envs))
    for action in (2, 3, 2, 3, 2, 3):
        assert data_equivalence(envs.step(np.full(2, action)), again.step(np.full(2, action)))


@every_id
def test_infos_have_the_same_flat_numeric_keys_at_every_call(env_id):
    env = make(env_id)
    keys = {"finish_reason", "score", "response_tokens", "length", "prompt_tokens", "prompt_index"}
    for call in rollout(env, 0):
        info = call[-1]
        assert set(info) == keys
        assert all(type(value) in (int, float) and np.isfinite(value) for value in info.values())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: gym.wrappers.RecordEpisodeStatistics(env),
        lambda env: gym.wrappers.TransformReward(env, lambda reward: 2.0 * float(reward)),
        lambda env: gym.wrappers.TimeAwareObservation(gym.wrappers.TimeLimit(env, 9)),
        lambda env: gym.wrappers.DtypeObservation(env, np.float32),
        lambda env: gym.wrappers.NormalizeReward(env),
        lambda env: gym.wrappers.Autoreset(env),
    ],
)
def test_gymnasium_wrappers_work(wrap):
    env: Any = wrap(make("textenv/Toy-v0"))
    step: Any = None
    env.reset(seed=0)
    for _ in range(10):
        step = env.step(3)
        if step[2]:
            env.reset()
    assert np.isfinite(step[1])


def test_time_limit_cuts_off_unscored():
    env = gym.wrappers.TimeLimit(make("textenv/Toy-v0"), 2)
    env.reset(seed=0)
    env.step(1)
    _, reward, terminated, truncated, info = env.step(1)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["finish_reason"] == textenv.FinishReason.RUNNING


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_gymnasium_vector_wrappers_work(mode):
    envs = gym.wrappers.vector.RecordEpisodeStatistics(make_vec("textenv/Toy-v0", 2, mode))
    envs.reset(seed=0)
    step: Any = None
    for _ in range(4):
        step = envs.step(np.array([1, 1]))
    infos = step[4]["final_info"] if mode is AutoresetMode.SAME_STEP and "final_info" in step[4] else step[4]
    assert "episode" in infos or "episode" in step[4]


def test_max_episode_steps_of_make_vec_cuts_off_unscored():
    envs = make_vec("textenv/Toy-v0", 2, AutoresetMode.NEXT_STEP, max_episode_steps=2)
    envs.reset(seed=0)
    envs.step(np.array([1, 1]))
    _, rewards, terminated, truncated, infos = envs.step(np.array([1, 0]))
    assert (truncated.tolist(), terminated.tolist()) == ([True, False], [False, True])
    assert infos["finish_reason"].tolist() == [textenv.FinishReason.ABORTED, textenv.FinishReason.EOS]
    assert rewards[0] == 0.0


def test_async_vector_of_single_environments_works():
    envs = gym.make_vec("textenv/Toy-v0", 2, "async", vector_kwargs={"context": "forkserver"})
    try:
        own = make_vec("textenv/Toy-v0", 2, AutoresetMode.NEXT_STEP)
        assert data_equivalence(envs.reset(seed=1), own.reset(seed=1))
        assert data_equivalence(envs.step(np.array([1, 2])), own.step(np.array([1, 2])))
    finally:
        envs.close()
