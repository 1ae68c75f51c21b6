"""PPO's settings, one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agents.algorithms.ppo import PPO, PPOConfig, gae_advantages, ppo_loss
from agents.learning.config import LearnerConfig
from agents.learning.experience import Advantages, TokenLoss
from agents.learning.protocols import Agent
from agents.learning.ptx import PtxBatches
from agents.learning.rewards import shape_rewards
from agents.learning.rollouts import PromptOrder
from agents.lm.in_memory import Example
from tests.agents.tasks import CONFIG, PROMPTS, make_envs, variety
from textenv.errors import ConfigError, DataError, ShapeError

MASK = np.array([[True, True, True], [True, True, False]])
PAID = np.array([[0.0, 0.0, 8.0], [0.0, -3.0, 99.0]], np.float32)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[0, 0, 8], [0, -3, 0]]),
        ({"scale": 2.0}, [[0, 0, 16], [0, -6, 0]]),
        ({"scale": 2.0, "clip": 5.0}, [[0, 0, 5], [0, -5, 0]]),
        ({"penalty": 1.0}, [[0, 0, 7], [0, -3, 0]]),
        ({"penalty": 1.0, "missing_eos": "replace"}, [[0, 0, -1], [0, -3, 0]]),
        ({"clip": 5.0, "penalty": 1.0}, [[0, 0, 4], [0, -3, 0]]),
    ],
    ids=[
        "as paid",
        "scaled",
        "scaled, then clipped",
        "penalty subtracted",
        "penalty replaces",
        "penalty is not clipped",
    ],
)
def test_shape_rewards_hand_worked(options: dict[str, Any], expected: list[list[float]]):
    found = shape_rewards(PAID, MASK, np.array([True, False]), **options)
    np.testing.assert_allclose(found, expected)


def test_kl_is_subtracted_after_scaling_and_clipping(policy, make_policy, tokenizer):
    config = replace(CONFIG, reward_scale=10.0, reward_clip=2.0, missing_eos_penalty=0.5, kl_coef=0.3)
    agent = PPO(policy, make_envs(tokenizer, variety), reference=make_policy(7), config=config)
    rollout = agent.collector.collect(0)
    experience = agent.assess(rollout, agent.deal(rollout))
    expected = 2.0 - 0.5 * rollout.cut - 0.3 * experience.kl_per_sequence.numpy()
    np.testing.assert_allclose(experience.sequence_rewards.numpy(), expected, atol=1e-5)
    assert rollout.cut.any()


def test_dense_rewards_of_a_function_reach_their_tokens(policy, make_policy, tokenizer):
    def by_token(prompts, responses):
        return [np.arange(1.0, 1.0 + n) for n in lengths]

    lengths: list[int] = []
    envs = make_envs(tokenizer, by_token, eos_token_id=[], max_new_tokens=5)
    lengths[:] = [5] * envs.num_envs
    agent = PPO(policy, envs, reference=make_policy(7), config=replace(CONFIG, kl_coef=0.3, gae_lambda=1.0))
    rollout = agent.collector.collect(0)
    np.testing.assert_allclose(rollout.rewards, np.tile(np.arange(1.0, 6.0), (8, 1)))
    experience = agent.assess(rollout, agent.deal(rollout))
    expected = rollout.rewards - 0.3 * experience.log_ratio.numpy()
    np.testing.assert_allclose(experience.rewards.numpy(), expected, atol=1e-5)
    returns = agent.estimate(experience).returns
    assert returns is not None
    to_go = expected[:, ::-1].cumsum(1)[:, ::-1]
    np.testing.assert_allclose(returns.numpy(), to_go, atol=1e-4)
    assert np.isfinite(list(agent.iterate(1e-3).values())).all()


def test_dense_function_and_token_reward_add_up(policy, tokenizer):
    def by_token(prompts, responses):
        return [np.array([1.0, 2.0, 3.0])] * len(responses)

    envs = make_envs(
        tokenizer, by_token, eos_token_id=[], max_new_tokens=3, token_reward=lambda step: np.full(len(step.rows), 0.5)
    )
    rollout = PPO(policy, envs, config=CONFIG).collector.collect(0)
    np.testing.assert_allclose(rollout.rewards, np.tile([1.5, 2.5, 3.5], (8, 1)))


def test_dense_rewards_on_a_responders_tokens_go_to_the_policys_token_before(policy, tokenizer):
    reply = tokenizer.encode("the", add_special_tokens=False)

    def by_token(prompts, responses):
        return [np.ones(len(e)) for e in ended()]

    envs = make_envs(
        tokenizer,
        by_token,
        num_envs=4,
        eos_token_id=list(range(280)),
        responder=lambda episode: reply,
        max_turns=2,
        max_reply_tokens=4,
        max_new_tokens=4,
    )

    def ended():
        done = [i for i in range(4) if envs.slots.finish_reasons[i] != 0 and not seen[i]]
        seen[done] = True
        return [envs.slots.tokens[i, envs.slots.prompt_lengths[i] : envs.slots.lengths[i]] for i in done]

    seen = np.zeros(4, bool)
    rollout = PPO(policy, envs, config=replace(CONFIG, num_minibatches=1)).collector.collect(0)
    lengths = rollout.lengths - rollout.prompt_lengths
    np.testing.assert_allclose(rollout.rewards.sum(1), lengths)
    assert (rollout.rewards[~rollout.action_mask] == 0).all()
    np.testing.assert_allclose(rollout.rewards[:, 0], 1 + len(reply))


@pytest.mark.parametrize(
    ("schedule", "expected"), [("linear", [1.0, 0.75, 0.5]), ("cosine", [1.0, 0.8535534, 0.5]), ("constant", [1, 1, 1])]
)
def test_schedules(schedule: Any, expected: list[float]):
    config = LearnerConfig(learning_rate=2.0, lr_schedule=schedule)
    found = [config.learning_rate_at(i, 4) / 2 for i in range(3)]
    assert found == pytest.approx(expected)
    assert replace(config, warmup_steps=2, lr_schedule="constant").learning_rate_at(0, 4) == pytest.approx(1.0)


def test_groups_share_a_prompt_and_stand_together(policy, tokenizer):
    agent = PPO(policy, make_envs(tokenizer, variety), config=replace(CONFIG, group_size=4))
    dealt = agent.prompts.deal(8, 4)
    assert dealt.tolist() == [dealt[0]] * 4 + [dealt[4]] * 4
    assert dealt[0] != dealt[4]
    rollout = agent.collector.collect(0, dealt)
    assert [e.prompt for e in rollout.episodes] == [PROMPTS[i] for i in dealt]
    assert len({e.response for e in rollout.episodes[:4]}) > 1
    experience = agent.assess(rollout, agent.deal(rollout))
    assert experience.by_group(experience.sequence_rewards).shape == (2, 4)
    with pytest.raises(ConfigError, match=r"`num_envs` \(8\) must be a multiple of `group_size` \(3\)"):
        PPO(policy, make_envs(tokenizer), config=replace(CONFIG, group_size=3))


def test_prompts_come_once_an_epoch_and_go_on_from_a_saved_place():
    order = PromptOrder(["a", "b", "c", "d"], 3)
    first = order.deal(4).tolist()
    assert sorted(first) == [0, 1, 2, 3]
    state = order.get_state()
    expected = order.deal(6).tolist()
    other = PromptOrder(["a", "b", "c", "d"], 99)
    other.set_state(state)
    assert other.deal(6).tolist() == expected


def test_critic_warmup_moves_the_critic_alone(policy, envs8):
    agent = PPO(policy, envs8, config=replace(CONFIG, critic_warmup_iterations=1))
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    agent.iterate(1e-2)
    moved = [name for name, p in policy.named_parameters() if not torch.equal(p, before[name])]
    assert moved == ["value_head.weight", "value_head.bias"]
    agent.iterate(1e-2)
    assert all(not torch.equal(p, before[name]) for name, p in policy.named_parameters())


@pytest.fixture
def envs8(tokenizer):
    return make_envs(tokenizer, variety)


@pytest.mark.parametrize(("update", "decay"), [("ema", 0.75), ("copy", 0.0)])
def test_reference_follows_the_policy(policy, envs8, update: Any, decay: float):
    own = {"reference_decay": decay} if update == "ema" else {"reference_every": 2}
    config = replace(CONFIG, reference_update=update, **own)
    agent = PPO(policy, envs8, config=config)
    assert agent.reference.model is not None
    reference = agent.reference.model.causal_lm
    start = [p.detach().clone() for p in reference.parameters()]
    agent.iterate(1e-2)
    if update == "copy":
        assert all(torch.equal(p, q) for p, q in zip(reference.parameters(), start, strict=True))
        agent.iterate(1e-2)
    for p, q, ours in zip(reference.parameters(), start, policy.causal_lm.parameters(), strict=True):
        torch.testing.assert_close(p, decay * q + (1 - decay) * ours)


def test_early_stop_ends_the_epochs(policy, envs8):
    config = replace(CONFIG, epochs=10, target_kl=1e-6, num_minibatches=1)
    assert PPO(policy, envs8, config=config).iterate(1e-2)["policy/steps"] == 2


def test_importance_weights_are_truncated_and_replace_the_sampler_check(policy, envs8, monkeypatch):
    agent = PPO(policy, envs8, config=replace(CONFIG, importance_cap=1.5))
    collect = agent.collector.collect

    def other_sampler(first, prompts=None):
        rollout = collect(first, prompts)
        rollout.behaviour_logprobs = rollout.behaviour_logprobs - np.float32(0.2)
        rollout.behaviour_logprobs[0] -= 5
        return rollout

    monkeypatch.setattr(agent.collector, "collect", other_sampler)
    rollout = agent.collector.collect(0)
    experience = agent.assess(rollout, agent.deal(rollout))
    assert experience.importance is not None
    weights = experience.importance.numpy()
    np.testing.assert_allclose(weights[1:][rollout.action_mask[1:]], np.exp(0.2), rtol=1e-3)
    assert (weights[0][rollout.action_mask[0]] == 1.5).all()
    metrics = agent.iterate(1e-3)
    assert 1.2 < metrics["policy/importance"] < 1.5
    assert "sampler and learner agree" not in agent.checks


def test_importance_weights_multiply_the_policy_term_alone(policy, envs8):
    agent = PPO(policy, envs8, config=replace(CONFIG, num_minibatches=1))
    rollout = agent.collector.collect(0)
    minibatches = agent.deal(rollout)
    experience = agent.assess(rollout, minibatches)
    part = minibatches[0].parts[0]
    width = part.batch.action_mask.shape[1]
    scores = policy.evaluate(part.batch)
    from agents.learning.experience import OldTokens

    old = OldTokens(
        part.batch.action_mask,
        *(x[part.rows, :width] for x in (experience.logprobs, experience.ref_logprobs, experience.values)),
        advantages=torch.ones_like(scores.logprobs),
        returns=torch.zeros_like(scores.logprobs),
        importance=torch.full_like(scores.logprobs, 0.5),
        kl_coef=0.1,
    )
    half, whole = (ppo_loss(scores, old._replace(importance=w * old.importance), CONFIG).total for w in (1, 2))
    # At ratio 1 and advantage 1 the policy term is −weight.
    torch.testing.assert_close((half - whole)[part.batch.action_mask], torch.full_like(half, 0.5)[old.counted_mask])


def make_text(count: int, length: int = 6) -> list[Example]:
    rng = np.random.default_rng(count)
    return [Example(rng.integers(4, 280, length), 1) for _ in range(count)]


def test_ptx_adds_the_language_modelling_gradient(policy, envs8, monkeypatch):
    from agents.lm.in_memory import collate, token_losses

    texts = make_text(5)
    gradients = {}
    for coef in (0.0, 3.0):
        config = replace(CONFIG, num_minibatches=1, epochs=1, ptx_coef=coef, max_grad_norm=1e9)
        agent = PPO(policy, envs8, config=config, ptx=[texts] if coef else None)
        monkeypatch.setattr(agent.prompts, "deal", lambda count, group: np.arange(count) % 4)
        monkeypatch.setattr(
            agent.optimizer,
            "step",
            lambda coef=coef: gradients.update({coef: [p.grad.clone() for p in policy.model.parameters()]}),
        )
        metrics = agent.iterate(0.0)
    loss = token_losses(policy.model, collate(texts)).mean()
    expected = torch.autograd.grad(3.0 * loss, list(policy.model.parameters()))
    for with_ptx, without, gradient in zip(gradients[3.0], gradients[0.0], expected, strict=True):
        torch.testing.assert_close(with_ptx - without, gradient, atol=1e-5, rtol=1e-3)
    assert metrics["loss/ptx"] == pytest.approx(loss.item(), rel=1e-5)


def test_ptx_sources_give_numbered_batches():
    batches = [make_text(n) for n in (1, 2, 3)]

    class Numbered:
        def batch(self, step):
            return batches[step % 3]

    class Restartable:
        def __iter__(self):
            return iter(batches)

    for source in (batches, Numbered(), Restartable()):
        found = PtxBatches(source)
        assert [len(found.batch(i)) for i in (0, 1, 2, 3, 1)] == [1, 2, 3, 1, 2]
    packed = PtxBatches([np.arange(12).reshape(2, 6)]).batch(7)
    assert [e.prompt_length for e in packed] == [1, 1]
    assert packed[1].tokens.tolist() == [6, 7, 8, 9, 10, 11]
    with pytest.raises(DataError, match="a generator can be gone through only once"):
        PtxBatches(b for b in batches).batch(3)
    with pytest.raises(DataError, match="`ptx` batch 0 is empty or holds a sequence without a token to predict"):
        PtxBatches([[Example(np.array([5]), 1)]]).batch(0)


def test_hooks_replace_estimator_and_loss_and_callbacks_add_metrics(policy, envs8):
    seen: list[str] = []

    def estimator(experience, config):
        seen.append("estimator")
        return gae_advantages(experience, config)

    def loss(new, old, config):
        seen.append("loss")
        return ppo_loss(new, old, config)

    def callback(agent, metrics):
        metrics["mine/figure"] = 1.0

    agent = PPO(policy, envs8, config=CONFIG, advantage_estimator=estimator, loss=loss, callbacks=[callback])
    assert isinstance(agent, Agent)
    last: dict[str, float] = {}
    agent.learn(8, callback=lambda a, m: last.update(m))
    assert last["mine/figure"] == 1.0
    assert seen.count("estimator") == 1
    assert seen.count("loss") == 8  # 2 epochs × 2 minibatches × 2 micro-batches


def test_wrong_estimator_is_named(policy, envs8):
    agent = PPO(policy, envs8, config=CONFIG, advantage_estimator=lambda e, c: Advantages(torch.zeros(8)))
    with pytest.raises(ShapeError, match=r"`advantages` has shape \(8,\), expected"):
        agent.iterate(1e-3)


def test_loss_without_a_ratio_is_explained(policy, envs8):
    agent = PPO(policy, envs8, config=CONFIG, loss=lambda n, o, c: TokenLoss(-n.logprobs, {}))
    with pytest.raises(ConfigError, match="the loss must report `policy/ratio` and `policy/approx_kl`"):
        agent.iterate(1e-3)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ({"ptx_coef": 1.0}, {}, "`ptx` batches and `ptx_coef` > 0 belong together; `ptx_coef` is 1.0"),
        ({}, {"ptx": [make_text(1)]}, "`ptx` batches and `ptx_coef` > 0 belong together; `ptx_coef` is 0.0"),
    ],
)
def test_settings_that_belong_together(policy, envs8, config, options, message):
    with pytest.raises(ConfigError, match=message):
        PPO(policy, envs8, config=PPOConfig(**config), **options)
