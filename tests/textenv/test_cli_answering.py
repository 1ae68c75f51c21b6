"""`textenv answering`, `textenv ppo --tasks` and `textenv evaluate` on tasks, as small as can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from textenv.cli.main import main

TRAINING = {"steps": 4, "batch_size": 4, "eval_every": 2, "warmup_steps": 1, "checkpoint_every": 2}
RECIPE: dict[str, Any] = {
    "tasks": [{"name": "text", "count": 120}, {"name": "compare", "count": 120}],
    "demonstrations": 8,
    "pretrain": {
        "model": {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 48, "vocab_size": 300}
        | {"context": 128},
        "training": TRAINING,
    },
    "sft": {"training": TRAINING},
    "ppo": {"total_episodes": 16, "num_envs": 8, "max_new_tokens": 4, "eval_prompts": 4},
    "evaluation": {"prompts": 5, "max_new_tokens": 6},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the recipe."""
    folder = tmp_path_factory.mktemp("answering")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    assert main(["answering", "--config", str(folder / "recipe.yaml"), "--runs_dir", str(folder)]) == 0
    return folder / "answering"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_answering_measures_all_stages_on_the_same_prompts(run: Path):
    evaluation = read(run / "evaluation.json")
    assert list(evaluation["models"]) == ["base", "sft", "rl"]
    assert evaluation["verifiable"] == ["compare"]
    assert set(evaluation["models"]["rl"]) == {"text", "compare", "mean"}
    assert "kl" in evaluation["models"]["rl"]["mean"]
    assert "kl" not in evaluation["models"]["sft"]["mean"]
    records = [json.loads(line) for line in (run / "answers.jsonl").read_text().splitlines()]
    assert [record["task"] for record in records] == ["text"] * 5 + ["compare"] * 5
    assert all({"prompt", "reference", "base", "sft", "rl"} <= set(record) for record in records)
    summary = read(run / "summary.json")
    assert set(summary["seconds"]) == {"data", "pretrain", "sft", "ppo", "evaluate", "total"}
    assert summary["evaluation"]["rl"]["eos"] == evaluation["models"]["rl"]["mean"]["eos"][0]
    assert "From continuing to answering" in (run / "report.html").read_text()


def test_answering_resumed_when_complete_does_no_stage_again(run: Path, capsys: pytest.CaptureFixture[str]):
    recipe = str(run.parent / "recipe.yaml")
    before = (run / "evaluation.json").read_text()
    assert main(["answering", "--config", recipe, "--runs_dir", str(run.parent), "--resume"]) == 0
    assert (run / "evaluation.json").read_text() == before
    assert capsys.readouterr().out.count("done before") == 4


def test_ppo_on_tasks_mixes_verifiers_with_a_learned_reward(run: Path, tmp_path: Path):
    recipe = {"policy": str(run / "sft"), "reward_model": "lexicon", "reward_weight": 0.1, "evaluation_prompts": 4}
    recipe |= {"tasks": RECIPE["tasks"][1:], "ppo": RECIPE["ppo"], "name": "mixed"}
    (tmp_path / "ppo.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["ppo", "--config", str(tmp_path / "ppo.yaml"), "--runs_dir", str(tmp_path)]) == 0
    assert list(read(tmp_path / "mixed" / "evaluation.json")["models"]) == ["sft", "rl"]


def test_evaluate_compares_any_models(run: Path, tmp_path: Path):
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump({"tasks": RECIPE["tasks"], "evaluation": RECIPE["evaluation"]}))
    models = [f"base={run / 'pretrain'}", f"mine={run / 'sft'}"]
    arguments = ["evaluate", "--config", str(tmp_path / "tasks.yaml"), "--models", *models]
    assert main([*arguments, "--runs_dir", str(tmp_path)]) == 0
    found = read(tmp_path / "evaluate" / "evaluation.json")
    assert list(found["models"]) == ["base", "mine"]
    assert found["reference"] == ""
    assert (tmp_path / "evaluate" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["answering"], "`tasks` must be non-empty, got .*; name them in the recipe"),
        (["answering", "--tasks", "[{name: text}]"], "no task has a verifier to learn from: text"),
        (["evaluate", "--models", "base=x"], "`tasks` must be non-empty, got .*; name them in the recipe"),
        (["evaluate", "--tasks", "[{name: copy}]"], "no models: give `--models base=DIR"),
        (["evaluate", "--tasks", "[{name: copy}]", "--models", "sft"], "takes name=folder, .* got 'sft'"),
        (["evaluate", "--tasks", "[{name: copy}]", "--models", "sft=nowhere"], "there is no such folder"),
    ],
)
def test_mistakes_are_explained_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    import re

    assert main([*arguments, "--runs_dir", str(tmp_path)]) in (1, 2)
    shown = capsys.readouterr().err
    assert re.search(message, shown), shown
    assert shown.count("\n") == 1
