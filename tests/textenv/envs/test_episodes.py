"""How episodes end, what they pay, and what is recorded: stops, turns, dense rewards, limits."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from tests.textenv.envs.helpers import AB, BC, EOS, NEWLINE, PAD, A, B, C, X, make_env, make_envs, write, write_all
from textenv import FinishReason
from textenv.envs import IDLE, ToyTokenizer


@pytest.mark.parametrize(
    ("tokens", "reason", "response"),
    [
        ([A, EOS], FinishReason.EOS, "a"),
        ([EOS], FinishReason.EOS, ""),
        ([A, A, A, A, EOS], FinishReason.EOS, "aaaa"),
        ([A, A, A, A, A], FinishReason.LENGTH, "aaaaa"),
        ([X, A, BC], FinishReason.STOP, "x"),
        ([X, AB, C], FinishReason.STOP, "x"),
        ([A, B, C], FinishReason.STOP, ""),
        ([A, A, A, A, NEWLINE], FinishReason.STOP, "aaaa"),
    ],
    ids=[
        "eos",
        "eos-at-once",
        "eos-at-limit",
        "limit",
        "stop-spans-2",
        "stop-spans-2-more",
        "spans-3",
        "stop-at-limit",
    ],
)
def test_ends_of_episodes(tokens, reason, response):
    env = make_env(stop=["abc", "\n"], prompts=["x"])
    env.reset(seed=0)
    _, reward, terminated, truncated, info = write(env, tokens)
    assert (terminated, truncated, info["finish_reason"]) == (True, False, reason)
    assert reward == info["score"] == len(response) + 0.125
    episode = env.last_episode
    assert episode is not None
    assert (episode.response, episode.response_ids, episode.finish_reason) == (response, tuple(tokens), reason)


def test_length_limit_that_truncates_pays_nothing():
    env = make_env(on_length_limit="truncate")
    env.reset(seed=0)
    _, reward, terminated, truncated, info = write(env, [A] * 5)
    assert (reward, terminated, truncated, info["score"]) == (0.0, False, True, 0.0)
    assert info["finish_reason"] == FinishReason.LENGTH


def test_several_eos_tokens_all_end_the_answer():
    env = make_env(eos_token_id=[EOS, X])
    env.reset(seed=0)
    assert write(env, [A, X])[2]


def test_tokenizer_without_eos_ends_at_the_limit_only():
    free = ToyTokenizer(("a", "b"))
    free.eos_token_id = None
    env = make_env(tokenizer=free, prompts=["a"])
    env.reset(seed=0)
    assert [env.step(1)[2] for _ in range(5)] == [False] * 4 + [True]


# --- minimum length ---------------------------------------------------------------------------------------------------


def test_minimum_length_masks_eos_and_ignores_stops():
    env = make_env(min_new_tokens=2, stop="b", prompts=["x"])
    env.reset(seed=0)
    assert not env.action_masks()[EOS]
    assert not env.step(B)[2]
    assert not env.action_masks()[EOS]
    assert not env.step(A)[2]
    assert env.action_masks()[EOS]
    assert env.step(B)[2]
    assert env.last_episode is not None
    assert env.last_episode.response == "ba"


def test_minimum_length_refuses_an_early_eos():
    from gymnasium.error import InvalidAction

    envs = make_envs(2, min_new_tokens=2)
    envs.reset(seed=0)
    with pytest.raises(InvalidAction, match=r"action 1 of slot 1 ends the answer after 0 tokens, before min"):
        envs.step(np.array([A, EOS]))


# --- padding ----------------------------------------------------------------------------------------------------------


def test_left_padding_keeps_the_newest_token_last():
    env = make_env(padding_side="left", observation="dict", prompts=["bc"], max_prompt_tokens=2, max_new_tokens=3)
    observation = env.reset(seed=0)[0]
    assert observation["tokens"].tolist() == [PAD] * 4 + [BC]
    observation = env.step(A)[0]
    assert observation["tokens"].tolist() == [PAD] * 3 + [BC, A]
    assert observation["attention_mask"].tolist() == [0, 0, 0, 1, 1]
    assert observation["length"].tolist() == [2]


@pytest.mark.parametrize("pad", [None, EOS])
def test_missing_pad_token_is_reserved_above_the_vocabulary(pad):
    own = ToyTokenizer(("a",))
    own.pad_token_id = pad
    env = make_env(tokenizer=own, prompts=["a"], max_new_tokens=2)
    assert env.pad_token_id == 3
    assert env.observation_space.high.tolist() == [3, 3, 3]
    assert env.action_space.n == 3
    env.reset(seed=0)
    observation = env.step(EOS)[0]
    assert observation.tolist() == [2, EOS, 3]
    assert observation in env.observation_space


def test_model_vocabulary_leaves_room_for_the_reserved_pad_token():
    env = make_env(tokenizer=ToyTokenizer(("a",), pad=False), prompts=["a"], vocab_size=8)
    assert env.pad_token_id == 3
    assert env.observation_space.high.max() == 7


# --- rewards ----------------------------------------------------------------------------------------------------------


def test_one_reward_call_scores_all_that_end_in_a_step():
    calls = []

    def reward(prompts, responses):
        calls.append(responses)
        return [1.0] * len(responses)

    envs = make_envs(4, reward=reward, autoreset_mode=AutoresetMode.SAME_STEP)
    envs.reset(seed=0)
    envs.step(np.array([A, EOS, B, EOS]))
    envs.step(np.array([EOS, A, EOS, A]))
    assert calls == [["", ""], ["a", "b"]]


def test_dense_reward_is_paid_at_the_end_and_its_places_are_recorded():
    env = make_env(reward=lambda p, r: [[0.5, 1.0, 0.25]], info_level="full")
    env.reset(seed=0)
    rewards = [env.step(t)[1] for t in (A, B)]
    _, reward, _, _, info = env.step(EOS)
    assert (*rewards, reward, info["score"]) == (0.0, 0.0, 1.75, 1.75)
    assert info["episode_record"].rewards == (0.5, 1.0, 0.25)


def test_token_reward_is_paid_on_its_tokens_step():
    def per_token(step):
        rows = step.tokens[step.rows, step.lengths[step.rows] - 1]
        with pytest.raises(ValueError, match="read-only"):
            step.tokens[0] = 0
        return np.where(rows == A, 1.0, 0.0)

    envs = make_envs(2, token_reward=per_token, reward=lambda p, r: [10.0] * len(r))
    envs.reset(seed=0)
    paid = [envs.step(np.array(row))[1].tolist() for row in ([A, B], [B, A], [A, EOS])]
    assert paid == [[1.0, 0.0], [0.0, 1.0], [1.0, 10.0]]
    episode = envs.last_episodes[1]
    assert episode is not None
    assert (episode.rewards, episode.score) == ((0.0, 1.0, 10.0), 10.0)


def test_token_reward_of_the_wrong_shape_is_refused():
    from textenv import ShapeError

    env = make_env(token_reward=lambda step: np.zeros(3))
    env.reset(seed=0)
    with pytest.raises(ShapeError, match="token_reward must return one finite number for each of 1 slots"):
        env.step(A)


def test_parts_of_a_reward_are_recorded():
    from textenv.rewards import SumReward

    reward = SumReward({"length": lambda p, r: [len(x) for x in r], "one": lambda p, r: [1.0] * len(r)}, [1.0, 0.5])
    env = make_env(reward=reward)
    env.reset(seed=0)
    assert write(env, [A, B, EOS])[1] == 2.5
    assert env.last_episode is not None
    assert env.last_episode.reward_parts == {"length": 2.0, "one": 1.0}


def test_step_in_which_every_slot_is_reset_takes_no_token():
    calls = []

    def per_token(step):
        calls.append(len(step.rows))
        return np.zeros(len(step.rows))

    envs = make_envs(2, token_reward=per_token)
    envs.reset(seed=0)
    write_all(envs, [[EOS, EOS], [A, A]])
    assert calls == [2]
    assert envs.slots.response_tokens.tolist() == [0, 0]


# --- turns ------------------------------------------------------------------------------------------------------------


def test_responder_speaks_after_the_turn_and_its_tokens_are_marked():
    heard = []

    def responder(episode):
        heard.append((episode.response, episode.finish_reason, episode.turns))
        return "bc" if len(heard) == 1 else None

    env = make_env(responder=responder, prompts=["x"], max_reply_tokens=2, max_turns=3, max_prompt_tokens=1)
    env.reset(seed=0)
    assert env.observation_space.shape == (1 + 5 + 2 * 2,)
    env.step(A)
    observation, reward, terminated, _, info = env.step(EOS)
    assert observation.tolist()[:5] == [X, A, EOS, BC, PAD]
    assert (reward, terminated, info["response_tokens"], info["length"]) == (0.0, False, 2, 4)
    _, reward, terminated, _, info = write(env, [B, EOS])
    assert (terminated, info["response_tokens"]) == (True, 4)
    episode = env.last_episode
    assert episode is not None
    assert episode.response == "a\nbc\nb"
    assert episode.response_ids == (A, EOS, BC, B, EOS)
    assert episode.action_mask == (True, True, False, True, True)
    assert (episode.turns, episode.action_tokens) == (2, 4)
    assert heard == [("a", FinishReason.EOS, 1), ("a\nbc\nb", FinishReason.EOS, 2)]
    assert reward == len("a\nbc\nb") + 0.125


def test_turns_and_tokens_are_limited():
    env = make_env(responder=lambda episode: "x", max_turns=2, prompts=["x"])
    env.reset(seed=0)
    assert [env.step(EOS)[2] for _ in range(2)] == [False, True]
    env.reset()
    assert [env.step(t)[2] for t in (A, A, EOS, A, EOS)] == [False] * 4 + [True]  # the fifth token is the last
    assert env.last_episode is not None
    assert env.last_episode.finish_reason == FinishReason.EOS


def test_stop_string_ends_a_turn_too():
    env = make_env(responder=lambda episode: [X], stop="\n", max_turns=2, prompts=["x"])
    env.reset(seed=0)
    assert not write(env, [A, NEWLINE])[2]
    assert write(env, [B, NEWLINE])[2]
    assert env.last_episode is not None
    assert env.last_episode.response == "a\nx\nb"


def test_reply_that_does_not_fit_truncates_unscored():
    env = make_env(responder=lambda episode: "xxx", max_reply_tokens=2)
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(EOS)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["finish_reason"] == FinishReason.ABORTED


def test_vector_turns_equal_single_turns():
    def responder(episode):
        return "x" if episode.response.count("a") < 2 else None

    envs = make_envs(2, responder=responder, autoreset_mode=AutoresetMode.SAME_STEP)
    envs.reset(seed=4)
    step = write_all(envs, [[A, B], [EOS, EOS], [A, A], [EOS, EOS]])
    assert step[2].tolist() == [True, False]
    assert step[4]["final_info"]["response_tokens"].tolist() == [4, 0]


# --- without autoreset ------------------------------------------------------------------------------------------------


def test_idle_slot_stands_still():
    envs = make_envs(3, autoreset_mode=AutoresetMode.DISABLED)
    before, _ = envs.reset(seed=0)
    after, rewards, terminated, truncated, infos = envs.step(np.array([A, IDLE, EOS]))
    np.testing.assert_array_equal(after[1], before[1])
    assert (rewards[1], terminated.tolist(), truncated.any()) == (0.0, [False, False, True], False)
    assert infos["_length"].tolist() == [True, False, True]
    after2, rewards, terminated, _, infos = envs.step(np.array([EOS, A, IDLE]))
    np.testing.assert_array_equal(after2[2], after[2])
    assert (rewards[2], infos["score"][2], terminated.tolist()) == (0.0, 0.0, [True, False, False])
    assert infos["finish_reason"].tolist() == [FinishReason.EOS, FinishReason.RUNNING, FinishReason.EOS]


def test_reset_mask_restarts_running_slots_too():
    envs = make_envs(2, autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=0)
    envs.step(np.array([A, A]))
    _, infos = envs.reset(options={"reset_mask": np.array([True, False])})
    assert envs.slots.response_tokens.tolist() == [0, 1]
    assert infos["_length"].tolist() == [True, False]


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_shared_dealing_deals_every_prompt_once_before_any_twice():
    prompts = [[A] * (i + 1) for i in range(12)]
    envs = make_envs(4, prompts=prompts, prompt_dealing="shared", autoreset_mode=AutoresetMode.SAME_STEP)
    dealt = envs.reset(seed=0)[1]["prompt_index"].tolist()
    for _ in range(5):
        dealt += envs.step(np.full(4, EOS))[4]["prompt_index"].tolist()
    assert sorted(dealt[:12]) == sorted(dealt[12:]) == list(range(12))
    assert dealt[:12] != dealt[12:]


def test_tasks_reach_the_episode():
    env = make_env(prompts=[{"prompt": "a", "task": "copy"}], task_weights={"copy": 1.0})
    env.reset(seed=0)
    env.step(EOS)
    assert env.last_episode is not None
    assert env.last_episode.task == "copy"


class Chatty(ToyTokenizer):
    def apply_chat_template(self, messages, *, tokenize, add_generation_prompt):
        assert (tokenize, add_generation_prompt) == (False, True)
        return "".join(f"{m['role'][0]}:{m['content']};" for m in messages) + "a:"


def test_chat_template_wraps_prompts():
    chatty = Chatty()
    env = make_env(tokenizer=chatty, prompts=["hi"], chat=True, system="ok", max_prompt_tokens=30)
    observation, info = env.reset(seed=0)
    assert chatty.decode(observation[: info["length"]].tolist()) == "s:ok;u:hi;a:"
    env.step(EOS)
    assert env.last_episode is not None
    assert env.last_episode.prompt == "hi"


def test_chat_messages_use_the_template_without_being_asked():
    chatty = Chatty()
    env = make_env(tokenizer=chatty, prompts=[[{"role": "user", "content": "yo"}]])
    observation, info = env.reset(seed=0)
    assert chatty.decode(observation[: info["length"]].tolist()) == "u:yo;a:"


def test_text_observation_grows_with_the_answer():
    env = make_env(observation="text", prompts=["bc"])
    assert env.reset(seed=0)[0] == "bc"
    assert write(env, [A, NEWLINE])[0] == "bca\n"
    assert "é" in env.observation_space
