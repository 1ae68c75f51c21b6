"""What ``textenv evaluate`` found, for the terminal: accuracies per task and the other figures, models side by side."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from textenv.pages.numbers import MISSING, Figure
from textenv.report.evaluation import MEASURED, Measure, figure, model_names, model_title, task_names


def answers_table(evaluation: Mapping[str, Any]) -> RenderableType:
    """Rich tables of ``evaluation.json``: accuracy per task, then the means over tasks of everything else.

    Args:
        evaluation: The object in ``evaluation.json``.
    """
    models = model_names(evaluation)
    accuracy = next(measure for measure in MEASURED if measure.key == "accuracy")
    first = _table("Accuracy, 95%", models)
    for task in task_names(evaluation, "verifiable"):
        found = [figure(evaluation, model, task, "accuracy") for model in models]
        first.add_row(task.replace("_", " "), *(_cell(accuracy, one) for one in found))
    second = _table("Mean over tasks", models)
    for measure in MEASURED:
        found = [figure(evaluation, model, "mean", measure.key) for model in models]
        if any(found):
            second.add_row(measure.title, *(_cell(measure, one) for one in found))
    return Group(first, second)


def _table(title: str, models: list[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(title, overflow="fold")
    for model in models:
        table.add_column(model_title(model), justify="right", no_wrap=True)
    return table


def _cell(measure: Measure, found: Figure | None) -> str:
    if found is None:
        return MISSING
    low, high = found["low"], found["high"]
    ends = "" if low is None or high is None else f" [{measure.shown(low)}, {measure.shown(high)}]"
    return measure.shown(found["value"]) + ends
