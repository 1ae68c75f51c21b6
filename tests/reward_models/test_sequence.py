from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaForSequenceClassification

from reward_models.labels import Rating
from reward_models.sequence import SIDE_FILE, SequenceRewardModel, batches_by_length
from reward_models.training import RewardModelConfig, train
from tests.reward_models.tiny import save_trunk, tiny_bert, tiny_llama, word_tokenizer
from textenv.errors import CheckpointError, ConfigError, DataError, RewardError, ShapeError

WORDS = ["the film is a great and moving story with bad dull boring parts in it . : continue this review"]
PROMPTS = ["Continue this review: The film", "the", "a great story", "The film is", ""]
RESPONSES = [" is great.", "", " with dull and boring parts in it and a bad story.", " unseen words", " it"]


CHAT_TEMPLATE = "[CLS]{% for m in messages %}{{ m['role'] }} {{ m['content'] }} . {% endfor %}"


@pytest.fixture(scope="module", params=["encoder", "causal"])
def rm(request: pytest.FixtureRequest) -> SequenceRewardModel:
    return make(request.param)


def make(kind: str, **options: Any) -> SequenceRewardModel:
    tokenizer = word_tokenizer(WORDS, encoder=kind == "encoder")
    trunk = tiny_bert(tokenizer) if kind == "encoder" else tiny_llama(tokenizer)
    return SequenceRewardModel.from_trunk(trunk, tokenizer, **options)


def test_score_equals_one_by_one_without_padding(rm: SequenceRewardModel) -> None:
    scores = rm.score(PROMPTS, RESPONSES)
    assert scores.dtype == np.float32
    assert scores.shape == (5,)
    for index, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        ids = torch.tensor([rm.tokenizer(prompt + response)["input_ids"]])
        with torch.inference_mode():
            alone = rm.model(input_ids=ids).logits
        assert scores[index] == pytest.approx(alone.item(), abs=1e-6)


