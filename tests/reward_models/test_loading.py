"""Reward models from strings and descriptions, and back."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.architectures import ARCHITECTURES, build
from reward_models.adapters.classifier import ClassifierRewardModel
from reward_models.adapters.dpo import DPOReward
from reward_models.adapters.encoder import EncoderSimilarity
from reward_models.adapters.function import FunctionReward
from reward_models.adapters.http import HttpReward
from reward_models.adapters.judge import RatingJudge, TextJudge
from reward_models.adapters.rules import KeywordRule, LengthRule
from reward_models.adapters.scalar_head import ScalarHeadRewardModel
from reward_models.base import RewardModel
from reward_models.ensembles import Clipped, Ensemble, WeightedSum, ZScored
from reward_models.lexicon import Lexicon
from reward_models.loading import KINDS, SPEC_FILE, load_reward_model, save_reward_model
from reward_models.sequence import SequenceRewardModel
from tests.reward_models.tiny import builtin_tokenizer, save_trunk, tiny_bert, tiny_llama, word_tokenizer
from textenv.cli.stages import load_reward
from textenv.errors import CheckpointError, ConfigError
from textenv.rewards import register_reward

WORDS = ["the film is a great and moving story with bad dull boring parts in it . one two three"]
PROMPTS = ["the film", "the", "a great story", "the film is"]
RESPONSES = [" is great.", " a", " with dull and boring parts in it and a bad story.", " it"]


def shout(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(response.isupper()) for response in responses]


LEXICON = Lexicon()


def make_sequence(seed: int = 0) -> SequenceRewardModel:
    tokenizer = word_tokenizer(WORDS, encoder=True)
    return SequenceRewardModel.from_trunk(tiny_bert(tokenizer), tokenizer, seed=seed)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``sequence``, ``lm`` (with a head in a file of its own) and ``encoder``."""
    root = tmp_path_factory.mktemp("models")
    make_sequence().save_pretrained(root / "sequence")
    tokenizer = word_tokenizer(WORDS, encoder=True)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
    )
    save_trunk(BertForSequenceClassification(config), tokenizer, root / "classifier")
    tokenizer = word_tokenizer(WORDS, encoder=False)
    lm = tiny_llama(tokenizer)
    save_trunk(lm, tokenizer, root / "lm")
    save_file({"v_head.summary.weight": lm.lm_head.weight[5:6].detach().clone()}, root / "head.safetensors")
    tokenizer = word_tokenizer(WORDS, encoder=True)
    save_trunk(tiny_bert(tokenizer), tokenizer, root / "encoder")
    return root


