from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents.algorithms.ppo import PPO
from agents.evaluation import evaluate_policy, sequence_logprobs
from agents.lm.pretraining import build_model
from agents.policy import CausalLMPolicy
from agents.policy.critic import Critic
from tests.agents.conftest import TINY
from tests.agents.tasks import CONFIG, make_envs, variety
from textenv.errors import CheckpointError, ConfigError, DataError
from textenv.sampling.params import SamplingParams

PROMPTS = ["the old film", "the new film is very", "a"]
PARAMS = SamplingParams(max_new_tokens=8)


def test_generate_logprobs_equal_one_full_forward(policy):
    trajectories = policy.generate(PROMPTS, PARAMS, n=3, seed=1)
    assert len(trajectories) == 9
    for trajectory, logprobs in zip(
        trajectories, sequence_logprobs(policy, trajectories, temperature=1.0), strict=True
    ):
        np.testing.assert_allclose(trajectory.logprobs, logprobs, atol=1e-4)
        np.testing.assert_allclose(trajectory.behaviour_logprobs, logprobs, atol=1e-4)


def test_generate_does_not_depend_on_the_batch_around(policy):
    together = policy.generate(PROMPTS, PARAMS, n=2, seed=3)
    apart = policy.generate(PROMPTS, PARAMS, n=2, seed=3, max_batch=1)
    assert [t.token_ids.tolist() for t in together] == [t.token_ids.tolist() for t in apart]
    assert len({tuple(t.token_ids.tolist()) for t in together}) > 1


def test_generate_greedy_equals_transformers(policy):
    ids = [policy.encode_prompt(p) for p in PROMPTS]
    ours = policy.generate(ids, SamplingParams(temperature=0, max_new_tokens=8))
    for prompt, trajectory in zip(ids, ours, strict=True):
        theirs = policy.model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=8, do_sample=False
        )[0, len(prompt) :]
        assert trajectory.token_ids.tolist() == theirs.tolist()


def test_generate_stops_at_end_of_text(policy):
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[policy.tokenizer.eos_token_id] += 3.0
    trajectories = policy.generate(PROMPTS, PARAMS, n=20)
    for t in trajectories:
        ends = np.flatnonzero(t.token_ids == policy.tokenizer.eos_token_id)
        assert (t.finish_reason == "eos") == bool(len(ends))
        if len(ends):
            assert ends[0] == len(t) - 1
    assert {"eos"} <= {t.finish_reason for t in trajectories}


def test_saved_policy_loads_in_plain_transformers_and_here(policy, tmp_path: Path):
    policy.save_pretrained(tmp_path)
    ids = torch.tensor([policy.encode_prompt("the old film")])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(plain(ids).logits, policy.model(ids).logits)
    assert AutoTokenizer.from_pretrained(tmp_path).encode("the old film") == ids[0].tolist()
    again = CausalLMPolicy.from_pretrained(tmp_path)
    assert again.value_head is not None
    assert policy.value_head is not None
    torch.testing.assert_close(again.value_head.weight, policy.value_head.weight)


def test_value_head_starts_at_zero(make_policy):
    head = make_policy().value_head
    assert head is not None
    assert not head.weight.any()


def test_bfloat16_copy_follows_the_master_weights(make_policy):
    policy = make_policy(dtype=torch.bfloat16)
    assert policy.model.dtype == torch.float32
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.add_(1.0)
    policy.push_weights()
    twin = policy.compute.model.get_input_embeddings().weight
    assert twin.dtype == torch.bfloat16
    torch.testing.assert_close(twin.float(), policy.model.get_input_embeddings().weight, atol=0.02, rtol=0.01)


def test_padded_vocabulary_is_never_sampled_nor_counted(tokenizer):
    class Padded:
        bos_token_id, eos_token_id, pad_token_id = (
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
        )

        def __len__(self) -> int:
            return 400

    model = build_model(dataclasses.replace(TINY, vocab_size=400), Padded(), 0)
    policy = CausalLMPolicy(model, tokenizer)
    with torch.no_grad():
        model.get_output_embeddings().weight[len(tokenizer) :] += 2.0
    trajectories = policy.generate(PROMPTS, PARAMS, n=10)
    assert max(t.token_ids.max() for t in trajectories) < len(tokenizer)
    for t, logprobs in zip(trajectories, sequence_logprobs(policy, trajectories, temperature=1.0), strict=True):
        np.testing.assert_allclose(t.logprobs, logprobs, atol=1e-4)


