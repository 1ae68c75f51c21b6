import gymnasium as gym
import numpy as np
import pytest

from tests.textenv.envs.helpers import EOS, A, make_env, make_envs, write
from textenv.envs.rendering import CANVAS_HEIGHT, CANVAS_WIDTH, draw


def test_ansi_shows_prompt_answer_and_reward():
    env = make_env(render_mode="ansi", prompts=["bc"])
    assert env.render() == "(not reset)"
    env.reset(seed=0)
    assert env.render() == "prompt: bc\nanswer: \nrunning, token 0 of 5, reward so far 0.0000"
    write(env, [A, EOS])
    assert env.render() == "prompt: bc\nanswer: a<eos>\neos, token 2 of 5, reward so far 1.2500"


def test_human_writes_to_the_terminal_and_returns_nothing(capsys):
    env = make_env(render_mode="human", prompts=["bc"])
    env.reset(seed=0)
    env.step(A)
    assert env.render() is None
    assert capsys.readouterr().out.count("prompt: bc") == 2
    envs = make_envs(2, render_mode="human", prompts=["bc"])
    envs.reset(seed=0)
    assert envs.render() is None
    assert "[1] prompt: bc" in capsys.readouterr().out


def test_pictures_have_a_fixed_size_and_change_with_the_answer():
    env = make_env(render_mode="rgb_array", max_new_tokens=400)
    env.reset(seed=0)
    first = env.render()
    for _ in range(300):
        env.step(A)
    second = env.render()
    for picture in (first, second):
        assert (picture.shape, picture.dtype) == ((CANVAS_HEIGHT, CANVAS_WIDTH, 3), np.uint8)
    assert (first != second).any()


def test_any_text_can_be_drawn():
    assert draw("日本語 \x00 é\n" * 100).shape == (CANVAS_HEIGHT, CANVAS_WIDTH, 3)


@pytest.mark.parametrize(("mode", "kind"), [("ansi", str), ("rgb_array", np.ndarray), (None, type(None))])
def test_vector_renders_one_frame_per_slot(mode, kind):
    envs = make_envs(2, render_mode=mode)
    envs.reset(seed=0)
    frames = envs.render()
    assert frames is None if mode is None else (len(frames) == 2 and all(isinstance(f, kind) for f in frames))


def test_lists_of_frames_come_from_gymnasium():
    env = gym.make("textenv/Toy-v0", render_mode="ansi_list")
    env.reset(seed=0)
    env.step(1)
    frames = env.render()
    assert frames is not None
    assert len(frames) == 2


def test_pictures_feed_gymnasiums_video_recorder(tmp_path):
    pytest.importorskip("moviepy")
    env = gym.wrappers.RecordVideo(gym.make("textenv/Toy-v0", render_mode="rgb_array"), str(tmp_path / "videos"))
    env.reset(seed=0)
    env.step(0)
    env.close()
    assert list(tmp_path.glob("videos/*.mp4"))