def test_score_order_and_batches_change_nothing(rm: SequenceRewardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = rm.score(PROMPTS, RESPONSES)
    np.testing.assert_allclose(rm.score(PROMPTS[::-1], RESPONSES[::-1])[::-1], scores, atol=1e-6)
    monkeypatch.setattr("reward_models.text_model._BATCH_TOKENS_CPU", 1)
    np.testing.assert_allclose(rm.score(PROMPTS, RESPONSES), scores, atol=1e-6)


def test_score_is_deterministic_and_evaluates_without_dropout(rm: SequenceRewardModel) -> None:
    assert not rm.model.training
    assert rm.score(PROMPTS, RESPONSES).tolist() == rm.score(PROMPTS, RESPONSES).tolist()


def test_score_concurrent_callers_get_the_same(rm: SequenceRewardModel) -> None:
    expected = rm.score(PROMPTS * 4, RESPONSES * 4)
    with ThreadPoolExecutor(8) as pool:
        for scores in pool.map(lambda _: rm.score(PROMPTS * 4, RESPONSES * 4), range(24)):
            np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_score_nothing_gives_nothing(rm: SequenceRewardModel) -> None:
    assert rm.score([], []).shape == (0,)


def test_score_empty_text_is_finite(rm: SequenceRewardModel) -> None:
    assert np.isfinite(rm.score([""], [""])).all()


def test_score_numbers_that_disagree_are_an_error(rm: SequenceRewardModel) -> None:
    with pytest.raises(ShapeError, match="got 2 prompts for 1 responses"):
        rm.score(["a", "b"], ["c"])


def test_score_long_text_loses_its_beginning() -> None:
    model = make("encoder", max_tokens=8)
    rows = model.encode(["bad " * 20], [" the film is a great story"])
    assert len(rows[0]) == 8
    assert model.tokenizer.decode(rows[0]) == "[CLS] the film is a great story [SEP]"
    assert model.score(["bad " * 20], [" the film is a great story"]) == model.score(
        [""], ["the film is a great story"]
    )


def test_score_not_finite_names_the_text() -> None:
    model = make("encoder")
    with torch.no_grad():
        model.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(RewardError, match="gave nan for prompt 'the' and response ' film'"):
        model.score(["the"], [" film"])


def test_score_autocast_stays_close(rm: SequenceRewardModel) -> None:
    exact = rm.score(PROMPTS, RESPONSES)
    rm.autocast = True
    close = rm.score(PROMPTS, RESPONSES)
    rm.autocast = False
    assert close.dtype == np.float32
    np.testing.assert_allclose(close, exact, atol=0.05)


@pytest.mark.parametrize("kind", ["encoder", "causal"])
def test_from_trunk_head_follows_the_seed_and_its_distribution(kind: str) -> None:
    tokenizer = word_tokenizer(WORDS, encoder=kind == "encoder")
    trunk = tiny_bert(tokenizer, hidden=512) if kind == "encoder" else tiny_llama(tokenizer, hidden=512)
    state = torch.get_rng_state()
    heads = [head(SequenceRewardModel.from_trunk(trunk, tokenizer, seed=seed)) for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert heads[0].std().item() == pytest.approx(513**-0.5, rel=0.12)


def head(model: SequenceRewardModel) -> torch.Tensor:
    last = model.model.classifier if hasattr(model.model, "classifier") else model.model.score
    return last.weight.detach()


@pytest.mark.parametrize("kind", ["encoder", "causal"])
def test_from_trunk_folder_and_loaded_model_agree(kind: str, tmp_path: Path) -> None:
    tokenizer = word_tokenizer(WORDS, encoder=kind == "encoder")
    trunk = tiny_bert(tokenizer) if kind == "encoder" else tiny_llama(tokenizer)
    folder = save_trunk(trunk, tokenizer, tmp_path / "trunk")
    loaded = SequenceRewardModel.from_trunk(trunk, tokenizer, seed=1)
    read = SequenceRewardModel.from_trunk(folder, seed=1)
    np.testing.assert_array_equal(loaded.score(PROMPTS, RESPONSES), read.score(PROMPTS, RESPONSES))


def test_from_trunk_leaves_the_loaded_trunk_alone() -> None:
    tokenizer = word_tokenizer(WORDS, encoder=False)
    trunk = tiny_llama(tokenizer)
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    model = SequenceRewardModel.from_trunk(trunk, tokenizer)
    with torch.no_grad():
        for weight in model.model.parameters():
            weight.add_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
    assert getattr(trunk.config, "num_labels", None) != 1


def test_from_trunk_loaded_model_needs_a_tokenizer() -> None:
    with pytest.raises(ConfigError, match="needs its `tokenizer`"):
        SequenceRewardModel.from_trunk(tiny_llama(word_tokenizer(WORDS, encoder=False)))


def test_from_trunk_limits_the_input_to_the_models_positions() -> None:
    assert make("encoder").max_tokens == 64
    with pytest.raises(ConfigError, match="must be between 4 and the model's 64 positions, got 65"):
        make("encoder", max_tokens=65)


def test_tokenizer_without_any_token_for_padding_is_an_error() -> None:
    model = make("encoder")
    tokenizer = word_tokenizer(WORDS, encoder=True)
    tokenizer.pad_token = model.model.config.pad_token_id = None
    with pytest.raises(ConfigError, match="no padding token"):
        SequenceRewardModel(model.model, tokenizer, max_tokens=64)


@pytest.mark.parametrize("known_to", ["tokenizer", "model", "neither"])
def test_causal_scores_do_not_depend_on_the_batch_wherever_padding_is_named(
    known_to: str, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = word_tokenizer(WORDS, encoder=False)
    config = tiny_llama(tokenizer).config
    config.num_labels, config.vocab_size = 1, len(tokenizer) + 1
    config.pad_token_id = 0 if known_to == "model" else None
    torch.manual_seed(0)
    classifier = LlamaForSequenceClassification(config)
    if known_to != "tokenizer":
        tokenizer.pad_token = None
    rm = SequenceRewardModel(classifier, tokenizer, max_tokens=64)
    together = rm.score(PROMPTS, RESPONSES)
    alone = [float(rm.score([p], [r])[0]) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert rm.pad_token_id == (len(tokenizer) if known_to == "neither" else 0)
    assert ("has no padding token" in caplog.text) == (known_to == "neither")


def test_reward_model_in_bfloat16_is_trained_on_float32_weights() -> None:
    rm = make("causal")
    rm.model.to(torch.bfloat16)
    labels = [Rating(p, r, float(i)) for i, (p, r) in enumerate(zip(PROMPTS, RESPONSES, strict=True))]
    before = [p.detach().float().clone() for p in rm.model.parameters()]
    train(rm, labels, RewardModelConfig(learning_rate=1e-5, epochs=4, batch_size=4, freeze_embeddings=False))
    after = list(rm.model.parameters())
    assert {p.dtype for p in after} == {torch.float32}
    matrices = [(old, new) for old, new in zip(before, after, strict=True) if old.ndim == 2][1:]
    assert min(float((old != new).float().mean()) for old, new in matrices) > 0.5


def test_model_with_two_labels_is_an_error() -> None:
    model = make("encoder")
    model.model.config.num_labels = 2
    with pytest.raises(ConfigError, match=r"must have 1 label \(a scalar head\), got 2"):
        SequenceRewardModel(model.model, model.tokenizer)


@pytest.mark.parametrize("kind", ["encoder", "causal"])
def test_save_and_load_keep_scores_and_settings(kind: str, tmp_path: Path) -> None:
    model = make(kind, template="{prompt} . {response}", max_tokens=20)
    model.normalize(PROMPTS, RESPONSES, policy="sft")
    model.save_pretrained(tmp_path / "rm")
    loaded = SequenceRewardModel.from_pretrained(tmp_path / "rm")
    np.testing.assert_array_equal(loaded.score(PROMPTS, RESPONSES), model.score(PROMPTS, RESPONSES))
    assert loaded.normalization == model.normalization
    assert (loaded.template.template, loaded.max_tokens) == ("{prompt} . {response}", 20)


@pytest.mark.parametrize("kind", ["encoder", "causal"])
def test_saved_folder_is_what_plain_transformers_loads(kind: str, tmp_path: Path) -> None:
    model = make(kind)
    model.save_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = [prompt + response for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    with torch.inference_mode():
        encoded = tokenizer([text for text in texts if text.strip()], padding=True, return_tensors="pt")
        logits = plain(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
    np.testing.assert_allclose(logits[:, 0].numpy(), model.score_raw(PROMPTS, RESPONSES), atol=1e-6)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors"}


def test_from_pretrained_plain_classifier_needs_no_side_file(tmp_path: Path) -> None:
    model = make("encoder")
    model.save_pretrained(tmp_path)
    (tmp_path / SIDE_FILE).unlink()
    loaded = SequenceRewardModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.score(PROMPTS, RESPONSES), model.score(PROMPTS, RESPONSES))


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def cut_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])


def break_side_file(folder: Path) -> None:
    (folder / SIDE_FILE).write_text('{"format_version": 1', "utf-8")


def age_side_file(folder: Path) -> None:
    (folder / SIDE_FILE).write_text(json.dumps({"format_version": 99}), "utf-8")


def make_trunk(folder: Path) -> None:
    tokenizer = word_tokenizer(WORDS, encoder=True)
    save_trunk(tiny_bert(tokenizer), tokenizer, folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_config, "is not a model folder: it has no config.json"),
        (cut_weights, "cannot read the model in"),
        (break_side_file, r"cannot read .*reward_model\.json"),
        (age_side_file, "has format version 99; this version of textenv reads 1"),
        (make_trunk, "it is a trunk; use `from_trunk`"),
    ],
)
def test_from_pretrained_damaged_folder_says_what(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    make("encoder").save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        SequenceRewardModel.from_pretrained(tmp_path)


def test_normalize_gives_mean_zero_and_deviation_one(rm: SequenceRewardModel) -> None:
    raw = rm.score(PROMPTS, RESPONSES)
    made = rm.normalize(PROMPTS, RESPONSES, policy="sft at step 10")
    scores = rm.score(PROMPTS, RESPONSES)
    rm.normalization = None
    assert scores.mean() == pytest.approx(0, abs=1e-4)
    assert scores.std() == pytest.approx(1, abs=1e-4)
    assert (made.policy, made.samples) == ("sft at step 10", 5)
    assert (made.mean_before, made.std_before) == pytest.approx((raw.mean(), raw.std()), rel=1e-4)
    assert np.argsort(scores).tolist() == np.argsort(raw).tolist()


def test_normalize_constant_scores_are_an_error() -> None:
    with pytest.raises(DataError, match="a constant reward model cannot be normalised"):
        make("encoder").normalize(["a", "a"], [" b", " b"], policy="sft")


@pytest.mark.parametrize("lengths", [[3, 9, 1, 1, 30, 2], [5], []])
def test_batches_by_length_hold_every_row_once_within_the_limit(lengths: list[int]) -> None:
    batches = list(batches_by_length(lengths, batch_tokens=10))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 10 for batch in batches)
    assert [max(lengths[i] for i in batch) for batch in batches] == sorted(max(lengths[i] for i in b) for b in batches)


def make_chat(**options: Any) -> SequenceRewardModel:
    tokenizer = word_tokenizer([*WORDS, "user assistant"], encoder=True)  # which puts a [CLS] first, like the template
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.add_special_tokens({"bos_token": "[CLS]"})
    return SequenceRewardModel.from_trunk(tiny_llama(tokenizer), tokenizer, template="chat", **options)


def test_chat_template_is_the_tokenizers_own_and_text_begins_once() -> None:
    model = make_chat()
    assert model.tokenizer.decode(model.encode(["the film"], ["is great"])[0]) == (
        "[CLS] user the film . assistant is great ."
    )


def test_chat_template_is_kept_with_the_model(tmp_path: Path) -> None:
    model = make_chat(max_tokens=20)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / SIDE_FILE).read_text("utf-8"))["template"] == "chat"
    loaded = SequenceRewardModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.score(PROMPTS, RESPONSES), model.score(PROMPTS, RESPONSES))


