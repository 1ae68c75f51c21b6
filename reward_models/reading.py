"""How a model of somebody's wants its texts: found out from its folder, its configuration and its tokenizer.

What can be known is taken, what cannot is the plain form; both stand in the one line that loading says. A setting that
is given goes before all of it.
"""

from __future__ import annotations

import inspect
import logging
import threading
from typing import Any

from torch import nn

from reward_models.base import CHAT, PAIR
from textenv.answers import declared_format
from textenv.errors import ConfigError
from textenv.sampling.models import context_length, text_config

_log = logging.getLogger(__name__)

JOINED = "{prompt}{response}"
_NO_LIMIT = 10**9  # transformers' word for "not known" is 10**30


class Truncation:
    """How many texts a model had to cut; said at the first, the tenth, the hundredth … of them.

    Attributes:
        texts: Texts read so far.
        cut: How many of them were longer than the model reads.
        longest: Tokens of the longest.
    """

    def __init__(self) -> None:
        self.texts, self.cut, self.longest = 0, 0, 0
        self._lock = threading.Lock()

    def add(self, lengths: list[int], limit: int | None, side: str) -> None:
        """Count texts of these lengths, in tokens."""
        cut = sum(limit is not None and length > limit for length in lengths)
        with self._lock:
            before, self.cut = self.cut, self.cut + cut
            self.texts += len(lengths)
            self.longest = max([self.longest, *lengths])
            after, texts, longest = self.cut, self.texts, self.longest
        if cut and (before == 0 or len(str(after)) > len(str(before))):
            part = "beginning" if side == "left" else "end"
            _log.warning(
                "%d of %d texts so far have more than the %d tokens that the reward model reads (the longest %d) and "
                "lost their %s; raise `max_tokens` if the model can read more",
                *(after, texts, limit, longest, part),
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"texts": self.texts, "cut": self.cut, "longest": self.longest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def find_template(model: Any, tokenizer: Any) -> tuple[str, str]:
    """The template of a model that says nothing of it, and why.

    A tokenizer with a chat template belongs to a chat model. An encoder with one output and a separator between two
    texts has learned pairs, as question and answer. All others read one text.
    """
    if getattr(tokenizer, "chat_template", None):
        return CHAT, "the tokenizer's chat template"
    if getattr(model.config, "num_labels", 2) == 1 and _separates(tokenizer):
        return PAIR, "prompt and response as the tokenizer's pair of texts"
    return JOINED, "prompt and response as one text"


def _separates(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its separator between the two texts of a pair."""
    separator = getattr(tokenizer, "sep_token_id", None)
    return separator is not None and separator in tokenizer("a", "b")["input_ids"][1:-1]


def trunk_template(tokenizer: Any) -> str:
    """The template of a fresh head: as the trunk's own answers are (chats where it was tuned on them), or one text."""
    return CHAT if declared_format(tokenizer).chat and getattr(tokenizer, "chat_template", None) else JOINED


def positions(model: Any) -> int | None:
    """Longest input that a model has positions for; None where they are relative and have no end."""
    config = text_config(model.config)
    if getattr(config, "relative_attention", False) and not getattr(config, "position_biased_input", True):
        return None
    sizes = [context_length(config), getattr(config, "max_seq_len", None)]
    for name, module in model.named_modules():
        # RoBERTa and its kin count positions from behind the padding's id.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            sizes.append(module.num_embeddings - module.padding_idx - 1)
    return min((size for size in sizes if isinstance(size, int) and size > 0), default=None)


def longest_input(model: Any, tokenizer: Any) -> tuple[int | None, str]:
    """The longest input in tokens that model and tokenizer are made for, None without a limit, and who says so."""
    own = positions(model) or context_length(model.config)
    said = getattr(tokenizer, "model_max_length", None)
    if isinstance(said, int) and 4 <= said < min(own or _NO_LIMIT, _NO_LIMIT):
        return said, "the tokenizer's limit"
    return own, "the trunk's positions"


def find_padding(config: Any, tokenizer: Any) -> tuple[int, str]:
    """The id that fills up rows: the model's, the tokenizer's, or one that no text has; and whose it is.

    Raises:
        ConfigError: If there is none.
    """
    config = text_config(config)
    size = getattr(config, "vocab_size", None) or len(tokenizer)
    own, other, end = getattr(config, "pad_token_id", None), tokenizer.pad_token_id, tokenizer.eos_token_id
    if own is not None and 0 <= own < size:
        return own, "the model's"
    # A causal classifier reads a text up to its last token that is no padding: an end token must not be taken for it.
    if other is not None and 0 <= other < size and other != end:
        return other, "the tokenizer's"
    if len(tokenizer) < size:
        _log.warning(
            "the tokenizer has no padding token of its own: the id %d, which no text has, fills up rows", len(tokenizer)
        )
        return len(tokenizer), "which no text has"
    if end is None:
        raise ConfigError("the tokenizer has no padding token; set `tokenizer.pad_token` to an unused one.")
    _log.warning("the tokenizer has no padding token of its own: the end-of-text token serves; a text is read up to it")
    return end, "the end token"


def reads_token_types(model: Any, tokenizer: Any) -> bool:
    """Whether a tokenizer gives token types by itself, and the model tells the texts of a pair apart by them."""
    if "token_type_ids" not in getattr(tokenizer, "model_input_names", ()):
        return False
    if getattr(text_config(model.config), "type_vocab_size", 0) < 2:
        return False
    return "token_type_ids" in inspect.signature(model.forward).parameters


def say_reading(where: Any, model: Any, *, known: bool) -> None:
    """Log in one line how a loaded model reads; a warning where its folder does not say itself.

    Args:
        where: Names it.
        model: A `reward_models.text_model.TextModel`.
        known: Whether the folder holds our own description of it.
    """
    _log.log(logging.INFO if known else logging.WARNING, "%s: %s", where, model.reading)
