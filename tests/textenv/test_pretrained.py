"""What a folder must hold: a model is loaded whole, bit for bit and in memory of its own, or refused by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

import textenv
from agents.policy import CausalLMPolicy
from agents.policy.critic import Critic
from reward_models import SequenceRewardModel, load_reward_model
from reward_models.adapters.causal_policy import load_causal_lm
from reward_models.adapters.encoder import EncoderSimilarity
from reward_models.adapters.scalar_head import ScalarHeadRewardModel
from tests.reward_models.tiny import tiny_bert, word_tokenizer
from textenv.checkpoints import load_state, save_state
from textenv.cli.stages import check_folder
from textenv.errors import CheckpointError, ConfigError, TextEnvError
from textenv.pretrained import find_folder, load_model, load_tokenizer

TEXTS = ["the old film is good", "the new one is bad"]
MODEL, INDEX = "model.safetensors", "model.safetensors.index.json"


def config(**options: Any) -> LlamaConfig:
    tokenizer = word_tokenizer(TEXTS, encoder=False)
    base = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    sizes = {"num_attention_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0, "eos_token_id": 3}
    return LlamaConfig(**{**base, **sizes, **options})


def save(model: Any, folder: Path) -> Path:
    tokenizer = word_tokenizer(TEXTS, encoder=False)
    tokenizer.eos_token = "[SEP]"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return save(LlamaForCausalLM(config()), tmp_path / "lm")


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor]], object], **metadata: str) -> None:
    weights = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(weights)
    save_file(weights, file, metadata={"format": "pt", **metadata})


def misalign(file: Path) -> None:
    """Let the weights of a file stand where no allocator puts them, once it is mapped."""
    for extra in range(64):
        rewrite(file, lambda weights: None, padding="x" * extra)
        if all(tensor.data_ptr() % 64 == 24 for tensor in load_file(file).values() if tensor.numel() % 16 == 0):
            return
    pytest.fail("no header puts the weights at an odd address")


def edit_json(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


# --- bit for bit ------------------------------------------------------------------------------------------------------


def test_misaligned_weights_are_what_plain_transformers_has(folder: Path):
    misalign(folder / MODEL)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert any(p.data_ptr() % 64 for p in plain.parameters())  # else the tests below show nothing


def loaded_models(folder: Path, tmp_path: Path) -> dict[str, Any]:
    """Everything that loads a folder, from misaligned files."""
    policy = CausalLMPolicy.from_pretrained(folder, critic="separate")
    assert policy.critic is not None
    policy.critic.save_pretrained(tmp_path / "critic")
    causal = SequenceRewardModel.from_trunk(folder, max_tokens=16)
    causal.save_pretrained(tmp_path / "reward")
    bert = tiny_bert(word_tokenizer(TEXTS, encoder=True))
    save(bert, tmp_path / "encoder")
    head = {"score.weight": torch.ones(1, 16)}
    save_file(head, tmp_path / "head.safetensors")
    for name in ("critic", "reward", "encoder"):
        misalign(tmp_path / name / MODEL)
    return {
        "policy": CausalLMPolicy.from_pretrained(folder).model,
        "critic": Critic.from_pretrained(tmp_path / "critic").trunk,
        "trunk": SequenceRewardModel.from_trunk(folder, max_tokens=16).model,
        "reward": SequenceRewardModel.from_pretrained(tmp_path / "reward").model,
        "encoder": EncoderSimilarity.from_pretrained(tmp_path / "encoder", max_tokens=16).model,
        "judge": load_causal_lm(folder)[0],
        "scalar head": ScalarHeadRewardModel.from_pretrained(
            folder, head=tmp_path / "head.safetensors", max_tokens=16
        ).model,
    }


def test_loaded_weights_stand_at_aligned_addresses_of_their_own(folder: Path, tmp_path: Path):
    misalign(folder / MODEL)
    for name, model in loaded_models(folder, tmp_path).items():
        places = {each.data_ptr() % 64 for each in (*model.parameters(), *model.buffers())}
        assert places == {0}, name
        assert all(p.untyped_storage().nbytes() == p.numel() * p.element_size() for p in model.parameters()), name


def test_loaded_policy_is_the_saved_one_bit_for_bit(folder: Path):
    misalign(folder / MODEL)
    policy = CausalLMPolicy.from_pretrained(folder)
    saved = load_file(folder / MODEL)
    assert all(torch.equal(policy.model.get_parameter(name), weight) for name, weight in saved.items())
    handed = AutoModelForCausalLM.from_pretrained(folder)
    ids = [[4, 5, 6]], [[7, 8]]
    tokenizer = load_tokenizer(folder)
    assert policy.logprobs(*ids)[0].tolist() == CausalLMPolicy(handed, tokenizer).logprobs(*ids)[0].tolist()


def test_tied_weights_stay_tied(tmp_path: Path):
    folder = save(LlamaForCausalLM(config(tie_word_embeddings=True)), tmp_path)
    model = load_model(folder).model
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_state_tensors_have_memory_of_their_own(tmp_path: Path):
    save_state(tmp_path, {"a": torch.ones(5), "b": torch.ones(16)}, {"long": "x"})
    tensors, _ = load_state(tmp_path)
    assert {tensor.data_ptr() % 64 for tensor in tensors.values()} == {0}


# --- whole ------------------------------------------------------------------------------------------------------------


LAYER = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(LAYER), rf"lacks the weights {LAYER}"),
        (lambda w: w.pop("lm_head.weight"), r"lacks the weights lm_head\.weight"),
        (lambda w: w.update({"model.layers.2.mlp.up_proj.weight": torch.ones(2)}), r"more weights.*: model\.layers\.2"),
        (lambda w: w.update({"score.weight": torch.ones(2)}), r"more weights.*: score\.weight"),
        (lambda w: w.update({LAYER: torch.ones(3, 16)}), rf"other shapes.*{LAYER} \(3, 16\) for \(24, 16\)"),
        (lambda w: w[LAYER].fill_(torch.nan), rf"NaN or infinite: {LAYER}"),
        (lambda w: w[LAYER].fill_(-torch.inf), rf"NaN or infinite: {LAYER}"),
    ],
    ids=["missing", "no head", "more layers", "another head", "shape", "nan", "inf"],
)
def test_policy_of_wrong_weights_is_refused_by_name(folder: Path, change: Any, message: str):
    rewrite(folder / MODEL, change)
    with pytest.raises(CheckpointError, match=message):
        CausalLMPolicy.from_pretrained(folder)


@pytest.mark.parametrize("extra", ["model.layers.0.self_attn.rotary_emb.inv_freq", "h.0.attn.masked_bias"])
def test_buffers_of_old_checkpoints_are_no_weights(folder: Path, extra: str):
    rewrite(folder / MODEL, lambda w: w.update({extra: torch.ones(4)}))
    assert CausalLMPolicy.from_pretrained(folder).logprobs([[4]], [[5]])


def test_critic_of_wrong_weights_is_refused_by_name(folder: Path, tmp_path: Path):
    policy = CausalLMPolicy.from_pretrained(folder, critic="separate")
    policy.save_pretrained(tmp_path / "p")
    file = tmp_path / "p" / "critic" / MODEL
    rewrite(file, lambda w: w.pop("norm.weight"))
    with pytest.raises(CheckpointError, match=r"cannot load the critic.*lacks the weights norm\.weight"):
        CausalLMPolicy.from_pretrained(tmp_path / "p")


def test_value_head_that_is_not_finite_is_named(folder: Path, tmp_path: Path):
    CausalLMPolicy.from_pretrained(folder).save_pretrained(tmp_path / "p")
    rewrite(tmp_path / "p" / "value_head.safetensors", lambda w: w["weight"].fill_(torch.nan))
    with pytest.raises(CheckpointError, match=r"value_head\.safetensors` has weights that are NaN.*weight"):
        CausalLMPolicy.from_pretrained(tmp_path / "p")


def test_reward_model_from_a_language_model_may_lack_its_head_only(folder: Path):
    rm = SequenceRewardModel.from_trunk(folder, max_tokens=16)
    assert rm.model.score.weight.shape == (1, 16)
    with pytest.raises(CheckpointError, match=r"lacks the weights \['score\.weight'\]: it is a trunk"):
        SequenceRewardModel.from_pretrained(folder)
    rewrite(folder / MODEL, lambda w: w.pop(LAYER))
    with pytest.raises(CheckpointError, match=rf"lacks the weights {LAYER}"):
        SequenceRewardModel.from_trunk(folder, max_tokens=16)


def test_reward_model_with_more_layers_than_it_says_is_refused(tmp_path: Path):
    folder = save(LlamaForSequenceClassification(config(num_labels=1)), tmp_path)
    edit_json(folder / "config.json", num_hidden_layers=1)
    with pytest.raises(CheckpointError, match=r"more weights.*model\.layers\.1"):
        load_reward_model(folder)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pytorch_model-1.bin"], r"names pytorch_model-1\.bin; only safetensors"),
        ([MODEL, "rest.bin"], r"names rest\.bin"),
        (["../other.safetensors"], r"names \.\./other\.safetensors"),
    ],
)
def test_index_that_names_other_files_is_refused(folder: Path, names: list[str], message: str):
    (folder / INDEX).write_text(json.dumps({"weight_map": {f"w{i}": name for i, name in enumerate(names)}}))
    with pytest.raises(CheckpointError, match=message):
        CausalLMPolicy.from_pretrained(folder)


def test_sharded_folder_is_read(folder: Path, tmp_path: Path):
    model = load_model(folder).model
    model.save_pretrained(tmp_path / "shards", max_shard_size="5KB")
    assert (tmp_path / "shards" / INDEX).is_file()
    again = load_model(tmp_path / "shards").model
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_pickled_folder_is_refused_with_a_command_that_converts_it(folder: Path):
    weights = load_file(folder / MODEL)
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / MODEL).unlink()
    with pytest.raises(CheckpointError, match="pickled weights only") as caught:
        CausalLMPolicy.from_pretrained(folder)
    code = str(caught.value).split('python -c "')[1].rstrip('"')
    exec(code, {})
    found = load_model(folder).model
    assert all(torch.equal(found.get_parameter(name), weight) for name, weight in weights.items())


def test_no_remote_code_runs(folder: Path):
    edit_json(folder / "config.json", model_type="their_own", auto_map={"AutoConfig": "theirs.Theirs"})
    (folder / "theirs.py").write_text("raise SystemExit('remote code ran')")
    with pytest.raises(CheckpointError, match="code of its own"):
        CausalLMPolicy.from_pretrained(folder)


# --- tokenizers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        (["tokenizer.json"], r"lacks tokenizer\.json"),
        (["tokenizer_config.json"], r"lacks tokenizer_config\.json"),
        (["tokenizer.json", "tokenizer_config.json"], r"lacks tokenizer\.json and tokenizer_config\.json"),
    ],
)
def test_tokenizer_that_lacks_files_is_refused_by_name(folder: Path, removed: list[str], message: str):
    for name in removed:
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match=message):
        CausalLMPolicy.from_pretrained(folder)
    with pytest.raises(ConfigError, match=message):
        textenv.TextGenerationVectorEnv(1, str(folder), ["the"], lambda p, r: [0.0] * len(r))


@pytest.mark.parametrize("kind", ["LlamaTokenizer", "GPT2Tokenizer", "BertTokenizer"])
def test_tokenizer_without_its_vocabulary_is_refused(folder: Path, kind: str):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    with pytest.raises(CheckpointError, match=r"lacks .*tokenizer\.json"):
        load_tokenizer(folder)


# --- where a model stands ---------------------------------------------------------------------------------------------


def test_run_folder_stands_for_its_stage(folder: Path, tmp_path: Path):
    run = tmp_path / "runs" / "mine"
    shutil.copytree(folder, run / "sft")
    (run / "sft" / "checkpoints").mkdir()
    (run / "tensorboard").mkdir()
    assert find_folder(run) == run / "sft"
    assert check_folder("model", str(run)) == run / "sft"
    assert CausalLMPolicy.from_pretrained(run).vocab_size
    SequenceRewardModel.from_trunk(run, max_tokens=16).save_pretrained(run / "reward")
    assert find_folder(run) == run / "sft"
    assert find_folder(run, kind="reward") == run / "reward"
    assert isinstance(load_reward_model(run), SequenceRewardModel)
    shutil.copytree(folder, run / "ppo")
    with pytest.raises(ConfigError, match=r"several models \(ppo, sft\); name one"):
        find_folder(run)


def test_hub_name_is_said_to_be_out_of_reach_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    began = time.monotonic()
    for load in (
        CausalLMPolicy.from_pretrained,
        load_reward_model,
        SequenceRewardModel.from_pretrained,
        load_tokenizer,
    ):
        with pytest.raises(TextEnvError, match="there is no such folder, and the hub gives no model of this name"):
            load("nobody/nothing")
    with pytest.raises(ConfigError, match="--model nobody/nothing"):
        check_folder("model", "nobody/nothing")
    assert time.monotonic() - began < 20  # a search of the network takes minutes


def test_hub_name_is_read_from_the_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = tmp_path / "hub"
    repository = cache / "models--somebody--tiny"
    shutil.copytree(folder, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    assert check_folder("model", "somebody/tiny") == repository / "snapshots" / "abc"
    assert CausalLMPolicy.from_pretrained("somebody/tiny").vocab_size
    assert load_tokenizer("somebody/tiny").eos_token == "[SEP]"


def test_folder_that_is_not_there_is_named(tmp_path: Path):
    for missing in (tmp_path / "nothing", "./nothing", "a/b/c"):
        with pytest.raises(CheckpointError, match="there is no such folder"):
            find_folder(missing)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        find_folder(tmp_path / "file")


def test_module_is_light():
    code = "import sys, textenv.pretrained; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