DESCRIPTIONS: dict[str, tuple[dict[str, Any], type]] = {
    "sequence": ({"kind": "sequence", "path": "sequence"}, SequenceRewardModel),
    "classifier": ({"kind": "classifier", "path": "classifier", "values": [1, 2]}, ClassifierRewardModel),
    "scalar head": ({"kind": "scalar_head", "path": "lm", "head": "head.safetensors"}, ScalarHeadRewardModel),
    "encoder": ({"kind": "encoder", "path": "encoder", "liked": ["great story"]}, EncoderSimilarity),
    "dpo": ({"kind": "dpo", "policy": "lm", "reference": "lm", "variant": "average"}, DPOReward),
    "rating judge": (
        {
            "kind": "rating_judge",
            "policy": "lm",
            "question": "{prompt} is {response}",
            "ratings": {"one": 1.0, "two": 2.0},
        },
        RatingJudge,
    ),
    "text judge": ({"kind": "text_judge", "policy": "lm", "max_new_tokens": 2}, TextJudge),
    "lexicon": ({"kind": "lexicon"}, Lexicon),
    "length": ({"kind": "length", "target": 4}, LengthRule),
    "keywords": ({"kind": "keywords", "keywords": ["great", "bad"]}, KeywordRule),
    "function": ({"kind": "function", "function": f"{__name__}:shout"}, FunctionReward),
    "sum": ({"kind": "weighted_sum", "models": ["lexicon", {"kind": "length", "target": 4}]}, WeightedSum),
    "named sum": (
        {"kind": "weighted_sum", "models": {"a": "lexicon", "b": "sequence"}, "weights": [1, 2]},
        WeightedSum,
    ),
    "ensemble": ({"kind": "ensemble", "models": ["sequence", "lexicon"], "aggregate": "uwo"}, Ensemble),
    "clip": ({"kind": "clip", "model": "sequence", "low": -0.1, "high": 0.1}, Clipped),
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_every_kind_loads_and_scores_the_same_for_every_caller(name: str, folders: Path) -> None:
    spec, kind = DESCRIPTIONS[name]
    path = folders / f"{name}.json"
    path.write_text(json.dumps(spec), "utf-8")
    rm = load_reward_model(path)
    assert isinstance(rm, kind)
    assert isinstance(rm, RewardModel)
    expected = rm.score(PROMPTS, RESPONSES)
    assert (expected.dtype, expected.shape) == (np.float32, (4,))
    assert rm.score([], []).shape == (0,)
    order = np.array([2, 0, 3, 1])
    shuffled = rm.score([PROMPTS[i] for i in order], [RESPONSES[i] for i in order])
    np.testing.assert_allclose(shuffled, expected[order], atol=1e-5)
    alone = np.concatenate([rm.score([p], [r]) for p, r in zip(PROMPTS, RESPONSES, strict=True)])
    np.testing.assert_allclose(alone, expected, atol=1e-5)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: rm.score(PROMPTS, RESPONSES), range(8)):
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_strings_name_models(folders: Path) -> None:
    assert isinstance(load_reward_model(str(folders / "sequence")), SequenceRewardModel)
    assert isinstance(load_reward_model("lexicon"), Lexicon)
    plain, other = load_reward_model("http://host:1/x"), load_reward_model("openrlhf+https://host/get_reward")
    assert isinstance(plain, HttpReward)
    assert isinstance(other, HttpReward)
    assert (plain.url, plain.payload) == ("http://host:1/x", "textenv")
    assert (other.url, other.payload) == ("https://host/get_reward", "openrlhf")
    assert load_reward_model(f"{__name__}:shout").score(["a", "b"], ["OH", "oh"]).tolist() == [1.0, 0.0]
    assert load_reward_model(f"{__name__}:LEXICON") is LEXICON
    assert load_reward_model('{"kind": "length", "target": 3}') == LengthRule(3)
    register_reward("shouting", lambda: shout)
    assert load_reward_model("shouting").score(["a"], ["OH"]).tolist() == [1.0]


def test_the_command_line_takes_the_same_names(folders: Path) -> None:
    assert isinstance(load_reward(folders / "sequence"), SequenceRewardModel)
    assert isinstance(load_reward("lexicon"), Lexicon)
    assert isinstance(load_reward("http://host/x"), HttpReward)
    with pytest.raises(ConfigError, match="no reward: give `--reward_model DIR`"):
        load_reward("")


def test_combination_survives_its_folder(tmp_path: Path) -> None:
    members = [ZScored(make_sequence(seed)).fit(PROMPTS, RESPONSES, policy="sft") for seed in (1, 2)]
    parts = [Ensemble(members, "mean_std", 0.3), Clipped(Lexicon(include_prompt=False), high=0.5), LengthRule(4)]
    made = WeightedSum(parts, [1.0, 2.0, -0.5])
    save_reward_model(made, tmp_path / "mix")
    assert {path.suffix for path in (tmp_path / "mix").rglob("*.*")} <= {".json", ".safetensors"}
    (tmp_path / "mix").rename(tmp_path / "moved")  # paths inside are relative
    loaded = load_reward_model(tmp_path / "moved")
    np.testing.assert_array_equal(loaded.score(PROMPTS, RESPONSES), made.score(PROMPTS, RESPONSES))
    spec = json.loads((tmp_path / "moved" / SPEC_FILE).read_text("utf-8"))
    assert spec["models"]["0"]["models"][1]["model"] == {"kind": "sequence", "path": "model-1"}
    assert spec["models"]["0"]["models"][1]["normalization"]["policy"] == "sft"


