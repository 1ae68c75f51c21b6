"""`write_report`: one self-contained HTML page about a run, from nothing but the files in its folder.

The page loads nothing: style, script and drawings are inside, and a content security policy allows only that one script
(by its hash), so a text in the data cannot run even if it got past the escaping.
"""

import base64
import hashlib
from html import escape
from pathlib import Path

from textenv.checkpoints import write_atomic
from textenv.report.answers import answers_section
from textenv.report.appendix import checks_section, configuration_section, glossary_section, time_section
from textenv.report.assets import CSS, SCRIPT
from textenv.report.headline import headline, tiles
from textenv.report.numbers import fixed
from textenv.report.records import FILES, STAGE_TITLES, TASK_FILES, RunRecord, number, read_run, text
from textenv.report.samples import samples_section
from textenv.report.sections import (
    diagnostics_section,
    distribution_section,
    judges_section,
    learning_section,
    reward_kl_section,
)

_CONTROLS = {code: "\ufffd" for code in [*range(0x20), *range(0x7F, 0xA0)] if chr(code) not in "\t\n"}


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run folder.

    Only the files that `textenv.report.records.FILES` names are read; what is missing or damaged is said on the page.

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
    """The whole page as text that UTF-8 can hold: control characters and lone surrogates are replaced."""
    sections = [
        ("answers", "Answers", "From continuing to answering", answers_section(run) if run.evaluation else ""),
        ("samples", "Samples", "Before and after", samples_section(run)),
        ("learning", "Curves", "Learning curves", learning_section(run)),
        ("reward-kl", "Reward and KL", "Reward against KL", reward_kl_section(run)),
        ("judges", "Reward model", "How good is the reward model?", judges_section(run)),
        ("rewards", "Rewards", "Distribution of rewards", distribution_section(run)),
        ("ppo", "PPO", "Inside PPO", diagnostics_section(run)),
        ("time", "Time", "Time", time_section(run)),
        ("checks", "Checks", "Run checks", checks_section(run)),
        ("configuration", "Configuration", "Configuration", configuration_section(run)),
        ("glossary", "Glossary", "Glossary", glossary_section()),
    ]
    left_out = _of_ratings(run) if run.evaluation else {"answers"}
    sections = [section for section in sections if section[0] not in left_out]
    links = "".join(f'<a href="#{key}">{escape(short)}</a>' for key, short, _, _ in sections)
    body = "".join(
        f'<section><h2 id="{key}">{escape(title)}</h2>{content}</section>' for key, _, title, content in sections
    )
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(run.name)} · textenv</title><style>{CSS}</style></head><body>"
        f'<header><p class="kicker">{_kicker(run)}</p><h1>{headline(run)}</h1>{_notice(run)}{tiles(run)}</header>'
        f'<nav aria-label="Sections"><div>{links}</div></nav><main>{body}</main>'
        f"<footer>Written by textenv from {', '.join((*FILES, *(TASK_FILES if run.evaluation else ())))} of this run."
        "</footer>"
        f"<script>{SCRIPT}</script></body></html>\n"
    )
    # Not inside the script: the policy's hash is of its exact text, which holds no such character.
    return page.translate(_CONTROLS).encode("utf-8", "replace").decode("utf-8")


def _of_ratings(run: RunRecord) -> set[str]:
    """Sections that a run of tasks has nothing for: those of rated texts, and of stages that it does not have."""
    empty = set() if run.samples else {"samples", "rewards"}
    empty |= set() if "reward" in run.stages() else {"judges"}
    empty |= set() if "ppo" in run.stages() else {"reward-kl", "ppo", "checks"}
    return empty if run.stages() else empty | {"learning"}


def _kicker(run: RunRecord) -> str:
    seed, version = number(run.summary, "seed"), text(run.summary, "versions", "textenv")
    parts = [f"textenv{f' {version}' if version and version[0].isdigit() else ''}", f"run {run.name}"]
    if seed is not None:
        parts.append(f"seed {fixed(seed, 0)}")
    return escape(" · ".join(parts))


def _notice(run: RunRecord) -> str:
    """A box that says what is missing; empty for a complete run."""
    items = list(run.problems)
    absent = [STAGE_TITLES[stage] for stage in STAGE_TITLES if stage not in run.stages()]
    if absent and not run.evaluation:
        items.append(f"No metrics of: {', '.join(absent)}. Not part of this run, not begun, or lost.")
    if not items:
        return ""
    listed = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f'<div class="notice"><b>This report is not complete.</b><ul>{listed}</ul></div>'
