"""One episode by the rules alone, in plain Python: what the environments are compared with."""

from __future__ import annotations

from dataclasses import dataclass

from textenv import FinishReason


@dataclass(frozen=True)
class Rules:
    """The rules of an episode; ``pieces`` are the texts of the tokens."""

    pieces: tuple[str, ...]
    eos: int
    max_new_tokens: int
    stops: tuple[str, ...] = ()


def outcome(rules: Rules, tokens: list[int]) -> FinishReason:
    """Why an answer is over after these tokens, or RUNNING; the answer was running before the last of them."""
    if tokens[-1] == rules.eos:
        return FinishReason.EOS
    text = "".join(rules.pieces[t] for t in tokens)
    if any(stop in text for stop in rules.stops):
        return FinishReason.STOP
    return FinishReason.LENGTH if len(tokens) >= rules.max_new_tokens else FinishReason.RUNNING


def text_of(rules: Rules, tokens: list[int]) -> str:
    """The answer's text: without EOS, cut before the earliest stop string."""
    if tokens and tokens[-1] == rules.eos:
        return "".join(rules.pieces[t] for t in tokens[:-1])
    text = "".join(rules.pieces[t] for t in tokens)
    cuts = [text.index(stop) for stop in rules.stops if stop in text]
    return text[: min(cuts)] if cuts else text
