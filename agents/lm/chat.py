"""Conversations as training examples: chat templates, and the loss on every turn of the assistant.

The template is the tokenizer's own, or :func:`default_chat_template` where it has none. Each answer has the ids that
the policy produces when it says the same in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from agents.lm.batches import Example
from textenv.answers import (
    AnswerFormat,
    Answers,
    EncodedText,
    declared_format,
    message_text,
    render_chat,
    turn_end_token,
)
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


def conversation_example(
    messages: Sequence[Mapping[str, Any]], tokenizer: Any, answer: AnswerFormat | None = None
) -> Example:
    """A conversation with the loss on what the assistant says, each answer's end token included.

    Args:
        messages: ``{"role", "content"}``; what follows the last turn of the assistant is left out, and one that begins
            the conversation is only read.
        tokenizer: Has a chat template and an end token.
        answer: What an answer is; None takes what is declared for the tokenizer.

    Raises:
        DataError: If the assistant answers nothing, or the template refuses the conversation.
        ConfigError: If the template writes a conversation that grows by a turn anew, so that answers cannot be found.
    """
    answers = Answers(tokenizer, answer)
    turns = [dict(message) for message in messages]
    ids: list[int] = []
    learned: list[bool] = []
    done = ""
    for number, turn in enumerate(turns):
        if turn["role"] != "assistant" or number == 0:
            continue
        before = _render(answers, turns[:number], answering="anew")
        after = _render(answers, turns[: number + 1], answering=False)
        if not (before.startswith(done) and after.startswith(before)):
            raise ConfigError(
                f"the chat template writes message {number} differently once the conversation goes on, so that its "
                "answers cannot be told from the rest; set `tokenizer.chat_template` to one that only appends"
            )
        prompt_part = answers.encode_response(EncodedText(ids, done, True), before[len(done) :], end=False)
        learned += [False] * len(prompt_part)
        ids = [*ids, *prompt_part]
        said, counted = _answer(answers, EncodedText(ids, before, True), after[len(before) :])
        learned += counted
        ids = [*ids, *said]
        done = after
    if not any(learned):
        raise DataError(f"in the conversation {_shown(turns)} the assistant answers nothing")
    first, end = learned.index(True), len(learned) - learned[::-1].index(True)
    if first == 0:
        raise ConfigError("the chat template puts nothing before the assistant's first word; nothing predicts it")
    return Example(np.array(ids[:end]), first, np.array(learned[first:end]))


def taught_format(tokenizer: Any, answer: AnswerFormat | None, conversations: int, texts: int) -> AnswerFormat:
    """What an answer of a model is that is fine-tuned on conversations, texts, or both.

    Args:
        tokenizer: The model's.
        answer: What its answers were; None takes what is declared for the tokenizer.
        conversations: Number of conversations.
        texts: Number of plain prompts with answers, which are asked as the model was asked before.
    """
    answer = declared_format(tokenizer) if answer is None else answer
    if not conversations:
        return answer
    end = turn_end_token(tokenizer)  # the model learns to say it
    ends = answer.eos_token_ids if end is None else (*answer.eos_token_ids, end)
    return replace(answer, chat=answer.chat or not texts, eos_token_ids=tuple(dict.fromkeys(ends)))


def _answer(answers: Answers, prompt: EncodedText, text: str) -> tuple[list[int], list[bool]]:
    """Ids of an answer, and which carry loss: all up to its end token; one is added where the template has none."""
    ids = answers.encode_response(prompt, text, end=False)
    ends = answers.format.eos_token_ids
    if not ends:
        raise ConfigError(
            "the tokenizer has no end-of-text token, so no answer could be taught to end; set `tokenizer.eos_token`"
        )
    end = next((place for place, token in enumerate(ids) if token in ends), None)
    if end is None:
        ids, end = [*ids, ends[0]], len(ids)
    return ids, [place <= end for place in range(len(ids))]


def _render(answers: Answers, turns: list[dict[str, Any]], *, answering: bool | Literal["anew"]) -> str:
    where = f"the conversation {_shown(turns)}"
    return render_chat(answers.tokenizer, turns, system=answers.format.system, answering=answering, where=where)


def _shown(turns: list[dict[str, Any]]) -> str:
    return repr(message_text(turns[0].get("content"))[:60]) if turns else "without messages"
