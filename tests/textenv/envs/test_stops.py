"""Stop strings are matched on text, and text is made only where that is needed."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from tests.textenv.envs.helpers import AB, EOS, A, B, C, make_env, make_envs
from textenv import ConfigError
from textenv.answers.stops import StopMatcher, token_pieces
from textenv.envs import ToyTokenizer


class Spying(ToyTokenizer):
    decoded = 0

    def decode(self, token_ids, *, skip_special_tokens=False):
        self.decoded += 1
        return super().decode(token_ids, skip_special_tokens=skip_special_tokens)


def test_text_is_made_only_when_an_episode_ends():
    spy = Spying(("a", "b", "c"))
    envs = make_envs(3, tokenizer=spy, prompts=["a", "b"], autoreset_mode=AutoresetMode.SAME_STEP)
    envs.reset(seed=0)
    for _ in range(4):
        envs.step(np.array([2, 3, 4]))
    assert spy.decoded == 0
    envs.step(np.array([2, 3, EOS]))
    assert spy.decoded > 0


def test_text_is_made_only_where_a_stop_string_could_match():
    spy = Spying(("a", "b", "c", "xb"))
    env = make_env(tokenizer=spy, prompts=["a"], stop="ab", max_new_tokens=50)
    env.reset(seed=0)
    env.step(4)  # makes the table of pieces
    before = spy.decoded
    for token in [2, 4, 5, 2] * 5:  # none of them ends with or begins a completion of "ab"
        env.step(token)
    assert spy.decoded == before
    assert env.step(3)[2]


def test_stop_matcher_decodes_only_the_end():
    class Counting(ToyTokenizer):
        longest = 0

        def decode(self, token_ids, *, skip_special_tokens=False):
            self.longest = max(self.longest, len(token_ids))
            return super().decode(token_ids, skip_special_tokens=skip_special_tokens)

    counting = Counting(("a", "b", "c"))
    matcher = StopMatcher(counting, ["abc"])
    assert matcher.could_end.tolist() == [False, False, False, False, True]
    assert not matcher.matches([2] * 5000)
    assert matcher.matches([2] * 5000 + [2, 3, 4])
    assert counting.longest < 12


def test_pieces_keep_the_space_that_a_lone_token_loses():
    class Metaspace(ToyTokenizer):
        def decode(self, token_ids, *, skip_special_tokens=False):
            return super().decode(token_ids, skip_special_tokens=skip_special_tokens).removeprefix(" ")

    assert token_pieces(Metaspace(("a", " b")))[2:] == ["a", " b"]
    env = make_env(tokenizer=Metaspace(("a", "b", " b")), prompts=["a"], stop=" b")
    env.reset(seed=0)
    assert not env.step(3)[2]
    assert env.step(4)[2]


def test_incomplete_characters_may_complete_a_stop_string():
    class Bytes(ToyTokenizer):
        def decode(self, token_ids, *, skip_special_tokens=False):
            return bytes(i for i in token_ids if i > 1).decode("utf-8", "replace")

        def __len__(self):
            return 256

    tokens = list("né".encode())
    env = make_env(tokenizer=Bytes(()), prompts=[[65]], stop="é")
    env.reset(seed=0)
    assert [env.step(t)[2] for t in tokens] == [False, False, True]
    assert env.last_episode is not None
    assert env.last_episode.response == "n"


def test_stop_string_inside_the_protected_beginning_does_not_count_later():
    env = make_env(stop="ab", min_new_tokens=3, max_new_tokens=5)
    env.reset(seed=0)
    for action in (AB, C, B):
        _, _, terminated, _, info = env.step(action)
    assert not terminated
    assert info["finish_reason"] == 0
    _, _, terminated, _, _ = env.step(AB)
    assert terminated
    assert env.get_wrapper_attr("last_episode").response == "abcb"


def test_prefix_that_holds_a_stop_string_is_refused():
    env = make_env(stop="ab")
    with pytest.raises(ConfigError, match="the prefix 'abc' holds a stop string"):
        env.reset(options={"prefix": [AB, C]})


def test_turn_that_ends_on_the_step_limit_is_cut_off_there():
    env = make_env(responder=lambda episode: "x", max_turns=5, max_new_tokens=9, max_episode_steps=2)
    env.reset(seed=0)
    env.step(A)
    _, reward, terminated, truncated, _ = env.step(EOS)
    assert (reward, terminated, truncated) == (0.0, False, True)


def test_prefix_tokens_are_no_steps():
    env = make_env(max_new_tokens=9, max_episode_steps=2)
    env.reset(options={"prefix": [A, B, C]})
    assert not env.step(A)[3]
    assert env.step(A)[3]
