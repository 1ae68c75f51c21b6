"""The answers of the three models side by side: a few chosen by a fixed rule, and the table of all."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from textenv.pages.numbers import fixed
from textenv.report.run_folder import MODEL_TITLES, MODELS, RunRecord, lookup, number, text

SHOWN = 6
"""Number of prompts in the section at the top."""

MOST_ROWS = 1000
"""Rows of the full table; a page with many more becomes slow in a browser."""

_ENDS = {"eos": "ended by itself", "length": "cut at the limit", "stop": "ended at a stop"}


class Reply(NamedTuple):
    """An answer as the pages show it.

    Attributes:
        title: Who gave it.
        color: Of who gave it.
        words: The answer, None where it was not recorded.
        chip: What was found about it, empty for nothing.
        facts: What else is known.
        sort: The figure that the table sorts by.
        gauge: Where the reward and zero lie on the gauge, in percent; None draws none.
    """

    title: str
    color: str
    words: str | None
    chip: str = ""
    facts: Sequence[str] = ()
    sort: float | None = None
    gauge: tuple[float, float] | None = None


class Answered(NamedTuple):
    """A prompt with the answers to it, in the order of the models; None where a model has none."""

    prompt: str | None
    task: str
    replies: Sequence[Reply | None]
    reference: Reply


def chosen(samples: Sequence[Mapping[str, Any]], shown: int = SHOWN) -> list[int]:
    """Indices, in file order, of the samples whose prompts have the smallest SHA-256; equal prompts count once.

    The rule looks at nothing but the prompts: it can favour no answer, and runs on the same prompts show the same ones.
    """
    first: dict[str, int] = {}
    for index, sample in enumerate(samples):
        prompt = text(sample, "prompt") or ""
        first.setdefault(hashlib.sha256(prompt.encode("utf-8", "replace")).hexdigest(), index)
    return sorted(first[digest] for digest in sorted(first)[:shown])


def samples(run: RunRecord) -> tuple[Any, ...]:
    """Number of samples, places of the chosen ones, all of them with the models' titles, and the reference's title."""
    gauge = _gauge(run.samples)
    reference = "Generated" if run.simulated else "Human"
    models = [model for model in MODELS if any(lookup(sample, model) is not None for sample in run.samples)]
    rows = [
        Answered(
            text(sample, "prompt"),
            "",
            [_reply(sample, model, gauge) for model in models],
            Reply(reference, "human", text(sample, "human"), facts=["how the text really went on"]),
        )
        for sample in run.samples
    ]
    return len(rows), [rows[i] for i in chosen(run.samples)], rows[:MOST_ROWS], [MODEL_TITLES[m] for m in models]


def _gauge(samples: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The range of the little reward gauges: the inner 98% of all rewards, and zero."""
    rewards = [v for sample in samples for m in MODELS if (v := number(sample, m, "reward")) is not None]
    low, high = (float(v) for v in np.quantile(rewards, [0.01, 0.99])) if rewards else (-1.0, 1.0)
    low, high = min(low, 0.0), max(high, 0.0)
    return (low, high) if high > low else (-1.0, 1.0)


def _reply(sample: Mapping[str, Any], model: str, gauge: tuple[float, float]) -> Reply | None:
    """An answer with its reward, its length, how it ended, and its KL."""
    answer = lookup(sample, model)
    if answer is None:
        return None
    facts = []
    reward, tokens, kl = number(answer, "reward"), number(answer, "tokens"), number(answer, "kl")
    if tokens is not None:
        facts.append(f"{tokens:.0f} token{'' if tokens == 1 else 's'}")
    if finish := text(answer, "finish"):
        facts.append(_ENDS.get(finish.lower(), finish))
    if kl is not None:
        facts.append(f"KL {fixed(kl, 1)} nats")
    title, words = MODEL_TITLES[model], text(answer, "response")
    if reward is None:
        return Reply(title, model, words, "no reward", facts)
    at, zero = (100 * float(np.clip((v - gauge[0]) / (gauge[1] - gauge[0]), 0, 1)) for v in (reward, 0.0))
    return Reply(title, model, words, fixed(reward, signed=True), facts, reward, (at, zero))
