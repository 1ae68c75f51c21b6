from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import TINY
from textenv.cli.main import main, parse

ROOT = Path(__file__).parents[2]


def test_quickstart_writes_everything_that_is_promised(finished: Path):
    run = finished / "runs" / "tiny"
    for name in ("config.yaml", "metrics.jsonl", "samples.jsonl", "summary.json", "report.html", "tensorboard"):
        assert (run / name).exists(), name
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["pretrain"]["perplexity"]) == {"movies", "amazon", "tweets", "nyt"}
    figures = [
        summary["sft"]["loss"],
        *(summary[name]["accuracy_gap_0_5"] for name in ("reward_model", "human_rater", "lexicon", "tfidf")),
        summary["reward_model"]["accuracy"],
        summary["policy"]["ppo"]["kl"],
        *(
            summary["policy"][policy][name]
            for policy in ("base", "sft", "ppo")
            for name in ("reward_mean", "reward_std", "vader_positive", "distinct_2")
        ),
        *(summary["seconds"][stage] for stage in ("data", "pretrain", "sft", "reward", "ppo", "evaluate", "total")),
    ]
    assert all(math.isfinite(figure) for figure in figures)
    assert len(summary["checks"]) == 5
    assert all(summary["checks"].values())
    stages = {json.loads(line)["stage"] for line in (run / "metrics.jsonl").read_text().splitlines()}
    assert stages == {"pretrain", "sft", "reward", "ppo"}
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 24
    assert set(samples[0]) == {"prompt", "human", "base", "sft", "ppo"}


def test_quickstart_checkpoints_load_in_plain_transformers(finished: Path):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    run = finished / "runs" / "tiny"
    for stage in ("pretrain", "sft", "ppo"):
        model = AutoModelForCausalLM.from_pretrained(run / stage)
        assert len(AutoTokenizer.from_pretrained(run / stage)) == model.config.vocab_size
    assert AutoModelForSequenceClassification.from_pretrained(run / "reward").config.num_labels == 1


def test_quickstart_resumed_when_complete_changes_nothing(finished: Path, capsys: pytest.CaptureFixture[str]):
    run = finished / "runs" / "tiny"
    before = json.loads((run / "summary.json").read_text())
    arguments = ["--config", str(finished / "tiny.yaml"), "--runs_dir", str(finished / "runs"), "--resume"]
    assert main(["quickstart", *arguments]) == 0
    after = json.loads((run / "summary.json").read_text())
    assert before["policy"] == after["policy"]
    assert "ppo          done before" in capsys.readouterr().out


def test_single_stages_run_from_earlier_folders(finished: Path, capsys: pytest.CaptureFixture[str]):
    run, tiny = finished / "runs" / "tiny", TINY["ppo"]
    assert isinstance(tiny, dict)
    recipe = finished / "ppo.yaml"
    recipe.write_text(yaml.safe_dump({"data": "builtin", "builtin_texts": 1200, "evaluation_prompts": 8, "ppo": tiny}))
    common = ["--config", str(recipe), "--runs_dir", str(finished / "runs")]
    assert main(["ppo", *common, "--policy", str(run / "sft"), "--reward_model", "lexicon"]) == 0
    assert (finished / "runs" / "ppo" / "report.html").exists()
    assert main(["report", str(run)]) == 0
    assert "report.html" in capsys.readouterr().out


