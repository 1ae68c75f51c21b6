"""States, forks and reset options: the same suffix gives bit-identical observations and rewards."""

import json
import time

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.textenv.envs.helpers import AB, EOS, A, B, C, X, make_env, make_envs, write
from textenv import ConfigError, wrappers
from textenv.envs import EnvState
from textenv.wrappers import vector
from textenv.wrappers.recording import read_episodes

TOKENS = st.lists(st.integers(2, 8), max_size=4)


def per_token(step):
    return step.tokens[step.rows, step.lengths[step.rows] - 1] / 8.0


def responder(episode):
    return "x" if episode.turns < 3 else None


KINDS = {
    "plain": {},
    "stops": {"stop": "ab"},
    "token-rewards": {"token_reward": per_token},
    "turns": {"responder": responder},
    "step limit": {"max_episode_steps": 3},
    "late ends": {"min_new_tokens": 2, "stop": ["b", "c"]},
}


@settings(max_examples=60, deadline=None)
@given(TOKENS, st.lists(st.integers(1, 8), min_size=1, max_size=5), st.sampled_from(sorted(KINDS)))
def test_restored_state_repeats_everything(prefix, suffix, kind):
    env = make_env(**KINDS[kind], max_new_tokens=20)
    env.reset(seed=0)
    for token in prefix:
        if any(env.step(token)[2:4]):
            env.reset()
    state = EnvState.from_dict(json.loads(json.dumps(env.get_state(include_rng=True).to_dict())))
    first = play(env, suffix)
    env.set_state(state)
    assert data_equivalence(play(env, suffix), first, exact=True)
    other = make_env(**KINDS[kind], max_new_tokens=20)
    other.reset(seed=9)
    other.set_state(state)
    assert data_equivalence(play(other, suffix), first, exact=True)


def play(env, tokens):
    seen = []
    for token in tokens:
        seen.append(env.step(token if env.action_masks()[token] else A))  # an end that comes too early
        if seen[-1][2] or seen[-1][3]:
            seen.append(env.last_episode.to_dict())
            seen.append(env.reset())
    return seen


@pytest.mark.parametrize("prefix", [[], [A, B]])
def test_steps_are_part_of_the_state(prefix):
    def steps_to_the_end(env):
        for count in range(1, 10):
            if env.step(A)[3]:
                return count

    env = make_env(max_new_tokens=9, max_episode_steps=4)
    env.reset(options={"prompt": "a", "prefix": prefix})
    env.step(B)
    state = EnvState.from_dict(json.loads(json.dumps(env.get_state().to_dict())))
    assert steps_to_the_end(env) == 3
    env.set_state(state)
    assert steps_to_the_end(env) == 3
    env.set_state(state)
    assert steps_to_the_end(env.fork(1)[0]) == 3
    envs = make_envs(2, max_new_tokens=9, max_episode_steps=4)
    envs.reset(seed=0, options={"states": [None, state]})
    ends = [envs.step(np.array([A, A]))[3].tolist() for _ in range(4)]
    assert ends == [[False, False], [False, False], [False, True], [True, False]]
    old = state.to_dict()
    del old["steps"], old["wrappers"]
    env.set_state(EnvState.from_dict(old))
    assert steps_to_the_end(env) == 3 - len(prefix)


def uniform(tokens, lengths):
    return np.full((len(tokens), 9), -np.log(9.0))


def leaning(tokens, lengths):
    return np.tile(np.log(np.arange(1.0, 10.0) / 45), (len(tokens), 1))


