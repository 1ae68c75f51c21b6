"""Reward models of others, made tiny: what is found out on loading, and that they score as plain transformers does."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as T
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from reward_models import SequenceRewardModel, load_reward_model, save_reward_model
from reward_models.adapters import (
    ClassifierRewardModel,
    DPOReward,
    ScalarHeadRewardModel,
    TokenProcessRewardModel,
)
from reward_models.labels import Comparison, Rating
from reward_models.reading import longest_input, positions
from reward_models.sequence import SIDE_FILE
from reward_models.shapes import kind_of_folder
from reward_models.training import LabelBatches, RewardModelConfig, train
from textenv.answers import Chat
from textenv.errors import CheckpointError, ConfigError, DataError, RewardError

LLAMA_CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] | trim }}{{ eos_token }}{% endfor %}"
)
CHATML = "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}</s>\n{% endfor %}"
INPUTS = ["input_ids", "token_type_ids", "attention_mask"]
SYSTEM = {"role": "system", "content": "Be short."}
ASKED = {"role": "user", "content": "Is the old film good?"}
TURNS = [SYSTEM, ASKED, {"role": "assistant", "content": "Which one?"}, {"role": "user", "content": "The old one."}]
PROMPTS: list[Any] = ["Is it good?", TURNS, Chat(TURNS), (ASKED,), [ASKED]]
RESPONSES: list[Any] = [
    " Yes.",
    "No, the new one is.",
    "It is the best of all the old films that there are.",
    Chat([{"role": "assistant", "content": "Good."}]),
    [
        {"role": "assistant", "content": "Wait."},
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "No"},
    ],
]


def tokenizer(kind: str, template: str | None = None, **special: Any) -> Any:
    """A byte-level tokenizer: ``bos`` before each text, ``none``, or ``pairs`` with separators and token types."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]  # no setter in its stubs
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]  # likewise
    first = ["<pad>", "<s>", "</s>", "[CLS]", "[SEP]", "<step>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=first, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["The old film is good. The new one is bad."] * 4, trainer)
    if kind == "bos":
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])  # type: ignore[assignment]
        special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", **special}
    elif kind == "none":
        special = {"eos_token": "</s>", "pad_token": "<pad>", **special}
    else:
        made.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
            single="[CLS] $A [SEP]",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 3), ("[SEP]", 4)],
        )
        special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "<pad>", **special}
    found = T.PreTrainedTokenizerFast(tokenizer_object=made, **special)
    found.chat_template = template
    return found


def built(kind: Any, config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).eval()


def decoder(words: Any, kind: str = "Llama", task: str = "ForSequenceClassification", **settings: Any) -> Any:
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "vocab_size": len(words) + 4,
        "num_labels": 1,
    }
    config = getattr(T, f"{kind}Config")(**{**sizes, **settings})
    return built(getattr(T, kind + task), config)


def deberta(words: Any, **settings: Any) -> Any:
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "relative_attention": True,
        "position_buckets": 32,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "initializer_range": 0.3,
        "vocab_size": len(words),
        "num_labels": 1,
        "pooler_hidden_size": 32,
    }
    return built(T.DebertaV2ForSequenceClassification, T.DebertaV2Config(**{**sizes, **settings}))


def saved(model: Any, words: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def rewritten(folder: Path, **changes: Any) -> None:
    """config.json with other values; None takes one out."""
    config = {**json.loads((folder / "config.json").read_text("utf-8")), **changes}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}), "utf-8")


def conversation(prompt: Any, response: Any) -> list[dict[str, Any]]:
    """What a person would write down for plain transformers."""
    turns: list[dict[str, Any]] = []
    for value, role in ((prompt, "user"), (response, "assistant")):
        given = getattr(value, "messages", value)
        turns += [{"role": role, "content": given}] if isinstance(given, str) else [dict(turn) for turn in given]
    return turns


