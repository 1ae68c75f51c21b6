"""Demonstrations of a task: an instruction with the first words of a text, and the rest of the text as the answer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from textenv.datasets.rated_texts import Domain, RatedText

INSTRUCTIONS: dict[Domain, str] = {
    "movies": "Continue this movie review: ",
    "amazon": "Continue this product review: ",
    "tweets": "Continue this tweet: ",
    "nyt": "Continue this editorial: ",
}
MIN_PROMPT_WORDS = 2
MAX_PROMPT_WORDS = 4
MIN_RESPONSE_WORDS = 3


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt and the response that a person wrote.

    Attributes:
        task: The domain of the text.
        prompt: Instruction and the first words, without a blank at the end.
        response: A blank and the rest of the text, so that ``prompt + response`` is the instruction and the text.
    """

    task: Domain
    prompt: str
    response: str


def prompt_words(text: str) -> int:
    """How many words of this text belong to the prompt: 2, 3 or 4, decided by a hash of the text."""
    digest = hashlib.sha256(b"prompt words\0" + " ".join(text.split()).encode("utf-8")).digest()
    return MIN_PROMPT_WORDS + digest[0] % (MAX_PROMPT_WORDS - MIN_PROMPT_WORDS + 1)


def demonstration(rated: RatedText) -> Demonstration | None:
    """Cut a text into prompt and response; None if fewer than three words would be left for the response."""
    words = rated.text.split()
    count = prompt_words(rated.text)
    if len(words) < count + MIN_RESPONSE_WORDS:
        return None
    return _cut(rated.domain, words, count)


def demonstrations(ratings: Iterable[RatedText]) -> list[Demonstration]:
    """The demonstrations of all texts that are long enough, in their order."""
    made = (demonstration(rated) for rated in ratings)
    return [item for item in made if item is not None]


def prompt_and_response(rated: RatedText) -> Demonstration:
    """Cut any text, short ones too: the prompt gets fewer words, none for a text of one word.

    For labelling texts as a reward model sees them; `demonstration` is for imitation.
    """
    words = rated.text.split()
    return _cut(rated.domain, words, min(prompt_words(rated.text), len(words) - 1))


def _cut(domain: Domain, words: list[str], count: int) -> Demonstration:
    prompt = INSTRUCTIONS[domain] + " ".join(words[:count])
    return Demonstration(domain, prompt.rstrip(), " " + " ".join(words[count:]))
