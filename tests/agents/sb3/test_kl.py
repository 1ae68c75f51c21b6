"""KL penalties under algorithms that know nothing of them: the amounts."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import agents
from agents.policy import CausalLMPolicy
from agents.sb3 import (
    FrozenReference,
    MaskableSequenceRolloutBuffer,
    MaskableTextPolicy,
    SequenceRolloutBuffer,
    TextLogger,
    TextPolicy,
    as_vec_env,
    connect_kl,
)
from examples.sb3_ppo import tiny_llama
from tests.agents.sb3.models import TOY, toy_lm
from textenv import TextGenerationVectorEnv, wrappers
from textenv.errors import ConfigError
from textenv.wrappers import vector

SETTINGS: dict[str, Any] = {"n_steps": 12, "batch_size": 48, "n_epochs": 1, "device": "cpu", "seed": 0}


def penalised(
    lm: CausalLMPolicy, reference: Any, algorithm: Any = PPO, policy: Any = TextPolicy, **options: Any
) -> Any:
    envs = gym.make_vec(TOY, num_envs=4, **options.pop("env", {}))
    envs = vector.KLPenalty(envs, reference, **{"coef": 0.3, **options})
    model = algorithm(policy, VecMonitor(as_vec_env(envs)), policy_kwargs={"policy": lm}, **SETTINGS)
    connect_kl(model)
    return model


class Steps(TextLogger):
    """Keeps rewards, scores and divergences by step."""

    def __init__(self) -> None:
        super().__init__()
        self.rewards: list[Any] = []
        self.scores: list[Any] = []
        self.kl: list[Any] = []

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        self.rewards.append(self.locals["rewards"].copy())
        self.scores.append([info["score"] for info in infos])
        self.kl.append([info["kl"] for info in infos])
        return super()._on_step()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
def test_penalty_is_the_difference_to_the_log_probs_that_the_buffer_holds(dtype):
    lm, other = toy_lm(dtype=dtype), toy_lm(1)
    envs = gym.make_vec(TOY, num_envs=4)
    reference = FrozenReference(other, envs)
    model, kept = penalised(lm, reference), Steps()
    asked: list[np.ndarray] = []
    hook = model.get_env().unwrapped.envs.hook

    def recorded(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        asked.append(reference(tokens, lengths))
        return asked[-1]

    hook.reference = recorded
    model.learn(48, callback=kept)
    # The stock buffer has been flattened slot by slot for the update.
    logprobs = model.rollout_buffer.log_probs.reshape(4, 12).T
    actions = model.rollout_buffer.actions.reshape(4, 12).T.astype(int)
    ref_logprobs = np.take_along_axis(np.stack(asked), actions[..., None], 2)[..., 0]
    paid, scores = np.stack(kept.rewards), np.stack(kept.scores)
    assert np.allclose(paid, scores - 0.3 * (logprobs - ref_logprobs), atol=2e-5)
    assert np.allclose(np.stack(kept.kl), logprobs - ref_logprobs, atol=2e-5)
    assert np.abs(logprobs - ref_logprobs).max() > 0.1


@pytest.mark.parametrize("estimator", ["k1", "k3", "full"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
def test_divergence_from_itself_is_zero_until_the_first_update(dtype, estimator):
    lm = toy_lm(dtype=dtype)
    model = penalised(lm, FrozenReference(lm, gym.make_vec(TOY, num_envs=4)), estimator=estimator, coef=0.0)
    kept = Steps()
    model.learn(96, callback=kept)
    measured = np.stack(kept.kl)
    assert np.abs(measured[:12]).max() < (1e-6 if dtype is None else 1e-2)
    assert np.abs(measured[12:]).max() > np.abs(measured[:12]).max()


def test_frozen_reference_stays_where_the_policy_was_and_excludes_padding(make_policy):
    lm = make_policy()
    envs: Any = gym.make_vec(
        "textenv/TextGeneration-v0",
        num_envs=2,
        max_new_tokens=8,
        tokenizer=lm.tokenizer,
        prompts=["the"],
        reward=lambda p, r: [0.0] * len(r),
    )
    reference = FrozenReference(lm, envs, temperature=2.0)
    rows = np.array([[5, 6, 7], [5, 9, 0]]), np.array([3, 2])
    before = reference(*rows)
    assert (before[:, lm.tokenizer.pad_token_id] == -np.inf).all()
    assert np.allclose(np.exp(before).sum(1), 1.0)
    logits = lm.model(torch.tensor([[5, 6, 7], [5, 9, 0]])).logits[[0, 1], [2, 1]] / 2.0
    logits[:, lm.tokenizer.pad_token_id] = -torch.inf
    assert np.allclose(np.exp(before), logits.softmax(-1).detach().numpy(), atol=1e-6)
    with torch.no_grad():
        for weight in lm.parameters():
            weight.add_(1.0)
    assert np.allclose(reference(*rows), before)


def test_single_environments_and_masks_are_penalised_too():
    lm = toy_lm()
    reference = FrozenReference(toy_lm(1), gym.make_vec(TOY, num_envs=1))

    def one() -> Any:
        return wrappers.KLPenalty(gym.make(TOY, min_new_tokens=2), reference, coef=0.3)

    model = MaskablePPO(MaskableTextPolicy, DummyVecEnv([one] * 4), policy_kwargs={"policy": lm}, **SETTINGS)
    connect_kl(model)
    kept = Steps()
    model.learn(48, callback=kept)
    paid, scores, measured = (np.stack(getattr(kept, name)) for name in ("rewards", "scores", "kl"))
    assert np.allclose(paid, scores - 0.3 * measured, atol=1e-5)


def test_reference_reward_for_algorithms_that_expose_nothing():
    table = np.log(np.array([0.1, 0.2, 0.3, 0.4]))

    def reference(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return np.tile(table, (len(tokens), 1))

    envs = as_vec_env(vector.ReferenceLogProb(gym.make_vec(TOY, num_envs=2), reference, 0.5))
    model = DQN("MlpPolicy", envs, learning_starts=100, buffer_size=100, device="cpu", seed=0)
    model.learn(40)
    buffer = model.replay_buffer
    assert buffer is not None
    actions, rewards = buffer.actions[:20, :, 0], buffer.rewards[:20]
    bonus = 0.5 * table[actions]
    ended = buffer.dones[:20].astype(bool)
    assert np.allclose(rewards[~ended], bonus[~ended], atol=1e-6)
    assert ((rewards - bonus)[ended] >= -1e-6).all()


def test_logger_sums_the_divergence_of_each_answer():
    def policy(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return np.full((len(tokens), 4), -1.0)

    def reference(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return np.full((len(tokens), 4), -1.1)

    envs = vector.KLPenalty(gym.make_vec(TOY, num_envs=4), reference, policy, target_kl=0.01, horizon=10.0)
    model = PPO(TextPolicy, as_vec_env(envs), policy_kwargs={"policy": toy_lm()}, **SETTINGS)
    model.learn(48, callback=TextLogger())
    found = model.logger.name_to_value
    assert found["objective/kl"] == pytest.approx(0.1 * found["rollout/response_tokens"])
    assert 0 <= found["objective/score"] <= 1
    assert envs.coef > 0.05


def test_what_cannot_be_connected_is_refused():
    envs = as_vec_env(gym.make_vec(TOY, num_envs=4))
    with pytest.raises(ConfigError, match="needs a TextPolicy, got ActorCriticPolicy"):
        connect_kl(PPO("MlpPolicy", envs, **SETTINGS))
    with pytest.raises(ConfigError, match="there is no KLPenalty"):
        connect_kl(PPO(TextPolicy, envs, policy_kwargs={"policy": toy_lm()}, **SETTINGS))


def test_reference_of_a_lora_policy_is_the_model_without_its_adapter():
    peft = pytest.importorskip("peft")
    base = toy_lm()
    model = peft.get_peft_model(
        toy_lm().model, peft.LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False)
    )
    adapted = CausalLMPolicy(model, base.tokenizer)
    envs, rows = gym.make_vec(TOY, num_envs=2), (np.array([[1, 2], [3, 4]]), np.array([2, 1]))
    found = FrozenReference(adapted, envs)(*rows)
    assert np.allclose(found, FrozenReference(base, envs)(*rows), atol=1e-6)
    whole = adapted.model(torch.tensor([[1, 2], [3, 0]])).logits[[0, 1], [1, 0], :4].log_softmax(-1)
    assert not np.allclose(found, whole.detach().numpy(), atol=1e-3)


def play_with_reference_bonus(wrap: Any, buffer: Any, policy: Any, algorithm: Any) -> Any:
    lm = toy_lm()
    reference = FrozenReference(toy_lm(1), gym.make_vec(TOY, num_envs=4))
    envs = wrap(reference)
    model = algorithm(
        policy,
        envs,
        policy_kwargs={"policy": lm},
        rollout_buffer_class=buffer,
        **{**SETTINGS, "gamma": 0.9, "gae_lambda": 1.0, "learning_rate": 0.0, "n_steps": 36, "ent_coef": 0.5},
    )
    model.learn(144)
    return model.rollout_buffer


@pytest.mark.parametrize("form", ["vector", "single", "maskable"])
def test_reference_bonus_under_sequence_buffer_has_the_entropy_of_later_tokens_in_its_return(form: str):
    """Each advantage: all that is paid from there on, less β times the log-probs of *later* tokens and the critic."""

    def many(reference: Any) -> Any:
        return as_vec_env(vector.ScaleReward(vector.ReferenceLogProb(gym.make_vec(TOY, num_envs=4), reference, 0.5), 1))

    def single(reference: Any) -> Any:
        return DummyVecEnv([lambda: wrappers.ReferenceLogProb(gym.make(TOY), reference, 0.5)] * 4)

    kinds = (MaskableSequenceRolloutBuffer, MaskableTextPolicy, MaskablePPO)
    given = kinds if form == "maskable" else (SequenceRolloutBuffer, TextPolicy, PPO)
    buffer = play_with_reference_bonus(single if form == "single" else many, *given)
    slots, checked = range(4), 0
    for slot in slots:
        starts = np.flatnonzero(buffer.episode_starts[:, slot])
        for start, end in itertools.pairwise(starts):
            steps = np.arange(start, end)
            own, paid = 0.5 * buffer.log_probs[steps, slot], buffer.rewards[steps, slot]
            for i, step in enumerate(steps):
                discounts = 0.9 ** np.arange(len(steps) - i)
                expected = (discounts * paid[i:]).sum() + own[i] - buffer.values[step, slot]
                assert buffer.advantages[step, slot] == pytest.approx(expected, abs=1e-5)
                assert buffer.returns[step, slot] == pytest.approx((discounts * paid[i:]).sum(), abs=1e-5)
                checked += len(steps) > 1
    assert checked > 20


def test_rewards_of_the_sequence_buffer_are_the_regularised_ones():
    bonus = play_with_reference_bonus(
        lambda r: as_vec_env(vector.ReferenceLogProb(gym.make_vec(TOY, num_envs=4), r, 0.5)),
        SequenceRolloutBuffer,
        TextPolicy,
        PPO,
    )

    def penalty(reference: Any) -> Any:
        lm = toy_lm()
        policy = FrozenReference(lm, gym.make_vec(TOY, num_envs=4))
        return as_vec_env(vector.KLPenalty(gym.make_vec(TOY, num_envs=4), reference, policy, coef=0.5))

    penalised = play_with_reference_bonus(penalty, SequenceRolloutBuffer, TextPolicy, PPO)
    np.testing.assert_allclose(bonus.rewards, penalised.rewards, atol=1e-5)
    np.testing.assert_allclose(bonus.returns, penalised.returns, atol=1e-5)


@pytest.mark.slow
def test_ppo_with_reference_bonus_and_sequence_buffer_stays_at_the_reference():
    """Reward 0 everywhere: the optimum is the reference, and stock PPO must not leave it to end answers early."""
    lm, prompts = tiny_llama(seed=0), ["a", "b"]

    def nothing(prompts: list[str], responses: list[str]) -> list[float]:
        return [0.0] * len(responses)

    core = TextGenerationVectorEnv(32, lm.tokenizer, prompts, nothing, max_new_tokens=8)
    reference = agents.CausalLMPolicy(copy.deepcopy(lm.model), lm.tokenizer)
    model = PPO(
        TextPolicy,
        as_vec_env(vector.ReferenceLogProb(core, FrozenReference(lm, core), 0.5)),
        policy_kwargs={"policy": lm},
        rollout_buffer_class=SequenceRolloutBuffer,
        n_steps=32,
        batch_size=256,
        ent_coef=0.5,
        gamma=1.0,
        gae_lambda=1.0,
        learning_rate=3e-3,
        normalize_advantage=False,
        seed=0,
        device="cpu",
    )
    model.learn(32 * 32 * 20)
    sampling = agents.SamplingParams(max_new_tokens=8)
    found = agents.evaluate_policy(lm, prompts, nothing, reference=reference, sampling=sampling, n=400, seed=1)
    assert found.summary["kl"] < 0.1
