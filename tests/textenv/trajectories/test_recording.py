"""``RecordTrajectories`` with a store, and episodes as trajectories."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from textenv.envs import toy
from textenv.episode import Episode, FinishReason
from textenv.trajectories import TrajectoryStore
from textenv.trajectory import Trajectory
from textenv.wrappers import vector as vector_wrappers
from textenv.wrappers.recording import EpisodeWriter, StoreEpisodeWriter, make_recorder
from textenv.wrappers.single import RecordTrajectories


def episode(**changes) -> Episode:
    given = {
        "prompt": "a",
        "prompt_index": 3,
        "prompt_ids": (1,),
        "response": "ab",
        "response_ids": (1, 2, 0),
        "finish_reason": FinishReason.EOS,
        "score": 0.5,
    }
    return Episode(**(given | changes))


def test_recorded_steps_stand_in_the_store(tmp_path: Path):
    envs = vector_wrappers.RecordTrajectories(toy.ToyVectorEnv(3), tmp_path / "store")
    envs.reset(seed=0)
    rng, paid = np.random.default_rng(0), []
    for _ in range(40):
        _, rewards, terminated, truncated, _ = envs.step(rng.integers(0, 4, 3))
        paid += rewards[terminated | truncated].tolist()
    envs.close()
    store = TrajectoryStore(tmp_path / "store", create=False)
    answers = store.load()
    assert len(answers) == len(paid) > 10
    assert [t.score for t in answers] == pytest.approx(paid)
    for number, t in enumerate(answers):
        assert t.rewards is not None
        assert t.rewards.sum() == pytest.approx(t.score)
        assert len(t.rewards) == len(t)
        assert t.source == "environment"
        assert not t.knows_behaviour
        assert t.extra["number"] == number
    envs.close()  # nothing is pending: nothing more is written
    assert len(store) == len(paid)


def test_single_environments_record_too_and_the_trigger_chooses(tmp_path: Path):
    env = RecordTrajectories(toy.ToyEnv(), tmp_path / "store", lambda number: number % 2 == 0)
    for _ in range(4):
        env.reset(seed=1)
        env.step(toy.EOS)
    env.close()
    assert [t.extra["number"] for t in TrajectoryStore(tmp_path / "store")] == [0, 2]


def test_rewards_go_to_the_tokens_that_the_policy_chose(tmp_path: Path):
    writer = StoreEpisodeWriter(tmp_path / "s", rows=2)
    writer.write(episode(action_mask=(True, False, True)), slot=0, step_rewards=[0.25, 0.75])
    assert not (tmp_path / "s").exists()
    writer.write(episode(task="t", finish_reason=FinishReason.ABORTED, score=0.0), slot=1, step_rewards=[0, 0, 1])
    masked, aborted = TrajectoryStore(tmp_path / "s").load()
    assert masked.rewards is not None
    assert masked.rewards.tolist() == [0.25, 0, 0.75]
    assert (masked.terminated, masked.truncated, masked.prompt_id) == (True, False, "3")
    assert (aborted.terminated, aborted.truncated, aborted.score) == (False, True, None)
    assert aborted.extra["task"] == "t"


def test_the_path_decides_the_format_and_copies_hold_nothing_pending(tmp_path: Path):
    assert isinstance(make_recorder(tmp_path / "x.jsonl"), EpisodeWriter)
    writer = make_recorder(tmp_path / "store")
    assert isinstance(writer, StoreEpisodeWriter)
    writer.write(episode(), slot=0, step_rewards=[0, 0, 1])
    pickle.loads(pickle.dumps(writer)).close()
    assert not (tmp_path / "store").exists()
    writer.close()
    assert len(TrajectoryStore(tmp_path / "store")) == 1


def test_prompt_hash_depends_on_the_ids_alone():
    one, other = Trajectory.from_episode(episode()), Trajectory.from_episode(episode(prompt="b"))
    assert one.prompt_hash == other.prompt_hash
    assert len(one.prompt_hash) == 16
    assert Trajectory.from_episode(episode(prompt_ids=(2,))).prompt_hash != one.prompt_hash
