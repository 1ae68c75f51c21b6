"""lm-eval on a model that textenv saved, as it is: greedy answers and accuracy equal ours, also through the server.

A tiny model learns a handful of questions by heart, so that some answers are right; the task is what
``examples/lm_eval_task/export.py`` writes, the data stay on this machine. A second task chooses between given answers,
by their log-likelihoods. Both tasks are asked of the model itself (``hf``) and of `textenv serve`'s application
(``local-completions``): answers, choices and log-likelihoods must be the same.
"""

# The client is not installed where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import lm_eval
import numpy as np
import uvicorn
import yaml
from lm_eval.tasks import TaskManager

from agents.evaluation.tasks import answer_tasks, held_out
from agents.lm.finetuning import SFTConfig, sft
from agents.lm.in_memory import LMConfig
from agents.lm.pretraining import ModelConfig, build_model, train_tokenizer
from agents.policy import CausalLMPolicy
from examples.lm_eval_task.export import export
from textenv.feedback.app import AppConfig, build_app
from textenv.feedback.server.hosting import EngineLimits, PolicyHost
from textenv.feedback.server.security import Security
from textenv.feedback.store import FeedbackStore
from textenv.sampling.params import SamplingParams
from textenv.tasks import Task, procedural_task

MOST, MAX_NEW_TOKENS = 24, 8
SIZE = ModelConfig(vocab_size=300, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, context=64)


def save_model(task: Task, folder: Path) -> None:
    """Train a model on half of the questions that it is asked, and save it as textenv does."""
    shown = task.demonstrations("test")[: MOST // 2]
    tokenizer = train_tokenizer([d.prompt + d.response for d in shown], SIZE.vocab_size, split_digits=True)
    model = build_model(SIZE, tokenizer, seed=0)
    sft(model, tokenizer, shown, shown, SFTConfig(LMConfig(steps=150, batch_size=12, learning_rate=5e-3)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def choices_task(exported: str, folder: Path) -> str:
    """The same questions with four answers to choose from, scored by log-likelihood; its name."""
    definition = yaml.safe_load((folder / "compare.yaml").read_text("utf-8"))
    data = Path(definition["dataset_kwargs"]["data_files"]["test"])
    rows = [json.loads(line) for line in data.read_text("utf-8").splitlines()]
    wrong = sorted({row["reference"] for row in rows})
    for number, row in enumerate(rows):
        others = [answer for answer in wrong if answer != row["reference"]]
        row["choices"] = [others[(number + shift) % len(others)] for shift in range(3)] + [row["reference"]]
    file = folder / "choices.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name in ("generation_kwargs", "doc_to_target"):
        del definition[name]
    definition |= {
        "task": f"{exported}_choices",
        "dataset_kwargs": {"data_files": {"test": str(file.resolve())}},
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": 3,
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "choices.yaml").write_text(yaml.safe_dump(definition, sort_keys=False), encoding="utf-8")
    return str(definition["task"])


def evaluated(tasks: list[str], folder: Path, model: str, arguments: str) -> dict[str, Any]:
    """What lm-eval finds."""
    return lm_eval.simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=tasks,
        task_manager=TaskManager(include_path=str(folder)),
        device="cpu" if model == "hf" else None,
        batch_size=8,
        log_samples=True,
    )


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """`textenv serve`'s application with the model in a folder, behind a socket; the address of its completions."""
    with FeedbackStore(folder.parent / "serve.db") as store:
        host = PolicyHost(folder, CausalLMPolicy.from_pretrained, store, limits=EngineLimits(max_length=SIZE.context))
        app = build_app(store, {"model": host}, Security(b"k" * 64), AppConfig(poll_seconds=0.0))
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1/completions"
        server.should_exit = True
        thread.join()
        host.close()


def said_in(found: dict[str, Any], task: str) -> list[Any]:
    """Everything that was answered to a task, in the order of its questions."""
    return [sample["filtered_resps"] for sample in sorted(found["samples"][task], key=lambda sample: sample["doc_id"])]


def main() -> int:
    """Compare both harnesses on the same saved model, and the server with the model; 1 if anything differs."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    task = procedural_task("compare", 400)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(task, folder / "model")
        asked = held_out([task], "test", MOST)
        policy = CausalLMPolicy.from_pretrained(folder / "model")
        answers = policy.generate([one.prompt for one in asked], SamplingParams(0.0, max_new_tokens=MAX_NEW_TOKENS))
        ours = answer_tasks(policy, asked, sampling=SamplingParams(max_new_tokens=MAX_NEW_TOKENS))
        exported = export(task, folder / "tasks", most=MOST, max_new_tokens=MAX_NEW_TOKENS)
        tasks = [exported, choices_task(exported, folder / "tasks")]
        found = evaluated(tasks, folder / "tasks", "hf", f"pretrained={folder / 'model'},dtype=float32")
        with served(folder / "model") as url:
            remote = f"model=model,base_url={url},tokenizer={folder / 'model'},tokenizer_backend=huggingface"
            # Its clients leave the begin token out unless told; `hf` puts it where the tokenizer does.
            remote += f",max_length={SIZE.context},num_concurrent=2,add_bos_token=True"
            through = evaluated(tasks, folder / "tasks", "local-completions", remote)
    accuracy = sum(answer.figures["greedy_accuracy"] for answer in ours) / len(ours)
    theirs = found["results"][exported]["exact_match,none"]
    said = [each[0].strip() for each in said_in(found, exported)]
    different = sum(one != answer.response.strip() for one, answer in zip(said, answers, strict=True))
    sys.stdout.write(f"accuracy: lm-eval {theirs:.4f}, textenv {accuracy:.4f}; {different} answers differ\n")
    if not 0 < accuracy < 1:
        raise AssertionError(f"an accuracy of {accuracy} compares nothing")
    return int(different > 0 or abs(theirs - accuracy) > 1e-9) | server_differs(found, through, tasks)


def server_differs(found: dict[str, Any], through: dict[str, Any], tasks: list[str]) -> int:
    """1 where the server's answers, choices or log-likelihoods are not the model's own."""
    generated, chosen = tasks
    answers = sum(a != b for a, b in zip(said_in(found, generated), said_in(through, generated), strict=True))
    direct, remote = (
        np.array([[float(score) for score, _ in row] for row in said_in(f, chosen)]) for f in (found, through)
    )
    greedy, greedy_remote = ([[bool(g) for _, g in row] for row in said_in(f, chosen)] for f in (found, through))
    figures = [f["results"][chosen]["acc,none"] for f in (found, through)]
    off = float(np.abs(direct - remote).max())
    sys.stdout.write(
        f"through the server: {answers} of {MOST} generated answers differ; {direct.size} log-likelihoods are at most "
        f"{off:.1e} off, accuracy {figures[0]:.4f} and {figures[1]:.4f}\n"
    )
    return int(answers > 0 or off > 1e-4 or greedy != greedy_remote or figures[0] != figures[1])


if __name__ == "__main__":
    sys.exit(main())
