"""Data: human ratings fetched by the user's own pip, a built-in generator, demonstrations, two small models."""

from textenv.datasets.builtin import builtin_ratings
from textenv.datasets.demonstrations import (
    INSTRUCTIONS,
    Demonstration,
    demonstration,
    demonstrations,
    prompt_and_response,
)
from textenv.datasets.fetch import cache_dir, extract_members, fetch_package
from textenv.datasets.human_ratings import human_ratings
from textenv.datasets.minilm import minilm_path
from textenv.datasets.rated_texts import DOMAINS, SPLITS, Domain, RatedText, Split, split_of
from textenv.datasets.smollm2 import smollm2_path

__all__ = [
    "DOMAINS",
    "INSTRUCTIONS",
    "SPLITS",
    "Demonstration",
    "Domain",
    "RatedText",
    "Split",
    "builtin_ratings",
    "cache_dir",
    "demonstration",
    "demonstrations",
    "extract_members",
    "fetch_package",
    "human_ratings",
    "minilm_path",
    "prompt_and_response",
    "smollm2_path",
    "split_of",
]
