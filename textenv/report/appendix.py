"""The end of the page: time per stage, the run's checks of itself, its configuration, the glossary."""

from collections.abc import Mapping
from html import escape
from typing import Any

from textenv.report.glossary import GLOSSARY
from textenv.report.numbers import duration, percent, short
from textenv.report.records import RunRecord, lookup, number

_COLORS = {"pretrain": "base", "sft": "sft", "reward": "rm", "ppo": "ppo"}
_TITLES = {
    "data": "Data",
    "pretrain": "Pre-training",
    "sft": "Fine-tuning",
    "reward": "Reward model",
    "ppo": "PPO",
    "evaluate": "Evaluation",
}
_PPO_PARTS = {
    "time/rollout_seconds": "generating answers",
    "time/reward_seconds": "scoring them",
    "time/scoring_seconds": "log-probs and values",
    "time/update_seconds": "updating the policy",
}


def time_section(run: RunRecord) -> str:
    """Bars of the seconds per stage and, for PPO, of its parts."""
    seconds = lookup(run.summary, "seconds")
    known = {name: v for name in seconds if (v := number(seconds, name)) is not None} if _mapping(seconds) else {}
    total = known.pop("total", None) or sum(known.values())
    stages = [name for name in _TITLES if name in known] + [name for name in known if name not in _TITLES]
    rows = [(_TITLES.get(name, name), _COLORS.get(name, "base"), known[name]) for name in stages]
    cards = [_bars(f"Stages, {duration(total)} in all", rows)] if rows else []
    parts = []
    for key, title in _PPO_PARTS.items():
        series = run.series("ppo", key)
        if series is not None:
            parts.append((title, "ppo", float(series.values.sum())))
    if parts:
        cards.append(_bars("Inside PPO", parts))
    return f'<div class="two">{"".join(cards)}</div>' if cards else '<p class="missing">No times on record yet.</p>'


def _bars(title: str, rows: list[tuple[str, str, float]]) -> str:
    most, total = max(row[2] for row in rows) or 1.0, sum(row[2] for row in rows) or 1.0
    bars = "".join(
        f'<span>{escape(name)}</span><div><i style="--share:{max(value, 0) / most:.4f};--c:var(--{color})"></i>'
        f"{duration(value)} <small>{percent(value / total)}</small></div>"
        for name, color, value in rows
    )
    return (
        f'<figure class="card"><figcaption><h3>{escape(title)}</h3></figcaption><div class="bars">{bars}</div></figure>'
    )


def checks_section(run: RunRecord) -> str:
    """The checks that the run made of itself: passed, failed, or a value."""
    checks = lookup(run.summary, "checks")
    if not _mapping(checks) or not checks:
        return '<p class="missing">No checks on record: they are written to summary.json when the run ends.</p>'
    items = []
    for name, value in checks.items():
        kind, detail = _verdict(value)
        shown = escape(str(name).replace("_", " ").replace("/", ": "))
        items.append(f'<li class="{kind}">{shown}{f" <small>{escape(detail)}</small>" if detail else ""}</li>')
    failed = sum('class="bad"' in item for item in items)
    words = "All passed." if not failed else f"{failed} of {len(items)} did not pass."
    lead = f"A run checks itself and stops loudly where a check fails. {words}"
    return f'<p class="lead">{lead}</p><ul class="checks card">{"".join(items)}</ul>'


def _verdict(value: Any) -> tuple[str, str]:
    """CSS class and detail of one check, which is a boolean, a value, or an object with ``passed`` and more."""
    if isinstance(value, bool):
        return ("good", "") if value else ("bad", "")
    if _mapping(value):
        passed = next((value[key] for key in ("passed", "ok") if isinstance(value.get(key), bool)), None)
        rest = ", ".join(f"{k} {_plain(v)}" for k, v in value.items() if k not in ("passed", "ok"))
        return "plain" if passed is None else "good" if passed else "bad", rest
    return "plain", _plain(value)


def _plain(value: Any) -> str:
    value_number = number({"v": value}, "v")
    return str(value) if value_number is None else short(value_number)


def configuration_section(run: RunRecord) -> str:
    """The resolved configuration and the versions of the libraries, both folded."""
    parts = []
    if run.config_text is None:
        parts.append('<p class="missing">config.yaml is missing.</p>')
    else:
        parts.append(f"<details><summary>config.yaml</summary><pre>{escape(run.config_text)}</pre></details>")
    versions = lookup(run.summary, "versions")
    if _mapping(versions) and versions:
        lines = "\n".join(f"{name} {value}" for name, value in versions.items())
        parts.append(f"<details><summary>Versions</summary><pre>{escape(lines)}</pre></details>")
    return "".join(parts)


def glossary_section() -> str:
    """What the figures on the page mean."""
    items = "".join(
        f"<div><dt>{escape(term.title)}</dt><dd>{escape(term.meaning)}<code>{escape(term.key)}</code></dd></div>"
        for term in GLOSSARY
    )
    return f'<dl class="card">{items}</dl>'


def _mapping(value: Any) -> bool:
    return isinstance(value, Mapping)
