"""Do the models answer? Figures per task and stage, and every stage's answers to the same prompts side by side.

Read from ``evaluation.json`` and ``answers.jsonl``, which ``textenv evaluate`` writes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from textenv.pages.charts import grouped_chart, share_points
from textenv.pages.numbers import fixed, percent
from textenv.report.evaluation import MEASURED, figure, model_color, model_names, model_title, task_names
from textenv.report.run_folder import RunRecord, lookup, number, text
from textenv.report.samples import MOST_ROWS, Answered, Reply, chosen

SHOWN = 8
"""Prompts that are shown as cards."""


def answers(run: RunRecord) -> tuple[Any, ...]:
    """What the section shows: lead, chart, measures by model and task, and answers."""
    evaluation = run.evaluation
    models = {m: (model_title(m), model_color(m, place)) for place, m in enumerate(model_names(evaluation))}
    measures = [m for m in MEASURED if any(figure(evaluation, model, "mean", m.key) for model in models)]
    tasks = {task: _figures(evaluation, models, task, measures) for task in ["mean", *task_names(evaluation)]}
    rows = [_answered(record, models) for record in run.answers]
    shown = [rows[place] for place in _spread_over_tasks(run.answers)] if rows else []
    chart = _chart(evaluation, models)
    return _lead(evaluation), chart, list(models.values()), measures, tasks, len(rows), shown, rows[:MOST_ROWS]


def _figures(evaluation: Mapping[str, Any], models: Mapping[str, Any], task: str, measures: Sequence[Any]) -> list[Any]:
    """Of a task: the figures of each model, in the order of the measures."""
    return [[figure(evaluation, model, task, measure.key) for measure in measures] for model in models]


def _lead(evaluation: Mapping[str, Any]) -> str:
    split, count = text(evaluation, "split") or "held-out", number(evaluation, "count")
    asked = f"{count:,.0f} {split} prompts" if count is not None else f"{split} prompts"
    temperature, reference = number(evaluation, "temperature"), text(evaluation, "reference")
    lead = (
        f"All models answer the same {asked}, drawn at temperature {fixed(temperature, 1)}. An answer counts where it "
        "ends by itself in the form that was asked for; an answer that only carries on with the prompt, by asking "
        "another question for instance, does not."
    )
    return lead + (f" The KL is measured against {model_title(reference)}." if reference else "")


def _chart(evaluation: Mapping[str, Any], models: Mapping[str, tuple[str, str]]) -> Markup | None:
    tasks = [*task_names(evaluation, "verifiable"), "mean"]
    groups = [task.replace("_", " ") for task in tasks]
    lines = []
    for model, (title, color) in models.items():
        figures = [figure(evaluation, model, task, "accuracy") for task in tasks]
        if any(figures):
            lines.append(share_points(title, color, figures, groups, look="none"))
    if not lines:
        return None
    words, titles = "Accuracy of each stage on each task", ("task", "share of right answers")
    return grouped_chart(lines, groups, titles=titles, description=words, level=0.0, width=1000)


def _answered(record: Mapping[str, Any], models: Mapping[str, tuple[str, str]]) -> Answered:
    """A record as it is shown."""
    replies = []
    for model, (title, color) in models.items():
        answer = lookup(record, model)
        facts = ["cut at the limit"] if text(answer, "finish") == "length" else []
        reply = Reply(title, color, text(answer, "response"), _verdict(answer), facts, number(answer, "accuracy"))
        replies.append(None if answer is None else reply)
    task = (text(record, "task") or "").replace("_", " ")
    return Answered(text(record, "prompt"), task, replies, Reply("Reference", "human", text(record, "reference")))


def _verdict(answer: Any) -> str:
    """What the verifier found, in a word or two; empty where it looked at nothing."""
    answered, accuracy = number(answer, "answered"), number(answer, "accuracy")
    if answered is None:
        return ""
    if accuracy == 1:
        return "✓ right"
    if answered:
        return "✗ wrong" if not accuracy else f"{percent(accuracy)} right"
    return "goes on" if number(answer, "goes_on") else "no answer"


def _spread_over_tasks(answers: Sequence[Mapping[str, Any]]) -> list[int]:
    """Indices of the prompts that are shown: the tasks take turns, within a task the rule of the samples decides."""
    places: dict[str, list[int]] = {}
    for place, record in enumerate(answers):
        places.setdefault(text(record, "task") or "", []).append(place)
    each = -(-SHOWN // len(places))
    picked = [[rows[i] for i in chosen([answers[r] for r in rows], each)] for rows in places.values()]
    turns = [rows[turn] for turn in range(each) for rows in picked if turn < len(rows)]
    return sorted(turns[: max(SHOWN, len(places))])
