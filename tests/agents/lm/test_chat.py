from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from agents.lm.chat import conversation_example, default_chat_template
from textenv.errors import ConfigError, DataError

CHATML = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
TURNS = [
    {"role": "system", "content": "be short"},
    {"role": "user", "content": "the old film"},
    {"role": "assistant", "content": "is good"},
    {"role": "user", "content": "the new film"},
    {"role": "assistant", "content": "is bad"},
]


def with_template(tokenizer: Any, template: str | None) -> Any:
    own = copy.deepcopy(tokenizer)
    own.chat_template = default_chat_template(own) if template is None else template
    return own


def learned_texts(example: Any, tokenizer: Any) -> list[str]:
    """The stretches of a conversation that carry loss, as texts."""
    counted = np.concatenate([np.zeros(example.prompt_length, bool), example.loss_mask])
    found: list[list[int]] = []
    for place, token in enumerate(example.tokens):
        if counted[place]:
            if not counted[place - 1]:
                found.append([])
            found[-1].append(int(token))
    return [tokenizer.decode(ids) for ids in found]


@pytest.mark.parametrize("template", [None, CHATML], ids=["default", "own"])
def test_every_answer_with_its_end_carries_loss_and_nothing_else(template: str | None, tokenizer):
    own = with_template(tokenizer, template)
    example = conversation_example(TURNS, own)
    space = " " if template is None else ""
    assert learned_texts(example, own) == [f"{space}is good<|end|>", f"{space}is bad<|end|>"]
    whole = own.apply_chat_template(TURNS, tokenize=False)
    assert own.decode(example.tokens) == whole.rstrip("\n")


def test_the_prompt_is_what_the_policy_sees_when_it_answers(tokenizer):
    own = with_template(tokenizer, None)
    example = conversation_example(TURNS[:3], own)
    asked = own.apply_chat_template(TURNS[:2], tokenize=False, add_generation_prompt=True)
    assert example.tokens[: example.prompt_length].tolist() == own.encode(asked, add_special_tokens=False)
    assert asked == "<|begin|>System: be short\nUser: the old film\nAssistant:"


def test_what_follows_the_last_answer_is_left_out(tokenizer):
    own = with_template(tokenizer, None)
    longer = [*TURNS, {"role": "user", "content": "the long film"}]
    assert conversation_example(longer, own).tokens.tolist() == conversation_example(TURNS, own).tokens.tolist()


def test_an_answer_gets_its_end_where_the_template_has_none(tokenizer):
    endless = CHATML.replace("{{ eos_token }}", "")
    own = with_template(tokenizer, endless)
    example = conversation_example(TURNS[:3], own)
    assert learned_texts(example, own) == ["is good\n<|end|>"]


def test_a_tokenizer_without_begin_token_gets_a_template_without_one(tokenizer):
    class Plain:
        bos_token_id, eos_token_id = 1, 2

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [7]}

    assert default_chat_template(tokenizer).startswith("{{ bos_token }}")
    assert not default_chat_template(Plain()).startswith("{{ bos_token }}")


def test_a_greeting_of_the_assistant_is_read_and_not_learned(tokenizer):
    own = with_template(tokenizer, None)
    greeted = [{"role": "assistant", "content": "hello"}, *TURNS[1:3]]
    assert learned_texts(conversation_example(greeted, own), own) == [" is good<|end|>"]


def test_calls_of_tools_and_two_turns_in_a_row_are_learned_each_with_its_end(tokenizer):
    own = with_template(tokenizer, None)
    call = {"id": "1", "type": "function", "function": {"name": "film", "arguments": "old"}}
    said = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "good"},
        {"role": "assistant", "content": "is good"},
        {"role": "assistant", "content": "is old"},
    ]
    learned = learned_texts(conversation_example([*TURNS[:2], *said], own), own)
    assert [text.replace(" ", "") for text in learned] == ["film(old)<|end|>", "isgood<|end|>", "isold<|end|>"]


@pytest.mark.parametrize(
    ("template", "turns", "error", "message"),
    [
        (None, TURNS[:2], DataError, "in the conversation 'be short' the assistant answers nothing"),
        (None, TURNS[2:3], DataError, "the assistant answers nothing"),
        ("{{ raise_exception('no system') }}", TURNS, DataError, "refuses the conversation 'be short': no system"),
        ("{{ messages | length }}" + CHATML, TURNS, ConfigError, "writes message 2 differently once the conversation"),
        (
            "{% for m in messages %}{% if m['role'] == 'assistant' %}x{% endif %}{% endfor %}",
            TURNS[1:3],
            ConfigError,
            "puts nothing",
        ),
    ],
    ids=["nobody answers", "only says", "template refuses", "rewrites", "nothing before"],
)
def test_conversations_that_cannot_be_learned_are_refused(template, turns, error, message, tokenizer):
    with pytest.raises(error, match=message):
        conversation_example(turns, with_template(tokenizer, template))
