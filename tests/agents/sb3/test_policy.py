"""TextPolicy: cached decoding is right whatever happens, and stock algorithms train it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import TRPO, MaskablePPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.policy import CausalLMPolicy
from agents.sb3 import MaskableTextPolicy, TextPolicy, as_vec_env
from tests.agents.sb3.models import toy_envs, toy_lm
from textenv.errors import ConfigError

ALGORITHMS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "PPO": (PPO, TextPolicy, {"n_steps": 16, "batch_size": 16, "n_epochs": 2}),
    "A2C": (A2C, TextPolicy, {}),
    "TRPO": (TRPO, TextPolicy, {"n_steps": 16, "batch_size": 16, "n_critic_updates": 1, "cg_max_steps": 3}),
    "MaskablePPO": (MaskablePPO, MaskableTextPolicy, {"n_steps": 16, "batch_size": 16, "n_epochs": 2}),
}


def make_model(name: str = "PPO", lm: CausalLMPolicy | None = None, envs: Any = None, **changes: Any) -> Any:
    algorithm, policy, settings = ALGORITHMS[name]
    kwargs = {"policy": toy_lm() if lm is None else lm} | changes.pop("policy_kwargs", {})
    envs = toy_envs() if envs is None else envs
    return algorithm(policy, envs, policy_kwargs=kwargs, **(settings | {"seed": 0, "device": "cpu"} | changes))


def fed_tokens(monkeypatch: pytest.MonkeyPatch, lm: CausalLMPolicy) -> list[int]:
    """Counts the positions that go through the model's layers."""
    counts: list[int] = []
    from textenv.sampling import slots

    original = slots.SlotEngine._feed

    def feed(engine: Any, rows: Any, first: Any) -> Any:
        counts.append(int((engine._cached[rows] - first).sum()))
        return original(engine, rows, first)

    monkeypatch.setattr(slots.SlotEngine, "_feed", feed)
    return counts


# --- decoding ---------------------------------------------------------------------------------------------------------


def text_envs(num_envs: int, tokenizer: Any, **options: Any) -> Any:
    prompts = ["the old film", "the", "a good one", "film"]
    settings: dict[str, Any] = {"max_prompt_tokens": 12, "max_new_tokens": 20} | options
    return as_vec_env(
        gym.make_vec(
            "textenv/TextGeneration-v0",
            num_envs=num_envs,
            vectorization_mode="vector_entry_point",
            tokenizer=tokenizer,
            prompts=prompts,
            reward=lambda asked, answers: [float(len(answer)) for answer in answers],
            **settings,
        )
    )


@pytest.mark.parametrize("observation", ["tokens", "dict"])
@pytest.mark.parametrize("critic", [False, True], ids=["shared", "separate"])
def test_cached_rollouts_equal_full_passes_under_an_adversarial_driver(make_policy, observation, critic):
    """Resets, forks, restores, skipped slots, changed prompts, evaluations of another size, changed weights."""
    lm = make_policy(value_noise=1.0)
    if critic:
        from agents.policy.critic import Critic

        own = Critic.from_language_model(lm.causal_lm)
        torch.nn.init.normal_(own.head.weight)
        lm = CausalLMPolicy(lm.model, lm.tokenizer, critic=own)
    envs = text_envs(5, lm.tokenizer, observation=observation)
    model = make_model(lm=lm, envs=envs)
    policy, rng = model.policy, np.random.default_rng(0)
    policy.set_training_mode(False)
    seen, worst = envs.reset(), 0.0
    for _ in range(80):
        trick = rng.integers(8)
        states = envs.env_method("get_state")
        if trick == 0:
            seen = envs.reset()
        elif trick == 1:
            envs.env_method("set_state", states[rng.integers(5)], indices=[int(rng.integers(5))])
        elif trick == 2:
            policy.predict(rows_of(seen, slice(0, 3)))
        elif trick == 3:
            envs.set_options([{"prompt": "good"} if rng.random() < 0.5 else {} for _ in range(5)])
            seen = envs.reset()
        elif trick == 4:
            with torch.no_grad():
                for weight in lm.parameters():
                    weight.add_(0.05 * torch.randn(weight.shape))
            policy.drop_cache()
        order = rng.permutation(5) if trick == 5 else np.arange(5)
        seen = envs._core._form.batch(envs._core.slots)
        shown = as_tensors(rows_of(seen, order))
        tokens, values, logprobs = policy(shown)
        with torch.no_grad():
            full_values, full_logprobs, _ = policy.evaluate_actions(shown, tokens)
        worst = max(worst, float((logprobs - full_logprobs).abs().max()))
        worst = max(worst, float((values.flatten() - full_values).abs().max()))
        assert not (tokens == lm.tokenizer.pad_token_id).any()
        if trick != 6:  # otherwise nobody steps: the same rows come again
            actions = np.zeros(5, np.int64)
            actions[order] = tokens.numpy()
            seen = envs.step(actions)[0]
    assert worst < 1e-4


