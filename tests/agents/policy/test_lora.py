"""LoRA in peft's forms: what is saved is the policy that was trained, and without its adapter it is its base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from agents.algorithms.ppo import PPO
from agents.lm.pretraining import build_model
from agents.policy import CausalLMPolicy, lora
from agents.sb3.kl import FrozenReference
from reward_models import SequenceRewardModel
from tests.agents.conftest import TINY
from tests.agents.tasks import CONFIG, PROMPTS, make_envs, variety
from textenv.cli.configs import RewardStageConfig
from textenv.cli.stages import check_folder, start_reward_model
from textenv.errors import CheckpointError, ConfigError
from textenv.runs import Run
from textenv.sampling.params import SamplingParams

peft = pytest.importorskip("peft")

IDS = [[1, 5, 6, 7], [1, 8]], [[9, 10, 2], [11, 12]]
FORMS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["q_proj", "v_proj"]},
    "rsLoRA": {"target_modules": "all-linear", "use_rslora": True},
    "DoRA": {"target_modules": ["q_proj", "up_proj"], "use_dora": True},
    "whole head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "whole embedding": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "whole norm": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [5, 9]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding": {"target_modules": ["v_proj", "embed_tokens"]},
    "both ends": {"target_modules": ["embed_tokens", "lm_head"]},
}


def slowly(form: str) -> Any:
    return pytest.param(form, marks=pytest.mark.slow)


@pytest.fixture
def untied(tokenizer, tmp_path: Path) -> Path:
    model = build_model(TINY, tokenizer, 3)
    head = model.lm_head.weight
    model.lm_head.weight = torch.nn.Parameter(head.detach().clone() + 0.1)
    lora.untie(model)
    return write(model, tokenizer, tmp_path / "lm")


@pytest.fixture
def tied(tokenizer, tmp_path: Path) -> Path:
    return write(build_model(TINY, tokenizer, 3), tokenizer, tmp_path / "lm")


def write(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def config(form: str) -> Any:
    return peft.LoraConfig(r=2, lora_alpha=8, **FORMS[form])


def stir(policy: CausalLMPolicy) -> None:
    """Move every weight of an adapter, as training would."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in policy.model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    policy.push_weights()


def logprobs(policy: CausalLMPolicy) -> np.ndarray:
    return np.concatenate(policy.logprobs(*IDS))


@pytest.mark.parametrize("form", FORMS)
def test_adapter_is_saved_merged_and_left_out_exactly(tied: Path, form: str, tmp_path: Path):
    keeps_its_adapter(tied, form, tmp_path)


@pytest.mark.parametrize("form", ["head", *(slowly(form) for form in FORMS if form != "head")])
def test_adapter_on_untied_embeddings_is_saved_merged_and_left_out_exactly(untied: Path, form: str, tmp_path: Path):
    keeps_its_adapter(untied, form, tmp_path)


def keeps_its_adapter(folder: Path, form: str, tmp_path: Path) -> None:
    before = logprobs(CausalLMPolicy.from_pretrained(folder))
    policy = CausalLMPolicy.from_pretrained(folder, lora=config(form))
    assert lora.is_fresh(policy.model)
    stir(policy)
    assert not lora.is_fresh(policy.model)
    trained = logprobs(policy)
    assert abs(trained - before).max() > 1e-3
    with policy.without_adapter():
        np.testing.assert_allclose(logprobs(policy), before, atol=1e-6)
    policy.save_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(logprobs(CausalLMPolicy.from_pretrained(tmp_path / "merged")), trained, atol=1e-5)
    # What decodes reads the adapter, too.
    trajectories = policy.generate(PROMPTS, SamplingParams(max_new_tokens=4), seed=1)
    scored = policy.logprobs([policy.encode_prompt(p) for p in PROMPTS], [t.token_ids.tolist() for t in trajectories])
    for trajectory, own in zip(trajectories, scored, strict=True):
        np.testing.assert_allclose(trajectory.logprobs, own, atol=1e-4)


