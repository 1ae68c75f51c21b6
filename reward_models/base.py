"""What a reward model is, and the text that it reads.

`RewardModel` is a protocol: any object with a fitting ``score`` is one. Scores are relative: only differences between
responses mean something, unless the model carries a normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from textenv.answers import as_messages, as_text, declared_format, render_chat
from textenv.errors import ConfigError, ShapeError


@runtime_checkable
class RewardModel(Protocol):
    """Says how good responses are.

    Prompts and responses are texts, or lists of chat messages (`textenv.answers.Chat`), for all our models alike.
    """

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """One finite score per response, higher is better, shape ``(n,)``.

        The same texts give the same scores, in any order and any company, up to rounding; concurrent callers are
        allowed.
        """
        ...


class TextTemplate:
    """How prompt and response become the one text that a reward model reads.

    Args:
        template: A text with ``{prompt}`` and ``{response}`` once each, in this order. The default joins them
            without anything between, because responses bring their own leading blank.

    Raises:
        ConfigError: If a placeholder is missing, doubled or out of order.
    """

    def __init__(self, template: str = "{prompt}{response}") -> None:
        head, found_prompt, rest = template.partition("{prompt}")
        middle, found_response, tail = rest.partition("{response}")
        # A prompt may itself contain "{response}", so the pieces are cut once, here.
        if not found_prompt or not found_response or "{prompt}" in middle + tail or "{response}" in head + tail:
            raise ConfigError(f"`template` must hold {{prompt}} and then {{response}}, once each; got {template!r}.")
        self.template = template
        self._pieces = (head, middle, tail)

    def __call__(self, prompt: str, response: str) -> str:
        """The text for one prompt and response."""
        head, middle, tail = self._pieces
        return f"{head}{prompt}{middle}{response}{tail}"

    def join(self, prompts: Sequence[str], responses: Sequence[str]) -> list[str]:
        """The texts for equally many prompts and responses.

        Raises:
            ShapeError: If the numbers differ.
        """
        return [self(prompt, response) for prompt, response in paired(prompts, responses)]


CHAT = "chat"
"""In place of a text template: the tokenizer's own chat template."""


class ChatTemplate:
    """The whole conversation in the tokenizer's own chat template: the prompt's messages, then the response's.

    A prompt that is a plain text is the user's message, such a response the assistant's.

    Args:
        tokenizer: A transformers tokenizer with a chat template; the system message that is declared for its model's
            answers comes first.

    Raises:
        ConfigError: If the tokenizer has no chat template.
    """

    template = CHAT

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(f'template "{CHAT}" needs a tokenizer with a chat template; this one has none.')
        self._tokenizer = tokenizer

    def __call__(self, prompt: str, response: str) -> str:
        """The text for one prompt and response."""
        turns = as_messages(prompt) + as_messages(response, "assistant")
        system = declared_format(self._tokenizer).system
        return render_chat(self._tokenizer, turns, system=system, answering=False, where=f"the prompt {prompt[:60]!r}")

    def join(self, prompts: Sequence[str], responses: Sequence[str]) -> list[str]:
        """The texts for equally many prompts and responses.

        Raises:
            ShapeError: If the numbers differ.
        """
        return [self(prompt, response) for prompt, response in paired(prompts, responses)]


PAIR = "pair"
"""In place of a text template: the tokenizer's own way of putting two texts, as encoders such as DeBERTa learn it."""


class PairTemplate:
    """Prompt and response as two texts, which the tokenizer joins with its separator and its token types."""

    template = PAIR

    def join(self, prompts: Sequence[str], responses: Sequence[str]) -> list[tuple[str, str]]:
        """The two texts of equally many prompts and responses.

        Raises:
            ShapeError: If the numbers differ.
        """
        return paired(prompts, responses)


Template = TextTemplate | ChatTemplate | PairTemplate


def paired(prompts: Sequence[Any], responses: Sequence[Any]) -> list[tuple[str, str]]:
    """Each prompt with its response; a list of messages becomes a `textenv.answers.Chat`.

    Raises:
        ShapeError: If the numbers differ.
        DataError: If one is neither a text nor a list of messages.
    """
    if len(prompts) != len(responses):
        raise ShapeError(f"got {len(prompts)} prompts for {len(responses)} responses; each response needs its own.")
    return [
        (as_text(prompt, f"prompt {number}"), as_text(response, f"response {number}"))
        for number, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
    ]


def make_template(template: str, tokenizer: Any) -> Template:
    """The template that a setting means: ``"chat"``, ``"pair"``, or a text with ``{prompt}`` and ``{response}``.

    Raises:
        ConfigError: As the classes.
    """
    if template == PAIR:
        return PairTemplate()
    return ChatTemplate(tokenizer) if template == CHAT else TextTemplate(template)