@pytest.mark.parametrize("pad", [None, "the end of text"])
def test_policy_needs_no_padding_token_and_reserves_an_id(tokenizer, policy, pad, caplog, tmp_path: Path):
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = bare.eos_token if pad else None
    bare.chat_template = "{{ messages }}"
    own = CausalLMPolicy(build_model(dataclasses.replace(TINY, vocab_size=len(bare)), bare, 0), bare)
    CausalLMPolicy(own.model, bare)
    assert own.pad_token_id == len(bare)
    assert caplog.text.count(f"the id {len(bare)} fills up rows") == 1
    envs = make_envs(bare)
    agent = PPO(own, envs, config=CONFIG)
    agent.iterate(1e-3)
    same = CausalLMPolicy(own.model, tokenizer)
    for mine, theirs in zip(own.generate(PROMPTS, PARAMS), same.generate(PROMPTS, PARAMS), strict=True):
        assert mine.token_ids.tolist() == theirs.token_ids.tolist()
    own.save_pretrained(tmp_path)
    assert CausalLMPolicy.from_pretrained(tmp_path).pad_token_id == len(bare)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [([[]], "prompt 0 has no tokens"), (["ok", [1] * 45], "prompt 1 has 45 tokens; with 8 new ones it exceeds")],
    ids=["empty", "too long"],
)
def test_generate_bad_prompt_is_named(policy, prompts, message):
    with pytest.raises(DataError, match=message):
        policy.generate(prompts, PARAMS)


def test_from_pretrained_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match="cannot load a language model from"):
        CausalLMPolicy.from_pretrained(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="`dtype` must be"):
        CausalLMPolicy.from_pretrained(tmp_path, dtype="int8")


def test_evaluate_policy_reports_reward_kl_and_judges(make_policy):
    policy, other = make_policy(0), make_policy(1)

    def reward(prompts, responses):
        return [float(len(r)) for r in responses]

    with pytest.raises(ConfigError, match="a KL cannot be measured"):
        evaluate_policy(policy, PROMPTS, reward, reference=policy, sampling=SamplingParams(top_k=5))
    same = evaluate_policy(policy, PROMPTS, reward, reference=policy, sampling=PARAMS, n=4)
    assert same.summary["kl"] == 0
    found = evaluate_policy(
        policy, PROMPTS, reward, reference=other, sampling=PARAMS, n=50, judges={"a": lambda p, r: 0.5}
    )
    assert found.summary["kl"] > 0
    assert found.summary["a"] == 0.5
    assert found.summary["reward_mean"] == pytest.approx(np.mean([len(t.response) for t in found.trajectories]))
    low, high = found.summary["reward_mean_interval"]
    assert low < found.summary["reward_mean"] < high


def test_evaluate_policy_knows_as_many_prompts_as_differ_and_shares_where_rewards_are_0_or_1(make_policy):
    policy = make_policy(0)

    def right(prompts, responses):
        return [1.0] * len(responses)

    once = evaluate_policy(policy, PROMPTS, right, sampling=PARAMS, n=8).summary["reward_mean_interval"]
    assert once == pytest.approx([0.05 ** (1 / len(PROMPTS)), 1])
    assert evaluate_policy(policy, [*PROMPTS] * 3, right, sampling=PARAMS).summary["reward_mean_interval"] == once
    constant = evaluate_policy(policy, PROMPTS, lambda p, r: [0.3] * len(r), sampling=PARAMS, n=4).summary
    assert (constant["reward_mean"], constant["reward_mean_interval"]) == (pytest.approx(0.3), None)


def test_evaluate_policy_measures_the_tempered_kl_and_records_the_policys_own_logprobs(make_policy):
    policy, other = make_policy(0), make_policy(1)

    def reward(prompts, responses):
        return [0.0] * len(responses)

    cold = SamplingParams(temperature=0.5, max_new_tokens=6)
    found = evaluate_policy(policy, PROMPTS, reward, reference=other, sampling=cold)
    for temperature, ours, theirs in (
        (0.5, None, None),
        (
            1.0,
            [t.logprobs for t in found.trajectories],
            [t.ref_logprobs for t in found.trajectories if t.ref_logprobs is not None],
        ),
    ):
        own = sequence_logprobs(policy, found.trajectories, temperature=temperature)
        reference = sequence_logprobs(other, found.trajectories, temperature=temperature)
        if ours is None or theirs is None:
            sums = [float((a - b).sum()) for a, b in zip(own, reference, strict=True)]
            np.testing.assert_allclose(found.kl, sums, atol=1e-4)
        else:
            np.testing.assert_allclose(np.concatenate(ours), np.concatenate(own), atol=1e-5)
            np.testing.assert_allclose(np.concatenate(theirs), np.concatenate(reference), atol=1e-5)


