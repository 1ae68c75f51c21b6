from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from tests.textenv.answers.kinds import make_tokenizer
from textenv.answers import AnswerFormat, declared_format, format_of_folder, format_of_model, save_format
from textenv.envs.task import load_tokenizer
from textenv.errors import CheckpointError, ConfigError
from textenv.sampling.params import SamplingParams


def test_format_survives_the_folder(tmp_path):
    told = AnswerFormat((2, 4), ("\n", "é"), 3, 9, True, "be kind", False, False, True)
    assert format_of_folder(tmp_path) is None
    save_format(told, tmp_path)
    assert format_of_folder(tmp_path) == told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read the answer format"),
        ('{"version": 2}', "another version"),
        ('{"version": 1, "x": 1}', "x"),
    ],
)
def test_damaged_file_is_named(tmp_path, text, message):
    (tmp_path / "answer.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        format_of_folder(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stop": ("",)}, "not empty"),
        ({"min_new_tokens": -1}, "`min_new_tokens` must be ≥ 0"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be ≥ 1"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens must not exceed max_new_tokens, got 5 > 4"),
    ],
)
def test_unusable_values_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        AnswerFormat(**fields)


@pytest.mark.parametrize(("ids", "expected"), [(None, (2,)), (4, (2, 4)), ([4, 2, 999, -1], (2, 4))])
def test_end_tokens_are_the_tokenizers_and_the_models(ids, expected):
    said = SimpleNamespace(eos_token_id=ids)
    assert AnswerFormat.of_tokenizer(make_tokenizer("byte level"), None, said).eos_token_ids == expected


def test_folder_with_a_generation_config_says_where_answers_end(tmp_path):
    tokenizer = make_tokenizer("byte level")
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [4, 2]}))
    assert format_of_model(tmp_path, tokenizer).eos_token_ids == (2, 4)
    assert declared_format(load_tokenizer(str(tmp_path))).eos_token_ids == (2, 4)


def test_sampling_settings_come_before_the_format():
    told = AnswerFormat((2,), ("x",), 2, 9)
    assert SamplingParams().settled(told).stop == ("x",)
    assert SamplingParams().settled(told).max_new_tokens == 9
    own = SamplingParams(max_new_tokens=1, stop=("y",), eos_token_id=(4,)).settled(told)
    assert (own.max_new_tokens, own.min_new_tokens, own.stop, own.eos_token_id) == (1, 1, ("y",), (4,))
    assert SamplingParams().settled(AnswerFormat()).max_new_tokens == 32
    with pytest.raises(ConfigError, match="`min_new_tokens` must not exceed `max_new_tokens`, got 3 > 2"):
        SamplingParams(max_new_tokens=2, min_new_tokens=3).settled(told)
