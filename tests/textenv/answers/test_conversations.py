"""Chats wherever a text may stand: what they read as, and what copies, files and prompts keep of the messages."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from textenv.answers import Chat, as_json, as_messages, as_text, chat_text
from textenv.errors import DataError
from textenv.prompts import Prompt, as_prompt

CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How warm is it in Paris?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "21"},
]


def test_a_chat_reads_as_people_read_it_with_the_assistants_turn_open() -> None:
    assert Chat(TURNS) == (
        "System: Be brief.\n\nUser: How warm is it in Paris?\n\n"
        'Assistant: weather({"city": "Paris"})\n\nTool: 21\n\nAssistant:'
    )


def test_one_message_is_its_words() -> None:
    assert chat_text(TURNS[1:2]) == "How warm is it in Paris?"
    assert (
        chat_text([{"role": "user", "content": [{"type": "text", "text": "Why"}, {"type": "text", "text": "?"}]}])
        == "Why?"
    )


def test_an_answered_chat_ends_with_the_answer() -> None:
    assert chat_text([TURNS[1], {"role": "assistant", "content": "21"}]).endswith("Assistant: 21")


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda chat: pickle.loads(pickle.dumps(chat))])
def test_copies_and_pickles_keep_the_messages(again: Any) -> None:
    chat = again(Chat(TURNS, "as shown"))
    assert (chat, chat.messages) == ("as shown", tuple(TURNS))


def test_through_json_and_back() -> None:
    chat = as_text(json.loads(json.dumps(as_json(Chat(TURNS)))), "here")
    assert isinstance(chat, Chat)
    assert list(chat.messages) == TURNS
    assert as_json("text") == as_text("text", "here") == "text"


def test_a_plain_text_is_one_message_of_the_role() -> None:
    assert as_messages("Hi", "assistant") == [{"role": "assistant", "content": "Hi"}]
    assert as_messages(Chat(TURNS)) == TURNS


@pytest.mark.parametrize(
    "value", [3, [], None, ["a"], [{"role": "user"}], [{"content": "a"}], [{"role": "user", "content": None}], {"a": 1}]
)
def test_what_is_no_conversation_is_refused_with_its_place(value: Any) -> None:
    with pytest.raises(DataError, match=r"^file.jsonl:3: "):
        as_text(value, "file.jsonl:3")


def test_prompts_carry_the_messages_to_the_reward_function() -> None:
    for given in (TURNS, {"messages": TURNS}, {"prompt": TURNS}, Chat(TURNS), {"prompt": "shown", "messages": TURNS}):
        prompt = as_prompt(given, "prompt 0")
        assert isinstance(prompt, Prompt)
        assert isinstance(prompt.text, Chat)
        assert list(prompt.text.messages) == list(prompt.messages or ()) == TURNS
    assert prompt.text == "shown"