def test_lora_policy_is_its_own_reference_and_saves_merged(policy, tmp_path: Path):
    peft = pytest.importorskip("peft")
    policy.save_pretrained(tmp_path / "base")
    lora = CausalLMPolicy.from_pretrained(
        tmp_path / "base", lora=peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    )
    trained = [name for name, p in lora.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora" in name or name.startswith("value_head") for name in trained)
    with torch.no_grad():
        for name, p in lora.named_parameters():
            if "lora_B" in name:
                p.add_(0.5)
    trajectories = policy.generate(PROMPTS, PARAMS)
    before = sequence_logprobs(policy, trajectories, temperature=1.0)
    adapted = sequence_logprobs(lora, trajectories, temperature=1.0)
    with lora.without_adapter():
        reference = sequence_logprobs(lora, trajectories, temperature=1.0)
    np.testing.assert_allclose(np.concatenate(reference), np.concatenate(before), atol=1e-5)
    assert np.abs(np.concatenate(adapted) - np.concatenate(before)).max() > 1e-3
    lora.save_pretrained(tmp_path / "merged")
    merged = CausalLMPolicy.from_pretrained(tmp_path / "merged")
    again = sequence_logprobs(merged, trajectories, temperature=1.0)
    np.testing.assert_allclose(np.concatenate(again), np.concatenate(adapted), atol=1e-5)


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_policy_in_low_precision_is_trained_on_float32_weights(make_policy, tokenizer, dtype, caplog):
    model = make_policy().model.to(dtype)
    policy = CausalLMPolicy(model, tokenizer)
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    assert policy.computes_in == (torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
    assert "its weights that train are float32 from now on" in caplog.text
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    agent = PPO(policy, make_envs(tokenizer, variety), config=CONFIG)
    agent.iterate(1e-5)
    moved = [float((p != before[name]).float().mean()) for name, p in policy.model.named_parameters() if "mlp" in name]
    assert min(moved) > 0.5


def test_policy_in_bfloat16_gets_its_rotary_frequencies_back(make_policy, tokenizer):
    expected = {name: b.clone() for name, b in make_policy().model.named_buffers()}
    policy = CausalLMPolicy(make_policy().model.to(torch.bfloat16), tokenizer)
    for model in (policy.model, policy.compute.model):
        found = dict(model.named_buffers())
        assert all(torch.equal(found[name], buffer) for name, buffer in expected.items())
    assert any("inv_freq" in name for name in expected)


def test_critic_in_bfloat16_is_trained_on_float32_weights(make_policy):
    trunk = make_policy().model.base_model.to(torch.bfloat16)
    critic = Critic(trunk, torch.nn.Linear(TINY.hidden_size, 1, dtype=torch.bfloat16))
    assert {p.dtype for p in critic.parameters()} == {torch.float32}
    assert critic.compute.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_policy_to_moves_everything_that_computes(make_policy, dtype):
    policy = make_policy(dtype=dtype)
    policy = CausalLMPolicy(
        policy.model, policy.tokenizer, compute_dtype=dtype, critic=Critic.from_language_model(policy.model)
    )
    assert policy.critic is not None
    policy.critic.compute = type(policy.compute)(policy.critic.trunk, dtype)
    policy.to("meta")
    modules = [policy, policy.compute.model, policy.critic.compute.model]
    assert {t.device.type for m in modules for t in (*m.parameters(), *m.buffers())} == {"meta"}


def test_policy_on_another_device_still_takes_gradients_and_weights(make_policy):
    policy = make_policy(dtype=torch.bfloat16).to("cpu")
    with torch.no_grad():
        next(policy.model.parameters()).add_(1.0)
    policy.push_weights()
    twin = next(policy.compute.model.parameters())
    assert torch.equal(twin, next(policy.model.parameters()).to(torch.bfloat16))


def test_policy_weights_that_train_are_not_rounded(make_policy):
    policy = make_policy()
    for cast in (policy.half, policy.bfloat16, lambda: policy.to(torch.float16)):
        with pytest.raises(ConfigError, match="weights that train stay in float32"):
            cast()
    assert {p.dtype for p in policy.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_agent_load_gives_back_what_the_policy_computed_in(policy, tokenizer, dtype, tmp_path: Path):
    policy.save_pretrained(tmp_path / "lm")
    own = CausalLMPolicy.from_pretrained(tmp_path / "lm", dtype=dtype)
    assert own.computes_in == getattr(torch, dtype)
    PPO(own, make_envs(tokenizer), config=CONFIG).save(tmp_path / "agent")
    loaded = PPO.load(tmp_path / "agent", make_envs(tokenizer), device="cpu")
    assert loaded.policy.computes_in == getattr(torch, dtype)
    assert loaded.reference.model is not None
    assert loaded.reference.model.computes_in == getattr(torch, dtype)


def test_policy_with_nan_weights_is_named(make_policy, tokenizer):
    model = make_policy().model
    with torch.no_grad():
        model.model.norm.weight[3] = torch.inf
    with pytest.raises(CheckpointError, match=r"NaN or infinite: model\.norm\.weight"):
        CausalLMPolicy(model, tokenizer)