WRAPPED = {
    "single": (make_env, wrappers.KLPenalty, wrappers.RecordTrajectories),
    "vector": (lambda **options: make_envs(1, **options), vector.KLPenalty, vector.RecordTrajectories),
}


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("by_reset", [False, True])
def test_wrappers_know_of_a_restored_episode(kind, by_reset, tmp_path):
    """The penalty paid with the last token is that of the whole answer, and so is what is recorded."""
    make, penalty, record = WRAPPED[kind]

    def build(name):
        inner = penalty(make(), uniform, leaning, coef=1.0, placement="last")
        outer = penalty(inner, leaning, uniform, coef=0.0)  # a second one of the same kind
        return record(outer, tmp_path / f"{name}.jsonl")

    def act(env, tokens):
        return [float(np.sum(env.step(np.array([t]) if kind == "vector" else t)[1])) for t in tokens]

    env, other = build("one"), build("other")
    env.reset(seed=0)
    act(env, [A, B])
    state = env.unwrapped.get_state(*([0] if kind == "vector" else []))
    state = EnvState.from_dict(json.loads(json.dumps(state.to_dict())))
    assert sorted(state.wrappers or {}) == ["KLPenaltyHook", "KLPenaltyHook 2", "RecordHook"]
    expected = act(env, [C, EOS])
    assert abs(expected[-1]) > 0.1
    other.reset(seed=4)
    act(other, [X])
    if by_reset:
        other.reset(options={"state": state})
    else:
        other.unwrapped.set_state(*([0] if kind == "vector" else []), state)
    assert act(other, [C, EOS]) == expected
    env.close()
    other.close()
    (one,), (again,) = (read_episodes(tmp_path / f"{name}.jsonl") for name in ("one", "other"))
    assert one == again


def test_state_holds_no_generator_unless_asked():
    env = make_env()
    env.reset(seed=0)
    assert env.get_state().rng_state is None
    assert env.get_state(include_rng=True).rng_state is not None


def test_restoring_calls_no_model():
    calls = []

    def reward(prompts, responses):
        calls.append(responses)
        return [1.0] * len(responses)

    env = make_env(reward=reward)
    env.reset(seed=0)
    env.step(A)
    state = env.get_state()
    env.set_state(state)
    env.fork(3)
    assert not calls


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector_slots_take_states_of_each_other_and_of_single_environments(mode):
    envs, env = make_envs(3, autoreset_mode=mode), make_env()
    envs.reset(seed=0)
    env.reset(seed=5)
    write(env, [A, B])
    envs.step(np.array([X, X, X]))
    envs.set_state(0, env.get_state())
    envs.set_state(2, envs.get_state(0))
    observations, rewards, terminated, *_ = envs.step(np.array([EOS, A, EOS]))
    single = env.step(EOS)
    assert terminated.tolist() == [True, False, True]
    assert rewards.tolist() == [single[1], 0.0, single[1]]
    if mode is not AutoresetMode.SAME_STEP:
        np.testing.assert_array_equal(observations[0], single[0])
        np.testing.assert_array_equal(observations[2], single[0])


def test_vector_state_with_generator_repeats_later_prompts():
    envs = make_envs(2, autoreset_mode=AutoresetMode.SAME_STEP)
    envs.reset(seed=0)
    states = [envs.get_state(slot, include_rng=True) for slot in range(2)]
    first = [envs.step(np.full(2, EOS)) for _ in range(6)]
    for slot, state in enumerate(states):
        envs.set_state(slot, state)
    assert data_equivalence([envs.step(np.full(2, EOS)) for _ in range(6)], first, exact=True)


def test_state_of_an_ended_episode_stays_ended():
    envs = make_envs(2)
    envs.reset(seed=0)
    envs.step(np.array([EOS, A]))
    state = envs.get_state(0)
    again = make_envs(2)
    again.reset(seed=0)
    again.set_state(1, state)
    _, _, _, _, infos = again.step(np.array([A, A]))
    assert infos["response_tokens"].tolist() == [1, 0]  # slot 1 was reset by this step


def test_fork_leaves_the_parent_bit_identical():
    env, untouched = make_env(), make_env()
    for each in (env, untouched):
        each.reset(seed=3)
        each.step(A)
    forks = env.fork(3)
    for i, fork in enumerate(forks):
        observation = fork.step(B + i)[0]
        assert observation.tolist() == [*env.slots.tokens[0, : env.slots.lengths[0]], B + i] + [0] * (
            len(observation) - env.slots.lengths[0] - 1
        )
        fork.reset()
    assert data_equivalence(play(env, [C, EOS, A]), play(untouched, [C, EOS, A]), exact=True)


def test_forks_deal_prompts_of_their_own_reproducibly():
    env = make_env(prompts=[[A] * (i + 1) for i in range(50)])
    env.reset(seed=3)

    def dealt():
        return [[fork.reset()[1]["prompt_index"] for _ in range(5)] for fork in env.fork(3)]

    first = dealt()
    assert first == dealt()
    assert len({tuple(order) for order in first}) == 3


