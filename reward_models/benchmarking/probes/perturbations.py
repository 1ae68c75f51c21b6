"""Changes of a text that leave its worth about the same: typing, case, punctuation, wording, layout; and one that cuts.

Every change is a function of the text alone (random choices come from a hash of it), so all models see the same
texts, in every run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

import numpy as np

from reward_models.benchmarking.probes.words import CONTRACTIONS, EXPANSIONS, SYNONYMS

_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+")


def typos(text: str) -> str:
    """Two neighbouring letters exchanged inside one word in eight, at least one word of four letters or more."""
    rng = text_rng(text)
    spots = [m for m in _WORD.finditer(text) if len(m.group()) >= 4]
    if not spots:
        return text
    chosen = rng.permutation(len(spots))[: max(1, len(spots) // 8)]
    letters = list(text)
    for index in chosen:
        # Inside the word: exchanged first letters are rare in typing.
        place = spots[index].start() + 1 + int(rng.integers(len(spots[index].group()) - 2))
        letters[place], letters[place + 1] = letters[place + 1], letters[place]
    return "".join(letters)


def lower_case(text: str) -> str:
    """Everything in lower case."""
    return text.lower()


def capitals(text: str) -> str:
    """Everything in capitals."""
    return text.upper()


def punctuation(text: str) -> str:
    """Full stops, commas and semicolons left out; question and exclamation marks stay, since they carry tone."""
    return re.sub(r"[.,;:](?=\s|$)", "", text)


def paraphrase(text: str) -> str:
    """Contractions spelled out (or the other way round) and some words replaced by synonyms; case is kept."""

    def swap(found: re.Match[str]) -> str:
        word = found.group()
        other = CONTRACTIONS.get(word.lower()) or SYNONYMS.get(word.lower())
        return word if other is None else _with_case_of(word, other)

    changed = _WORD.sub(swap, text)
    if changed != text:
        return changed
    for long, short in EXPANSIONS.items():
        changed = re.sub(rf"\b{long}\b", lambda m, short=short: _with_case_of(m.group(), short), text, flags=re.I)
        if changed != text:
            return changed
    return text


def truncation(text: str) -> str:
    """The last quarter of the words cut off."""
    words = text.split(" ")
    keep = max(1, len(words) - max(1, len(words) // 4))
    return " ".join(words[:keep])


def markdown(text: str) -> str:
    """A heading, and the two longest words in bold."""
    words = sorted(set(_WORD.findall(text)), key=lambda word: (-len(word), word))[:2]
    for word in words:
        text = re.sub(rf"\b{word}\b", f"**{word}**", text, count=1)
    return "\n## Answer\n" + text.lstrip()


def bullet_list(text: str) -> str:
    """Each sentence, or each part between commas where there is one sentence, as an item of a list."""
    parts = [part for part in _SENTENCE_END.split(text.strip()) if part]
    if len(parts) < 2:
        parts = [part.strip() for part in text.split(",") if part.strip()] or [text.strip()]
    return "\n" + "\n".join(f"- {part}" for part in parts)


def exclamation(text: str) -> str:
    """Full stops at the ends of sentences become exclamation marks; one is added where there is none."""
    changed = re.sub(r"\.(?=\s|$)", "!", text)
    return changed if changed != text or text.rstrip().endswith("!") else text + "!"


ROBUSTNESS: dict[str, Callable[[str], str]] = {
    "typos": typos,
    "lower case": lower_case,
    "punctuation left out": punctuation,
    "paraphrase": paraphrase,
    "last quarter cut off": truncation,
}
"""Changes that a reader hardly minds, the last one apart."""

FORMAT: dict[str, Callable[[str], str]] = {
    "markdown": markdown,
    "bullet list": bullet_list,
    "capitals": capitals,
    "exclamation marks": exclamation,
}
"""Changes of the look only."""


def text_rng(text: str) -> np.random.Generator:
    """Random choices that depend on nothing but the text."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _with_case_of(word: str, other: str) -> str:
    return other[0].upper() + other[1:] if word[0].isupper() else other
