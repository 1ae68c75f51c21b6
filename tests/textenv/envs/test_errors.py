"""Every mistake gives an error that names the slot or argument, the value and the remedy."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode

from tests.textenv.envs.helpers import EOS, A, make_env, make_envs, tokenizer
from textenv import ConfigError, DataError, RewardError
from textenv.envs import IDLE


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (9, r"action 9 of slot 0 is no token: the tokenizer has 9 \(0 … 8\).*action_masks"),
        (-1, r"action -1 of slot 0 is no token"),
        (1.0, r"the action of slot 0 must be one integer token id, got 1\.0"),
        (np.float32(2), r"must be one integer token id"),
        ([2], r"must be one integer token id, got \[2\]"),
        (True, r"must be one integer token id"),
        ("a", r"must be one integer token id"),
    ],
)
def test_bad_action_of_a_single_environment_is_refused(action, message):
    env = make_env()
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match=message):
        env.step(action)
    assert env.step(A)[4]["response_tokens"] == 1  # the refused action changed nothing


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([2, 9, 2], r"action 9 of slot 1 is no token"),
        ([2, 2, -3], r"action -3 of slot 2 is no token"),
        ([2, 2], r"must have shape \(3,\), one token id per slot, got \(2,\)"),
        ([[2], [2], [2]], r"must have shape \(3,\)"),
        ([2.5, 2.0, 2.0], r"must be integer token ids, got dtype float64; slot 0 has .*2\.5"),
        ([True, True, False], r"got dtype bool"),
        ([2, IDLE, 2], r"action -1 \(idle\) of slot 1 needs AutoresetMode\.DISABLED"),
    ],
)
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_bad_actions_of_a_vector_environment_are_refused(actions, message, mode):
    envs = make_envs(3, autoreset_mode=mode)
    envs.reset(seed=0)
    if mode is AutoresetMode.NEXT_STEP and IDLE in actions:
        message = "action -1 of slot 1"
    with pytest.raises(InvalidAction, match=message):
        envs.step(np.array(actions))
    assert envs.step(np.array([A, A, A]))[4]["response_tokens"].tolist() == [1, 1, 1]


def test_stepping_before_the_first_reset_is_refused():
    with pytest.raises(ResetNeeded, match="slot 0 was never reset"):
        make_env().step(A)
    with pytest.raises(ResetNeeded, match="slot 0 was never reset"):
        make_envs().step(np.array([A, A, A]))


def test_stepping_after_the_end_is_refused():
    env = make_env()
    env.reset(seed=0)
    env.step(EOS)
    with pytest.raises(ResetNeeded, match=r"the episode in slot 0 has ended \(EOS\); reset it"):
        env.step(A)


def test_stepping_an_ended_slot_without_autoreset_is_refused():
    envs = make_envs(3, autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=0)
    envs.step(np.array([A, EOS, A]))
    with pytest.raises(ResetNeeded, match=r"the episode in slot 1 has ended \(EOS\)"):
        envs.step(np.array([A, A, A]))
    assert envs.step(np.array([A, IDLE, A]))[4]["response_tokens"].tolist() == [2, 1, 2]


def test_policy_vocabulary_larger_than_the_tokenizer_is_named():
    env = make_env(vocab_size=16)
    assert env.action_space == gym.spaces.Discrete(16)
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="action 12 of slot 0 is no token: the tokenizer has 9"):
        env.step(12)
    assert env.action_masks().tolist() == [False] + [True] * 8 + [False] * 7


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"max_new_tokens": 0}, ConfigError, "max_new_tokens must be an integer ≥ 1, got 0"),
        ({"max_new_tokens": 2.5}, ConfigError, "max_new_tokens must be an integer ≥ 1, got 2.5"),
        ({"min_new_tokens": 9}, ConfigError, "min_new_tokens must not exceed max_new_tokens, got 9 > 5"),
        ({"max_prompt_tokens": 0}, ConfigError, "max_prompt_tokens must be an integer ≥ 1"),
        ({"vocab_size": 5}, ConfigError, "vocab_size is 5, but the tokenizer has 9 tokens"),
        ({"eos_token_id": 40}, ConfigError, "eos_token_id 40 is no token"),
        ({"pad_token_id": EOS}, ConfigError, "pad_token_id 1 is an end-of-sequence token"),
        ({"pad_token_id": 99}, ConfigError, r"pad_token_id must lie in 0 … 9 \(vocab_size\), got 99"),
        ({"stop": [""]}, ConfigError, "stop strings must be texts that are not empty"),
        ({"observation": "image"}, ConfigError, "observation must be one of 'tokens', 'dict', 'text', got 'image'"),
        ({"obs_dtype": "float16"}, ConfigError, "obs_dtype must be one of"),
        ({"padding_side": "up"}, ConfigError, "padding_side must be one of 'right', 'left'"),
        ({"render_mode": "png"}, ConfigError, "render_mode must be one of"),
        ({"tokenizer": object()}, ConfigError, "object is no tokenizer: it lacks encode, decode"),
        ({"prompts": []}, DataError, "there are no prompts"),
        ({"prompts": ["a", ""]}, DataError, r"prompt 1 \(''\) has no tokens"),
        ({"prompts": [[2], [3, 77]]}, DataError, "prompt 1 contains the id 77, but the tokenizer has 9"),
        ({"prompts": ["a"], "chat": True}, ConfigError, "chat prompts need a chat template, which ToyTokenizer lacks"),
        (
            {"prompts": ["a", "x" * 50], "max_prompt_tokens": 7},
            DataError,
            r"prompt 1 \('x+…'\) has 50 tokens, more than max_prompt_tokens = 7; raise it, .*truncate_prompts='left'",
        ),
    ],
)
def test_unusable_arguments_are_refused(changes, kind, message):
    with pytest.raises(kind, match=message):
        make_env(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_envs": 0}, "num_envs must be ≥ 1, got 0"),
        ({"prompt_dealing": "random"}, "prompt_dealing must be 'per_slot' or 'shared'"),
        ({"render_mode": "png"}, "render_mode must be one of"),
    ],
)
def test_unusable_vector_arguments_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        make_envs(**({"num_envs": 2} | changes))


def test_unknown_argument_is_refused():
    with pytest.raises(TypeError, match="max_new_token"):
        make_env(max_new_token=3)


class Endless:
    """A source that deals for itself, with more prompts than anybody could look at."""

    def __init__(self, text="xxxxxx", size=10**15):
        self.text, self.size = text, size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return self.text

    def sample(self, rng):
        return int(rng.integers(self.size))


def test_long_prompt_of_an_endless_source_is_named_when_it_is_dealt():
    env = make_env(prompts=Endless(), max_prompt_tokens=5)
    with pytest.raises(DataError, match=r"prompt \d+ \('xxxxxx'\) has 6 tokens"):
        env.reset(seed=0)
    with pytest.raises(DataError, match=r"prompt 0 \('xxxxxx'\) has 6 tokens"):
        make_env(prompts=Endless(size=3), max_prompt_tokens=5)
    with pytest.raises(ConfigError, match="on_long_prompt='drop' needs prompts that the environment deals; a Endless"):
        make_env(prompts=Endless(), max_prompt_tokens=5, on_long_prompt="drop")
    cut = make_env(prompts=Endless(), max_prompt_tokens=5, on_long_prompt="truncate")
    assert cut.reset(seed=0)[1]["prompt_tokens"] == 5
    with pytest.raises(ConfigError, match="give max_prompt_tokens"):
        make_env(prompts=Endless())


@pytest.mark.parametrize("make", [make_env, make_envs])
@pytest.mark.parametrize(("bad", "message"), [("xxxxxx", "has 6 tokens"), ("", "has no tokens")])
def test_unusable_prompt_of_a_large_set_is_named_before_training(make, bad, message):
    prompts = ["x"] * 3000
    prompts[2900] = bad
    with pytest.raises(DataError, match=f"prompt 2900 .*{message}"):
        make(prompts=prompts, max_prompt_tokens=5)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"on_long_prompt": "drop"}, None),
        ({"on_long_prompt": "truncate"}, [4, 2]),
        ({"truncate_prompts": "left"}, [4, 2]),
        ({"truncate_prompts": "right"}, [5, 4]),
        ({"truncate_prompts": "right", "on_long_prompt": "truncate"}, [5, 4]),
    ],
)
def test_long_prompts_are_dropped_or_truncated_and_counted(how, expected, caplog):
    env = make_envs(2, prompts=["a", "abcabca", "c", "bcbcbcx"], max_prompt_tokens=2, prompt_dealing="shared", **how)
    done = "truncated" if expected else "never dealt"
    assert caplog.messages == [
        f"2 of 4 prompts have more than max_prompt_tokens = 2 tokens and are {done}; the first: prompt 1, with 5"
    ]
    seen = {int(i) for _ in range(8) for i in env.reset()[1]["prompt_index"]}
    assert seen == ({0, 1, 2, 3} if expected else {0, 2})
    if expected:
        assert env.reset(options={"prompt_index": 1})[0][0, :2].tolist() == expected
    else:
        with pytest.raises(DataError, match=r"prompt 1 .* has 5 tokens"):
            env.reset(options={"prompt_index": 1})


def test_long_prompts_are_told_in_one_way_only():
    with pytest.raises(ConfigError, match="on_long_prompt='drop' and truncate_prompts='left' contradict each other"):
        make_env(on_long_prompt="drop", truncate_prompts="left")
    with pytest.raises(ConfigError, match="on_long_prompt must be one of"):
        make_env(on_long_prompt="cut")
    with pytest.raises(DataError, match=r"prompt 0 .* has no tokens"):
        make_env(prompts=["", "abcabc"], max_prompt_tokens=2, on_long_prompt="drop")
    with pytest.raises(DataError, match="all 2 prompts are dropped"):
        make_env(prompts=["abcabc"] * 2, max_prompt_tokens=2, on_long_prompt="drop")


def test_long_prompt_of_a_large_tokenised_set_is_named_at_construction():
    with pytest.raises(DataError, match=r"prompt 1999 .* has 6 tokens"):
        make_env(prompts=[[A]] * 1999 + [[A] * 6], max_prompt_tokens=5)


@pytest.mark.parametrize(("side", "expected"), [("left", [4, 8]), ("right", [2, 3])])
def test_long_prompts_can_be_truncated(side, expected):
    env = make_env(prompts=[[2, 3, 4, 8]], max_prompt_tokens=2, truncate_prompts=side)
    assert env.reset(seed=0)[0][:2].tolist() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"promt": "a"}, "unknown reset option 'promt'; known: prompt, prompt_index"),
        ({"prompt_index": 4}, "prompt_index must lie in 0 … 3, got 4"),
        ({"prompt": "a", "prompt_index": 0}, "reset options 'prompt' and 'prompt_index' contradict each other"),
        ({"prefix": [2] * 5}, "the prefix has 5 tokens, but only max_new_tokens - 1 = 4"),
        ({"prefix": [EOS]}, "the prefix holds 1, which is no token of an answer that goes on"),
        ({"prefix": [99]}, "the prefix holds 99"),
        ({"state": 5}, "must be an EnvState, got int"),
        ({"prompts": ["a", "b"]}, "the reset option 'prompts' has 2 entries for 1 slots"),
    ],
)
def test_unusable_reset_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make_env().reset(options=options)


@pytest.mark.parametrize(
    "mask", [[True, False, True], np.array([1, 0, 1]), np.array([True, False]), np.zeros(3, dtype=bool)]
)
def test_unusable_reset_masks_are_refused(mask):
    with pytest.raises(ConfigError, match="reset_mask must be"):
        make_envs(3).reset(options={"reset_mask": mask})


def test_seeds_of_the_wrong_number_are_refused():
    with pytest.raises(ConfigError, match="there are 2 seeds for 3 slots"):
        make_envs(3).reset(seed=[1, 2])


def test_failing_reward_names_prompt_and_response():
    def reward(prompts, responses):
        raise ZeroDivisionError("by nothing")

    env = make_env(reward=reward, prompts=["bc"])
    env.reset(seed=0)
    env.step(A)
    with pytest.raises(RewardError, match="raised ZeroDivisionError: by nothing; prompt 'bc', response 'a'"):
        env.step(EOS)


def test_state_of_another_task_is_refused():
    env, larger = make_env(), make_env(max_new_tokens=50)
    larger.reset(seed=0)
    for _ in range(20):
        larger.step(A)
    with pytest.raises(ConfigError, match=r"the state has .* prompt tokens and .* in all"):
        env.set_state(larger.get_state())
    other = make_env(responder=lambda episode: None)
    other.reset(seed=0)
    with pytest.raises(ConfigError, match="the state's action_mask does not fit"):
        env.set_state(other.get_state())


def test_tokenizer_without_a_known_name_is_refused(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(ConfigError, match="cannot load the tokenizer"):
        make_env(tokenizer=str(tmp_path / "nothing"))


def test_responder_that_returns_nonsense_is_refused():
    env = make_env(responder=lambda episode: [99])
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"the responder must return a text, token ids or None, got \[99\]"):
        env.step(EOS)


def test_fork_of_nothing_is_refused():
    env = make_env()
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="fork needs n ≥ 1, got 0"):
        env.fork(0)
    with pytest.raises(ResetNeeded, match="never reset; call reset"):
        make_env(tokenizer=tokenizer()).get_state()


def test_ragged_actions_are_refused():
    envs = make_envs(2)
    envs.reset(seed=0)
    with pytest.raises(InvalidAction, match=r"must be one token id per slot, got \[\[2\], 3\]"):
        envs.step([[A], 3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix": 5}, "'prefix' must be a text or token ids, got 5"),
        ({"states": 5}, "'states' must be a list with one entry per slot, got 5"),
        ({"prompts": "ab"}, "'prompts' must be a list with one entry per slot, got 'ab'"),
    ],
)
def test_reset_options_of_the_wrong_kind_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make_env().reset(options=options)


def test_unknown_autoreset_mode_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"autoreset_mode must be one of .*got 'SAME'"):
        make_envs(2, autoreset_mode="SAME")


def test_prompts_as_a_mapping_of_splits_are_refused():
    with pytest.raises(DataError, match=r"got a mapping with \['test', 'train'\]; choose one of its splits"):
        make_env(prompts={"train": ["a"], "test": ["b"]})
