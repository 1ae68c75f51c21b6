"""Properties over random token sequences, stops, lengths and autoreset modes."""

from typing import Any

import numpy as np
import pytest
from gymnasium.error import InvalidAction
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles.reference_episode import Rules, outcome, text_of
from tests.textenv.envs.helpers import EOS, length_reward, make_env, make_envs, tokenizer
from textenv import FinishReason

TOKENS = st.integers(1, 8)
STOPS = st.lists(st.sampled_from(["abc", "\n", "bb", "ca", "xab"]), max_size=2, unique=True).map(tuple)
MODES = st.sampled_from(list(AutoresetMode))
quick = settings(max_examples=80, deadline=None)


@quick
@given(
    st.lists(TOKENS, min_size=1, max_size=40),
    STOPS,
    st.integers(1, 9),
    st.integers(0, 4),
    st.integers(0, 99),
)
def test_single_environment_follows_the_rules(actions, stops, max_new_tokens, min_new_tokens, seed):
    min_new_tokens = min(min_new_tokens, max_new_tokens)
    env = make_env(stop=stops, max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens)
    rules = Rules(tokenizer().pieces, EOS, max_new_tokens, stops, min_new_tokens)
    env.reset(seed=seed)
    prompt, written = env.get_state().prompt, []
    for action in actions:
        if action == EOS and len(written) < min_new_tokens:
            with pytest.raises(InvalidAction, match="before min_new_tokens"):
                env.step(action)
            continue
        written.append(action)
        observation, reward, terminated, truncated, info = env.step(action)
        reason = outcome(rules, written)
        kept = [*prompt.ids, *written]
        assert observation.tolist() == kept + [0] * (len(observation) - len(kept))
        assert (info["finish_reason"], terminated, truncated) == (reason, reason != FinishReason.RUNNING, False)
        if not terminated:
            assert reward == info["score"] == 0.0
            continue
        episode = env.last_episode
        assert episode is not None
        assert episode.response == text_of(rules, written)
        assert episode.response_ids == tuple(written)
        assert reward == info["score"] == episode.score == length_reward([prompt.text], [episode.response])[0]
        env.reset()
        prompt, written = env.get_state().prompt, []


@quick
@given(
    st.lists(st.lists(TOKENS, min_size=3, max_size=3), min_size=1, max_size=30),
    STOPS,
    st.integers(1, 6),
    MODES,
    st.integers(0, 99),
)
def test_vector_environment_equals_separate_single_ones(rows, stops, max_new_tokens, mode, seed):
    envs = make_envs(3, stop=stops, max_new_tokens=max_new_tokens, autoreset_mode=mode)
    singles = [make_env(stop=stops, max_new_tokens=max_new_tokens) for _ in range(3)]
    observations = envs.reset(seed=seed)[0]
    expected = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(singles)])
    np.testing.assert_array_equal(observations, expected)
    over = np.zeros(3, dtype=bool)
    for row in rows:
        observations, rewards, terminated, truncated, infos = envs.step(np.array(row))
        was_over = over.copy()
        for i, (env, action) in enumerate(zip(singles, row, strict=True)):
            if mode is AutoresetMode.NEXT_STEP and was_over[i]:
                single: Any = (env.reset()[0], 0.0, False, False)
                over[i] = False
            else:
                single = env.step(action)
                over[i] = single[2] or single[3]
                assert envs.last_episodes[i] == env.last_episode
            assert (rewards[i], terminated[i], truncated[i]) == single[1:4]
            if mode is AutoresetMode.SAME_STEP and over[i]:
                np.testing.assert_array_equal(infos["final_obs"][i], single[0])
                assert infos["final_info"]["score"][i] == single[4]["score"]
                single = (env.reset()[0],)
            np.testing.assert_array_equal(observations[i], single[0])
        if mode is AutoresetMode.DISABLED and over.any():
            observations, _ = envs.reset(options={"reset_mask": over})
            for i in np.flatnonzero(over):
                np.testing.assert_array_equal(observations[i], singles[i].reset()[0])
            over[:] = False


@quick
@given(st.lists(st.lists(TOKENS, min_size=4, max_size=4), min_size=1, max_size=40), STOPS, MODES)
def test_every_episodes_reward_arrives_once_and_only_once(rows, stops, mode):
    scored = []

    def reward(prompts, responses):
        scored.extend(responses)
        return [100.0 + len(scored) - len(responses) + i for i in range(len(responses))]  # every score is unique

    envs = make_envs(4, stop=stops, autoreset_mode=mode, reward=reward)
    envs.reset(seed=0)
    paid, ended = [], 0
    for row in rows:
        _, rewards, terminated, truncated, _ = envs.step(np.array(row))
        over = terminated | truncated
        paid.extend(rewards[rewards != 0].tolist())
        ended += int(over.sum())
        np.testing.assert_array_equal(rewards != 0, terminated)
        if mode is AutoresetMode.DISABLED and over.any():
            envs.reset(options={"reset_mask": over})
    assert len(scored) == len(paid) == ended
    assert sorted(paid) == [100.0 + i for i in range(ended)]


@quick
@given(
    st.lists(TOKENS, min_size=1, max_size=25),
    st.lists(st.lists(TOKENS, min_size=2, max_size=2), min_size=25, max_size=25),
    MODES,
)
def test_nothing_leaks_from_one_slot_into_another(own, others, mode):
    """What a slot sees does not depend on what the others do."""
    one = make_envs(3, autoreset_mode=mode, stop="ab")
    two = make_envs(3, autoreset_mode=mode, stop="ab")
    one.reset(seed=2)
    two.reset(seed=2)
    for action, rest in zip(own, others, strict=False):
        first, second = one.step(np.array([2, action, 3])), two.step(np.array([rest[0], action, rest[1]]))
        assert data_equivalence([part[1] for part in first[:4]], [part[1] for part in second[:4]])
        if mode is AutoresetMode.DISABLED:
            for envs, step in ((one, first), (two, second)):
                over = step[2] | step[3]
                if over.any():
                    envs.reset(options={"reset_mask": over})


@pytest.mark.parametrize("observation", ["tokens", "dict"])
@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_what_was_returned_is_never_changed_later(observation, padding_side, mode):
    envs = make_envs(3, observation=observation, padding_side=padding_side, autoreset_mode=mode, info_level="full")
    kept, copies = [], []
    rng = np.random.default_rng(0)
    call = envs.reset(seed=0)
    for _ in range(30):
        kept.append(call)
        copies.append(frozen_copy(call))
        call = envs.step(rng.integers(1, 9, size=3))
        over = call[2] | call[3]
        if mode is AutoresetMode.DISABLED and over.any():
            call = envs.reset(options={"reset_mask": over})
    assert data_equivalence([frozen_copy(c) for c in kept], copies, exact=True)
    arrays = [array for call in kept for array in arrays_of(call)]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


def arrays_of(data):
    if isinstance(data, np.ndarray):
        return [data] if data.dtype != object else [a for a in data if isinstance(a, np.ndarray)]
    values = data.values() if isinstance(data, dict) else data if isinstance(data, tuple) else ()
    return [array for value in values for array in arrays_of(value)]


def frozen_copy(data):
    if isinstance(data, np.ndarray):
        return repr(data.tolist())
    if isinstance(data, dict):
        return {key: frozen_copy(value) for key, value in data.items()}
    return tuple(frozen_copy(value) for value in data) if isinstance(data, tuple) else data
