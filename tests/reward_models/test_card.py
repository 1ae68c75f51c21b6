from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from reward_models.card import write_card
from reward_models.sequence import SequenceRewardModel
from tests.reward_models.tiny import tiny_bert, word_tokenizer
from textenv.errors import CheckpointError, DataError
from textenv.statistics import Interval

ACCURACIES = {"all pairs": Interval(0.81234, 0.79, 0.83, 1200), "gap > 2": Interval(math.nan, math.nan, math.nan, 0)}


def test_write_card_is_what_the_hub_reads(tmp_path: Path) -> None:
    written = write_card(
        tmp_path,
        name="movies",
        training_data={"labels": 900, "kind": "rat|ings"},
        settings={"learning_rate": 1e-4, "epochs": 1.0},
        accuracies=ACCURACIES,
        calibration={"ECE": 0.021},
        evaluation_data="movie ratings, test split",
        base_model="some/trunk",
        license="mit",
        limits=["English only."],
    )
    card = ModelCard.load(written)
    data: Any = card.data
    assert (data.license, data.base_model, data.library_name) == ("mit", "some/trunk", "transformers")
    assert data.model_name == "movies"
    results = data.eval_results
    assert [(r.metric_type, r.metric_value, r.dataset_name) for r in results] == [
        ("accuracy", 0.8123, "movie ratings, test split")
    ]
    text = card.text
    for part in (
        "| all pairs | 0.812 | 0.790 to 0.830 | 1200 |",
        "| gap > 2 | no pairs | not measured | 0 |",
        "| kind | rat\\|ings |",
        "| learning_rate | 0.0001 |",
        "| ECE | 0.021 |",
        "- English only.",
        "None: scores are the head's output.",
    ):
        assert part in text


def test_write_card_reads_template_and_normalization_from_the_folder(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(["a good and a bad day"], encoder=True)
    rm = SequenceRewardModel.from_trunk(tiny_bert(tokenizer), tokenizer, max_tokens=20)
    rm.normalize(["a", "a", "a"], [" good day", " bad", " day"], policy="sft")
    rm.save_pretrained(tmp_path)
    text = write_card(tmp_path, training_data="Made up.", settings={}, accuracies={}).read_text("utf-8")
    assert "fitted on 3 samples of the policy `sft`" in text
    assert "Input: `{prompt}{response}`, the last 20 tokens of it." in text
    assert f"# {tmp_path.name}\n" in text
    assert "## Calibration\n\nNot measured." in text
    assert "## Accuracy\n\nOn held-out pairs; a tie counts one half.\n\nNot measured." in text
    assert SequenceRewardModel.from_pretrained(tmp_path).score(["a"], [" day"]).shape == (1,)


def test_write_card_unusable_figures_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"accuracy 'all' must be a share in \[0, 1\], got 81"):
        write_card(tmp_path, training_data="", settings={}, accuracies={"all": Interval(81.0, 0, 0, 3)})
    with pytest.raises(DataError, match="calibration figure 'ECE' must be finite, got nan"):
        write_card(tmp_path, training_data="", settings={}, accuracies={}, calibration={"ECE": math.nan})


def test_write_card_needs_the_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such folder"):
        write_card(tmp_path / "none", training_data="", settings={}, accuracies={})
    (tmp_path / "reward_model.json").write_text("{", "utf-8")
    with pytest.raises(CheckpointError, match=r"cannot read .*reward_model\.json"):
        write_card(tmp_path, training_data="", settings={}, accuracies={})
