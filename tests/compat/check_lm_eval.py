"""lm-eval on a model that textenv saved, as it is: greedy answers and accuracy equal ours.

A tiny model learns a handful of questions by heart, so that some answers are right; the task is what
``examples/lm_eval_task/export.py`` writes, the data stay on this machine.
"""

# The client is not installed where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import lm_eval
from lm_eval.tasks import TaskManager

from agents.evaluation.tasks import answer_tasks, held_out
from agents.lm.finetuning import SFTConfig, sft
from agents.lm.in_memory import LMConfig
from agents.lm.pretraining import ModelConfig, build_model, train_tokenizer
from agents.policy import CausalLMPolicy
from examples.lm_eval_task.export import export
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


def main() -> int:
    """Compare both harnesses on the same saved model; 1 if anything differs."""
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
        found = lm_eval.simple_evaluate(
            model="hf",
            model_args=f"pretrained={folder / 'model'},dtype=float32",
            tasks=[exported],
            task_manager=TaskManager(include_path=str(folder / "tasks")),
            device="cpu",
            batch_size=8,
            log_samples=True,
        )
    accuracy = sum(answer.figures["greedy_accuracy"] for answer in ours) / len(ours)
    theirs = found["results"][exported]["exact_match,none"]
    samples = sorted(found["samples"][exported], key=lambda sample: sample["doc_id"])
    said = [sample["resps"][0][0].strip() for sample in samples]
    different = sum(one != answer.response.strip() for one, answer in zip(said, answers, strict=True))
    sys.stdout.write(f"accuracy: lm-eval {theirs:.4f}, textenv {accuracy:.4f}; {different} answers differ\n")
    if not 0 < accuracy < 1:
        raise AssertionError(f"an accuracy of {accuracy} compares nothing")
    return int(different > 0 or abs(theirs - accuracy) > 1e-9)


if __name__ == "__main__":
    sys.exit(main())