@pytest.mark.parametrize("form", ["whole head", slowly("tokens"), slowly("DoRA"), slowly("both ends")])
def test_agent_of_every_form_is_loaded_as_it_was(tied: Path, tokenizer, form: str, tmp_path: Path):
    policy = CausalLMPolicy.from_pretrained(tied, lora=config(form))
    agent = PPO(policy, make_envs(tokenizer, variety), config=CONFIG)
    agent.iterate(1e-2)
    agent.save(tmp_path / "agent")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "agent" / "policy" / "base")
    started = AutoModelForCausalLM.from_pretrained(tied)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), started.parameters(), strict=True))
    loaded = PPO.load(tmp_path / "agent", make_envs(tokenizer, variety))
    np.testing.assert_allclose(logprobs(loaded.policy), logprobs(policy), atol=1e-6)
    # The agent's folder is a policy by itself, and so is the adapter's.
    for place in (tmp_path / "agent", tmp_path / "agent" / "policy" / "adapter"):
        np.testing.assert_allclose(logprobs(CausalLMPolicy.from_pretrained(place)), logprobs(policy), atol=1e-6)


@pytest.mark.parametrize("form", ["tokens", slowly("whole head")])
def test_run_with_an_adapter_is_resumed_with_the_same_numbers(tied: Path, tokenizer, form: str, tmp_path: Path):
    def train(run: Run, episodes: int, callback: Any = None) -> PPO:
        torch.manual_seed(0)
        policy = CausalLMPolicy.from_pretrained(tied, lora=config(form))
        agent = PPO(policy, make_envs(tokenizer, variety), config=CONFIG, run=run)
        return agent.learn(episodes, callback)

    whole = train(Run(tmp_path / "whole", tensorboard=False), 24)
    cut = Run(tmp_path / "cut", tensorboard=False)
    stopped = False

    def stop(agent: PPO, measured: Any) -> None:
        nonlocal stopped
        if agent.iteration == 2 and not stopped:
            stopped = True
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cut, 24, stop)
    again = train(cut, 24, stop)
    np.testing.assert_array_equal(logprobs(again.policy), logprobs(whole.policy))


def peft_folder(base: Path, folder: Path) -> tuple[Path, np.ndarray]:
    """What plain peft writes, and what it says."""
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted = peft.get_peft_model(model, config("plain")).eval()
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.add_(0.2)
    adapted.save_pretrained(folder)
    with torch.no_grad():
        logits = adapted(torch.tensor([[*IDS[0][0], *IDS[1][0]]])).logits.log_softmax(-1)[0]
    start = len(IDS[0][0])
    return folder, logits[range(start - 1, start + 2), IDS[1][0]].numpy()


@pytest.mark.parametrize("named", ["absolute", "beside"])
def test_adapter_folder_is_a_policy(tied: Path, tokenizer, named: str, tmp_path: Path):
    folder, expected = peft_folder(tied, tmp_path / "tuned")
    if named == "beside":
        described = json.loads((folder / "adapter_config.json").read_text())
        described["base_model_name_or_path"] = "../lm"
        (folder / "adapter_config.json").write_text(json.dumps(described))
    assert check_folder("policy", str(folder)) == folder
    policy = CausalLMPolicy.from_pretrained(folder)
    np.testing.assert_allclose(policy.logprobs([IDS[0][0]], [IDS[1][0]])[0], expected, atol=1e-5)
    assert all(p.requires_grad == ("lora_" in name) for name, p in policy.model.named_parameters())
    # The reference is the policy as it stands, its adapter included.
    agent = PPO(policy, make_envs(tokenizer, variety), config=CONFIG)
    measured = agent.iterate(1e-3)
    assert measured["objective/kl"] == pytest.approx(0.0, abs=1e-5)
    agent.save(tmp_path / "agent")
    loaded = PPO.load(tmp_path / "agent", make_envs(tokenizer, variety))
    assert loaded.reference.model is not None
    reference = loaded.reference.model.logprobs([IDS[0][0]], [IDS[1][0]])[0]
    np.testing.assert_allclose(reference, expected, atol=1e-5)
    np.testing.assert_allclose(logprobs(loaded.policy), logprobs(policy), atol=1e-6)


