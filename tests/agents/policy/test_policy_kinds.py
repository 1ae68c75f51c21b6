"""Policies beyond the plain one: critics of their own, LoRA, frozen layers, recomputing, encoder-decoders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from agents.algorithms.ppo import PPO
from agents.policy import CausalLMPolicy
from agents.policy.critic import Critic
from agents.policy.forward import SequenceBatch
from reward_models import SequenceRewardModel
from reward_models.normalization import Normalization
from tests.agents.tasks import CONFIG, PROMPTS, make_envs, variety
from tests.reward_models.tiny import builtin_tokenizer, tiny_bert
from textenv.errors import CheckpointError, ConfigError, ShapeError
from textenv.sampling.encoder_decoder import EncoderDecoderEngine
from textenv.sampling.params import SamplingParams

BATCH = SequenceBatch.from_ids([[1, 5, 6], [1, 7], [1, 8, 9, 10]], [[12, 13, 2], [14], [15, 16, 17, 18, 2]])


@pytest.fixture
def folder(make_policy, tmp_path: Path) -> Path:
    policy = make_policy(3)
    policy.model.save_pretrained(tmp_path / "lm")
    policy.tokenizer.save_pretrained(tmp_path / "lm")
    return tmp_path / "lm"


@pytest.fixture
def t5(tokenizer) -> CausalLMPolicy:
    config = T5Config(
        vocab_size=280, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=0, eos_token_id=2
    )
    config.decoder_start_token_id = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(config)
    return CausalLMPolicy(model, tokenizer)


@pytest.fixture
def bart(tokenizer) -> CausalLMPolicy:
    config = BartConfig(
        vocab_size=280,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        forced_eos_token_id=None,
    )
    config.decoder_start_token_id = 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BartForConditionalGeneration(config)
    return CausalLMPolicy(model, tokenizer)


def lora_config() -> Any:
    return pytest.importorskip("peft").LoraConfig(r=2, target_modules=["q_proj", "v_proj"])


# --- critics ----------------------------------------------------------------------------------------------------------


def test_separate_critic_starts_at_zero_learns_and_leaves_the_policys_trunk_alone(folder, tokenizer):
    policy = CausalLMPolicy.from_pretrained(folder, critic="separate")
    assert policy.value_head is None
    assert policy.critic is not None
    assert (policy.evaluate(BATCH).values == 0).all()
    policy.evaluate(BATCH).values.sum().backward()
    assert all(p.grad is None for p in policy.model.parameters())
    assert policy.critic.head.weight.grad is not None
    policy.zero_grad()
    agent = PPO(policy, make_envs(tokenizer, variety), config=CONFIG)
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    agent.iterate(1e-3)
    agent.iterate(1e-3)  # the trunk moves once the head has left zero
    assert [name for name, p in policy.named_parameters() if torch.equal(p, before[name])] == []


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_separate_critic_is_saved_and_resumed(folder, tokenizer, tmp_path: Path, dtype: str):
    def start() -> PPO:
        policy = CausalLMPolicy.from_pretrained(folder, critic="separate", dtype=dtype)
        return PPO(policy, make_envs(tokenizer, variety), config=CONFIG)

    whole = start().learn(24)
    half = start()
    while half.iteration < 2:
        half.iterate(CONFIG.learning_rate_at(half.iteration, 3))
    half.save(tmp_path / "agent")
    resumed = PPO.load(tmp_path / "agent", make_envs(tokenizer, variety)).learn(24)
    assert resumed.policy.critic is not None
    for (name, a), b in zip(whole.policy.named_parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(a, b), name
    AutoModelForCausalLM.from_pretrained(tmp_path / "agent" / "policy")


def test_damaged_critic_is_named(folder, tmp_path: Path):
    CausalLMPolicy.from_pretrained(folder, critic="separate").save_pretrained(tmp_path / "p")
    (tmp_path / "p" / "critic" / "value_head.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot load the critic in"):
        CausalLMPolicy.from_pretrained(tmp_path / "p")


def test_critic_from_a_reward_model_starts_with_its_normalised_scores(folder):
    rm = SequenceRewardModel.from_trunk(folder, seed=1)
    rm.normalization = Normalization(2.0, -0.5, "p", 2, mean_before=0.25, std_before=0.5, mean_after=0.0, std_after=1.0)
    policy = CausalLMPolicy.from_pretrained(folder, critic=rm)
    texts = ["the old film", " is very good"]
    ids = rm.encode([texts[0]], [texts[1]])[0]
    values = policy.evaluate(SequenceBatch.from_ids([ids[:-1]], [ids[-1:]])).last_values
    assert values.item() == pytest.approx(float(rm.score([texts[0]], [texts[1]])[0]), abs=1e-5)


def test_critic_from_an_unfit_reward_model_is_refused(folder, make_policy):
    words = builtin_tokenizer(encoder=True)
    encoder = SequenceRewardModel.from_trunk(tiny_bert(words), words)
    with pytest.raises(ConfigError, match="only start from a reward model with the policy's tokenizer"):
        CausalLMPolicy.from_pretrained(folder, critic=encoder)
    with pytest.raises(ConfigError, match="only start from a causal reward model with a linear head, not from Bert"):
        Critic.from_reward_model(encoder, words)
    with pytest.raises(ConfigError, match="`critic` must be 'shared', 'separate' or a reward model, got 'mine'"):
        CausalLMPolicy.from_pretrained(folder, critic="mine")  # pyright: ignore[reportArgumentType]


def test_critic_warmup_with_a_critic_of_its_own_leaves_the_policy(folder, tokenizer):
    policy = CausalLMPolicy.from_pretrained(folder, critic="separate")
    before = [p.detach().clone() for p in policy.model.parameters()]
    PPO(policy, make_envs(tokenizer, variety), config=replace(CONFIG, critic_warmup_iterations=1)).iterate(1e-2)
    assert all(torch.equal(p, q) for p, q in zip(policy.model.parameters(), before, strict=True))
    assert policy.critic is not None
    assert (policy.critic.head.weight != 0).any()


# --- memory -----------------------------------------------------------------------------------------------------------


def test_frozen_layers_stay_and_the_others_learn(folder, tokenizer):
    policy = CausalLMPolicy.from_pretrained(folder, frozen_layers=1)
    agent = PPO(policy, make_envs(tokenizer, variety), config=CONFIG)
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    agent.iterate(1e-2)
    still = {name for name, p in policy.named_parameters() if torch.equal(p, before[name])}
    assert still == {name for name in before if "layers.0." in name or "embed_tokens" in name}
    assert len(agent.optimizer.state) == len(before) - len(still)
    with pytest.raises(ConfigError, match="`frozen_layers` must lie between 0 and the model's 2 layers, got 3"):
        CausalLMPolicy.from_pretrained(folder, frozen_layers=3)
    with pytest.raises(ConfigError, match="`frozen_layers` and `lora` exclude each other"):
        CausalLMPolicy.from_pretrained(folder, frozen_layers=1, lora=lora_config())


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_gradient_checkpointing_changes_no_number_and_keeps_fewer_activations(folder, critic: Any):
    def saved_bytes(policy: CausalLMPolicy) -> tuple[int, torch.Tensor, list[torch.Tensor]]:
        kept: dict[int, int] = {}

        def pack(x: torch.Tensor) -> torch.Tensor:
            kept[x.data_ptr()] = x.numel() * x.element_size()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            scores = policy.evaluate(BATCH)
        (scores.logprobs.sum() + scores.values.sum()).backward()
        gradients = [p.grad for p in policy.parameters() if p.grad is not None]
        return sum(kept.values()), scores.logprobs.detach(), gradients

    plain = saved_bytes(CausalLMPolicy.from_pretrained(folder, critic=critic))
    policy = CausalLMPolicy.from_pretrained(folder, critic=critic, gradient_checkpointing=True)
    again = saved_bytes(policy)
    torch.testing.assert_close(again[1:], plain[1:])
    assert again[0] < 0.6 * plain[0]
    assert not any(module.training for module in policy.modules())
    policy.generate(PROMPTS, SamplingParams(max_new_tokens=4))  # the cache works on


def test_gradient_checkpointing_of_an_unfit_model_is_refused(tokenizer):
    from tests.agents.tabular import TabularLM, Vocabulary
    from textenv.envs import toy

    mdp = toy.ToyMDP()
    lm = TabularLM(mdp, np.log(mdp.ref_probs))
    with pytest.raises(ConfigError, match="TabularLM does not support `gradient_checkpointing`"):
        CausalLMPolicy(lm, Vocabulary(mdp), gradient_checkpointing=True)


def test_lora_holds_one_copy_of_the_weights(folder, tokenizer):
    policy = CausalLMPolicy.from_pretrained(folder, lora=lora_config(), dtype="bfloat16")
    agent = PPO(policy, make_envs(tokenizer, variety), config=CONFIG)
    assert agent.reference.model is None
    frozen = {p.data_ptr(): p for p in policy.parameters() if not p.requires_grad}
    assert all(p.dtype == torch.bfloat16 for p in frozen.values())
    base = AutoModelForCausalLM.from_pretrained(folder)
    assert sum(p.numel() for p in frozen.values()) == sum(p.numel() for p in base.parameters())
    metrics = agent.iterate(1e-3)
    assert metrics["policy/ratio_first"] == pytest.approx(1, abs=1e-6)
    assert agent.checks["KL(reference‖reference) is 0"]
    master, twin = dict(policy.causal_lm.named_parameters()), dict(policy.compute.model.named_parameters())
    for name, p in twin.items():
        adapter = "lora" in name
        assert p.dtype == torch.bfloat16
        assert master[name].dtype == (torch.float32 if adapter else torch.bfloat16)
        assert (p.data_ptr() == master[name].data_ptr()) != adapter


def test_lora_in_bfloat16_is_its_own_reference_and_trains_the_adapter(folder):
    policy = CausalLMPolicy.from_pretrained(folder, lora=lora_config(), dtype="bfloat16")
    batch = SequenceBatch.from_ids([[3, 4, 5]], [[6, 7]])
    plain = policy.evaluate(batch).logprobs.detach()
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.5)
    policy.push_weights()
    adapted = policy.evaluate(batch).logprobs
    assert (adapted - plain).abs().max() > 1e-2
    with policy.without_adapter():
        assert torch.equal(policy.evaluate(batch).logprobs, plain)
    assert torch.equal(policy.evaluate(batch).logprobs, adapted)
    adapted.sum().backward()
    policy.pull_gradients()
    moved = [name for name, p in policy.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert moved
    assert all("lora" in name for name in moved)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        pytest.param("float32", {}, id="float32"),
        pytest.param(
            "bfloat16",
            {"critic": "separate", "gradient_checkpointing": True},
            id="bfloat16, separate critic, recomputed",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_lora_agent_saved_and_loaded_goes_on_with_the_same_numbers(
    folder, tokenizer, tmp_path: Path, dtype: str, options: Any
):
    def start() -> PPO:
        policy = CausalLMPolicy.from_pretrained(folder, lora=lora_config(), dtype=dtype, **options)
        with torch.no_grad():  # the adapter's first matrix is drawn at random
            for name, p in policy.named_parameters():
                if "lora_A" in name:
                    p.copy_(torch.linspace(-0.1, 0.1, p.numel()).view_as(p))
        return PPO(policy, make_envs(tokenizer, variety), config=replace(CONFIG, kl_target=0.5))

    whole = start().learn(24)
    half = start()
    while half.iteration < 2:
        half.iterate(CONFIG.learning_rate_at(half.iteration, 3))
    half.save(tmp_path / "agent")
    resumed = PPO.load(tmp_path / "agent", make_envs(tokenizer, variety))
    assert resumed.reference.model is None
    resumed.learn(24)
    for (name, a), b in zip(whole.policy.named_parameters(), resumed.policy.parameters(), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b), name
    assert whole.kl.coef == resumed.kl.coef
    assert (tmp_path / "agent" / "policy" / "adapter" / "adapter_model.safetensors").exists()


def test_lora_cannot_move_its_reference(folder, tokenizer):
    policy = CausalLMPolicy.from_pretrained(folder, lora=lora_config())
    with pytest.raises(ConfigError, match="without its adapter cannot be updated; give `reference=`"):
        PPO(policy, make_envs(tokenizer), config=replace(CONFIG, reference_update="ema"))


# --- encoder-decoder --------------------------------------------------------------------------------------------------


def test_encoder_decoder_logprobs_equal_the_models_own(t5):
    with torch.no_grad():
        scores = t5.evaluate(BATCH, entropy=True)
        for row, (prompt, answer) in enumerate(
            zip([[1, 5, 6], [1, 7], [1, 8, 9, 10]], [[12, 13, 2], [14], [15, 16, 17, 18, 2]], strict=True)
        ):
            fed = torch.tensor([[0, *answer[:-1]]])
            logits = t5.model(input_ids=torch.tensor([prompt]), decoder_input_ids=fed).logits[0].log_softmax(-1)
            expected = logits.gather(1, torch.tensor(answer)[:, None]).squeeze(1)
            torch.testing.assert_close(scores.logprobs[row, : len(answer)], expected, atol=1e-5, rtol=1e-5)
            alone = t5.evaluate(SequenceBatch.from_ids([prompt], [answer]))
            torch.testing.assert_close(scores.last_values[row], alone.last_values[0])


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_encoder_decoder_generates_what_transformers_generates_and_what_it_scores(
    kind: str, tokenizer, request: pytest.FixtureRequest
):
    policy: CausalLMPolicy = request.getfixturevalue(kind)
    greedy = policy.generate(PROMPTS, SamplingParams(temperature=0, max_new_tokens=6))
    for trajectory in greedy:
        ids = torch.as_tensor(trajectory.prompt_ids)[None]
        theirs = policy.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
        assert trajectory.token_ids.tolist() == theirs[0, 1 : 1 + len(trajectory)].tolist()
    agent = PPO(policy, make_envs(tokenizer, variety), config=CONFIG)
    assert agent.iterate(1e-3)["policy/sampler_mismatch"] < 1e-5


def test_encoder_decoder_trains_and_resumes(t5, tokenizer, tmp_path: Path):
    t5.save_pretrained(tmp_path / "t5")
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "t5")
    ids = torch.tensor([[1, 5, 6]])
    torch.testing.assert_close(
        plain(input_ids=ids, decoder_input_ids=ids).logits, t5.model(input_ids=ids, decoder_input_ids=ids).logits
    )
    policy = CausalLMPolicy.from_pretrained(tmp_path / "t5", critic="separate", gradient_checkpointing=True)
    agent = PPO(policy, make_envs(tokenizer, variety), config=CONFIG)
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    metrics = agent.iterate(1e-3)
    assert metrics["policy/ratio_first"] == pytest.approx(1, abs=1e-6)
    assert agent.checks["sampler and learner agree"]
    agent.iterate(1e-3)
    assert [name for name, p in policy.named_parameters() if torch.equal(p, before[name])] == []
    agent.save(tmp_path / "agent")
    expected = agent.iterate(1e-3)["objective/score"]
    assert PPO.load(tmp_path / "agent", make_envs(tokenizer, variety)).iterate(1e-3)["objective/score"] == expected


def test_encoder_decoder_engine_knows_prompts_by_first_sight_or_by_length(t5):
    rows = np.array([[1, 5, 6, 0, 0], [1, 7, 0, 0, 0]])
    slots = np.arange(2)
    seen, told = (EncoderDecoderEngine(t5.model, 4, 8) for _ in range(2))
    seen.logits(rows, np.array([3, 2]), slots)
    rows[0, 3], rows[1, 2:4] = 12, [13, 14]
    told.prompt_lengths = np.array([3, 2, 1, 1])
    expected = told.logits(rows, np.array([4, 4]), slots)
    found = seen.logits(rows, np.array([4, 4]), slots)
    torch.testing.assert_close(found, expected)
    fed = torch.tensor([[0, 13, 14]])
    whole = t5.model(input_ids=torch.tensor([[1, 7]]), decoder_input_ids=fed).logits[0, -1]
    torch.testing.assert_close(found[1], whole, atol=1e-5, rtol=1e-5)
    seen.fork(np.array([1, 0]), np.array([0, 3]))
    copied = seen.logits(rows[[1, 0]], np.array([4, 4]), np.array([0, 3]))
    torch.testing.assert_close(copied, expected[[1, 0]])
    seen.drop()  # what follows is a new prompt as a whole
    assert (seen.logits(rows, np.array([4, 4]), slots) - expected).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_encoder_decoder_engine_feeds_one_token_where_rows_grow_together(
    kind: str, request: pytest.FixtureRequest, monkeypatch
):
    model = request.getfixturevalue(kind).model
    prompts = np.array([3, 2, 4])
    tokens = np.random.default_rng(0).integers(4, 280, (3, 12))
    engine = EncoderDecoderEngine(model, 3, 12)
    engine.prompt_lengths = prompts
    decoder, fed = model.get_decoder(), []
    original = decoder.forward

    def forward(*arguments: Any, **options: Any) -> Any:
        fed.append(options["input_ids"].shape[1])
        return original(*arguments, **options)

    monkeypatch.setattr(decoder, "forward", forward)
    calls = [
        ([0, 1, 2], [0, 0, 0], 1),
        ([0, 1, 2], [1, 1, 1], 1),
        ([2, 0], [2, 2], 1),  # one has ended, the others come in another order
        ([2, 0], [3, 3], 1),
        ([0, 1], [4, 2], 5),  # answers of two lengths: read anew
        ([0, 1], [3, 3], 4),
        ([0, 1], [4, 4], 1),
        ([0, 1], [3, 3], 4),  # rewound
        ([0, 2], [4, 4], 5),  # one that was not among them
    ]
    for rows, answered, expected in calls:
        lengths = prompts[rows] + np.array(answered)
        found = engine.logits(tokens[rows], lengths, np.array(rows))
        assert fed.pop() == expected
        alone = EncoderDecoderEngine(model, 1, 12)
        for i, row in enumerate(rows):
            alone.prompt_lengths = prompts[row : row + 1]
            single = alone.logits(tokens[row : row + 1], lengths[i : i + 1], np.array([0]))[0]
            torch.testing.assert_close(found[i], single, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("lengths", "prompts", "message"),
    [
        ([3, 9], None, r"sequence lengths must lie in 1…8, got 3…9"),
        ([3, 2], [4, 1], "slot 0 has a prompt of 4 tokens in a row of 3"),
    ],
)
def test_encoder_decoder_engine_refuses_impossible_lengths(t5, lengths, prompts, message):
    engine = EncoderDecoderEngine(t5.model, 2, 8)
    engine.prompt_lengths = None if prompts is None else np.array(prompts)
    with pytest.raises(ShapeError, match=message):
        engine.logits(np.ones((2, 9), np.int64), np.array(lengths), np.arange(2))
    with pytest.raises(ShapeError, match="`rows` is empty"):
        engine.logits(np.ones((0, 9), np.int64), np.array([]), np.array([]))


def test_encoder_decoder_layers_cannot_be_frozen(t5):
    with pytest.raises(ConfigError, match="has no single stack of decoder layers to freeze"):
        CausalLMPolicy(t5.model, t5.tokenizer, frozen_layers=1)