def rows_of(observation: Any, rows: Any) -> Any:
    return {k: v[rows] for k, v in observation.items()} if isinstance(observation, dict) else observation[rows]


def as_tensors(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {k: torch.as_tensor(v) for k, v in observation.items()}
    return torch.as_tensor(observation)


def test_rollouts_feed_each_token_once(make_policy, monkeypatch):
    lm = make_policy()
    envs = text_envs(2, lm.tokenizer)
    model = make_model(lm=lm, envs=envs)
    lm.slot_engine(1, 8)  # an engine is tried out once per model
    counts = fed_tokens(monkeypatch, lm)
    model.policy.set_training_mode(False)
    envs.set_options({"prompt": "the old film"})
    seen = envs.reset()
    prompt = envs._core.prompt_lengths
    for _ in range(10):
        tokens, _, _ = model.policy(torch.as_tensor(seen))
        seen = envs.step(np.where(tokens.numpy() == lm.tokenizer.eos_token_id, 7, tokens.numpy()))[0]
        model.policy.predict(seen[:1])  # evaluation has a lane of its own
        model.policy.set_training_mode(False)
    both_slots = prompt[0] + 2 * 9  # the prompt once for both, then a token each
    evaluation = prompt[0] + 1 + 9  # it joins one token later
    assert sum(counts) == both_slots + evaluation


def test_interleaved_evaluation_changes_no_rollout_value():
    """Stock SB3 shares one generator between rollout and evaluation, so only greedy evaluation leaves draws alone."""
    weights = []
    for callback in (None, EvalCallback(toy_envs(3), eval_freq=3, n_eval_episodes=5, warn=False, verbose=0)):
        model = make_model()
        model.learn(128, callback=callback)
        weights.append([p.detach().clone() for p in model.policy.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*weights, strict=True))


def test_values_of_cut_off_answers_and_rollout_ends_are_those_of_a_full_pass():
    model = make_model(envs=toy_envs(2, on_length_limit="truncate"))
    policy = model.policy
    policy.set_training_mode(False)
    seen = model.get_env().reset()
    policy(torch.as_tensor(seen))
    for rows in (seen, seen[:1], np.array([[3, 1, 1, 2, 1]])):
        found = policy.predict_values(torch.as_tensor(rows))
        expected, _, _ = policy.evaluate_actions(
            torch.as_tensor(np.pad(rows, ((0, 0), (0, 1)), constant_values=4)), torch.zeros(len(rows))
        )
        assert found.shape == (len(rows), 1)
        assert torch.allclose(found.flatten(), expected, atol=1e-5)


def test_log_probs_are_read_from_the_step_just_taken(monkeypatch):
    lm = toy_lm()
    model = make_model(lm=lm)
    policy = model.policy
    policy.set_training_mode(False)
    rows = model.get_env().reset()
    tokens, _, logprobs = policy(torch.as_tensor(rows))
    counts = fed_tokens(monkeypatch, lm)
    found = policy.next_token_logprobs(rows, np.ones(4, np.int64))
    assert counts == []
    assert np.allclose(np.exp(found).sum(1), 1.0)
    assert np.allclose(found[np.arange(4), tokens], logprobs, atol=1e-5)
    longer = np.array([[1, 2, 3], [2, 2, 4]])
    found = policy.next_token_logprobs(longer, np.array([3, 2]))
    whole = lm.model(torch.tensor([[1, 2, 3], [2, 2, 0]])).logits[[0, 1], [2, 1], :4].log_softmax(-1)
    assert np.allclose(found, whole.detach().numpy(), atol=1e-5)


def test_temperature_holds_in_rollouts_and_updates():
    model = make_model(policy_kwargs={"temperature": 0.5})
    policy = model.policy
    policy.set_training_mode(False)
    rows = torch.as_tensor(model.get_env().reset())
    tokens, _, logprobs = policy(rows)
    _, again, entropy = policy.evaluate_actions(rows, tokens)
    expected = (policy.lm.model(rows[:, :1]).logits[:, 0, :4] / 0.5).log_softmax(-1)
    assert torch.allclose(logprobs, again, atol=1e-5)
    assert torch.allclose(again, expected[torch.arange(4), tokens], atol=1e-5)
    assert torch.allclose(entropy, -(expected.exp() * expected).sum(-1), atol=1e-5)
    distribution = policy.get_distribution(rows)
    assert torch.allclose(distribution.log_prob(tokens), again, atol=1e-5)
    best, _, best_logprob = policy(rows, deterministic=True)
    assert torch.equal(best, expected.argmax(-1))
    assert torch.allclose(best_logprob, expected.max(-1).values, atol=1e-5)
    policy.exact_entropy = False
    assert policy.evaluate_actions(rows, tokens)[2] is None


def test_masked_tokens_are_neither_drawn_nor_counted():
    model = make_model("MaskablePPO", envs=toy_envs(4, min_new_tokens=4))
    policy = model.policy
    policy.set_training_mode(False)
    rows = torch.as_tensor(model.get_env().reset())
    masks = np.stack(model.get_env().env_method("action_masks"))
    assert not masks[:, 0].any()
    tokens = again = torch.zeros(0)
    for _ in range(20):
        tokens, _, logprobs = policy(rows, action_masks=masks)
        assert (tokens > 0).all()
        for given in (masks, torch.as_tensor(masks).float(), np.packbits(masks, axis=1)):
            _, again, entropy = policy.evaluate_actions(rows, tokens, action_masks=given)
            assert torch.allclose(logprobs, again, atol=1e-5)
            assert torch.isfinite(entropy).all()
    distribution = policy.get_distribution(rows, action_masks=masks)
    assert torch.allclose(distribution.log_prob(tokens), again, atol=1e-5)
    action, _ = model.predict(rows.numpy(), action_masks=masks, deterministic=True)
    assert (action > 0).all()
    assert np.exp(policy.next_token_logprobs(rows.numpy(), np.ones(4, np.int64)))[:, 0].max() == 0


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_stock_algorithms_move_every_weight_and_its_copy(name, dtype):
    lm = toy_lm(dtype=dtype)
    before = [p.detach().clone() for p in lm.parameters()]
    make_model(name, lm).learn(64)
    assert all(not torch.equal(a, b) for a, b in zip(before, lm.parameters(), strict=True))
    for weight, copy in zip(lm.causal_lm.parameters(), lm.compute.model.parameters(), strict=True):
        assert torch.equal(weight.to(copy.dtype), copy)
        assert copy.grad is None or copy is weight


def test_gradients_of_the_copy_are_clipped_and_close_to_those_of_float32():
    gradients = []
    for dtype in (None, torch.bfloat16):
        policy = make_model(lm=toy_lm(dtype=dtype)).policy
        rows = torch.tensor([[1, 2, 3, 4, 4], [3, 4, 4, 4, 4], [2, 2, 4, 4, 4], [1, 4, 4, 4, 4]])
        for _ in range(2):  # adds up, as gradients do
            values, logprobs, _ = policy.evaluate_actions(rows, torch.tensor([1, 2, 3, 0]))
            (logprobs.sum() + values.sum()).backward()
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
        gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters()]))
        assert norm > 0.5
        assert float(gradients[-1].norm()) == pytest.approx(0.5, rel=1e-3)
    assert float((gradients[0] - gradients[1]).norm()) < 0.05 * 0.5