def test_resume_with_another_field_names_it(finished: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["--config", str(finished / "tiny.yaml"), "--runs_dir", str(finished / "runs"), "--resume"]
    assert main(["quickstart", *arguments, "--ppo.training.kl_coef", "0.7"]) == 1
    assert "different: ppo.training.kl_coef" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quickstart", "--nam", "x"], "there is no --nam; did you mean --name?"),
        (["quickstart", "--ppo.training.kl_coeff", "3"], "kl_coeff"),
        (["quickstart", "--data", "nothing"], "`--data` takes human|builtin, got nothing"),
        (["quickstart", "--config", "nothing.yaml"], "`--config nothing.yaml`: there is no such file"),
        (["ppo", "--ppo.training.clip_range", "2"], "`clip_range` must lie in (0, 1), got 2.0"),
        (["quickstart", "--ppo.training.kl_target", "-1"], "`kl_target` must be positive"),
        (["quickstart", "--ppo.domain", "movie"], "takes movies|amazon|tweets|nyt, got movie; did you mean movies?"),
        (["quickstart", "--reward.domains", "[movie]"], "must name some of movies"),
        (["quickstart", "--reward.normalization_samples", "0"], "`normalization_samples` must be ≥ 2, got 0"),
        (["quickstart", "--evaluation_prompts", "0"], "`evaluation_prompts` must be ≥ 1, got 0"),
        (["quickstart", "--ppo.max_new_tokens", "200"], "leaves no room for a prompt"),
        (["quickstart", "--data", "builtin", "--builtin_texts", "3"], "`builtin_texts` must be ≥ 400, got 3"),
        (["ppo", "--data", "builtin", "--builtin_texts", "400"], "`--policy` is needed"),
        (["sft", "--data", "builtin", "--builtin_texts", "400", "--model", "nowhere"], "there is no such folder"),
        (["quickstart", "--name", "never", "--resume"], "nothing to resume"),
        (["report", "nowhere"], "there is no run folder"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_mistakes_end_in_one_line(arguments, message, capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) in (1, 2)
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_runs_dir_that_is_a_file_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").touch()
    flags = ["--data", "builtin", "--builtin_texts", "400", "--runs_dir", str(tmp_path / "file")]
    assert main(["quickstart", *flags]) == 1
    err = capsys.readouterr().err
    assert "Not a directory" in err
    assert err.count("\n") == 1


def test_cut_off_model_file_ends_in_one_line(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name, message in (
        ("model.safetensors", "cannot load a language model"),
        ("value_head.safetensors", "value_head.safetensors`: Error"),
    ):
        folder = tmp_path / name
        shutil.copytree(finished / "runs" / "tiny" / "ppo", folder)
        (folder / name).write_bytes((folder / name).read_bytes()[:30])
        flags = ["--data", "builtin", "--builtin_texts", "400", "--runs_dir", str(tmp_path / "runs")]
        assert main(["ppo", *flags, "--policy", str(folder), "--reward_model", "lexicon"]) == 1
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1


def test_prompt_longer_than_the_context_is_named_before_the_other_stages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    recipe = tmp_path / "tiny.yaml"
    model = dict(TINY["pretrain"]["model"], context=24)
    tiny = TINY | {"pretrain": TINY["pretrain"] | {"model": model}}
    recipe.write_text(yaml.safe_dump(tiny))
    assert main(["quickstart", "--config", str(recipe), "--runs_dir", str(tmp_path / "runs")]) == 1
    assert "it exceeds the model's context of 24" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "tiny" / "sft" / "done.json").exists()


def test_unknown_field_in_a_recipe_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipe = tmp_path / "bad.yaml"
    recipe.write_text("ppo:\n  training:\n    learning_rat: 1\n")
    assert main(["ppo", "--config", str(recipe)]) == 2
    err = capsys.readouterr().err
    assert "learning_rat" in err
    assert err.count("\n") == 1


def test_unknown_command_and_no_command(capsys: pytest.CaptureFixture[str]):
    assert main(["nothing"]) == 2
    assert "unknown command 'nothing'; there are: quickstart" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "quickstart" in capsys.readouterr().out


@pytest.mark.parametrize("recipe", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_valid(recipe: Path):
    parse(recipe.stem.partition("_")[0], ["--config", str(recipe)])  # ppo.yaml, ppo_variant.yaml


def test_play_toy_problem_from_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    answers = iter(["", "", "q"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    assert main(["play", "--seed", "1"]) == 0
    assert "number: choose" in capsys.readouterr().out
    assert main(["play", "--candidates", "0"]) == 2
    assert "`candidates` must be ≥ 1" in capsys.readouterr().err


def test_a_flag_overrides_a_recipe(tmp_path: Path):
    recipe = tmp_path / "a.yaml"
    recipe.write_text("seed: 3\nppo:\n  num_envs: 5\n")
    config, resume = parse("ppo", ["--config", str(recipe), "--ppo.num_envs", "7"])
    assert (config.seed, config.ppo.num_envs, resume) == (3, 7, False)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "ppo"])
def test_killed_in_any_stage_the_resumed_run_ends_with_the_same_figures(stage: str, finished: Path, tmp_path: Path):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(TINY))
    command = [sys.executable, "-m", "textenv", "quickstart", "--config", str(recipe), "--runs_dir", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoints = tmp_path / "tiny" / stage / "checkpoints"
    deadline = time.monotonic() + 240
    while not list(checkpoints.glob("step-*")):
        assert process.poll() is None, f"the run ended before {stage} wrote a checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "tiny" / stage / "done.json").exists()
    subprocess.run([*command, "--resume"], env=environment, check=True, stdout=subprocess.DEVNULL)

    def figures(run: Path) -> dict:
        return {k: v for k, v in json.loads((run / "summary.json").read_text()).items() if k != "seconds"}

    assert figures(tmp_path / "tiny") == figures(finished / "runs" / "tiny")


def test_rlhf_optimises_a_model_that_is_there_already(finished: Path, tmp_path: Path):
    start = finished / "runs" / "tiny" / "sft"
    recipe = tmp_path / "tiny.yaml"
    settings = {name: TINY[name] for name in ("data", "builtin_texts", "evaluation_prompts", "reward")}
    ppo = {**TINY["ppo"], "lora_rank": 2, "eval_every": 2, "eval_prompts": 4}
    recipe.write_text(yaml.safe_dump({**settings, "name": "lora", "model": str(start), "ppo": ppo}))
    assert main(["rlhf", "--config", str(recipe), "--runs_dir", str(tmp_path)]) == 0
    run = tmp_path / "lora"
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["policy"]) == {"sft", "ppo"}
    assert summary["policy"]["ppo"]["kl"] != 0
    assert all(summary["checks"].values())
    assert {path.name for path in run.iterdir()} >= {"reward", "ppo", "samples.jsonl", "report.html"}


def test_negative_lora_rank_is_refused(capsys: pytest.CaptureFixture[str]):
    assert main(["ppo", "--ppo.lora_rank", "-1"]) == 2
    assert "`lora_rank` must be ≥ 0, got -1" in capsys.readouterr().err


def write_comparisons(path: Path, count: int) -> Path:
    """Comparisons of built-in texts with the better rated one chosen."""
    from reward_models.labels import Comparison, ratings_from_texts, write_labels
    from textenv.datasets import builtin_ratings

    rated = sorted(ratings_from_texts(builtin_ratings(2 * count)), key=lambda x: x.score)
    made = [
        Comparison(worse.prompt, better.response, worse.response)
        for worse, better in zip(rated[:count], rated[count:], strict=True)
    ]
    write_labels(path, made)
    return path


def test_reward_learns_from_a_label_file_and_writes_a_model_with_its_card(finished: Path, tmp_path: Path):
    from transformers import AutoModelForSequenceClassification

    labels = write_comparisons(tmp_path / "labels.jsonl", 400)
    flags = ["reward", "--runs_dir", str(tmp_path), "--labels", str(labels), "--reward.trunk", "policy"]
    flags += ["--model", str(finished / "runs" / "tiny" / "pretrain"), "--reward.training.learning_rate", "0.003"]
    flags += ["--policy", str(finished / "runs" / "tiny" / "sft"), "--reward.normalization_samples", "16"]
    flags += [
        "--reward.training.dtype",
        "float32",
        "--reward.training.epochs",
        "4",
        "--reward.training.batch_size",
        "16",
    ]
    assert main(flags) == 0
    folder = tmp_path / "reward" / "reward"
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.num_labels == 1
    summary = json.loads((tmp_path / "reward" / "summary.json").read_text())
    assert summary["reward_model"]["accuracy"] > 0.8
    done = json.loads((folder / "done.json").read_text())
    assert done["training"]["held_out_loss"] < math.log(2)
    card = (folder / "README.md").read_text("utf-8")
    assert "Comparison from" not in card
    assert f"{summary['reward_model']['accuracy']:.3f}" in card
    assert "fitted on" in card


def test_reward_label_file_with_a_mistake_ends_in_one_line_and_leaves_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = write_comparisons(tmp_path / "labels.jsonl", 40)
    file.write_text(file.read_text("utf-8") + '{"prompt": "p", "chosen": "a"}\n', "utf-8")
    assert main(["reward", "--runs_dir", str(tmp_path / "runs"), "--labels", str(file)]) == 1
    err = capsys.readouterr().err
    assert f"{file}:41: field `rejected`: expected a text or a list of chat messages, got nothing" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()
