from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import textenv.report
from tests.textenv.report_runs import make_metrics, make_run, make_summary, write_lines
from textenv.errors import CheckpointError, DataError
from textenv.report import summary_table, write_figure


def shown(summary: dict[str, Any], width: int = 80) -> str:
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(summary_table(summary))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_summary_table_shows_stages_and_policies_within_80_columns() -> None:
    lines = shown(make_summary())
    assert "quickstart · human sentiment ratings of real texts · seed 0" in lines
    for words in (
        "movies 55.7",
        "0.861 (human 0.901",
        "0.01 → 1.55, +1.54 SFT",
        "VADER-positive 42% → 83%",
        "7 min 58 s",
    ):
        assert words in lines
    assert "[−0.52, −0.30]" in lines
    assert "all 5 run checks passed" in lines
    assert max(len(line) for line in lines.splitlines()) <= 80


def test_summary_table_of_a_partial_summary_shows_what_there_is() -> None:
    lines = shown({"name": "half", "sft": {"loss": 3.5}, "seconds": {"ppo": 3.0}})
    assert "held-out loss 3.50 nats per token" in lines
    assert "3.0 s" in lines
    assert "Test prompts" not in lines
    assert shown({}).startswith("run")


def test_summary_table_of_tasks_shows_form_and_accuracy_of_every_stage() -> None:
    shares = {"base": (0.0, 0.0), "sft": (0.98, 0.4), "rl": (1.0, 0.61)}
    evaluation = {model: {"answered": form, "accuracy": right} for model, (form, right) in shares.items()}
    evaluation["rl"]["kl"] = 0.584
    text = shown({"name": "r", "ppo": {"episodes": 40960}, "evaluation": evaluation})
    assert "40,960 episodes, 0.58 nats of KL" in text
    assert "in the asked form 0% → 98% → 100%, accuracy 0% → 40% → 61%" in " ".join(text.split())


def test_summary_table_takes_names_literally_and_reports_failed_checks() -> None:
    summary = make_summary(name="[red]name[/red]")
    summary["checks"] = {"[b]ratio": False, "kl": True}
    summary["pretrain"]["perplexity"] = {"[/nope]": 3.0}
    lines = shown(summary)
    assert "[red]name[/red]" in lines
    assert "failed run checks: [b]ratio" in lines
    assert "[/nope] 3" in lines


def test_write_figure_of_one_run_and_of_seeds(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(seed), seed=seed) for seed in range(3)]
    one = write_figure(runs[0], tmp_path / "one.png")
    several = write_figure(runs, tmp_path / "several.png", title="Three seeds")
    with Image.open(one) as first, Image.open(several) as second:
        assert first.size == second.size
        assert first.width > 1200
        pixels = np.asarray(first.convert("RGB"), dtype=np.int64)
    orange = (np.abs(pixels - np.array([0xCF, 0x6A, 0x0C])).sum(axis=2) < 30).sum()
    assert orange > 1000
    assert one.read_bytes() != several.read_bytes()


def test_write_figure_is_reproducible(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert write_figure(run, tmp_path / "a.png").read_bytes() == write_figure(run, tmp_path / "b.png").read_bytes()


def test_write_figure_without_ppo_says_which_file_lacks_what(tmp_path: Path) -> None:
    write_lines(tmp_path / "metrics.jsonl", make_metrics(["sft"]))
    with pytest.raises(DataError, match=r"metrics\.jsonl has no `objective/score` of stage ppo; run PPO first"):
        write_figure(tmp_path, tmp_path / "x.png")


def test_write_figure_without_runs_or_with_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="`run_dirs` is empty"):
        write_figure([], tmp_path / "x.png")
    with pytest.raises(CheckpointError, match="does not exist"):
        write_figure([tmp_path / "nowhere"], tmp_path / "x.png")


def test_report_package_loads_its_names_lazily() -> None:
    assert textenv.report.write_report.__module__ == "textenv.report.page"
    with pytest.raises(AttributeError, match=r"No textenv\.report attribute write_poem"):
        _ = textenv.report.write_poem  # pyright: ignore[reportAttributeAccessIssue]