def test_adapter_folder_is_a_trunk_for_a_reward_model(tied: Path, tmp_path: Path):
    folder, _ = peft_folder(tied, tmp_path / "tuned")
    _, rm = start_reward_model(RewardStageConfig(trunk="policy"), folder, auto="policy", seed=0)
    policy = CausalLMPolicy.from_pretrained(folder)
    ids = torch.tensor([[1, 5, 6]])
    with torch.no_grad():
        states = [rm.model.base_model(ids)[0], policy.causal_lm.base_model(ids)[0]]
    torch.testing.assert_close(*states, atol=1e-5, rtol=0)
    with pytest.raises(CheckpointError, match="holds an adapter; save it merged into its model first"):
        SequenceRewardModel.from_trunk(folder)


def test_adapter_folder_of_wrong_weights_is_refused_by_name(tied: Path, tmp_path: Path):
    folder, _ = peft_folder(tied, tmp_path / "tuned")
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    name = next(iter(weights))
    for changed, message in (
        ({n: w for n, w in weights.items() if n != name}, "lacks"),
        (weights | {"base_model.model.other.lora_A.weight": torch.ones(2, 2)}, "has more than the adapter"),
        (weights | {name: torch.ones(3, 3)}, "does not fit its base model"),
        (weights | {name: weights[name] * torch.nan}, "NaN or infinite"),
    ):
        save_file(changed, file)
        with pytest.raises(CheckpointError, match=message):
            CausalLMPolicy.from_pretrained(folder)
    file.rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"only the pickled adapter_model\.bin"):
        CausalLMPolicy.from_pretrained(folder)


def test_adapter_without_its_base_or_with_another_one_is_refused(tied: Path, tmp_path: Path):
    folder, _ = peft_folder(tied, tmp_path / "tuned")
    with pytest.raises(ConfigError, match="is an adapter, which goes on being trained: leave `lora` out"):
        CausalLMPolicy.from_pretrained(folder, lora=config("plain"))
    tied.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"the base model of the adapter in .* is not found"):
        CausalLMPolicy.from_pretrained(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bias": "all"}, "trains biases of the frozen model"),
        ({"init_lora_weights": "pissa"}, "changes the frozen weights"),
        ({"lora_bias": True}, "`lora_bias` of LoRA adapters is not supported"),
        ({"target_modules": ["nothing"]}, "the adapter does not fit LlamaForCausalLM"),
        ({"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True}, "share matrices"),
    ],
)
def test_adapters_that_would_not_be_kept_are_refused(tied: Path, options: dict[str, Any], message: str):
    given = peft.LoraConfig(**({"r": 2, "target_modules": ["q_proj"]} | options))
    with pytest.raises(ConfigError, match=message):
        CausalLMPolicy.from_pretrained(tied, lora=given)


def test_other_adapters_and_several_of_them_are_refused(tied: Path, tokenizer):
    with pytest.raises(ConfigError, match="only LoRA adapters are supported, got IA3"):
        CausalLMPolicy.from_pretrained(
            tied, lora=peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
        )
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tied), config("plain"))
    model.add_adapter("second", config("plain"))
    with pytest.raises(ConfigError, match=r"several adapters \(default, second\)"):
        CausalLMPolicy(model, tokenizer)


@pytest.mark.parametrize("form", ["whole head", "tokens"])
def test_adapter_in_bfloat16_is_trained_in_float32_on_a_frozen_trunk(tied: Path, form: str):
    policy = CausalLMPolicy.from_pretrained(tied, dtype="bfloat16", lora=config(form))
    assert {p.dtype for p in policy.model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in policy.model.parameters() if not p.requires_grad} == {torch.bfloat16}
    with policy.without_adapter():
        before = logprobs(policy)
    stir(policy)
    with policy.without_adapter():
        np.testing.assert_array_equal(logprobs(policy), before)
    assert abs(logprobs(policy) - before).max() > 1e-3


def test_frozen_reference_of_a_policy_with_whole_modules_is_its_base(tied: Path, tokenizer):
    policy = CausalLMPolicy.from_pretrained(tied, lora=config("whole head"))
    envs = make_envs(tokenizer)
    tokens = np.array([[1, 5, 6, 0]])
    before = FrozenReference(policy, envs)(tokens, np.array([3]))
    stir(policy)
    np.testing.assert_allclose(FrozenReference(policy, envs)(tokens, np.array([3])), before, atol=1e-6)
