"""Prompts and answers as ids and texts, for the tokenizers of the kinds that models come with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.textenv.answers.kinds import KINDS, TEMPLATE, holed, make_tokenizer
from textenv.answers import AnswerFormat, Answers, declare_format, vocabulary
from textenv.envs.tokenizers import ToyTokenizer
from textenv.errors import ConfigError, DataError

WORDS = ("the", "old", "film", "is", "good", "new", "bad", "a", "one")


@pytest.fixture(scope="module", params=KINDS)
def answers(request) -> Answers:
    return Answers(make_tokenizer(request.param))


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_prompt_has_one_begin_token_and_no_end_token(answers):
    ids = answers.encode_prompt("the old film").ids
    assert ids[0] == 1
    assert ids.count(1) == 1
    assert not {2, 4} & set(ids)
    assert answers.encode_prompt("<s>the old film").ids == ids
    assert answers.encode_prompt([5, 6]).ids == [5, 6]


def test_encoder_keeps_the_end_token():
    tokenizer = make_tokenizer("wordpiece")
    assert Answers(tokenizer, AnswerFormat((2,), encoder_decoder=True)).encode_prompt("the old").ids[-1] == 2
    assert Answers(tokenizer).encode_prompt("the old").ids[-1] != 2


def test_templated_text_and_conversation_are_the_same_prompt():
    tokenizer = make_tokenizer("byte level", chat_template=TEMPLATE)
    chat = [{"role": "user", "content": "hi"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    plain, asked = Answers(tokenizer), Answers(tokenizer, AnswerFormat((2,), chat=True))
    expected = tokenizer.encode(text, add_special_tokens=False)
    assert plain.encode_prompt(text).ids == plain.encode_prompt(chat).ids == asked.encode_prompt("hi").ids == expected
    assert expected.count(1) == 1


# --- texts ------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    words=st.lists(st.sampled_from(WORDS), min_size=2, max_size=8), cut=st.integers(1, 7), kind=st.sampled_from(KINDS)
)
def test_answer_read_in_its_place_is_what_was_written(words, cut, kind):
    answers = Answers(make_tokenizer(kind))
    cut = min(cut, len(words) - 1)
    prompt, response = " ".join(words[:cut]), "".join(f" {word}" for word in words[cut:])
    read = answers.encode_prompt(prompt)
    ids = answers.encode_response(read, response)
    assert ids[-1] == 2
    assert answers.text(read.ids, ids) == response
    assert answers.tokenizer.decode([*read.ids, *ids], skip_special_tokens=True) == prompt + response


@pytest.mark.parametrize("kind", ["byte level", "metaspace", "prepend", "unigram"])
@pytest.mark.parametrize("response", ["lm is good", " café", "film", " is good.", "", "! new"])
def test_answer_that_goes_on_inside_a_word_is_taught_as_it_reads(kind, response):
    answers = Answers(make_tokenizer(kind))
    for prompt in ("the old fi", "a fine", "the old "):
        read = answers.encode_prompt(prompt)
        assert answers.text(read.ids, answers.encode_response(read, response)) == response


def test_half_a_character_of_the_prompt_is_completed_by_the_answer():
    answers = Answers(make_tokenizer("prepend"))
    euro = answers.tokenizer.convert_tokens_to_ids(["<0xE2>", "<0x82>", "<0xAC>"])
    assert answers.decode_after([1, *euro[:2]], [euro[2]]) == "€"


def test_answer_after_special_tokens_alone_keeps_its_blank():
    answers = Answers(make_tokenizer("metaspace"))
    ids = answers.tokenizer.encode("old film", add_special_tokens=False)
    assert answers.decode_after([*answers.encode_prompt("the").ids, *[4] * 80], ids) == " old film"


def test_special_tokens_stay_where_the_format_says_so():
    tokenizer = make_tokenizer("byte level")
    ids = [*tokenizer.encode(" is", add_special_tokens=False), 4]
    assert Answers(tokenizer, AnswerFormat((2,))).text([5], ids) == " is"
    assert Answers(tokenizer, AnswerFormat((2,), skip_special_tokens=False)).text([5], ids) == " is<|eot|>"


# --- ends -------------------------------------------------------------------------------------------------------------


def test_answer_ends_at_each_end_token_and_stop_string(answers):
    read = answers.encode_prompt("the old film")
    ids = answers.encode_response(read, " is good the", end=False)
    both = answers.replace(eos_token_ids=(2, 4), stop=("good",))
    ends = [both.finish(ids[: i + 1], read.ids) for i in range(len(ids))]
    assert ends.index("stop") == min(i for i in range(len(ids)) if "good" in answers.text(read.ids, ids[: i + 1]))
    stopped = ids[: ends.index("stop") + 1]
    assert both.text(read.ids, stopped) == " is "
    assert both.finish([*ids, 4]) == both.finish([*ids, 2]) == "eos"
    assert answers.finish([*ids, 4]) is None
    assert both.text(read.ids, [*ids[:1], 4]) == answers.text(read.ids, ids[:1])


def test_stop_string_may_begin_with_the_blank_of_the_first_token():
    answers = Answers(make_tokenizer("metaspace"), AnswerFormat((2,), stop=(" is",)))
    read = answers.encode_prompt("the old film")
    ids = answers.encode_response(read, " is", end=False)
    assert answers.finish(ids, read.ids) == "stop"
    assert answers.text(read.ids, ids) == ""


def test_stop_string_before_the_shortest_length_does_not_end_and_stays():
    answers = Answers(ToyTokenizer("abc"), AnswerFormat((1,), stop=("b",), min_new_tokens=3))
    assert [answers.finish([2, 3], [2]), answers.finish([2, 3, 2], [2]), answers.finish([2, 3, 3], [2])] == [
        None,
        None,
        "stop",
    ]
    assert answers.answer_text([2], [2, 3, 3]) == "ab"


def test_end_token_beyond_the_vocabulary_is_refused():
    with pytest.raises(ConfigError, match=r"eos_token_id 9 is no token of the tokenizer, whose ids end at 4"):
        Answers(ToyTokenizer("abc"), AnswerFormat((9,)))
    with pytest.raises(ConfigError, match=r"eos_token_id 7 is no token"):
        Answers(holed(), AnswerFormat((7,)))


def test_answer_cannot_be_taught_without_an_end_token():
    answers = Answers(ToyTokenizer("abc"), AnswerFormat())
    with pytest.raises(ConfigError, match=r"no end-of-text token, so no answer could be taught to end"):
        answers.encode_response(answers.encode_prompt("a"), "b")


def test_chat_answer_is_taught_to_end_as_its_template_ends():
    tokenizer = make_tokenizer("byte level", chat_template=TEMPLATE)
    answers = Answers(tokenizer, AnswerFormat((2, 4), chat=True))
    assert answers.encode_response(answers.encode_prompt("hi"), "yes")[-1] == 4
    assert answers.encode_response(answers.encode_text("hi"), " yes")[-1] == 2


# --- vocabularies -----------------------------------------------------------------------------------------------------


def test_vocabulary_knows_gaps():
    found = vocabulary(holed())
    assert found.size == 12
    assert found.absent.tolist() == [6, 7, 8, 10]
    assert found.tokens == 8
    assert found.is_token.tolist() == [i not in (6, 7, 8, 10) for i in range(12)]
    assert found.within(9).size == 9
    assert found.within(9).absent.tolist() == [6, 7, 8]
    assert str(found) == "8 (0 … 11, 4 of them no tokens)"


def test_vocabulary_is_read_again_when_tokens_are_added():
    tokenizer = make_tokenizer("byte level")
    before = vocabulary(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|more|>"]}, replace_extra_special_tokens=False)
    assert vocabulary(tokenizer).size == before.size + 1


def test_toy_vocabulary_is_its_length():
    assert vocabulary(ToyTokenizer("ab")).size == 4
    assert not np.any(vocabulary(ToyTokenizer("ab")).absent)


def test_declared_format_is_that_of_the_tokenizer():
    toy = ToyTokenizer("ab")
    assert Answers(toy).format.eos_token_ids == (1,)
    declare_format(toy, AnswerFormat((1, 2), stop=("a",)))
    assert Answers(toy).format.stop == ("a",)


def test_unusable_template_is_named():
    tokenizer = make_tokenizer("byte level", chat_template="{{ raise_exception('no') }}")
    with pytest.raises(DataError, match=r"chat template refuses prompt 3: no"):
        Answers(tokenizer).encode_prompt([{"role": "user", "content": "hi"}], "prompt 3")
