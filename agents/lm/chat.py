"""Conversations as training examples: chat templates, and the loss on every turn of the assistant.

The template is the tokenizer's own, or :func:`default_chat_template` where it has none. Each answer is tokenised apart
from what stands before it, as it is when the policy answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np

from agents.lm.batches import Example
from textenv.errors import ConfigError, DataError

_TURNS = (
    "{% for message in messages %}{{ message['role'].capitalize() + ': ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def default_chat_template(tokenizer: Any) -> str:
    """A template that needs no tokens of its own: ``User: …``, ``Assistant: …`` and the end token after an answer.

    Args:
        tokenizer: Where it puts a begin token before texts, the template does so too.
    """
    ids = tokenizer("a")["input_ids"]
    begins = tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
    return ("{{ bos_token }}" if begins else "") + _TURNS


def conversation_example(messages: Sequence[Mapping[str, str]], tokenizer: Any) -> Example:
    """A conversation with the loss on what the assistant says, each answer's end token included.

    Args:
        messages: ``{"role", "content"}``; what follows the last turn of the assistant is left out, and one that begins
            the conversation is only read.
        tokenizer: Has a chat template and an end token.

    Raises:
        DataError: If the assistant answers nothing, or the template refuses the conversation.
        ConfigError: If the template writes a conversation that grows by a turn anew, so that answers cannot be found.
    """
    turns = [dict(message) for message in messages]
    ids: list[int] = []
    learned: list[bool] = []
    done = ""
    for number, turn in enumerate(turns):
        if turn["role"] != "assistant" or number == 0:
            continue
        before = _render(tokenizer, turns[:number], answering=True)
        after = _render(tokenizer, turns[: number + 1], answering=False)
        if not (before.startswith(done) and after.startswith(before)):
            raise ConfigError(
                f"the chat template writes message {number} differently once the conversation goes on, so that its "
                "answers cannot be told from the rest; set `tokenizer.chat_template` to one that only appends"
            )
        asked = tokenizer.encode(before[len(done) :], add_special_tokens=False)
        answer, counted = _answer(tokenizer, after[len(before) :])
        ids += [*asked, *answer]
        learned += [False] * len(asked) + counted
        done = after
    if not any(learned):
        raise DataError(f"in the conversation {_shown(turns)} the assistant answers nothing")
    first, end = learned.index(True), len(learned) - learned[::-1].index(True)
    if first == 0:
        raise ConfigError("the chat template puts nothing before the assistant's first word; nothing predicts it")
    return Example(np.array(ids[:end]), first, np.array(learned[first:end]))


def _answer(tokenizer: Any, text: str) -> tuple[list[int], list[bool]]:
    """Ids of an answer, and which carry loss: all up to its end token; one is added where the template has none."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    if tokenizer.eos_token_id not in ids:
        ids = [*ids, tokenizer.eos_token_id]
    end = ids.index(tokenizer.eos_token_id) + 1
    return ids, [place < end for place in range(len(ids))]


def _render(tokenizer: Any, turns: list[dict[str, str]], *, answering: bool) -> str:
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answering)
    except jinja2.TemplateError as error:
        raise DataError(f"the chat template refuses the conversation {_shown(turns)}: {error}") from error


def _shown(turns: list[dict[str, str]]) -> str:
    return repr(turns[0]["content"][:60]) if turns else "without messages"
