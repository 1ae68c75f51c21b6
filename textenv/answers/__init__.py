"""What an answer is, in one place: how prompts are put, where answers end, what their text is.

:class:`AnswerFormat` is the definition, stored beside a model; :class:`Answers` binds it to a tokenizer. The
environment, ``generate``, evaluation, serving, fine-tuning and reward models read and write answers through these two.
"""

from __future__ import annotations

from textenv.answers.answers import Answers, EncodedText, answers_of
from textenv.answers.chat import (
    Chat,
    Message,
    as_json,
    as_messages,
    as_text,
    chat_text,
    message_text,
    render_chat,
    turn_end_token,
)
from textenv.answers.conversations import decoded, prompt_and_answers, read_cell
from textenv.answers.format import (
    AnswerFormat,
    declare_format,
    declared_format,
    format_of_folder,
    format_of_model,
    save_format,
)
from textenv.answers.stops import StopMatcher, token_pieces
from textenv.answers.vocabulary import Vocabulary, vocabulary

__all__ = [
    "AnswerFormat",
    "Answers",
    "Chat",
    "EncodedText",
    "Message",
    "StopMatcher",
    "Vocabulary",
    "answers_of",
    "as_json",
    "as_messages",
    "as_text",
    "chat_text",
    "declare_format",
    "declared_format",
    "decoded",
    "format_of_folder",
    "format_of_model",
    "message_text",
    "prompt_and_answers",
    "read_cell",
    "render_chat",
    "save_format",
    "token_pieces",
    "turn_end_token",
    "vocabulary",
]
