from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from textenv.checkpoints import (
    Checkpoints,
    load_optimizer_tensors,
    load_state,
    optimizer_tensors,
    save_state,
    write_atomic,
)
from textenv.cli.stages import once
from textenv.errors import CheckpointError, ConfigError, RunCheckError
from textenv.progress import StageProgress
from textenv.runs import Run

ROOT = Path(__file__).parents[2]


def lines(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def test_state_round_trips(tmp_path: Path):
    tensors = {"a": torch.randn(3, 2), "b/c": torch.tensor(4, dtype=torch.int64), "t": torch.randn(2, 3).T}
    save_state(tmp_path / "x", tensors, {"step": 3, "big": 2**100})
    found, meta = load_state(tmp_path / "x")
    assert meta == {"step": 3, "big": 2**100}
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_damaged_state_is_named(tmp_path: Path):
    save_state(tmp_path, {"a": torch.zeros(100)}, {})
    content = (tmp_path / "state.safetensors").read_bytes()
    (tmp_path / "state.safetensors").write_bytes(content[:50])
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        load_state(tmp_path)


def test_checkpoints_keep_the_newest_and_ignore_half_written_ones(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    assert checkpoints.latest() is None
    for step in (1, 2, 10):
        checkpoints.save(step, lambda folder, step=step: save_state(folder, {}, {"step": step}))
    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(11, lambda folder: (_ for _ in ()).throw(OSError("disk full")))
    latest = checkpoints.latest()
    assert latest is not None
    assert load_state(latest)[1]["step"] == 10
    assert len(list((tmp_path / "c").glob("step-*"))) == 2
    checkpoints.clear()
    assert checkpoints.latest() is None


def test_optimizer_state_round_trips_to_the_same_next_step():
    def make():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    def step(model, optimizer, x):
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()

    x = torch.randn(4, 3)
    model, optimizer = make()
    step(model, optimizer, x)
    saved = {name: t.clone() for name, t in optimizer_tensors(optimizer).items()}
    weights = {name: t.clone() for name, t in model.state_dict().items()}
    step(model, optimizer, x)
    other, fresh = make()
    other.load_state_dict(weights)
    load_optimizer_tensors(fresh, saved)
    step(other, fresh, x)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_write_atomic_leaves_no_other_file(tmp_path: Path):
    write_atomic(tmp_path / "a.txt", "one")
    write_atomic(tmp_path / "a.txt", "two")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "two"


def test_run_with_another_configuration_is_refused_and_names_the_fields(tmp_path: Path):
    Run(tmp_path, config={"seed": 9})  # nothing measured yet: the configuration may still change
    run = Run(tmp_path, config={"seed": 0, "ppo": {"kl_coef": 0.1, "epochs": 2}}, tensorboard=False)
    run.log("ppo", 1, {"objective/kl": 0.0})
    Run(tmp_path, config={"seed": 0, "ppo": {"kl_coef": 0.1, "epochs": 2}})
    with pytest.raises(ConfigError, match=r"different: ppo\.kl_coef, seed"):
        Run(tmp_path, config={"seed": 1, "ppo": {"kl_coef": 0.2, "epochs": 2}})


def test_new_runs_get_the_next_number_and_resume_finds_the_newest(tmp_path: Path):
    with pytest.raises(CheckpointError, match="nothing to resume"):
        Run.newest(tmp_path, "a")
    for expected in ("a", "a-2", "a-3"):
        path = Run.claim(tmp_path, "a")
        assert path.name == expected
        Run(path).close()
        assert Run.claim(tmp_path, "a") == path  # nothing was measured there, and nobody works there
        (path / "metrics.jsonl").touch()
    (tmp_path / "a-b").mkdir()
    assert Run.newest(tmp_path, "a").name == "a-3"


def test_two_starts_of_one_process_get_two_folders(tmp_path: Path):
    assert [Run.claim(tmp_path, "a").name for _ in range(3)] == ["a", "a-2", "a-3"]


WORKS = """
import sys
from textenv.runs import Run
run = Run(Run.claim(sys.argv[1], "a"), lock=True)
print(run.path.name, flush=True)
sys.stdin.readline()
"""


def test_starts_of_several_processes_get_a_folder_each_and_keep_others_out_until_they_end(tmp_path: Path):
    command = [sys.executable, "-c", WORKS, str(tmp_path)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    working = [subprocess.Popen(command, **pipes) for _ in range(4)]
    try:
        assert sorted(process.stdout.readline().strip() for process in working if process.stdout) == [
            "a",
            "a-2",
            "a-3",
            "a-4",
        ]
        with pytest.raises(CheckpointError, match=r"another process works in .*a-3"):
            Run(tmp_path / "a-3", config={"seed": 5}, lock=True)
        assert not (tmp_path / "a-3" / "config.yaml").exists()  # found out before anything is written
    finally:
        for process in working:
            process.kill()
            process.communicate()
    Run(tmp_path / "a-3", lock=True).close()  # a killed process holds nothing


def test_a_start_that_fails_leaves_nothing_behind_but_what_was_measured_stays(tmp_path: Path):
    run = Run(Run.claim(tmp_path, "a"), config={"seed": 0}, tensorboard=False)
    run.stage("sft")
    assert run.discard()
    assert not run.path.exists()
    run = Run(Run.claim(tmp_path, "a"), tensorboard=False)
    run.log("sft", 1, {"loss": 1.0})
    assert not run.discard()
    assert run.path.exists()


def test_a_folder_that_was_there_before_a_failed_start_stays(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("mine")
    assert not Run(Run.claim(tmp_path, "a"), config={"seed": 0}).discard()
    assert (tmp_path / "a" / "notes.txt").read_text() == "mine"


def test_log_refuses_figures_that_are_not_finite(tmp_path: Path):
    run = Run(tmp_path, tensorboard=False)
    with pytest.raises(RunCheckError, match=r"ppo, step 3: loss/policy is not finite"):
        run.log("ppo", 3, {"loss/policy": float("nan"), "objective/kl": 1.0})


def test_rewind_drops_later_lines_of_the_stage_and_cut_off_ones(tmp_path: Path):
    run = Run(tmp_path, tensorboard=False)
    for step in (1, 2, 3):
        run.log("sft", step, {"train/loss": step})
        run.log("ppo", step, {"objective/kl": step})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"stage": "ppo", "st')
    run.rewind("ppo", 1)
    assert [(r["stage"], r["step"]) for r in lines(run)] == [("sft", 1), ("ppo", 1), ("sft", 2), ("sft", 3)]


def test_finish_keeps_the_summary_and_drops_checkpoints(tmp_path: Path):
    run = Run(tmp_path)
    run.checkpoints("reward").save(1, lambda folder: save_state(folder, {}, {}))
    assert run.finished("reward") is None
    run.finish("reward", {"loss": 1.5})
    assert run.finished("reward") == {"loss": 1.5}
    assert run.checkpoints("reward").latest() is None


def test_tensorboard_events_hold_the_figures(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = Run(tmp_path)
    run.log("ppo", 1, {"objective/kl": 0.5})
    run.close()
    run.close()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "ppo"))
    events.Reload()
    assert events.Scalars("objective/kl")[0].value == 0.5


def test_tensorboard_after_a_resume_shows_each_step_once(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps in ((1, 2, 3), (2, 3, 4)):
        run = Run(tmp_path)
        run.rewind("ppo", steps[0] - 1)
        for step in steps:
            run.log("ppo", step, {"objective/kl": step})
        run.close()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "ppo"))
    events.Reload()
    assert [event.step for event in events.Scalars("objective/kl")] == [1, 2, 3, 4]


def test_seconds_of_a_stage_go_on_after_a_resume(tmp_path: Path):
    run = Run(tmp_path, tensorboard=False)
    assert run.seconds("ppo") == 0
    (tmp_path / "metrics.jsonl").write_text('{"stage": "ppo", "step": 1, "seconds": 50.0}\n')
    run.rewind("ppo", 1)
    run.log("ppo", 2, {"objective/kl": 1.0})
    assert 50 <= run.seconds("ppo") < 51


def test_damaged_summary_of_a_stage_is_named(tmp_path: Path):
    run = Run(tmp_path)
    (run.stage("sft") / "done.json").write_text('{"loss": 1')
    with pytest.raises(CheckpointError, match=r"done\.json` is damaged .*delete it to run the stage again"):
        run.finished("sft")


def test_progress_prints_plain_lines_where_there_is_no_terminal():
    out = io.StringIO()
    with StageProgress("ppo", 2, Console(file=out, width=200), interval_seconds=0) as progress:
        progress.update(1, {"kl": 0.123456}, tokens=100)
        progress.update(2, {"kl": 2.0})
    first, second = out.getvalue().splitlines()
    assert "1/2" in first
    assert "tok/s" in first
    assert "kl 0.123" in first
    assert "it/s" in second


def test_progress_in_a_terminal_shows_rate_and_figures():
    out = io.StringIO()
    with StageProgress("ppo", 2, Console(file=out, width=200, force_terminal=True)) as progress:
        progress.update(2, {"score": 1.5}, tokens=10)
    assert "2/2" in out.getvalue()
    assert "score 1.5" in out.getvalue()


def test_finished_stage_goes_on_where_its_episodes_grow(tmp_path: Path):
    def work(run: Run, episodes: int) -> dict[str, int]:
        latest = run.checkpoints("ppo").latest()
        begun = 0 if latest is None else int(latest.name.removeprefix("step-"))
        for step in range(begun, episodes):
            run.checkpoints("ppo").save(step + 1, lambda folder: save_state(folder, {}, {}))
        return {"begun": begun}

    def play(episodes: int, **other: int) -> dict[str, int]:
        run = Run(tmp_path / "r", config={"ppo": {"total_episodes": episodes, **other}}, tensorboard=False)
        done = once(run, "ppo", work, episodes)
        run.finish("evaluate", {})
        run.write_json("summary.json", {})
        return done

    assert play(3)["begun"] == 0
    assert len(list((tmp_path / "r" / "ppo" / "checkpoints").iterdir())) == 1
    assert play(3)["begun"] == 0  # done before
    with pytest.raises(ConfigError, match=r"different: ppo\.total_episodes"):
        play(2)
    with pytest.raises(ConfigError, match=r"different: ppo\.num_envs"):
        play(5, num_envs=2)
    Run(tmp_path / "r", config={"ppo": {"total_episodes": 5}}, tensorboard=False)
    assert not (tmp_path / "r" / "evaluate" / "done.json").exists()
    assert play(5)["begun"] == 3
    Run(tmp_path / "r").checkpoints("ppo").clear()
    with pytest.raises(ConfigError, match=r"`ppo\.total_episodes` has grown, but the finished stage .* no checkpoint"):
        play(6)


def test_the_last_stage_goes_on_where_its_steps_grow_but_none_that_others_build_on(tmp_path: Path):
    def settle(steps: int) -> Run:
        return Run(tmp_path / "r", config={"sft": {"training": {"steps": steps, "batch_size": 4}}}, tensorboard=False)

    run = settle(3)
    run.checkpoints("sft").save(3, lambda folder: save_state(folder, {}, {}))
    run.log("sft", 3, {"loss": 1.0})
    run.finish("sft", {})
    settle(5)
    assert run.finished("sft") is None
    assert run.checkpoints("sft").latest() is not None
    run.stage("ppo")
    with pytest.raises(ConfigError, match=r"different: sft\.training\.steps"):
        settle(7)
