"""One episode by the rules alone, in plain Python: what the environments are compared with."""

from __future__ import annotations

from dataclasses import dataclass

from textenv import FinishReason


@dataclass(frozen=True)
class Rules:
    """The rules of an episode; ``pieces`` are the texts of the tokens.

    Stop strings that end inside the text of the first ``min_new_tokens - 1`` tokens do not count.
    """

    pieces: tuple[str, ...]
    eos: int
    max_new_tokens: int
    stops: tuple[str, ...] = ()
    min_new_tokens: int = 0


def stop_places(rules: Rules, tokens: list[int]) -> list[int]:
    """Where the stop strings that count begin in the answer's text."""
    text = "".join(rules.pieces[t] for t in tokens)
    protected = sum(len(rules.pieces[t]) for t in tokens[: max(0, rules.min_new_tokens - 1)])
    places = [(i, stop) for stop in rules.stops for i in range(len(text)) if text.startswith(stop, i)]
    return [i for i, stop in places if i + len(stop) > protected]


def outcome(rules: Rules, tokens: list[int]) -> FinishReason:
    """Why an answer is over after these tokens, or RUNNING; the answer was running before the last of them."""
    if tokens[-1] == rules.eos:
        return FinishReason.EOS
    if len(tokens) >= rules.min_new_tokens and stop_places(rules, tokens):
        return FinishReason.STOP
    return FinishReason.LENGTH if len(tokens) >= rules.max_new_tokens else FinishReason.RUNNING


def text_of(rules: Rules, tokens: list[int]) -> str:
    """The answer's text: without EOS, cut before the earliest stop string."""
    if tokens and tokens[-1] == rules.eos:
        return "".join(rules.pieces[t] for t in tokens[:-1])
    text = "".join(rules.pieces[t] for t in tokens)
    return text[: min(stop_places(rules, tokens), default=len(text))]
