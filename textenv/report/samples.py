"""The answers of the three models side by side: a few chosen by a fixed rule, and the table of all."""

import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from textenv.report.numbers import fixed
from textenv.report.records import MODEL_TITLES, MODELS, RunRecord, lookup, number, text

SHOWN = 6
"""Number of prompts in the section at the top."""

MOST_ROWS = 1000
"""Rows of the full table; a page with many more becomes slow in a browser."""


def chosen(samples: Sequence[Mapping[str, Any]], shown: int = SHOWN) -> list[int]:
    """Indices, in file order, of the samples whose prompts have the smallest SHA-256; equal prompts count once.

    The rule looks at nothing but the prompts: it can favour no answer, and runs on the same prompts show the same ones.
    """
    first: dict[str, int] = {}
    for index, sample in enumerate(samples):
        prompt = text(sample, "prompt") or ""
        first.setdefault(hashlib.sha256(prompt.encode("utf-8", "replace")).hexdigest(), index)
    return sorted(first[digest] for digest in sorted(first)[:shown])


def samples_section(run: RunRecord) -> str:
    """The section with the chosen samples and, folded, the table of all of them."""
    if not run.samples:
        return '<p class="missing">No answers yet: they are written when the run evaluates its models.</p>'
    indices = chosen(run.samples)
    scale = _Scale(run.samples)
    lead = (
        f"Not picked by hand: of the {len(run.samples):,} held-out test prompts, the {len(indices)} whose prompts have "
        "the smallest SHA-256, whatever the answers. The chip holds the reward, its dot shows it left or right of zero."
    )
    reference = "Generated" if run.simulated else "Human"
    cards = "".join(_card(run.samples[i], scale, reference) for i in indices)
    return f'<p class="lead">{lead}</p><div class="samples">{cards}</div>{_table(run.samples, scale, reference)}'


class _Scale:
    """The range of the little reward gauges: the inner 98% of all rewards, and zero."""

    def __init__(self, samples: Sequence[Mapping[str, Any]]) -> None:
        found = [v for sample in samples for m in MODELS if (v := number(sample, m, "reward")) is not None]
        low, high = (float(v) for v in np.quantile(found, [0.01, 0.99])) if found else (-1.0, 1.0)
        self.low, self.high = min(low, 0.0), max(high, 0.0)
        if self.high <= self.low:
            self.low, self.high = -1.0, 1.0

    def share(self, reward: float) -> float:
        """Position of a reward on the gauge, in percent."""
        return 100 * float(np.clip((reward - self.low) / (self.high - self.low), 0, 1))


def _chip(reward: float | None, scale: _Scale) -> str:
    if reward is None:
        return '<span class="chip">no reward</span>'
    style = f"--at:{scale.share(reward):.0f}%;--zero:{scale.share(0.0):.0f}%"
    shown = fixed(reward, signed=True)
    return f'<span class="chip">{shown}<span class="gauge" style="{style}"><i></i></span></span>'


def _words(content: str | None) -> str:
    if content is None:
        return '<p class="words empty">not recorded</p>'
    if not content.strip():
        return '<p class="words empty">(empty answer)</p>'
    return f'<p class="words" dir="auto">{escape(content.strip())}</p>'


def _facts(answer: Any) -> list[str]:
    """What else is known of an answer: its length, how it ended, its KL."""
    facts = []
    tokens, kl, finish = number(answer, "tokens"), number(answer, "kl"), text(answer, "finish")
    if tokens is not None:
        facts.append(f"{tokens:.0f} token{'' if tokens == 1 else 's'}")
    if finish:
        words = {"eos": "ended by itself", "length": "cut at the limit", "stop": "ended at a stop"}
        facts.append(words.get(finish.lower(), finish))
    if kl is not None:
        facts.append(f"KL {fixed(kl, 1)} nats")
    return facts


def _card(sample: Mapping[str, Any], scale: _Scale, reference: str) -> str:
    parts = [f'<article class="sample"><p class="prompt" dir="auto">{escape(text(sample, "prompt") or "")}</p>']
    for model in MODELS:
        answer = lookup(sample, model)
        if answer is None:
            continue
        facts = "".join(f"<span>{escape(fact)}</span>" for fact in _facts(answer))
        parts.append(
            f'<div class="answer" style="--c:var(--{model})"><div class="who"><b>{MODEL_TITLES[model]}</b>'
            f"{_chip(number(answer, 'reward'), scale)}{facts}</div>{_words(text(answer, 'response'))}</div>"
        )
    human = text(sample, "human")
    if human is not None:
        parts.append(
            '<div class="answer" style="--c:var(--human)"><div class="who">'
            f"<b>{reference}</b><span>how the text really went on</span></div>{_words(human)}</div>"
        )
    return "".join(parts) + "</article>"


def _table(samples: Sequence[Mapping[str, Any]], scale: _Scale, reference: str) -> str:
    models = [model for model in MODELS if any(lookup(sample, model) is not None for sample in samples)]
    heads = (
        "<th>Prompt</th>"
        + "".join(f"<th data-down>{MODEL_TITLES[model]}</th>" for model in models)
        + f"<th>{reference}</th>"
    )
    rows = "".join(f"<tr>{_row(sample, models, scale, reference)}</tr>" for sample in samples[:MOST_ROWS])
    extent = f"all {len(samples):,}" if len(samples) <= MOST_ROWS else f"the first {MOST_ROWS:,} of {len(samples):,}"
    return (
        f"<details><summary>Search {extent} prompts and answers</summary>"
        '<div class="paged"><div class="tools"><input type="search" placeholder="Words to look for" '
        'aria-label="Search the samples"><span class="count" aria-live="polite"></span>'
        '<button type="button">Back</button><button type="button">Next</button>'
        "<span>A click on a model's name sorts by its reward.</span></div>"
        f'<table class="all sortable"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></details>'
    )


def _row(sample: Mapping[str, Any], models: Sequence[str], scale: _Scale, reference: str) -> str:
    cells = [f'<td data-head="Prompt">{_words(text(sample, "prompt"))}</td>']
    for model in models:
        reward = number(sample, model, "reward")
        cells.append(
            f'<td data-head="{MODEL_TITLES[model]}" data-v="{"" if reward is None else f"{reward:.4f}"}" '
            f'style="--c:var(--{model})">{_chip(reward, scale)}{_words(text(sample, model, "response"))}</td>'
        )
    cells.append(f'<td data-head="{reference}" style="--c:var(--human)">{_words(text(sample, "human"))}</td>')
    return "".join(cells)
