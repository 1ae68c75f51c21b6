"""``textenv evaluate``: the models of all stages on the same held-out prompts of tasks, side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen
from rich.console import Console

from agents.evaluation.tasks import Answer, EvaluationConfig, answer_records, answer_tasks, held_out, summarize_answers
from agents.policy import CausalLMPolicy
from textenv.checkpoints import write_atomic
from textenv.cli.base import RunCommand, RunName
from textenv.cli.stages import check_folder, versions
from textenv.errors import ConfigError
from textenv.report import answers_table, write_report
from textenv.runs import Run
from textenv.sampling.params import SamplingParams
from textenv.settings import refuse_unused
from textenv.statistics import finite_or_none
from textenv.tasks import Task, TaskSource, load_tasks


@dataclass(frozen=True)
class EvaluateCommand(RunCommand):
    """``textenv evaluate``: share of responses that answer, accuracy, likelihood and more, per task and model.

    Attributes:
        models: ``name=folder`` each: ``base=DIR sft=DIR rl=DIR``.
        tasks: What is asked.
        evaluation: How it is measured.
    """

    name: RunName = "evaluate"
    models: list[str] = field(default_factory=list, metadata={"nargs": "+"})
    tasks: Annotated[list[TaskSource], MinLen(1), "name them in the recipe, such as `tasks: [{name: addition}]`"] = (
        field(default_factory=list)
    )
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluation.reference not in (each.partition("=")[0] for each in self.models):
            refuse_unused(self, "unless `models` has one of this name: name one of them", "evaluation.reference")


def parse_models(given: Sequence[str]) -> dict[str, Path]:
    """Models by name from ``name=folder``, in their order.

    Raises:
        ConfigError: If one has no name or no folder, or two have the same name.
    """
    models: dict[str, Path] = {}
    for text in given:
        name, sign, folder = text.partition("=")
        if not (name and sign and folder):
            raise ConfigError(f"`--models` takes name=folder, such as sft=runs/sft/sft, got {text!r}")
        if name in models or name in ("task", "prompt", "reference"):
            raise ConfigError(f"`--models`: the name {name!r} is taken; give each model one of its own")
        models[name] = check_folder("models", folder)
    if not models:
        raise ConfigError("no models: give `--models base=DIR sft=DIR rl=DIR`")
    return models


def evaluate(options: EvaluateCommand, console: Console) -> None:
    """``textenv evaluate``: writes a run folder with ``evaluation.json``, ``answers.jsonl`` and ``report.html``."""
    models, tasks = parse_models(options.models), load_tasks(options.tasks)
    began = time.monotonic()
    run = options.open(console)
    try:
        evaluation = evaluate_models(run, models, tasks, options.evaluation, options.seed)
        seconds = round(time.monotonic() - began, 1)
        summary = {"name": run.path.name, "seed": options.seed, "data": described(tasks), "versions": versions()}
        run.write_json("summary.json", summary | {"seconds": {"evaluate": seconds, "total": seconds}})
    finally:
        run.close()
    report = write_report(run.path)
    console.print(answers_table(evaluation))
    run.say(f"figures: {run.path / 'evaluation.json'}, answers: answers.jsonl, report: {report}")


def described(tasks: Sequence[Task]) -> str:
    """What the data are, in a few words."""
    return f"tasks: {', '.join(task.name for task in tasks)}"


def evaluate_models(
    run: Run, models: Mapping[str, Path], tasks: Sequence[Task], config: EvaluationConfig, seed: int
) -> dict[str, Any]:
    """Measure models on the same prompts; writes ``evaluation.json`` and ``answers.jsonl``.

    Args:
        run: Gets the files.
        models: Folders by name, in the order in which they came to be.
        tasks: What is asked.
        config: How.
        seed: Of the draws.

    Returns:
        What ``evaluation.json`` holds: the settings and ``models``: ``{model: {task: {measure: [value, low, high]}}}``,
        the task ``mean`` being the mean over tasks.
    """
    asked = held_out(tasks, config.split, config.prompts)
    sampling = SamplingParams(config.temperature, max_new_tokens=config.max_new_tokens)
    reference, answers = None, dict[str, list[Answer]]()
    for name, folder in models.items():
        run.say(f"{'evaluate':<12} {name}: {len(asked)} held-out prompts of {len(tasks)} tasks")
        policy = CausalLMPolicy.from_pretrained(folder)
        answers[name] = answer_tasks(policy, asked, reference=reference, sampling=sampling, seed=seed)
        if name == config.reference:
            reference = policy
    figures = {name: summarize_answers(asked, given, seed=seed) for name, given in answers.items()}
    evaluation = asdict(config) | {
        "reference": config.reference if reference is not None else "",
        "seed": seed,
        "count": len(asked),
        "tasks": [task.name for task in tasks],
        "verifiable": [task.name for task in tasks if task.verifier is not None],
        "models": {
            model: {
                task: {name: [finite_or_none(number) for number in figure[:3]] for name, figure in row.items()}
                for task, row in by_task.items()
            }
            for model, by_task in figures.items()
        },
    }
    run.write_json("evaluation.json", evaluation)
    lines = [json.dumps(record, ensure_ascii=False) for record in answer_records(asked, answers)]
    write_atomic(run.path / "answers.jsonl", "\n".join(lines) + "\n")
    return evaluation
