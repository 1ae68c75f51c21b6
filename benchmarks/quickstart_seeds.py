"""The quickstart with several seeds: the README's table and figure.

    python benchmarks/quickstart_seeds.py --seeds 0 1 2

runs ``textenv quickstart`` once per seed (about eight minutes each on two cores; a seed that is done is not run again),
prints a Markdown table with what the quickstart promises, and draws reward and KL over the episodes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from textenv.report import write_figure

ROWS = [
    ("held-out perplexity, movies", lambda s: s["pretrain"]["perplexity"]["movies"], "{:.0f}"),
    ("SFT held-out loss, nats/token", lambda s: s["sft"]["loss"], "{:.2f}"),
    ("reward model, accuracy at gap > 0.5", lambda s: s["reward_model"]["accuracy_gap_0_5"], "{:.3f}"),
    ("one human rater, same pairs", lambda s: s["human_rater"]["accuracy_gap_0_5"], "{:.3f}"),
    ("TF-IDF + ridge, same pairs", lambda s: s["tfidf"]["accuracy_gap_0_5"], "{:.3f}"),
    ("VADER lexicon, same pairs", lambda s: s["lexicon"]["accuracy_gap_0_5"], "{:.3f}"),
    ("mean reward, SFT", lambda s: s["policy"]["sft"]["reward_mean"], "{:.2f}"),
    ("mean reward, PPO", lambda s: s["policy"]["ppo"]["reward_mean"], "{:.2f}"),
    (
        "gain in SFT standard deviations",
        lambda s: (
            (s["policy"]["ppo"]["reward_mean"] - s["policy"]["sft"]["reward_mean"]) / s["policy"]["sft"]["reward_std"]
        ),
        "{:.2f}",
    ),
    ("KL(PPO‖SFT), nats per answer", lambda s: s["policy"]["ppo"]["kl"], "{:.1f}"),
    ("VADER-positive answers, SFT", lambda s: 100 * s["policy"]["sft"]["vader_positive"], "{:.0f}%"),
    ("VADER-positive answers, PPO", lambda s: 100 * s["policy"]["ppo"]["vader_positive"], "{:.0f}%"),
    (
        "distinct-2, PPO / SFT",
        lambda s: 100 * s["policy"]["ppo"]["distinct_2"] / s["policy"]["sft"]["distinct_2"],
        "{:.0f}%",
    ),
    ("minutes in all, without set-up", lambda s: s["seconds"]["total"] / 60, "{:.1f}"),
]


def run_seed(seed: int, runs: Path, flags: list[str]) -> dict[str, Any]:
    """The summary of a quickstart with this seed, run where it is not there yet."""
    folder = runs / f"quickstart-seed{seed}"
    if not (folder / "summary.json").exists():
        command = [sys.executable, "-m", "textenv", "quickstart", "--seed", str(seed), "--name", folder.name]
        resume = ["--resume"] if folder.exists() else []
        subprocess.run([*command, "--runs_dir", str(runs), *resume, *flags], check=True)
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def table(summaries: list[dict[str, Any]], seeds: list[int]) -> str:
    """A Markdown table: one row per figure, one column per seed, and mean ± standard deviation."""
    lines = ["| | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean ± std |"]
    lines.append("|---" * (len(seeds) + 2) + "|")
    for name, figure, form in ROWS:
        values = [figure(summary) for summary in summaries]
        spread = f"{form.format(np.mean(values))} ± {form.format(np.std(values, ddof=min(1, len(values) - 1)))}"
        lines.append(f"| {name} | " + " | ".join(form.format(value) for value in values) + f" | {spread} |")
    return "\n".join(lines)


def main() -> None:
    """Run the seeds, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--figure", type=Path, help="where to draw reward and KL, a PNG")
    parser.add_argument("flags", nargs="*", help="further flags of textenv quickstart, after --")
    arguments = parser.parse_args()
    summaries = [run_seed(seed, arguments.runs, arguments.flags) for seed in arguments.seeds]
    print(table(summaries, arguments.seeds))
    if arguments.figure is not None:
        write_figure([arguments.runs / f"quickstart-seed{seed}" for seed in arguments.seeds], arguments.figure)


if __name__ == "__main__":
    main()
