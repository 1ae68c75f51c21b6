"""Do the models answer? Figures per task and stage, and every stage's answers to the same prompts side by side.

Read from ``evaluation.json`` and ``answers.jsonl``, which ``textenv evaluate`` writes.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from textenv.report.drawing.charts import Judge, accuracy_chart
from textenv.report.evaluation import (
    MEASURED,
    Measure,
    figure,
    model_color,
    model_names,
    model_title,
    task_names,
)
from textenv.report.numbers import fixed, percent
from textenv.report.records import RunRecord, lookup, number, text
from textenv.report.samples import MOST_ROWS, chosen

SHOWN = 8
"""Prompts that are shown as cards."""


def answers_section(run: RunRecord) -> str:
    """The section: what changed from stage to stage, in figures and in answers."""
    evaluation = run.evaluation
    models = model_names(evaluation)
    split, count = text(evaluation, "split") or "held-out", number(evaluation, "count")
    asked = f"{count:,.0f} {split} prompts" if count is not None else f"{split} prompts"
    temperature, reference = number(evaluation, "temperature"), text(evaluation, "reference")
    lead = (
        f"All models answer the same {asked}, drawn at temperature {fixed(temperature, 1)}. An answer counts where it "
        "ends by itself in the form that was asked for; an answer that only carries on with the prompt, by asking "
        "another question for instance, does not."
    )
    lead += f" The KL is measured against {model_title(reference)}." if reference else ""
    return (
        f'<p class="lead">{escape(lead)}</p>{_chart(evaluation, models)}'
        f'<div class="card scroll" style="margin:18px 0">{_means(evaluation, models)}</div>'
        f"{_by_task(evaluation, models)}{_cards(run, models)}{_everything(run, models)}"
    )


def _chart(evaluation: Mapping[str, Any], models: Sequence[str]) -> str:
    tasks = task_names(evaluation, "verifiable")
    judges = []
    for place, model in enumerate(models):
        found = [figure(evaluation, model, task, "accuracy") for task in [*tasks, "mean"]]
        if any(found):
            judges.append(
                Judge(
                    model_title(model),
                    model_color(model, place),
                    [None if f is None else f[0] for f in found],
                    [None if f is None else (f[1], f[2]) for f in found],
                )
            )
    if not judges:
        return ""
    groups = [task.replace("_", " ") for task in tasks] + ["mean"]
    chart = accuracy_chart(
        groups,
        [None] * len(groups),
        judges,
        titles=("task", "share of right answers"),
        description="Accuracy of each stage on each task",
        level=0.0,
        width=1000,
        joined=False,
    )
    return (
        '<figure class="card"><figcaption><h3>Accuracy per task and stage</h3>'
        f"<span>whiskers: 95% bootstrap</span></figcaption>{chart}</figure>"
    )


def _means(evaluation: Mapping[str, Any], models: Sequence[str]) -> str:
    heads = "".join(
        f'<th class="n" style="color:var(--{model_color(m, i)})">{escape(model_title(m))}</th>'
        for i, m in enumerate(models)
    )
    rows = []
    for measure in MEASURED:
        found = [figure(evaluation, model, "mean", measure.key) for model in models]
        if any(found):
            cells = "".join(_cell(measure, one) for one in found)
            rows.append(f"<tr><th>{escape(measure.title)}</th>{cells}</tr>")
    return f"<table><thead><tr><th>Mean over tasks</th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _cell(measure: Measure, found: tuple[float, float, float] | None) -> str:
    if found is None:
        return '<td class="n">–</td>'
    value, low, high = found
    small = f"<small>{measure.shown(low)} to {measure.shown(high)}</small>"
    return f'<td class="n" data-v="{value:.6g}">{measure.shown(value)}{small}</td>'


def _by_task(evaluation: Mapping[str, Any], models: Sequence[str]) -> str:
    """A folded table: a row per task and model, a column per measure."""
    known = [m for m in MEASURED if any(figure(evaluation, name, "mean", m.key) for name in models)]
    heads = "".join(f'<th class="n">{escape(m.title)}</th>' for m in known)
    rows = []
    for task in task_names(evaluation):
        for place, model in enumerate(models):
            cells = "".join(_cell(m, figure(evaluation, model, task, m.key)) for m in known)
            rows.append(
                f'<tr style="--c:var(--{model_color(model, place)})"><td>{escape(task.replace("_", " "))}</td>'
                f"<th>{escape(model_title(model))}</th>{cells}</tr>"
            )
    return (
        '<details><summary>Every figure per task</summary><div class="card scroll"><table class="sortable by-task">'
        f"<thead><tr><th>Task</th><th>Model</th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        "</details>"
    )


def _verdict(answer: Any) -> str:
    """A chip that says what the verifier found."""
    answered, accuracy = number(answer, "answered"), number(answer, "accuracy")
    if answered is None:
        return ""
    if accuracy == 1:
        words = "✓ right"
    elif answered:
        words = "✗ wrong" if not accuracy else f"{percent(accuracy)} right"
    else:
        words = "goes on" if number(answer, "goes_on") else "no answer"
    return f'<span class="chip">{words}</span>'


def _words(content: str | None) -> str:
    if content is None:
        return '<p class="words empty">not recorded</p>'
    return (
        f'<p class="words" dir="auto">{escape(content.strip())}</p>'
        if content.strip()
        else ('<p class="words empty">(empty answer)</p>')
    )


def _cards(run: RunRecord, models: Sequence[str]) -> str:
    if not run.answers:
        return '<p class="missing">answers.jsonl is missing or empty: no answers to show.</p>'
    indices = _spread_over_tasks(run.answers)
    lead = (
        f"Not picked by hand: of each task the prompts with the smallest SHA-256, {len(indices)} in all, "
        "whatever the answers."
    )
    cards = []
    for index in indices:
        record = run.answers[index]
        prompt = f"{escape(text(record, 'prompt') or '')}"
        parts = [f'<article class="sample"><p class="prompt" dir="auto">{prompt.strip()}</p>']
        for place, model in enumerate(models):
            answer = lookup(record, model)
            if answer is not None:
                parts.append(
                    f'<div class="answer" style="--c:var(--{model_color(model, place)})"><div class="who">'
                    f"<b>{escape(model_title(model))}</b>{_verdict(answer)}{_ended(answer)}</div>"
                    f"{_words(text(answer, 'response'))}</div>"
                )
        parts.append(
            '<div class="answer" style="--c:var(--human)"><div class="who"><b>Reference</b></div>'
            f"{_words(text(record, 'reference'))}</div>"
        )
        cards.append("".join(parts) + "</article>")
    return f'<h3>Side by side</h3><p class="lead">{lead}</p><div class="samples">{"".join(cards)}</div>'


def _ended(answer: Any) -> str:
    return "<span>cut at the limit</span>" if text(answer, "finish") == "length" else ""


def _spread_over_tasks(answers: Sequence[Mapping[str, Any]]) -> list[int]:
    """Indices of the prompts that are shown: the tasks take turns, within a task the rule of the samples decides."""
    places: dict[str, list[int]] = {}
    for place, record in enumerate(answers):
        places.setdefault(text(record, "task") or "", []).append(place)
    each = -(-SHOWN // len(places))
    picked = [[rows[i] for i in chosen([answers[r] for r in rows], each)] for rows in places.values()]
    turns = [rows[turn] for turn in range(each) for rows in picked if turn < len(rows)]
    return sorted(turns[: max(SHOWN, len(places))])


def _everything(run: RunRecord, models: Sequence[str]) -> str:
    """The folded table of all prompts with every model's answer."""
    if not run.answers:
        return ""
    heads = "<th>Prompt</th>" + "".join(f"<th data-down>{escape(model_title(m))}</th>" for m in models)
    rows = []
    for record in run.answers[:MOST_ROWS]:
        task = escape((text(record, "task") or "").replace("_", " "))
        cells = [f'<td data-head="Prompt"><small>{task}</small>{_words(text(record, "prompt"))}</td>']
        for place, model in enumerate(models):
            answer = lookup(record, model)
            score = number(answer, "accuracy")
            shown = _verdict(answer) + _words(text(answer, "response"))
            cells.append(
                f'<td data-head="{escape(model_title(model))}" data-v="{"" if score is None else score}" '
                f'style="--c:var(--{model_color(model, place)})">{shown}</td>'
            )
        cells.append(f'<td data-head="Reference" style="--c:var(--human)">{_words(text(record, "reference"))}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    total = len(run.answers)
    extent = f"all {total:,}" if total <= MOST_ROWS else f"the first {MOST_ROWS:,} of {total:,}"
    return (
        f"<details><summary>Search {extent} prompts and answers</summary>"
        '<div class="paged"><div class="tools"><input type="search" placeholder="Words to look for" '
        'aria-label="Search the answers"><span class="count" aria-live="polite"></span>'
        '<button type="button">Back</button><button type="button">Next</button>'
        "<span>A click on a model's name sorts by its accuracy.</span></div>"
        f'<table class="all sortable"><thead><tr>{heads}<th>Reference</th></tr></thead><tbody>{"".join(rows)}</tbody>'
        "</table></div></details>"
    )
