"""The report of a run on tasks: figures, chart and answers side by side, whatever the files hold."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from textenv.report import answers_table, write_report

MODELS = ("base", "sft", "rl")


def evaluation(**changes: Any) -> dict[str, Any]:
    """Made-up figures: two tasks that rise from stage to stage, and one without a verifier."""
    models: dict[str, Any] = {}
    for place, model in enumerate(MODELS):
        rows = {task: {"accuracy": [0.3 * place, 0.3 * place - 0.02, 0.3 * place + 0.02]} for task in ("add", "mean")}
        for row in rows.values():
            row |= {"answered": [0.02 + 0.48 * place, 0.0, 1.0], "tokens": [5.0, 4.5, 5.5]}
        models[model] = rows | {"odd_one": rows["add"], "text": {"tokens": [9.0, 8.0, 10.0]}}
    models["rl"]["mean"] = {**models["rl"]["mean"], "kl": [2.13, 2.0, 2.3]}
    found = {"tasks": ["text", "add", "odd_one"], "verifiable": ["add", "odd_one"], "models": models, "split": "test"}
    return found | {"count": 60, "temperature": 1.0, "reference": "sft"} | changes


def answer(response: str, **figures: Any) -> dict[str, Any]:
    return {"response": response, "finish": "eos"} | figures


def records(count: int = 30) -> list[dict[str, Any]]:
    """Answers with every verdict, one of them with markup."""
    return [
        {
            "task": ("text", "add", "odd_one")[i % 3],
            "prompt": f"What is {i}?\n",
            "reference": f"Answer: {i}",
            "base": answer(f"What is <b>{i + 1}</b>?", answered=0.0, accuracy=0.0, goes_on=1.0),
            "sft": answer("Answer: 7", answered=1.0, accuracy=0.0, goes_on=0.0),
            "rl": answer(f"Answer: {i}", answered=1.0, accuracy=1.0, goes_on=0.0),
        }
        for i in range(count)
    ]


def page_of(folder: Path, found: Any, answers: list[dict[str, Any]]) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text("name: x\n", encoding="utf-8")
    summary = {"name": "x", "seconds": {"evaluate": 3, "total": 3}}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (folder / "evaluation.json").write_text(json.dumps(found), encoding="utf-8")
    lines = "".join(json.dumps(record) + "\n" for record in answers)
    (folder / "answers.jsonl").write_text(lines, encoding="utf-8")
    return write_report(folder).read_text(encoding="utf-8")


def test_page_shows_form_accuracy_and_kl_of_every_stage(tmp_path: Path):
    source = page_of(tmp_path / "run", evaluation(), records())
    headline = re.sub("<.*?>", "", re.findall("<h1>(.*?)</h1>", source)[0])
    assert headline == (
        "How often a language model answers in the asked form: Base 2%, SFT 50%, RL 98%; how often rightly: Base 0%, "
        "SFT 30%, RL 60%, at 2.1 nats of KL per answer."
    )
    assert 'class="missing"' not in source
    assert 'class="notice"' not in source
    titles = re.findall(r'<h2 id="([^"]+)">', source)
    assert titles == ["answers", "time", "configuration", "glossary"]
    assert len(re.findall('<article class="sample">', source)) == 8
    for chip in ("✓ right", "✗ wrong", "goes on"):
        assert chip in source
    assert "What is &lt;b&gt;1&lt;/b&gt;?" in source


def test_chosen_prompts_are_spread_over_tasks_and_do_not_depend_on_the_answers(tmp_path: Path):
    first = page_of(tmp_path / "a", evaluation(), records())
    others = [record | {"rl": answer("else")} for record in records()]
    second = page_of(tmp_path / "b", evaluation(), others)

    def shown(source: str) -> list[str]:
        return re.findall(r'<article class="sample"><p class="prompt" dir="auto">What is (\d+)', source)

    assert shown(first) == shown(second)
    assert {int(number) % 3 for number in shown(first)} == {0, 1, 2}


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"models": 3},
        {"models": {"base": None}},
        {"models": {"base": {"mean": {"accuracy": [1]}}}, "tasks": [3, "add"]},
        evaluation(count="many", temperature=None, reference=3),
    ],
    ids=["empty", "number", "null", "short", "types"],
)
def test_page_survives_odd_figures(broken: Any, tmp_path: Path):
    source = page_of(tmp_path / "run", broken, [{"task": None}, {"sft": 3}])
    assert "<h1>" in source


def test_missing_answers_are_named(tmp_path: Path):
    page_of(tmp_path / "run", evaluation(), [])
    (tmp_path / "run" / "answers.jsonl").unlink()
    source = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "answers.jsonl is missing (those answers)" in source


def test_terminal_table_holds_accuracies_per_task_and_the_means():
    console = Console(width=90, record=True, file=io.StringIO())
    console.print(answers_table(evaluation()))
    text = console.export_text()
    assert re.search(r"add +0.0% \[−2.0%, 2.0%\] +30.0% \[28.0%, 32.0%\] +60.0% \[58.0%, 62.0%\]", text)
    assert re.search(r"KL, nats per answer +– +– +2.13 \[2.00, 2.30\]", text)


def test_a_figure_without_an_interval_is_shown_all_the_same(tmp_path: Path):
    same = evaluation()
    same["models"]["sft"]["mean"]["tokens"] = [32.0, None, None]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(answers_table(same))
    assert re.search(r"32\.0 (?!\[)", console.export_text())
    assert "None" not in page_of(tmp_path / "run", same, [])