def plain_scores(folder: Path, prompts: Sequence[Any], responses: Sequence[Any]) -> np.ndarray:
    """One by one, by nothing but transformers."""
    words = T.AutoTokenizer.from_pretrained(folder)
    model = T.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = []
    for prompt, response in zip(prompts, responses, strict=True):
        ids = words.apply_chat_template(conversation(prompt, response), return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            found.append(float(model(input_ids=ids["input_ids"]).logits[0, 0]))
    return np.array(found)


# --- the shapes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("kind", "words", "template"), [("Llama", "bos", LLAMA_CHAT), ("Qwen2", "none", CHATML), ("Llama", "bos", CHATML)]
)
def test_chat_classifiers_score_the_whole_conversation_as_transformers_does(
    kind: str, words: str, template: str, side: str, tmp_path: Path
) -> None:
    own = tokenizer(words, template, padding_side=side)
    folder = saved(decoder(own, kind), own, tmp_path)
    rm = load_reward_model(folder)
    assert isinstance(rm, SequenceRewardModel)
    assert (rm.template.template, rm.max_tokens) == ("chat", 512)
    expected = plain_scores(folder, PROMPTS, RESPONSES)
    np.testing.assert_allclose(rm.score(PROMPTS, RESPONSES), expected, atol=1e-5)
    assert len(set(np.round(expected, 4))) == len(expected)
    alone = [float(rm.score([p], [r])[0]) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    np.testing.assert_allclose(alone, expected, atol=1e-5)
    model = T.AutoModelForSequenceClassification.from_pretrained(folder, pad_token_id=0).eval()
    chats = [conversation(p, r) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    batch = own.apply_chat_template(chats, padding=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        padded = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    np.testing.assert_allclose(rm.score(PROMPTS, RESPONSES), padded, atol=1e-5)


@pytest.mark.parametrize(("types", "given"), [(0, True), (2, True), (2, False)])
def test_deberta_reads_prompt_and_response_as_a_pair(types: int, given: bool, tmp_path: Path) -> None:
    own = tokenizer("pairs", model_input_names=INPUTS if given else INPUTS[::2])
    folder = saved(deberta(own, type_vocab_size=types), own, tmp_path)
    rm = load_reward_model(folder)
    assert rm.template.template == "pair"  # type: ignore[attr-defined]
    prompts, responses = ["Is it good?", "The new one", ""], ["Yes.", "is the best of them all.", "No."]
    plain = T.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    expected = []
    for prompt, response in zip(prompts, responses, strict=True):
        with torch.inference_mode():
            expected.append(float(plain(**own(prompt, response, return_tensors="pt")).logits))
    np.testing.assert_allclose(rm.score(prompts, responses), expected, atol=1e-5)
    np.testing.assert_allclose(rm.score(prompts[::-1], responses[::-1])[::-1], expected, atol=1e-5)


def test_pairs_are_trained_with_their_token_types_and_kept(tmp_path: Path) -> None:
    own = tokenizer("pairs", model_input_names=INPUTS)
    folder = saved(deberta(own, type_vocab_size=2), own, tmp_path / "theirs")
    rm = SequenceRewardModel.from_pretrained(folder)
    labels = [Comparison("Good?", "Yes.", "No."), Comparison("Bad?", "No.", "Yes, it is.")]
    train(rm, labels, RewardModelConfig(batch_size=2, epochs=2, dtype="float32"))
    rm.save_pretrained(tmp_path / "ours")
    again = load_reward_model(tmp_path / "ours")
    assert again.template.template == "pair"  # type: ignore[attr-defined]
    plain = T.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    with torch.inference_mode():
        expected = float(plain(**own("Good?", "Yes.", return_tensors="pt")).logits)
    assert again.score(["Good?"], ["Yes."])[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("head", "bias"), [("v_head.summary", 0.25), ("regression_head", 0.0), ("value_head", 0.0), ("my_head", 0.0)]
)
def test_value_heads_are_found_in_the_folder(head: str, bias: float, tmp_path: Path) -> None:
    own = tokenizer("bos", LLAMA_CHAT)
    lm = decoder(own, task="ForCausalLM")
    folder = saved(lm, own, tmp_path)
    weight = torch.linspace(-1, 1, 32)
    tensors = {**load_file(folder / "model.safetensors"), f"{head}.weight": weight[None].clone()}
    save_file({**tensors, **({f"{head}.bias": torch.tensor([bias])} if bias else {})}, folder / "model.safetensors")
    rewritten(folder, architectures=["LlamaRewardModel"], value_head_prefix=head if head == "my_head" else None)
    rm = load_reward_model(folder)
    assert isinstance(rm, ScalarHeadRewardModel)
    expected = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        ids = own.apply_chat_template(conversation(prompt, response), return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            hidden = lm.model(input_ids=ids["input_ids"]).last_hidden_state
        expected.append(float(hidden[0, -1] @ weight) + bias)
    np.testing.assert_allclose(rm.score(PROMPTS, RESPONSES), expected, atol=1e-5)


def step_probabilities(model: Any, ids: list[int], ends: list[int]) -> np.ndarray:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    return (logits[ends, 1] - logits[ends, 0]).numpy()


def test_token_classifiers_judge_steps_where_trl_puts_their_labels(tmp_path: Path) -> None:
    own = tokenizer("bos")
    model = decoder(own, "Qwen2", "ForTokenClassification", num_labels=2)
    rm = load_reward_model(saved(model, own, tmp_path))
    assert isinstance(rm, TokenProcessRewardModel)
    prompt, steps = "Is it good?", ["The old one.", " The new one is bad.", "So no"]

    def plainly(text: str) -> list[int]:
        return own(text, add_special_tokens=False)["input_ids"]

    ids, ends = [1, *plainly(prompt)], []
    for step in steps:
        ids += [*plainly(step), *plainly("\n")]
        ends.append(len(ids) - 1)
    expected = step_probabilities(model, ids, ends)
    other = "A much longer answer of the film.\n" * 4
    found = rm.step_scores([prompt, prompt], ["\n".join(steps), other])
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    assert len(found[1]) == 4
    right = 1 / (1 + np.exp(-expected))
    for aggregate, value in (("min", right.min()), ("product", right.prod()), ("last", right[-1])):
        rm.aggregate = aggregate  # type: ignore[assignment]
        assert rm.score([prompt], ["\n".join(steps) + "\n"])[0] == pytest.approx(value, abs=1e-5)


def test_token_classifiers_judge_steps_inside_a_chat_template(tmp_path: Path) -> None:
    own = tokenizer("none", CHATML)
    model = decoder(own, "Qwen2", "ForTokenClassification", num_labels=2)
    folder = saved(model, own, tmp_path)
    rm = TokenProcessRewardModel.from_pretrained(folder, separator="<step>")
    said = "The old one.<step>So no<step>"
    ids = own.apply_chat_template(conversation(TURNS, said), return_dict=True)["input_ids"]
    expected = step_probabilities(model, ids, [i for i, token in enumerate(ids) if token == 5])
    found = rm.step_scores([TURNS, "Good?"], [said, "Yes"])
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    assert len(found[1]) == 1
    with pytest.raises(RewardError, match=r"needs .* tokens, the model reads 24"):
        TokenProcessRewardModel(model, own, separator="<step>", max_tokens=24).score([TURNS], [said + "good " * 40])
    with pytest.raises(ConfigError, match="ends with the response"):
        TokenProcessRewardModel(model, own, template="{prompt}{response}!")


def test_normalisation_in_the_configuration_is_that_of_the_scores(tmp_path: Path) -> None:
    own = tokenizer("bos", LLAMA_CHAT)
    folder = saved(decoder(own), own, tmp_path)
    raw = plain_scores(folder, PROMPTS, RESPONSES)
    rewritten(folder, mean=0.5, std=2.0, id2label=None, label2id=None, value_head_prefix="score")  # OpenRLHF's form
    np.testing.assert_allclose(load_reward_model(folder).score(PROMPTS, RESPONSES), (raw - 0.5) / 2, atol=1e-5)
    rewritten(folder, normalize_reward=False)
    np.testing.assert_allclose(load_reward_model(folder).score(PROMPTS, RESPONSES), raw, atol=1e-5)
    rewritten(folder, normalize_reward=True, std=0.0)
    with pytest.raises(CheckpointError, match=r"std positive, got 0\.5, 0"):
        load_reward_model(folder)


# --- several outputs --------------------------------------------------------------------------------------------------


def with_names(own: Any, names: Sequence[str], **settings: Any) -> Any:
    labels = dict(enumerate(names))
    return decoder(own, id2label=labels, label2id={n: i for i, n in labels.items()}, num_labels=len(names), **settings)


def test_attribute_heads_need_to_be_told_which(tmp_path: Path) -> None:
    own = tokenizer("bos", LLAMA_CHAT)
    names = ["helpfulness", "correctness", "verbosity"]
    model = with_names(own, names, problem_type="regression")
    folder = saved(model, own, tmp_path)
    with pytest.raises(ConfigError, match=r"3 outputs, helpfulness, correctness, verbosity: give .*`output`"):
        load_reward_model(folder)
    logits = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        ids = own.apply_chat_template(conversation(prompt, response), return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            logits.append(model(input_ids=ids["input_ids"]).logits[0].numpy())
    for output, weights in (
        ("correctness", [0, 1, 0]),
        (2, [0, 0, 1]),
        ({"helpfulness": 0.65, "verbosity": -0.4}, [0.65, 0, -0.4]),
        ([1.0, 2.0, 3.0], [1, 2, 3]),
    ):
        rm = load_reward_model({"kind": "classifier", "path": str(folder), "output": output})
        np.testing.assert_allclose(rm.score(PROMPTS, RESPONSES), np.array(logits) @ weights, atol=1e-5)
    with pytest.raises(ConfigError, match="has no class 'humour'; it has helpfulness"):
        ClassifierRewardModel(model, own, output={"humour": 1.0})
    with pytest.raises(ConfigError, match="3 finite weights"):
        ClassifierRewardModel(model, own, output=[1.0, 2.0])


@pytest.mark.parametrize(
    ("names", "positive"),
    [
        (["LABEL_0", "LABEL_1"], 1),
        (["NEGATIVE", "POSITIVE"], 1),
        (["yes", "no"], 0),
        (["toxic", "harmless"], None),
        (["bad", "soso", "good"], None),
    ],
)
def test_two_classes_give_the_log_odds_of_the_one_that_is_called_so(
    names: list[str], positive: int | None, tmp_path: Path
) -> None:
    own = tokenizer("bos")
    model = with_names(own, names)
    folder = saved(model, own, tmp_path)
    if positive is None:
        with pytest.raises(ConfigError, match=", ".join(names)):
            load_reward_model(folder)
        return
    with torch.inference_mode():
        logits = model(**own("Good? Yes.", return_tensors="pt", return_token_type_ids=False)).logits[0]
    found = load_reward_model(folder).score(["Good?"], [" Yes."])[0]
    assert found == pytest.approx(float(logits[positive] - logits[1 - positive]), abs=1e-5)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_models_with_code_of_their_own_are_refused_with_a_hint(tmp_path: Path) -> None:
    own = tokenizer("bos")
    folder = saved(decoder(own, task="ForCausalLM"), own, tmp_path)
    with pytest.raises(ConfigError, match=r"language model \(LlamaForCausalLM\) without a head.*from_trunk.*dpo"):
        load_reward_model(folder)
    code = {"AutoModelForSequenceClassification": "modeling_custom.LlamaForRewardModelWithGating"}
    rewritten(folder, architectures=["LlamaForRewardModelWithGating"], auto_map=code)
    hint = r"made for LlamaForRewardModelWithGating, code of its own .*not run.*over HTTP.*module:function"
    for load in (load_reward_model, SequenceRewardModel.from_pretrained, ClassifierRewardModel.from_pretrained):
        with pytest.raises(CheckpointError, match=hint):
            load(folder)
    rewritten(folder, architectures=["GPTRewardModel"], auto_map=None)
    with pytest.raises(CheckpointError, match=r"made for GPTRewardModel, a class that nobody has here.*over HTTP"):
        load_reward_model(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "v_head.summary.0.weight": torch.ones(4, 32)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"head of several layers \(v_head\.summary\.0\.weight\)"):
        load_reward_model(folder)


# --- what is found out ------------------------------------------------------------------------------------------------


def test_lengths_are_the_trunks_own() -> None:
    own = tokenizer("pairs")
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}
    bert = built(
        T.BertForSequenceClassification, T.BertConfig(**sizes, max_position_embeddings=64, intermediate_size=8)
    )
    roberta = T.RobertaConfig(**sizes, max_position_embeddings=66, intermediate_size=8, pad_token_id=1)
    bloom = built(T.BloomForSequenceClassification, T.BloomConfig(hidden_size=16, n_layer=1, n_head=2, vocab_size=300))
    gpt2 = T.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=300, n_positions=96, pad_token_id=0)
    mpt = T.MptConfig(d_model=16, n_heads=2, n_layers=1, max_seq_len=72, vocab_size=300)
    assert longest_input(bert, own)[0] == 64
    assert longest_input(built(T.RobertaForSequenceClassification, roberta), own)[0] == 64
    assert longest_input(bloom, own)[0] is None
    assert longest_input(built(T.GPT2ForSequenceClassification, gpt2), own)[0] == 96
    assert longest_input(built(T.MptForSequenceClassification, mpt), own)[0] == 72
    relative = deberta(own)
    assert (positions(relative), longest_input(relative, own)[0]) == (None, 512)
    own.model_max_length = 50
    assert longest_input(bert, own) == (50, "the tokenizer's limit")


def test_roberta_reads_up_to_its_last_position() -> None:
    own = tokenizer("pairs", pad_token="<s>")
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}
    config = T.RobertaConfig(**sizes, max_position_embeddings=66, intermediate_size=8, pad_token_id=1)
    config.num_labels = 1
    rm = SequenceRewardModel(built(T.RobertaForSequenceClassification, config), own)
    assert rm.max_tokens == 64
    assert np.isfinite(rm.score(["Good? " * 60], ["Yes. " * 60])).all()
    with pytest.raises(ConfigError, match="the model's 64 positions, got 65"):
        SequenceRewardModel(rm.model, own, max_tokens=65)


def test_alibi_trunks_read_texts_of_any_length() -> None:
    own = tokenizer("bos")
    config = T.BloomConfig(hidden_size=16, n_layer=1, n_head=2, vocab_size=310, pad_token_id=0)
    config.num_labels = 1
    rm = SequenceRewardModel(built(T.BloomForSequenceClassification, config), own)
    long = "The old film is good. " * 300
    with torch.inference_mode():
        ids = own("A" + long, return_tensors="pt", return_token_type_ids=False)
        expected = float(rm.model(**ids).logits)
    assert rm.max_tokens is None
    assert rm.score(["A"], [long])[0] == pytest.approx(expected, abs=1e-4)
    assert (rm.truncation.texts, rm.truncation.cut) == (1, 0)


def test_what_was_found_out_is_said_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = tokenizer("none", CHATML)
    folder = saved(decoder(own, "Qwen2"), own, tmp_path / "theirs")
    rm = SequenceRewardModel.from_pretrained(folder)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"{folder}: reads the tokenizer's chat template, up to 512 tokens (the trunk's positions), cut on the left; "
        "padding is 0 (the tokenizer's)"
    )
    caplog.clear()
    rm.save_pretrained(tmp_path / "ours")
    with caplog.at_level(logging.INFO):
        SequenceRewardModel.from_pretrained(tmp_path / "ours")
    assert [(r.levelno, "template 'chat', up to 512 tokens (as set)" in r.message) for r in caplog.records] == [
        (logging.INFO, True)
    ]


def test_a_plain_classifier_reads_as_much_as_its_trunk_can(tmp_path: Path) -> None:
    own = tokenizer("bos")
    folder = saved(decoder(own, max_position_embeddings=2048), own, tmp_path)
    rm = load_reward_model(folder)
    answers = ["bad. " * 200 + "Still, good. " * 40, "great. " * 200 + "Still, good. " * 40]
    expected = []
    for answer in answers:
        ids = own("Film: " + answer, return_tensors="pt", return_token_type_ids=False)
        assert ids["input_ids"].shape[1] > 512
        with torch.inference_mode():
            expected.append(float(rm.model(**ids).logits))  # type: ignore[attr-defined]
    np.testing.assert_allclose(rm.score(["Film: "] * 2, answers), expected, atol=1e-4)


def test_given_settings_go_before_what_is_found(tmp_path: Path) -> None:
    own = tokenizer("bos", LLAMA_CHAT)
    folder = saved(decoder(own), own, tmp_path)
    rm = SequenceRewardModel.from_pretrained(folder, template="{prompt}\n{response}", max_tokens=40)
    assert (rm.template.template, rm.max_tokens) == ("{prompt}\n{response}", 40)
    with torch.inference_mode():
        ids = own("Good?\nYes.", return_tensors="pt", return_token_type_ids=False)
        expected = float(rm.model(**ids).logits)
    assert rm.score(["Good?"], ["Yes."])[0] == pytest.approx(expected, abs=1e-5)


def test_models_of_earlier_versions_read_chats_as_they_did(tmp_path: Path) -> None:
    own = tokenizer("bos", CHATML)  # the tokenizer begins the text, the template does not
    rm = SequenceRewardModel(decoder(own), own, template="chat", add_special_tokens=True)
    rm.save_pretrained(tmp_path)
    side = json.loads((tmp_path / SIDE_FILE).read_text("utf-8"))
    assert side.pop("add_special_tokens") is True
    (tmp_path / SIDE_FILE).write_text(json.dumps(side), "utf-8")
    again = SequenceRewardModel.from_pretrained(tmp_path)
    assert again.encode(["Good?"], ["Yes."])[0][0] == 1
    assert SequenceRewardModel(rm.model, own).encode(["Good?"], ["Yes."])[0][0] != 1


def test_an_end_token_that_pads_the_tokenizer_is_still_read() -> None:
    own = tokenizer("bos", LLAMA_CHAT, pad_token="</s>")
    model = decoder(own)
    ids = own.apply_chat_template(conversation("Good?", "Yes."), return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        expected = float(model(input_ids=ids["input_ids"]).logits)  # to transformers there is no padding
    rm = SequenceRewardModel(model, own)
    assert rm.pad_token_id == len(own)
    found = rm.score(["Good?", "Is the old film good?"], ["Yes.", "It is the best of them all."])
    assert found[0] == pytest.approx(expected, abs=1e-5)


def test_kinds_of_our_own_folders_are_known(tmp_path: Path) -> None:
    from reward_models import UncertainRewardModel, WeightedSum

    own = tokenizer("bos")
    rm = UncertainRewardModel.from_trunk(decoder(own, task="ForCausalLM"), own)
    rm.save_pretrained(tmp_path / "one")
    assert kind_of_folder(tmp_path / "one") == "uncertain"
    assert isinstance(load_reward_model(tmp_path / "one"), UncertainRewardModel)
    save_reward_model(WeightedSum([rm], [2.0]), tmp_path / "sum")
    found = load_reward_model(tmp_path / "sum").score(["Good?"], [" Yes."])
    np.testing.assert_allclose(found, 2 * rm.score(["Good?"], [" Yes."]), atol=1e-6)


# --- what is cut ------------------------------------------------------------------------------------------------------


def test_what_is_cut_is_counted_and_said_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    own = tokenizer("bos")
    rm = SequenceRewardModel(decoder(own), own, max_tokens=16)
    caplog.clear()
    for _ in range(30):
        rm.score(["Good? ", "Good? "], ["Yes.", "yes " * 40])
    assert (rm.truncation.texts, rm.truncation.cut) == (60, 30)
    assert rm.truncation.longest == len(own("Good? " + "yes " * 40)["input_ids"])
    said = [r.getMessage() for r in caplog.records]
    assert [text.split(" so far")[0] for text in said] == ["1 of 2 texts", "10 of 20 texts"]
    assert "more than the 16 tokens that the reward model reads" in said[0]
    assert "lost their beginning" in said[0]


def cut_labels(apart: int, same: int) -> list[Comparison]:
    tail = " the old film is good" * 10
    labels = [Comparison("Good?", f" yes {i}", f" no {i}") for i in range(apart)]
    return labels + [Comparison(f"Good {i}?", f" yes {i}" + tail, f" no {i}" + tail) for i in range(same)]


def test_training_says_what_is_cut_and_which_answers_become_the_same(caplog: pytest.LogCaptureFixture) -> None:
    own = tokenizer("bos")
    rm = SequenceRewardModel(decoder(own), own, max_tokens=32)
    labels = cut_labels(6, 3)
    cut = LabelBatches(rm, labels, RewardModelConfig()).cut()
    assert (cut.texts, cut.cut, cut.several, cut.same) == (18, 6, 9, 3)
    caplog.clear()
    train(rm, labels, RewardModelConfig(batch_size=4, dtype="float32"))
    assert "reads up to 32 tokens; 6 of 18 texts of the labels are cut on the left" in caplog.text
    assert "3 of 9 labels have answers that are the same once cut" in caplog.text
    with pytest.raises(DataError, match=r"7 of 9 labels have answers that are the same once cut: raise `max_tokens`"):
        train(rm, cut_labels(2, 7), RewardModelConfig())


def test_texts_that_need_several_passes_give_the_gradients_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[Any] = cut_labels(4, 4)
    labels += [Rating("Good?", " yes" * n, float(n)) for n in range(1, 5)]
    weights = []
    for limit in (16_384, 100):
        monkeypatch.setattr("reward_models.training.fit._PASS_TOKENS_CPU", limit)
        own = tokenizer("bos")
        rm = SequenceRewardModel(decoder(own), own)
        train(rm, labels, RewardModelConfig(batch_size=12, epochs=3, dtype="float32", learning_rate=1e-3))
        weights.append([p.detach().clone() for p in rm.model.parameters()])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_dpo_rewards_read_conversations() -> None:
    own = tokenizer("bos", LLAMA_CHAT)
    policy = decoder(own, task="ForCausalLM")
    rm = DPOReward(policy, None, own, template="chat")
    whole = own.apply_chat_template(conversation(TURNS, "No, the new one is."), return_dict=True)["input_ids"]
    start = own.apply_chat_template(TURNS, return_dict=True)["input_ids"]
    with torch.inference_mode():
        logprobs = policy(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    expected = sum(float(logprobs[i - 1, whole[i]]) for i in range(len(start), len(whole)))
    assert rm.score([TURNS], ["No, the new one is."])[0] == pytest.approx(expected, abs=1e-4)


def test_every_reward_model_takes_lists_of_messages() -> None:
    from reward_models import Lexicon
    from reward_models.adapters import FunctionReward, LengthRule, ProcessReward
    from reward_models.benchmarking.baselines import LengthModel, RandomModel

    plain = [Chat([*turns]) for turns in (TURNS, [ASKED])]
    listed = [list(chat.messages) for chat in plain]
    answers = ["A great old film.", "Bad."]
    told = [[{"role": "assistant", "content": answer}] for answer in answers]
    function = FunctionReward(lambda prompts, responses: [len(p + r) for p, r in zip(prompts, responses, strict=True)])
    for rm in (Lexicon(), Lexicon(include_prompt=False), LengthRule(target=3), function, LengthModel(), RandomModel()):
        found = rm.score(listed, told)
        np.testing.assert_array_equal(found, rm.score(plain, answers))
    steps = ProcessReward(Lexicon(), steps="sentence")
    assert [len(row) for row in steps.step_rewards(listed, answers)] == [1, 1]
    with pytest.raises(DataError, match="prompt 0: every chat message needs a text 'role'"):
        Lexicon().score([[{"content": "no role"}]], ["a"])
