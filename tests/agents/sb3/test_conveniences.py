"""What Stable-Baselines3 brings along works with language models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecMonitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.sb3 import SequenceRolloutBuffer, TextLogger, TextPolicy, as_vec_env
from tests.agents.sb3.models import TOY, toy_envs, toy_lm
from textenv.rewards import SumReward


def length(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(len(response)) for response in responses]


def model_on(envs: Any, **options: Any) -> PPO:
    settings: dict[str, Any] = {"n_steps": 16, "batch_size": 64, "n_epochs": 1, "seed": 0, "device": "cpu"}
    return PPO(
        TextPolicy,
        envs,
        policy_kwargs={"policy": toy_lm()},
        rollout_buffer_class=SequenceRolloutBuffer,
        **(settings | options),
    )


@pytest.mark.filterwarnings("ignore:rich is experimental")  # tqdm says so of its rich bar
def test_progress_bar_checkpoints_evaluation_and_tensorboard(tmp_path: Path):
    evaluation = EvalCallback(
        VecMonitor(toy_envs(3)),
        eval_freq=8,
        n_eval_episodes=4,
        best_model_save_path=str(tmp_path / "best"),
        log_path=str(tmp_path),
        verbose=0,
    )
    checkpoints = CheckpointCallback(save_freq=16, save_path=str(tmp_path / "checkpoints"))
    model = model_on(VecMonitor(toy_envs()), tensorboard_log=str(tmp_path / "board"))
    model.learn(128, callback=[evaluation, checkpoints, TextLogger(samples=1)], progress_bar=True)
    scores = np.load(tmp_path / "evaluations.npz")["results"]
    assert scores.shape == (4, 4)
    assert ((scores >= 0) & (scores <= 1)).all()
    loaded = PPO.load(tmp_path / "checkpoints" / "rl_model_128_steps.zip", device="cpu")
    seen = toy_envs(3).reset()
    assert np.array_equal(loaded.predict(seen, deterministic=True)[0], model.predict(seen, deterministic=True)[0])
    assert (tmp_path / "best" / "best_model.zip").is_file()
    board = EventAccumulator(str(next((tmp_path / "board").iterdir()))).Reload()
    assert {"objective/score", "rollout/ep_rew_mean", "train/approx_kl"} <= set(board.Tags()["scalars"])
    assert "text/sample_0/text_summary" in board.Tags()["tensors"]


def test_evaluate_policy_plays_whole_answers():
    model = model_on(toy_envs())
    found: Any = evaluate_policy(model, VecMonitor(toy_envs(3)), n_eval_episodes=9)
    assert 0 <= found[0] <= 1
    returns, lengths = evaluate_policy(model, toy_envs(2), n_eval_episodes=5, return_episode_rewards=True, warn=False)
    assert isinstance(lengths, list)
    assert isinstance(returns, list)
    assert len(returns) == 5
    assert max(lengths) <= 4


def test_logger_shows_parts_of_the_reward_and_samples(tmp_path: Path):
    envs = gym.make_vec(
        "textenv/TextGeneration-v0",
        num_envs=4,
        vectorization_mode="vector_entry_point",
        tokenizer=toy_lm().tokenizer,
        prompts=["a", "b"],
        reward=SumReward({"length": length, "twice": length}, weights=[1.0, 2.0]),
        max_new_tokens=4,
    )
    model = model_on(as_vec_env(envs))
    model.set_logger(configure(str(tmp_path), ["json", "csv"]))
    model.learn(64, callback=TextLogger(samples=2))
    model.logger.close()
    text = (tmp_path / "progress.json").read_text("utf-8")
    assert "text/sample_1" in text
    assert "\\u2192" in text
    found = model.logger.name_to_value
    assert found["objective/score"] == pytest.approx(3 * found["reward/length"])
    assert found["reward/twice"] == found["reward/length"]
    assert 0 <= found["rollout/truncated_fraction"] <= 1


def test_logger_serves_value_based_methods_too():
    model = DQN("MlpPolicy", gym.make(TOY), learning_starts=10, buffer_size=100, device="cpu", seed=0)
    model.learn(60, callback=TextLogger())
    assert 0 <= model.logger.name_to_value["objective/score"] <= 1


def test_logger_counts_no_score_for_answers_that_were_cut_off():
    envs = gym.make_vec(
        TOY, num_envs=8, vectorization_mode="vector_entry_point", task="copy", on_length_limit="truncate", horizon=2
    )
    seen: list[tuple[float, bool]] = []

    class Watching(TextLogger):
        def _on_step(self) -> bool:
            ended = zip(self.locals["infos"], self.locals["dones"], strict=True)
            seen.extend((info["score"], info["TimeLimit.truncated"]) for info, done in ended if done)
            return super()._on_step()

    model = model_on(as_vec_env(envs), n_steps=32)
    model.learn(256, callback=Watching(), log_interval=9)  # a shown figure is gone
    found = model.logger.name_to_value
    scored = [score for score, cut in seen if not cut]
    assert 0 < len(scored) < len(seen)
    assert found["objective/score"] == pytest.approx(np.mean(scored))
    assert found["rollout/truncated_fraction"] == pytest.approx(1 - len(scored) / len(seen))
