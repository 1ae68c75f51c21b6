"""`render_page`: one self-contained HTML page from the figures of a benchmark and from nothing else.

The page loads nothing: style, script and drawings are inside, and a content security policy allows only that one
script by its hash, so a text in the data cannot run even if it got past the escaping.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape
from typing import Any

from textenv.report.assets import SCRIPT

from reward_models.benchmarking.report.agreement_sections import (
    accuracy_section,
    calibration_section,
    domains_section,
    leaderboard_section,
    ranking_section,
)
from reward_models.benchmarking.report.behaviour_sections import (
    format_section,
    hacks_section,
    length_section,
    overoptimization_section,
    robustness_section,
)
from reward_models.benchmarking.report.closing_sections import (
    agreement_section,
    comparison_section,
    reading_section,
    speed_section,
)
from reward_models.benchmarking.report.leaderboard import leaderboard, ranked
from reward_models.benchmarking.report.style import colors, page_css
from reward_models.benchmarking.report.tables import interval, shown

_CONTROLS = {code: "\ufffd" for code in [*range(0x20), *range(0x7F, 0xA0)] if chr(code) not in "\t\n"}


def render_page(data: Mapping[str, Any]) -> str:
    """The whole page as text that UTF-8 can hold: control characters and lone surrogates are replaced.

    Args:
        data: What `BenchmarkReport.to_json` gives.
    """
    names = colors(data["models"])
    paths = colors([curve for pool in data["overoptimization"].values() for curve in pool["curves"]]) | names
    with_suites = (
        ("accuracy", "Accuracy", "Agreement with people", lambda: accuracy_section(data, names)),
        ("domains", "Domains", "Across domains", lambda: domains_section(data, names)),
        ("calibration", "Calibration", "Calibration", lambda: calibration_section(data, names)),
        ("ranking", "Ranking", "Ranking", lambda: ranking_section(data, names)),
        ("length", "Length", "Length", lambda: length_section(data, names)),
        ("format", "Format and names", "Format, names, identities", lambda: format_section(data, names)),
        ("robustness", "Robustness", "Small changes", lambda: robustness_section(data, names)),
        ("hacks", "Hacks", "Responses without worth", lambda: hacks_section(data, names)),
        ("comparisons", "Comparisons", "Is one better than another?", lambda: comparison_section(data, names)),
        ("agreement", "Agreement", "Agreement between models, scores, seeds", lambda: agreement_section(data, names)),
    )
    sections = (
        [("leaderboard", "Leaderboard", "Leaderboard", leaderboard_section(data, names))] if data["models"] else []
    )
    if data["overoptimization"]:
        found = overoptimization_section(data, paths)
        sections.append(("overoptimization", "Over-optimisation", "Over-optimisation", found))
    if data["suites"]:
        sections += [(key, short, title, make()) for key, short, title, make in with_suites]
    if data["models"]:
        sections.append(("speed", "Speed", "Speed, memory, failures", speed_section(data, names)))
    sections.append(("reading", "Reading", "How to read this", reading_section(data)))
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
        f"<title>Reward model benchmark · textenv</title><style>{page_css()}</style></head><body>"
        f'<header><p class="kicker">textenv benchmark · {_kicker(data)}</p><h1>{headline(data)}</h1></header>'
        f'<nav aria-label="Sections"><div>{links}</div></nav><main>{body}</main>'
        "<footer>Written by textenv from the figures in the JSON beside this page.</footer>"
        f"<script>{SCRIPT}</script></body></html>\n"
    )
    return page.translate(_CONTROLS).encode("utf-8", "replace").decode("utf-8")


def _kicker(data: Mapping[str, Any]) -> str:
    models = len(data["models"])
    parts = [f"{models} model{'s' * (models != 1)}"] if models else []
    suites = len(data["suites"]) + len(data["overoptimization"])
    parts += [f"{suites} suite{'s' * (suites != 1)}", f"seed {data['seed']}"]
    if data["quick"]:
        parts.append("quick run: small suites, wide intervals")
    return escape(" · ".join(parts))


def headline(data: Mapping[str, Any]) -> str:
    """The result in a sentence, as HTML."""
    if data["suites"] and data["models"]:
        first = leaderboard(data)[0].figures
        order = ranked(data)
        best, found = order[0], first[order[0]]
        sentence = f"<b>{escape(best)}</b> orders {shown(found)} % of the pairs as people do {interval(found)}"
        if len(order) > 1:
            others = ", ".join(f"{escape(name)} {shown(first[name])} %" for name in order[1:4])
            sentence += f"; {others}"
        return sentence + "."
    for pool in data["overoptimization"].values():
        parts = []
        for name, curve in pool["curves"].items():
            top = max(curve["gold"], key=lambda found: found["value"])
            best, end = (shown(found, digits=2, share=False, signed=True) for found in (top, curve["gold"][-1]))
            parts.append(f"<b>{escape(name)}</b> brings gold to {best} and leaves it at {end}")
        if parts:
            return f"Along the proxy {', '.join(parts)} standard deviations."
    return "Nothing was measured."