def test_lora_and_separate_critics_train():
    peft = pytest.importorskip("peft")
    lm = toy_lm(critic=True)
    make_model(lm=lm).learn(64)
    model = peft.get_peft_model(toy_lm().model, peft.LoraConfig(target_modules=["q_proj"], r=2))
    lm = CausalLMPolicy(model, toy_lm().tokenizer)
    before = [p.detach().clone() for p in lm.parameters()]
    make_model(lm=lm).learn(128)
    for old, new in zip(before, lm.parameters(), strict=True):
        assert torch.equal(old, new) != new.requires_grad


def test_seed_decides_everything():
    runs = []
    for seed in (1, 1, 2):
        model = make_model(seed=seed)
        model.learn(64)
        runs.append(torch.cat([p.detach().flatten() for p in model.policy.parameters()]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_single_environments_of_stock_sb3_work_too():
    model = make_model(envs=DummyVecEnv([lambda: gym.make("textenv/Toy-v0")] * 4)).learn(64)
    same = make_model(envs=toy_envs(4)).learn(64)
    assert all(torch.equal(a, b) for a, b in zip(model.policy.parameters(), same.policy.parameters(), strict=True))


# --- saving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_zip_files_give_the_same_policy_back(name, tmp_path: Path):
    model = make_model(name, toy_lm(dtype=torch.bfloat16))
    model.learn(64)
    model.save(tmp_path / "model.zip")
    loaded = ALGORITHMS[name][0].load(tmp_path / "model.zip", env=toy_envs(), device="cpu")
    rows = toy_envs(4).reset()
    for one in (model, loaded):
        one.policy.set_training_mode(False)
    lengths = np.ones(4, np.int64)
    assert np.array_equal(
        model.policy.next_token_logprobs(rows, lengths), loaded.policy.next_token_logprobs(rows, lengths)
    )
    assert str(model.policy.optimizer.state_dict()) == str(loaded.policy.optimizer.state_dict())
    for one in (model, loaded):
        one._last_obs = None
        one.set_random_seed(7)
        one.learn(64, reset_num_timesteps=False)
    for a, b in zip(model.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_folder_stands_for_the_model_in_zip_files(make_policy, tmp_path: Path):
    make_policy(value_noise=1.0).save_pretrained(tmp_path / "lm")
    tokenizer = make_policy().tokenizer
    envs = text_envs(2, tokenizer)
    model = PPO(
        TextPolicy, envs, policy_kwargs={"policy": tmp_path / "lm"}, n_steps=8, batch_size=8, n_epochs=1, device="cpu"
    )
    model.learn(16)
    model.save(tmp_path / "model.zip")
    loaded = PPO.load(tmp_path / "model.zip", device="cpu")
    seen = envs.reset()
    assert np.array_equal(loaded.predict(seen, deterministic=True)[0], model.predict(seen, deterministic=True)[0])
    model.policy.save(str(tmp_path / "policy.pth"))
    alone = TextPolicy.load(str(tmp_path / "policy.pth"), device="cpu")
    assert np.array_equal(alone.predict(seen, deterministic=True)[0], model.predict(seen, deterministic=True)[0])
    assert (tmp_path / "model.zip").stat().st_size < 4 * sum(p.nbytes for p in model.policy.parameters())


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused(make_policy):
    with pytest.raises(ConfigError, match="give the language model"):
        PPO(TextPolicy, toy_envs(), device="cpu", n_steps=2, batch_size=2)
    with pytest.raises(ConfigError, match=r"actions are Discrete\(4\), the policy's are 0 … 2[78]\d"):
        make_model(lm=make_policy())
    with pytest.raises(ConfigError, match="`temperature` must be positive, got 0"):
        make_model(policy_kwargs={"temperature": 0.0})
    with pytest.raises(ConfigError, match="use_sde"):
        TextPolicy(toy_envs().observation_space, toy_envs().action_space, lambda _: 0.1, use_sde=True)
    model = make_model(envs=toy_envs(2, padding_side="left"))
    with pytest.raises(ConfigError, match="begins with padding"):
        model.learn(8)
