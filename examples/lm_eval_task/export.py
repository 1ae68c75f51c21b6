"""Tasks for lm-eval: writes a folder that ``lm_eval --include_path`` reads, from any task of textenv.

    pip install "lm-eval[hf]"
    python examples/lm_eval_task/export.py --tasks addition compare --out lm_eval_tasks
    lm_eval --model hf --model_args pretrained=runs/answering/sft --tasks textenv_addition,textenv_compare \
        --include_path lm_eval_tasks --device cpu --batch_size 32

A model that textenv saved is loaded as it is: its tokenizer puts the begin token in front by itself. Answers are
greedy, and ``exact_match`` is 1 where one is the reference in the asked form; so for tasks whose verifier accepts
one text alone it equals ``textenv evaluate``'s greedy accuracy.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import yaml

from textenv.datasets.rated_texts import Split
from textenv.tasks import Task, procedural_task


def export(task: Task, folder: Path, *, split: Split = "test", most: int = 200, max_new_tokens: int = 32) -> str:
    """Write a task's held-out questions as ``<name>.jsonl`` and the definition ``<name>.yaml`` beside it.

    Args:
        task: Its prompts and first answers, in its own form.
        folder: Made where it is missing.
        split: Which questions.
        most: The first so many.
        max_new_tokens: Length limit of an answer.

    Returns:
        The task's name in lm-eval.
    """
    folder.mkdir(parents=True, exist_ok=True)
    items = [item for item in task.split(split) if item.answers][:most]
    rows = [
        {"prompt": task.format.ask(item.question), "reference": task.format.answer(item.answers[0])} for item in items
    ]
    data = (folder / f"{task.name}.jsonl").resolve()
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    definition = {
        "task": f"textenv_{task.name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{reference}}",
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": max_new_tokens},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    (folder / f"{task.name}.yaml").write_text(yaml.safe_dump(definition, sort_keys=False), encoding="utf-8")
    return str(definition["task"])


def main() -> None:
    """Write the tasks, print the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["addition", "compare"], help="built-in tasks with a verifier")
    parser.add_argument("--out", type=Path, default=Path("lm_eval_tasks"))
    parser.add_argument("--model", default="runs/answering/sft", help="only for the command that is printed")
    arguments = parser.parse_args()
    names = ",".join(export(procedural_task(name), arguments.out) for name in arguments.tasks)
    print(
        f"lm_eval --model hf --model_args pretrained={arguments.model} --tasks {names} "
        f"--include_path {arguments.out} --device cpu --batch_size 32"
    )


if __name__ == "__main__":
    main()
