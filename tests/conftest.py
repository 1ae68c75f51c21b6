"""What several rooms' tests need: one complete quickstart run, small enough for seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import settings

# The same examples on every run, so that a commit either passes or fails; `--hypothesis-profile default` looks further.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": "builtin",
    "builtin_texts": 1200,
    "evaluation_prompts": 24,
    "pretrain": {
        "model": {
            "vocab_size": 400,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 2,
            "intermediate_size": 64,
            "context": 96,
        },
        "training": {"steps": 12, "batch_size": 8, "eval_every": 6, "warmup_steps": 2, "checkpoint_every": 4},
    },
    "sft": {"training": {"steps": 8, "batch_size": 8, "eval_every": 4, "warmup_steps": 2, "checkpoint_every": 3}},
    "reward": {
        "normalization_samples": 32,
        "training": {"epochs": 0.5, "batch_size": 32, "learning_rate": 1e-3, "checkpoint_every": 3},
    },
    "ppo": {
        "total_episodes": 32,
        "num_envs": 8,
        "max_new_tokens": 10,
        "dtype": "float32",
        "training": {"learning_rate": 1e-3, "epochs": 1, "micro_batch_size": 4},
    },
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes begins first: else one process is left alone with it while the others have nothing to do."""

    def minutes(item: pytest.Item) -> float:
        mark = item.get_closest_marker("slow")
        return 0.0 if mark is None else mark.kwargs.get("minutes", 0.0)

    items.sort(key=minutes, reverse=True)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete quickstart run on built-in data."""
    folder = tmp_path_factory.mktemp("quickstart")
    from textenv.cli.main import main

    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    assert main(["quickstart", "--config", str(folder / "tiny.yaml"), "--runs_dir", str(folder / "runs")]) == 0
    return folder