def test_one_model_is_saved_as_itself(tmp_path: Path) -> None:
    save_reward_model(make_sequence(), tmp_path / "one")
    assert not (tmp_path / "one" / SPEC_FILE).exists()
    assert isinstance(load_reward_model(tmp_path / "one"), SequenceRewardModel)
    save_reward_model(HttpReward("http://host/x", fallback_score=1.0, headers={"key": "secret"}), tmp_path / "remote")
    assert "secret" not in (tmp_path / "remote" / SPEC_FILE).read_text("utf-8")
    remote = load_reward_model(tmp_path / "remote")
    assert isinstance(remote, HttpReward)
    assert remote.fallbacks.score == 1.0


def test_what_cannot_be_saved_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a TextJudge cannot be saved"):
        save_reward_model(WeightedSum([TextJudge(lambda questions: questions)]), tmp_path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "magic"}, "`kind` must be one of sequence, classifier, .*; got 'magic'"),
        ({}, "got None"),
        ({"kind": "length", "size": 3}, 'the options of the kind "length" do not fit: .*it has target, unit'),
        ({"kind": "length"}, "missing a required argument: 'target'"),
        ({"kind": "ensemble", "models": [3]}, "must be a description or a string, got 3"),
        ("{oops", "the description is not JSON"),
        ("no/such/folder", "no reward model 'no/such/folder': there is no such folder or file"),
        ("model.json", "there is no such folder or file"),
        ("", "there is no such folder or file"),
        ("unheard-of", "no reward is registered as 'unheard-of'"),
        ("json:nothing", "cannot load the reward 'json:nothing'"),
        ("ftp://x", "cannot load the reward"),
    ],
)
def test_what_means_nothing_is_a_config_error(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_reward_model(spec)


def test_damaged_description_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]", "utf-8")
    with pytest.raises(ConfigError, match='must be an object with a "kind", got list'):
        load_reward_model(tmp_path / "a.json")
    (tmp_path / "b.json").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="cannot read"):
        load_reward_model(tmp_path / "b.json")
    spec = {"kind": "zscore", "model": "lexicon", "normalization": {"gain": 1}}
    with pytest.raises(CheckpointError, match="zscore: expected the fields"):
        load_reward_model(spec)
    assert "zscore" in KINDS


def test_trunks_that_cannot_score_texts_are_refused_and_say_why():
    tokenizer = builtin_tokenizer(encoder=False)
    for name, message in (
        ("Mamba", "MambaForCausalLM cannot become a sequence classifier: ValueError: Unrecognized configuration"),
        ("BART", "BartForSequenceClassification cannot score texts: ValueError: Each example must contain"),
    ):
        architecture = ARCHITECTURES[name]
        trunk = build(architecture._replace(settings=architecture.settings | {"vocab_size": len(tokenizer)}))
        with pytest.raises(ConfigError, match=message):
            SequenceRewardModel.from_trunk(trunk, tokenizer)


def test_a_model_whose_scores_depend_on_the_texts_beside_a_text_is_refused(monkeypatch: pytest.MonkeyPatch):
    tokenizer = builtin_tokenizer(encoder=False)
    architecture = ARCHITECTURES["Llama"]
    trunk = build(architecture._replace(settings=architecture.settings | {"vocab_size": len(tokenizer)}))
    model = SequenceRewardModel.from_trunk(trunk, tokenizer).model
    own = model.forward

    def forward(*arguments: Any, **options: Any) -> Any:
        output = own(*arguments, **options)
        output.logits = output.logits * len(output.logits)
        return output

    monkeypatch.setattr(model, "forward", forward)
    with pytest.raises(ConfigError, match="scores a text otherwise where a longer one is beside it"):
        SequenceRewardModel(model, tokenizer, max_tokens=32)
