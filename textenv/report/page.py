"""`write_report`: one self-contained HTML page about a run, from nothing but the files in its folder."""

from pathlib import Path
from typing import Any

from textenv.checkpoints import write_atomic
from textenv.pages.numbers import fixed
from textenv.pages.page import Section, environment, render_report
from textenv.report.answers import answers
from textenv.report.glossary import GLOSSARY
from textenv.report.headline import headline, tiles
from textenv.report.run_folder import FILES, STAGE_TITLES, TASK_FILES, RunRecord, lookup, number, read_run, text
from textenv.report.samples import samples
from textenv.report.sections import checks, diagnostics, distribution, judges, learning, reward_kl, times

_PACKAGE, _SECTIONS = "textenv.report", "run_sections.html"


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run folder.

    Only the files in `textenv.report.run_folder.FILES` are read; what is missing or damaged is said on the page.

    Args:
        run_dir: The folder ``runs/<name>`` of a run that has ended, still goes on, or failed.

    Returns:
        The path of the page.

    Raises:
        CheckpointError: If ``run_dir`` does not exist or is no run folder.
    """
    run = read_run(Path(run_dir))
    path = Path(run_dir) / "report.html"
    write_atomic(path, render_page(run))
    return path


def render_page(run: RunRecord) -> str:
    """The whole page."""
    absent = [STAGE_TITLES[stage] for stage in STAGE_TITLES if stage not in run.stages()]
    versions = lookup(run.summary, "versions")
    sections = [
        Section("answers", "Answers", "From continuing to answering", answers(run) if run.evaluation else ()),
        Section("samples", "Samples", "Before and after", samples(run)),
        Section("learning", "Curves", "Learning curves", (learning(run), absent)),
        Section("reward-kl", "Reward and KL", "Reward against KL", reward_kl(run)),
        Section("judges", "Reward model", "How good is the reward model?", judges(run)),
        Section("rewards", "Rewards", "Distribution of rewards", distribution(run)),
        Section("ppo", "PPO", "Inside PPO", diagnostics(run)),
        Section("time", "Time", "Time", (times(run),)),
        Section("checks", "Checks", "Run checks", (checks(run),)),
        Section("configuration", "Configuration", "Configuration", (run.config_text, versions)),
        Section("glossary", "Glossary", "Glossary", (GLOSSARY,)),
    ]
    left_out = _of_ratings(run) if run.evaluation else {"answers"}
    parts: Any = environment(_PACKAGE).get_template(_SECTIONS).module
    files = ", ".join((*FILES, *(TASK_FILES if run.evaluation else ())))
    return render_report(
        _PACKAGE,
        _SECTIONS,
        [section for section in sections if section.key not in left_out],
        title=f"{run.name} · textenv",
        kicker=_kicker(run),
        headline=headline(run),
        opening=parts.opening(_problems(run, absent), tiles(run)),
        footer=f"Written by textenv from {files} of this run.",
    )


def _of_ratings(run: RunRecord) -> set[str]:
    """Sections that a run of tasks has nothing for: those of rated texts, and of stages that it does not have."""
    empty = set() if run.samples else {"samples", "rewards"}
    empty |= set() if "reward" in run.stages() else {"judges"}
    empty |= set() if "ppo" in run.stages() else {"reward-kl", "ppo", "checks"}
    return empty if run.stages() else empty | {"learning"}


def _kicker(run: RunRecord) -> str:
    seed, version = number(run.summary, "seed"), text(run.summary, "versions", "textenv")
    parts = [f"textenv{f' {version}' if version and version[0].isdigit() else ''}", f"run {run.name}"]
    return " · ".join(parts if seed is None else [*parts, f"seed {fixed(seed, 0)}"])


def _problems(run: RunRecord, absent: list[str]) -> list[str]:
    """What is missing; empty for a complete run."""
    items = list(run.problems)
    if absent and not run.evaluation:
        items.append(f"No metrics of: {', '.join(absent)}. Not part of this run, not begun, or lost.")
    return items
