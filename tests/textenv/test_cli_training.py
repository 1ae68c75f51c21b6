"""`textenv pretrain` and `textenv sft` on tasks and conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents import CausalLMPolicy
from textenv.cli.main import main
from textenv.trajectories import TrajectoryStore

SMALL = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 48, "vocab_size": 300, "context": 96}
TRAINING = {
    "steps": 6,
    "batch_size": 4,
    "eval_every": 3,
    "warmup_steps": 2,
    "checkpoint_every": 2,
    "micro_batch_size": 2,
}
TASKS = [{"name": "text", "count": 200}, {"name": "copy", "count": 200}, {"name": "compare", "count": 200}]
PRETRAIN: dict[str, Any] = {
    "name": "pre",
    "tasks": TASKS,
    "pretrain": {"model": SMALL | {"kind": "gpt2"}, "training": TRAINING, "mixture": {"temperature": 2.0}},
}
SFT: dict[str, Any] = {
    "name": "tuned",
    "tasks": TASKS[1:],
    "sft": {"training": TRAINING, "samples": 2, "max_new_tokens": 6, "sources": {"labelers": 1, "users": 2}},
}


def run(command: str, recipe: dict[str, Any], folder: Path, *flags: str) -> Path:
    """Run a command with a recipe; returns the run's folder."""
    file = folder / f"{command}.yaml"
    file.write_text(yaml.safe_dump(recipe))
    assert main([command, "--config", str(file), "--runs_dir", str(folder), *flags]) == 0
    return folder / recipe["name"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was pre-trained on three tasks."""
    return run("pretrain", PRETRAIN, tmp_path_factory.mktemp("pretrained"))


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def test_pretraining_on_tasks_reports_each_and_loads_in_plain_transformers(base: Path):
    from transformers import AutoTokenizer, GPT2LMHeadModel

    found = summary_of(base)
    assert found["data"] == "tasks: text, copy, compare"
    for figure in ("loss", "perplexity", "bits_per_byte", "shares", "blocks"):
        assert set(found["pretrain"][figure]) == {"text", "copy", "compare"}
    assert sum(found["pretrain"]["blocks"].values()) == 24
    model = GPT2LMHeadModel.from_pretrained(base / "pretrain")
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(base / "pretrain")) == 300


def test_pretraining_goes_on_from_a_model_with_its_tokenizer(base: Path, tmp_path: Path):
    recipe = PRETRAIN | {"pretrain": PRETRAIN["pretrain"] | {"model": {"context": SMALL["context"]}}}
    further = run("pretrain", recipe, tmp_path, "--model", str(base / "pretrain"))
    before, after = (summary_of(folder)["pretrain"]["loss"] for folder in (base, further))
    assert all(after[task] < before[task] for task in before)
    tokenizers = [(folder / "pretrain" / "tokenizer.json").read_text() for folder in (base, further)]
    assert tokenizers[0] == tokenizers[1]


def test_fine_tuning_on_tasks_and_conversations(base: Path, tmp_path: Path):
    chats = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    # The same system prompt before all: what the user says decides who is held out.
    system = {"role": "system", "content": "be kind"}
    rows = [{"messages": [system, {**turns[0], "content": f"hi {i}"}, *turns[1:], *turns]} for i in range(40)]
    chats.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--model", str(base / "pretrain"), "--conversations", f"[{chats}]", "--chat", "true"]
    folder = run("sft", SFT, tmp_path, *flags, "--sft.packing", "true")
    found = summary_of(folder)
    assert set(found["sft"]["losses"]) == {"copy", "compare", "chats"}
    assert set(found["sft"]["examples"]) == {"labelers", "users"}
    lines = (folder / "sft" / "generations.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 3, 6, 6]
    assert (folder / "sft" / "chat_template.jinja").exists()
    store = str(tmp_path / "store")  # whoever samples from it asks as it was taught, without being told
    told = ["--policy", str(folder), "--prompts", '["hi 3"]', "--sampling.max_new_tokens", "2", "--store", store]
    assert main(["sample", *told]) == 0
    (answer,) = TrajectoryStore(store)
    policy = CausalLMPolicy.from_pretrained(folder)
    assert policy.answer.chat
    text = policy.tokenizer.apply_chat_template(
        [turns[0] | {"content": "hi 3"}], tokenize=False, add_generation_prompt=True
    )
    assert answer.prompt_ids.tolist() == policy.tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set")  # GPT-2 has Conv1D layers
def test_an_adapter_is_trained_merged_and_saved_as_a_plain_model(base: Path, tmp_path: Path):
    from safetensors.torch import load_file

    folder = run("sft", SFT, tmp_path, "--model", str(base / "pretrain"), "--sft.lora_rank", "2")
    before, after = (load_file(path / "model.safetensors") for path in (base / "pretrain", folder / "sft"))
    assert before.keys() == after.keys()
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert changed
    assert not any("wte" in name or "ln_" in name for name in changed)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"question": "q", "answer": "a"}\n{"question": "q"', "mine.jsonl:2: not valid JSON"),
        ('{"question": "q", "answer": {}}\n', "mine.jsonl:1: field 'answer': expected a text or a list of texts"),
        ('{"text": "q"}\n', "mine.jsonl:1: field 'question': expected a text, got nothing (the record has text)"),
    ],
    ids=["cut off", "wrong type", "missing field"],
)
def test_malformed_data_end_in_one_line_with_file_line_and_field_and_leave_no_run(
    rows: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "mine.jsonl").write_text(rows)
    tasks = f"[{{name: mine, kind: file, path: {tmp_path / 'mine.jsonl'}}}]"
    for command in ("pretrain", "sft"):
        assert main([command, "--tasks", tasks, "--runs_dir", str(tmp_path / "runs")]) == 1
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "--tasks", "[{name: nothing}]"], "there is no built-in task 'nothing'"),
        (["pretrain", "--tasks", "[{name: copy}, {name: copy}]"], "tasks need different names"),
        (["pretrain", "--pretrain.model.preset", "gpt5"], "there is no preset 'gpt5'"),
        (["pretrain", "--tasks", "[{name: copy}]", "--model", "nowhere"], "there is no such folder"),
        (["pretrain", "--pretrain.training.accumulation", "3"], "`accumulation` is now `micro_batch_size`: give it"),
        (["sft", "--conversations", "[nowhere.jsonl]"], "nowhere.jsonl: no such file"),
        (["sft", "--sft.neftune", "1"], "neftune"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else None,
)
def test_mistakes_end_in_one_line(arguments, message, capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) in (1, 2)
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