def test_chat_template_without_one_is_an_error() -> None:
    with pytest.raises(ConfigError, match='template "chat" needs a tokenizer with a chat template'):
        make("encoder", template="chat")


def test_truncation_on_the_right_loses_the_end_and_is_kept(tmp_path: Path) -> None:
    model = make("encoder")
    model.save_pretrained(tmp_path)
    loaded = SequenceRewardModel.from_pretrained(tmp_path, max_tokens=5, truncation_side="right")
    assert loaded.tokenizer.decode(loaded.encode(["the film is"], [" great and bad"])[0]) == "[CLS] the film is [SEP]"
    loaded.save_pretrained(tmp_path / "again")
    again = SequenceRewardModel.from_pretrained(tmp_path / "again")
    assert (again.max_tokens, again.truncation_side) == (5, "right")
    with pytest.raises(ConfigError, match='`truncation_side` must be "left" or "right"'):
        SequenceRewardModel(model.model, model.tokenizer, max_tokens=9, truncation_side="middle")  # type: ignore[arg-type]


def test_from_pretrained_pads_with_the_end_token_where_there_is_no_padding_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make("causal")
    model.tokenizer.eos_token = "[SEP]"
    expected = model.score(PROMPTS, RESPONSES)
    model.save_pretrained(tmp_path)
    for name in ("tokenizer_config.json", "config.json"):
        settings = json.loads((tmp_path / name).read_text("utf-8"))
        settings = {key: value for key, value in settings.items() if key not in ("pad_token", "pad_token_id")}
        (tmp_path / name).write_text(json.dumps(settings), "utf-8")
    loaded = SequenceRewardModel.from_pretrained(tmp_path)
    assert loaded.pad_token_id == loaded.model.config.pad_token_id == 3
    np.testing.assert_allclose(loaded.score(PROMPTS, RESPONSES)[:4], expected[:4], atol=1e-6)
    assert "has no padding token" in caplog.text


def test_scores_of_every_batch_size_agree_to_1e_5(rm: SequenceRewardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    words = WORDS[0].split()
    responses = [" ".join(rng.choice(words, size)) for size in rng.integers(1, 60, 40)]
    whole = rm.score([""] * 40, responses)
    for limit in (1, 64, 300):
        monkeypatch.setattr("reward_models.text_model._BATCH_TOKENS_CPU", limit)
        np.testing.assert_allclose(rm.score([""] * 40, responses), whole, atol=1e-5)
