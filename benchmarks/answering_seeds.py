"""From continuing to answering with several seeds: the tables and the picture of docs/answering.md.

    python benchmarks/answering_seeds.py --seeds 0 1 2

runs ``textenv answering --config examples/answering.yaml`` once per seed (a seed that is done is not run again), prints
Markdown tables with what the recipe promises, and draws the accuracy of every stage on every task.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

RECIPE = Path(__file__).resolve().parents[1] / "examples" / "answering.yaml"
STAGES = {"base": "Base", "sft": "SFT", "rl": "RL"}
COLORS = {"base": "#7d838d", "sft": "#2868c8", "rl": "#cf6a0c"}
MEASURES = (
    ("answered", "in the asked form", "{:.1%}"),
    ("accuracy", "accuracy", "{:.1%}"),
    ("greedy_accuracy", "accuracy of greedy answers", "{:.1%}"),
    ("goes_on", "goes on with the prompt", "{:.1%}"),
    ("eos", "ends by itself", "{:.1%}"),
    ("tokens", "tokens", "{:.1f}"),
    ("reference_logprob", "log-likelihood of the reference, nats per token", "{:.2f}"),
    ("kl", "KL against SFT, nats per answer", "{:.2f}"),
)


def run_seed(seed: int, runs: Path, flags: Sequence[str]) -> dict[str, Any]:
    """Evaluation and seconds of the recipe with this seed, run where it is not there yet."""
    folder = runs / f"answering-seed{seed}"
    if not (folder / "summary.json").exists():
        command = [sys.executable, "-m", "textenv", "answering", "--config", str(RECIPE), "--seed", str(seed)]
        resume = ["--resume"] if folder.exists() else []
        subprocess.run([*command, "--name", folder.name, "--runs_dir", str(runs), *resume, *flags], check=True)
    found = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    return found | {"seconds": json.loads((folder / "summary.json").read_text(encoding="utf-8"))["seconds"]}


def spread(values: Sequence[float], form: str) -> str:
    """Mean ± standard deviation over seeds."""
    return f"{form.format(np.mean(values))} ± {form.format(np.std(values, ddof=min(1, len(values) - 1)))}"


def table(found: Sequence[dict[str, Any]], heads: str, rows: Sequence[tuple[str, str, Callable[..., Any]]]) -> str:
    """A Markdown table with a row per figure and a column per stage."""
    lines = [f"| {heads} | {' | '.join(STAGES.values())} |", "|---|---:|---:|---:|"]
    for title, form, figure in rows:
        cells = []
        for stage in STAGES:
            values = [figure(one["models"][stage]) for one in found]
            cells.append("–" if None in values else spread(values, form))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tables(found: Sequence[dict[str, Any]]) -> str:
    """Means over tasks, accuracy per task, and what each seed gained."""

    def of(task: str, measure: str) -> Callable[[dict[str, Any]], float | None]:
        return lambda model: model[task].get(measure, [None])[0]

    means = [(title, form, of("mean", name)) for name, title, form in MEASURES]
    tasks = [(task.replace("_", " "), "{:.1%}", of(task, "accuracy")) for task in found[0]["verifiable"]]
    promised = [
        "| seed | SFT in the form | base in the form | RL − SFT, points | KL, nats | tasks that rise | minutes |"
    ]
    promised.append("|---:|---:|---:|---:|---:|---:|---:|")
    for one in found:
        base, sft, rl = (one["models"][stage] for stage in STAGES)
        right = [[model[task]["accuracy"][0] for model in (base, sft, rl)] for task in one["verifiable"]]
        rising = sum(a < b < c for a, b, c in right)
        gain = 100 * (rl["mean"]["accuracy"][0] - sft["mean"]["accuracy"][0])
        cells = (
            str(one["seed"] - 1),
            f"{sft['mean']['answered'][0]:.1%}",
            f"{base['mean']['answered'][0]:.1%}",
            f"{gain:.1f}",
            f"{rl['mean']['kl'][0]:.2f}",
            f"{rising} of {len(right)}",
            f"{one['seconds']['total'] / 60:.1f}",
        )
        promised.append(f"| {' | '.join(cells)} |")
    return "\n\n".join(
        [table(found, "mean over tasks", means), table(found, "accuracy per task", tasks), "\n".join(promised)]
    )


def draw(found: Sequence[dict[str, Any]], path: Path) -> None:
    """Accuracy per task and stage: bars are means over seeds, dots the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks = [*found[0]["verifiable"], "mean"]
    figure, axes = plt.subplots(figsize=(10, 4.2))
    for k, (stage, title) in enumerate(STAGES.items()):
        values = np.array([[one["models"][stage][task]["accuracy"][0] for task in tasks] for one in found])
        at = np.arange(len(tasks)) + (k - 1) * 0.27
        axes.bar(at, values.mean(0), 0.25, color=COLORS[stage], alpha=0.85, label=title)
        for row in values:
            axes.plot(at, row, "o", color="white", markeredgecolor="#333333", markersize=3.5, markeredgewidth=0.7)
    axes.axvline(len(tasks) - 1.5, color="#cccccc", linewidth=1)
    axes.set_xticks(np.arange(len(tasks)), [task.replace("_", " ") for task in tasks])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylim(0, 1)
    axes.set_ylabel("right answers to held-out prompts")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="upper left", bbox_to_anchor=(0, 1.1))
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Run the seeds, print the tables, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--figure", type=Path, help="where to draw the accuracies, a PNG")
    parser.add_argument("flags", nargs="*", help="further flags of textenv answering, after --")
    arguments = parser.parse_args()
    found = [run_seed(seed, arguments.runs, arguments.flags) for seed in arguments.seeds]
    print(tables(found))
    if arguments.figure is not None:
        draw(found, arguments.figure)


if __name__ == "__main__":
    main()
