from __future__ import annotations

import pytest

from tests.textenv.answers.kinds import TEMPLATE, make_tokenizer
from textenv.answers import message_text, render_chat, turn_end_token
from textenv.answers.chat import with_system
from textenv.errors import ConfigError

USER = [{"role": "user", "content": "hi"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}]
ITERATES = (
    "{% for m in messages %}[{{ m.role }}]{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}[a]{% endif %}"
)


def chatty(template: str = TEMPLATE):
    return make_tokenizer("byte level", chat_template=template)


def test_prompt_opens_the_assistants_turn():
    assert render_chat(chatty(), USER) == "<s>[user] hi<|eot|>\n[assistant] "
    assert render_chat(chatty(), USER, answering=False) == "<s>[user] hi<|eot|>\n"


def test_message_of_the_assistant_at_the_end_is_gone_on_with():
    prefilled = [*USER, {"role": "assistant", "content": "<think>"}]
    assert render_chat(chatty(), prefilled) == "<s>[user] hi<|eot|>\n[assistant] <think>"


def test_system_message_comes_first_unless_there_is_one():
    assert render_chat(chatty(), USER, system="be kind").startswith("<s>[system] be kind<|eot|>\n[user] hi")
    own = [{"role": "system", "content": "be brief"}, *USER]
    assert "kind" not in render_chat(chatty(), own, system="be kind")


@pytest.mark.parametrize("template", [TEMPLATE, ITERATES], ids=["texts", "parts"])
@pytest.mark.parametrize("messages", [USER, PARTS], ids=["text", "parts"])
def test_contents_are_given_in_the_form_that_the_template_reads(template, messages):
    found = render_chat(chatty(template), messages)
    assert "hi" in found
    assert "type" not in found


def test_tool_messages_reach_the_template():
    template = "{% for m in messages %}{{ m.role }}:{{ m.content or m.tool_calls[0].name }};{% endfor %}"
    calls = [{"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]}, {"role": "tool", "content": "4"}]
    assert render_chat(chatty(template), [*USER, *calls]) == "user:hi;assistant:add;tool:4;"


def test_missing_template_says_what_to_do():
    with pytest.raises(
        ConfigError, match=r"need a chat template, which .* lacks \(prompt 2\); set `tokenizer.chat_temp"
    ):
        render_chat(make_tokenizer("byte level"), USER, where="prompt 2")


def test_turn_end_is_the_special_token_after_the_assistants_words():
    assert turn_end_token(chatty()) == 4
    assert turn_end_token(chatty("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")) is None
    assert turn_end_token(make_tokenizer("byte level")) is None


def test_system_message_can_be_said_by_the_template_alone():
    told = chatty(with_system(TEMPLATE, 'say "yes" {{ 1 }}'))
    assert render_chat(told, USER) == render_chat(chatty(), USER, system='say "yes" {{ 1 }}')
    own = [{"role": "system", "content": "be brief"}, *USER]
    assert render_chat(told, own) == render_chat(chatty(), own)


def test_words_of_a_message():
    assert [message_text("hi"), message_text(PARTS[0]["content"]), message_text(None)] == ["hi", "hi", ""]
    assert message_text([{"type": "image"}, {"type": "text", "text": "a cat"}]) == "a cat"
