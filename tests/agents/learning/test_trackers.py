from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.algorithms.ppo import PPO
from agents.learning.trackers import Trackers
from tests.agents.tasks import CONFIG, make_envs, variety
from textenv.errors import ConfigError, MissingDependencyError

accelerate_tracking = pytest.importorskip("accelerate.tracking")


class FakeTracker(accelerate_tracking.GeneralTracker):
    """Accelerate's interface, and a list."""

    name = "fake"
    requires_logging_directory = False
    made: list[FakeTracker] = []  # noqa: RUF012 - the test empties it

    def __init__(self, run_name: str, **options: Any) -> None:
        super().__init__()
        self.run_name, self.options = run_name, options
        self.started, self.finished = False, False
        self.settings: dict[str, Any] = {}
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.made.append(self)

    @property
    def tracker(self) -> Any:
        return self

    def start(self) -> None:
        self.started = True

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        assert step is not None
        self.lines.append((step, values))

    def finish(self) -> None:
        self.finished = True


class FolderTracker(FakeTracker):
    """One that wants a folder."""

    name = "folder"
    requires_logging_directory = True

    def __init__(self, run_name: str, logging_dir: str, **options: Any) -> None:
        super().__init__(run_name, logging_dir=logging_dir, **options)


@pytest.fixture
def known(monkeypatch) -> None:
    FakeTracker.made.clear()
    kinds = accelerate_tracking.LOGGER_TYPE_TO_CLASS
    monkeypatch.setitem(kinds, "fake", FakeTracker)
    monkeypatch.setitem(kinds, "folder", FolderTracker)


@pytest.mark.usefixtures("known")
def test_trackers_get_settings_and_metrics_of_every_iteration(policy, tokenizer, tmp_path: Path):
    trackers = Trackers(["fake", "folder"], project="p", folder=tmp_path, options={"fake": {"id": "7"}})
    assert FakeTracker.made == []  # nothing is started before there is something to log
    logged: list[dict[str, float]] = []
    agent = PPO(policy, make_envs(tokenizer, variety), config=CONFIG, callbacks=[trackers])
    agent.learn(16, callback=lambda a, m: logged.append(dict(m)))
    trackers.close()
    trackers.close()
    fake, folder = FakeTracker.made
    assert (fake.run_name, fake.options, folder.options) == ("p", {"id": "7"}, {"logging_dir": str(tmp_path)})
    assert fake.started
    assert fake.finished
    assert fake.settings["learning_rate"] == CONFIG.learning_rate
    assert fake.settings["stage"] == "ppo"
    assert [step for step, _ in fake.lines] == [1, 2]
    assert [values for _, values in fake.lines] == logged
    assert {"objective/kl", "objective/score", "policy/clip_fraction", "val/explained_variance"} <= logged[0].keys()
    shares = [logged[0][f"time/{phase}_share"] for phase in ("rollout", "scoring", "update")]
    assert 0.5 < sum(shares) <= 1.0
    assert logged[0]["time/tokens_per_second"] > 0


def test_a_tracker_of_ones_own_is_taken_as_it_is(policy, tokenizer):
    own = FakeTracker("mine")
    PPO(policy, make_envs(tokenizer, variety), config=CONFIG, callbacks=[Trackers([own])]).learn(8)
    assert len(own.lines) == 1


def test_unknown_and_missing_trackers_are_named():
    with pytest.raises(ConfigError, match=r"unknown tracker 'paper'; accelerate knows .*wandb"):
        Trackers(["paper"])
    with pytest.raises(MissingDependencyError, match="the tracker 'aim' needs its package: pip install aim"):
        Trackers(["aim"])