def test_vector_fork_gives_n_slots_at_the_same_place():
    envs, untouched = make_envs(2), make_envs(2)
    for each in (envs, untouched):
        each.reset(seed=3)
        each.step(np.array([A, AB]))
    fork = envs.fork(1, 4)
    observations, *_ = fork.step(np.array([A, B, C, EOS]))
    length = envs.lengths[1]
    assert fork.num_envs == 4
    assert observations[:, length].tolist() == [A, B, C, EOS]
    for row in observations:
        np.testing.assert_array_equal(row[:length], envs.slots.tokens[1, :length])
    assert data_equivalence(envs.step(np.array([EOS, A])), untouched.step(np.array([EOS, A])), exact=True)
    assert data_equivalence(envs.reset(), untouched.reset(), exact=True)


@pytest.mark.parametrize("prefix", [[A, B], "ab"], ids=["ids", "text"])
def test_reset_with_prompt_and_prefix(prefix):
    env = make_env(max_prompt_tokens=4)
    observation, info = env.reset(options={"prompt": "xx", "prefix": prefix})
    answered = env.get_state().response_ids
    assert observation.tolist()[: info["length"]] == [X, X, *answered]
    assert (info["response_tokens"], info["prompt_index"]) == (len(answered), -1)
    for _ in range(4 - len(answered)):
        assert not env.step(C)[2]
    assert env.step(C)[2]
    assert env.last_episode is not None
    assert env.last_episode.response == "ab" + "c" * (5 - len(answered))


def test_reset_with_index_state_and_lists():
    env = make_env()
    assert env.reset(options={"prompt_index": 2})[1]["prompt_index"] == 2
    env.step(A)
    state = env.get_state()
    assert env.reset(options={"state": state})[1]["response_tokens"] == 1
    envs = make_envs(3)
    options = {"prompts": ["x", None, None], "prompt_indices": [None, 3, None], "prefixes": [None, [A], None]}
    _, infos = envs.reset(seed=0, options=options)
    assert infos["prompt_index"].tolist()[:2] == [-1, 3]
    assert infos["response_tokens"].tolist() == [0, 1, 0]
    _, infos = envs.reset(options={"prompt_index": 1})
    assert infos["prompt_index"].tolist() == [1, 1, 1]


def test_cost_of_a_state_does_not_depend_on_the_prompts():
    env = make_env(prompts=[[A]] * 1000, max_new_tokens=64)
    env.reset(seed=0)
    start = time.perf_counter()
    for _ in range(100):
        env.set_state(env.get_state())
    assert time.perf_counter() - start < 1.0


def test_reset_to_a_state_goes_on_with_its_order_of_prompts():
    env = make_env()
    env.reset(seed=3)
    state = env.get_state(include_rng=True)

    def following():
        return [env.reset()[1]["prompt_index"] for _ in range(6)]

    expected = following()
    env.reset(seed=8)
    env.reset(options={"state": state})
    assert following() == expected


def test_reset_to_an_ended_state_is_followed_by_the_autoreset():
    envs = make_envs(2, autoreset_mode=AutoresetMode.NEXT_STEP)
    envs.reset(seed=0)
    envs.step(np.array([EOS, A]))
    states = [envs.get_state(0), envs.get_state(1)]
    envs.reset(seed=1, options={"states": states})
    _, rewards, *_, infos = envs.step(np.array([A, A]))
    assert rewards[0] == 0
    assert infos["response_tokens"].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"prompts": ["a"], "max_new_tokens": 9}, "max_new_tokens is 3 here"),
        ({"vocab": True}, "the state holds the id"),
    ],
    ids=["too many tokens", "foreign id"],
)
def test_state_of_another_task_is_refused(source, message):
    from textenv.envs import ToyTokenizer

    target = make_env(prompts=["a"], max_new_tokens=3, max_prompt_tokens=8)
    if source.pop("vocab", False):
        other = make_env(tokenizer=ToyTokenizer(tuple("abcdefghijklmn")), prompts=["n"])
    else:
        other = make_env(**source)
    other.reset(seed=0)
    for _ in range(4):
        other.step(A)
    with pytest.raises(ConfigError, match=message):
        target.set_state(other.get_state())
