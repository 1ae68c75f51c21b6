from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import TransformReward

from agents.algorithms.ppo import PPO, PPOConfig
from agents.learning.rollouts import Collector
from agents.policy import CausalLMPolicy
from tests.agents.tasks import CONFIG, PROMPTS, count_good, make_envs, variety
from textenv.envs import IDLE, TextGenerationVectorEnv, ToyTokenizer
from textenv.errors import CheckpointError, ConfigError, RewardError, RunCheckError
from textenv.runs import Run

DTYPES = [
    pytest.param(None, id="float32"),
    pytest.param(torch.bfloat16, id="bfloat16", marks=pytest.mark.slow),  # slow without bfloat16 units
]


@pytest.fixture
def envs(tokenizer):
    return make_envs(tokenizer)


def test_collect_rewards_land_on_the_last_action_token(policy, envs):
    rollout = Collector(policy, envs, temperature=1.0, seed=0).collect(0)
    last = rollout.action_mask.sum(1) - 1
    rows = np.arange(8)
    np.testing.assert_allclose(rollout.rewards[rows, last], rollout.scores)
    assert np.abs(rollout.rewards).sum() == pytest.approx(np.abs(rollout.scores).sum())
    assert rollout.scores.tolist() == [float(e.response.count("a")) for e in rollout.episodes]


def test_collect_tokens_are_the_sampled_ones_and_logprobs_match_the_learner(policy, envs):
    agent = PPO(policy, envs, config=CONFIG)
    rollout = agent.collector.collect(0)
    for row, episode in enumerate(rollout.episodes):
        answer = rollout.tokens[row, rollout.prompt_lengths[row] : rollout.lengths[row]]
        assert tuple(answer) == episode.response_ids
    experience = agent.assess(rollout, agent.deal(rollout))
    mask = rollout.action_mask
    np.testing.assert_allclose(rollout.behaviour_logprobs[mask], experience.logprobs.numpy()[mask], atol=1e-4)


def test_collect_is_decided_by_seed_and_episode_number(make_policy, tokenizer):
    def play(first):
        collector = Collector(make_policy(), make_envs(tokenizer), temperature=1.0, seed=5)
        collector.envs.reset(seed=1)
        return [e.response_ids for e in collector.collect(first).episodes]

    assert play(0) == play(0)
    assert play(0) != play(8)


def test_any_autoreset_mode_and_make_vec_work(policy, tokenizer):
    envs = gymnasium.make_vec(
        "textenv/TextGeneration-v0",
        num_envs=4,
        vectorization_mode="vector_entry_point",
        tokenizer=tokenizer,
        prompts=PROMPTS,
        reward=count_good,
        max_new_tokens=4,
    )
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    agent = PPO(policy, envs, config=CONFIG).learn(8)
    assert agent.episodes == 8


def test_wrapped_rewards_reach_the_learner(policy, tokenizer):
    envs = TransformReward(make_envs(tokenizer), lambda reward: 10 * reward)
    rollout = Collector(policy, envs, temperature=1.0, seed=0).collect(0)
    assert rollout.rewards.sum() == pytest.approx(10 * rollout.scores.sum())


def test_first_update_passes_its_checks_moves_all_weights_and_leaves_the_reference(policy, envs):
    agent = PPO(policy, envs, config=CONFIG)
    assert agent.reference.model is not None
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    frozen = {name: p.detach().clone() for name, p in agent.reference.model.named_parameters()}
    metrics = agent.iterate(1e-3)
    assert metrics["policy/ratio_first"] == pytest.approx(1, abs=1e-6)
    assert metrics["objective/kl"] == pytest.approx(0, abs=1e-4)
    unmoved = [name for name, p in policy.named_parameters() if (p == before[name]).all()]
    assert unmoved == []
    assert all((p == frozen[name]).all() for name, p in agent.reference.model.named_parameters())
    assert agent.checks == {
        "KL(reference‖reference) is 0": True,
        "log-probs do not depend on the batch": True,
        "sampler and learner agree": True,
        "score on the last action token": True,
        "first ratio is 1 and approx-KL 0": True,
    }


def test_kl_penalty_is_on_every_token_and_the_score_on_the_last(policy, make_policy, envs):
    config = replace(CONFIG, whiten_advantages=False, gae_lambda=1.0, kl_coef=0.5)
    agent = PPO(policy, envs, reference=make_policy(7), config=config)
    rollout = agent.collector.collect(0)
    experience = agent.assess(rollout, agent.deal(rollout))
    returns = agent.estimate(experience).returns
    assert returns is not None
    # With λ = γ = 1 the return of a token is what is still paid: score minus 0.5 × the remaining log-ratios.
    for row in range(8):
        length = int(rollout.action_mask[row].sum())
        remaining = experience.log_ratio[row, :length].flip(0).cumsum(0).flip(0)
        expected = float(rollout.scores[row]) - 0.5 * remaining
        torch.testing.assert_close(returns[row, :length], expected, atol=1e-4, rtol=1e-4)


def test_gradient_of_the_first_step_is_the_policy_gradient(policy, envs, monkeypatch):
    """Ratio 1 and no clipping: the surrogate's gradient is that of mean advantage-weighted log-probability."""
    config = replace(CONFIG, vf_coef=0.0, num_minibatches=1, epochs=1, max_grad_norm=1e9)
    agent = PPO(policy, envs, config=config)
    rollout = agent.collector.collect(0)
    minibatches = agent.deal(rollout)
    assert len(minibatches[0].parts) == 4
    experience = agent.assess(rollout, minibatches)
    estimated = agent.estimate(experience)
    whole = rollout.batch(np.arange(8))
    scores = policy.evaluate(whole)
    objective = (scores.logprobs * estimated.advantages)[experience.action_mask].mean()
    names = [name for name, p in policy.model.named_parameters()]
    expected = torch.autograd.grad(-objective, [p for _, p in policy.model.named_parameters()])
    captured = {}

    def capture() -> None:
        captured.update({n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None})

    monkeypatch.setattr(agent.optimizer, "step", capture)
    agent.update(experience, estimated, minibatches[0])
    for name, gradient in zip(names, expected, strict=True):
        torch.testing.assert_close(captured[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_resumed_run_gives_the_numbers_of_the_uninterrupted_one(make_policy, tokenizer, tmp_path: Path, dtype):
    def train(folder: Path, *, stop_after: int | None = None) -> PPO:
        run = Run(folder, tensorboard=False)
        config = replace(CONFIG, kl_target=0.5)
        agent = PPO(make_policy(dtype=dtype), make_envs(tokenizer, variety), config=config, run=run)

        def stop(agent, metrics):
            if agent.iteration == stop_after:
                raise KeyboardInterrupt

        return agent.learn(40, callback=stop)

    whole = train(tmp_path / "whole")
    for stop in (3, 4):  # twice: the second resume starts from the first one's checkpoint
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "cut", stop_after=stop)
    resumed = train(tmp_path / "cut")
    start = make_policy()
    for (name, a), b, c in zip(
        whole.policy.named_parameters(), resumed.policy.parameters(), start.parameters(), strict=True
    ):
        assert torch.equal(a, b), name
        assert not torch.equal(a, c), name

    def figures(folder):
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in r.items() if not k.startswith(("time/", "seconds"))} for r in records]

    assert figures(tmp_path / "whole") == figures(tmp_path / "cut")
    assert whole.kl.coef == resumed.kl.coef != 0.1


@pytest.mark.parametrize("dtype", DTYPES)
def test_save_and_load_go_on_with_the_same_numbers(make_policy, tokenizer, tmp_path: Path, dtype):
    whole = PPO(make_policy(dtype=dtype), make_envs(tokenizer, variety), config=CONFIG).learn(32)
    half = PPO(make_policy(dtype=dtype), make_envs(tokenizer, variety), config=CONFIG)
    while half.iteration < 2:
        half.iterate(CONFIG.learning_rate_at(half.iteration, 4))
    half.save(tmp_path)
    middle = [p.detach().clone() for p in half.policy.parameters()]
    resumed = PPO.load(tmp_path, make_envs(tokenizer, variety)).learn(32)
    for a, b, c in zip(whole.policy.parameters(), resumed.policy.parameters(), middle, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    assert CausalLMPolicy.from_pretrained(tmp_path / "policy").vocab_size == whole.policy.vocab_size


def test_resume_against_another_reference_is_refused(make_policy, tokenizer, tmp_path: Path):
    PPO(make_policy(), make_envs(tokenizer, variety), config=CONFIG).save(tmp_path)
    make_policy(5).save_pretrained(tmp_path / "reference")
    with pytest.raises(CheckpointError, match="was trained against another reference model"):
        PPO.load(tmp_path, make_envs(tokenizer, variety))


def test_load_from_an_empty_folder_is_explained(envs, tmp_path: Path):
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        PPO.load(tmp_path, envs)


def test_nan_reward_stops_with_prompt_and_response_and_keeps_the_checkpoint(policy, tokenizer, tmp_path: Path):
    scored = []

    def fails_later(prompts, responses):
        scored.extend(responses)
        return [float("nan") if len(scored) > 20 else 0.0] * len(responses)

    run = Run(tmp_path, tensorboard=False)
    agent = PPO(policy, make_envs(tokenizer, fails_later), config=CONFIG, run=run)
    with pytest.raises(RewardError, match=r"nan.*the (old|new|long)|nan.*'a'"):
        agent.learn(10_000)
    assert agent.iteration > 0
    assert run.checkpoints("ppo").latest() is not None


def test_nan_critic_stops_before_the_update(policy, envs):
    agent = PPO(policy, envs, config=replace(CONFIG, ent_coef=0.01))
    agent.iterate(1e-3)
    with torch.no_grad():
        policy.value_head.weight.fill_(torch.nan)
    with pytest.raises(RunCheckError, match=r"scoring of iteration 1: `values` is not finite in row\(s\) 0, 1, 2"):
        agent.iterate(1e-3)


def shift_logprobs(agent: PPO, monkeypatch: pytest.MonkeyPatch, *, by: float) -> None:
    """Make an agent's rollout log-probs wrong by a constant."""
    original = agent.assess

    def shifted(*args):
        experience = original(*args)
        return replace(experience, logprobs=experience.logprobs + by, ref_logprobs=experience.ref_logprobs + by)

    monkeypatch.setattr(agent, "assess", shifted)


def test_ratio_check_fires_where_old_and_new_differ(policy, envs, monkeypatch):
    agent = PPO(policy, envs, config=CONFIG)
    shift_logprobs(agent, monkeypatch, by=-0.0005)  # below what sampler and learner may differ by
    with pytest.raises(RunCheckError, match=r"the ratio must be 1 and approx-KL 0, got 1\.0005"):
        agent.iterate(1e-3)


def test_sampler_check_fires_where_log_probs_are_those_of_another_distribution(policy, envs, monkeypatch):
    agent = PPO(policy, envs, config=CONFIG)
    collect = agent.collector.collect

    def other(first, prompts):
        rollout = collect(first, prompts)
        rollout.behaviour_logprobs = rollout.behaviour_logprobs - 0.5
        return rollout

    monkeypatch.setattr(agent.collector, "collect", other)
    with pytest.raises(RunCheckError, match=r"sampler and learner disagree by 0\.5"):
        agent.iterate(1e-3)


def test_reference_check_fires_where_the_reference_is_another_policy(policy, make_policy, envs):
    agent = PPO(policy, envs, config=CONFIG)
    agent.reference.model = make_policy(99)
    with pytest.raises(RunCheckError, match=r"KL\(policy‖reference\) must be 0 before the first update"):
        agent.iterate(1e-3)


def test_token_check_fires_where_the_environment_changes_a_token(policy, envs):
    agent = PPO(policy, envs, config=CONFIG)
    step = envs.step

    def meddling(actions):
        result = step(actions)
        envs.slots.tokens[0, envs.slots.prompt_lengths[0]] = 5
        return result

    envs.step = meddling
    with pytest.raises(RunCheckError, match="the environment holds other tokens than the policy sent"):
        agent.iterate(1e-3)


@pytest.mark.parametrize("where", ["one too early", "on every token"])
def test_score_off_the_last_token_is_noticed(policy, tokenizer, monkeypatch, where: str):
    agent = PPO(policy, make_envs(tokenizer, lambda p, r: [1.0] * len(r)), config=CONFIG)
    collect = agent.collector.collect

    def misplaced(first, prompts):
        rollout = collect(first, prompts)
        if where == "on every token":
            rollout.rewards = rollout.action_mask.astype(np.float32)
        else:
            rollout.rewards = np.roll(rollout.rewards, -1, axis=1)
        return rollout

    monkeypatch.setattr(agent.collector, "collect", misplaced)
    with pytest.raises(RunCheckError, match="the score must be paid on the last action token, and nothing on any"):
        agent.iterate(1e-3)


def test_token_masks_hold_while_sampling_and_in_the_update(policy, tokenizer):
    from textenv.wrappers.vector import AllowTokens

    eos = tokenizer.eos_token_id
    envs = AllowTokens(make_envs(tokenizer, variety, min_new_tokens=2), [eos, 10, 11, 12])
    agent = PPO(policy, envs, config=CONFIG)
    metrics = agent.iterate(1e-3)
    assert metrics["policy/ratio_first"] == pytest.approx(1, abs=1e-6)
    assert metrics["objective/entropy"] <= np.log(4) + 1e-5
    rollout = agent.collector.collect(100)
    chosen = rollout.tokens[np.arange(8), rollout.prompt_lengths]
    assert set(chosen.tolist()) <= {10, 11, 12}  # the end is not allowed before two tokens


def test_minibatches_hold_every_episode_once_and_as_many_steps_as_asked(policy, tokenizer):
    agent = PPO(policy, make_envs(tokenizer, variety), config=replace(CONFIG, num_minibatches=4, micro_batch_size=32))
    minibatches = agent.deal(agent.collector.collect(0))
    assert len(minibatches) == 4
    assert sorted(np.concatenate([p.rows for m in minibatches for p in m.parts]).tolist()) == list(range(8))
    with pytest.raises(ConfigError, match="9 minibatches need as many episodes per iteration, there are 8"):
        PPO(policy, make_envs(tokenizer), config=replace(CONFIG, num_minibatches=9))


def test_foreign_environments_and_vocabularies_are_refused(policy, tokenizer):
    foreign = gymnasium.make_vec("CartPole-v1", num_envs=2)
    with pytest.raises(ConfigError, match="step textenv's own vector environment, got"):
        PPO(policy, foreign)
    with pytest.raises(ConfigError, match=r"vocabulary has 87 \(0 … 86\) tokens, the policy's"):
        PPO(policy, TextGenerationVectorEnv(4, ToyTokenizer(), ["a"], variety, max_new_tokens=4))
    PPO(policy, make_envs(tokenizer, vocab_size=300)).iterate(1e-3)  # room for a padded head is no other vocabulary


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "`epochs` must be ≥ 1"),
        ({"gamma": 1.1}, r"`gamma` must lie in \[0, 1\]"),
        ({"clip_range": 1.0}, r"`clip_range` must lie in \(0, 1\)"),
        ({"kl_target": -1.0}, "`kl_target` must be positive, or None"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be a finite number"),
        ({"warmup_steps": -1}, "`warmup_steps` must be ≥ 0"),
        ({"kl_estimator": "k2"}, "`kl_estimator` must be 'k1' with `kl_placement='reward'`, got 'k2'"),
        ({"kl_estimator": "k3"}, "got 'k3'; paid as a reward, the others do not regularise the token"),
        ({"kl_estimator": "k4", "kl_coef": 0.0}, "`kl_estimator` must be one of 'k1', 'k2', 'k3', got 'k4'"),
        ({"kl_placement": "loss"}, "`kl_estimator` must be 'k2' or 'k3' with .*the gradient of k1 is 0 on average"),
        ({"lr_schedule": "step"}, "`lr_schedule` must be one of 'linear', .*, got 'step'"),
        ({"reward_clip": 0.0}, "`reward_clip` must be positive, or None"),
        ({"reference_decay": 0.5}, "`reference_decay` has no effect unless `reference_update` is 'ema'"),
        ({"reference_every": 5}, "`reference_every` has no effect unless `reference_update` is 'copy'"),
        ({"kl_horizon": 5}, "`kl_horizon` has no effect without `kl_target`"),
        ({"missing_eos": "replace"}, "`missing_eos` has no effect without `missing_eos_penalty`"),
        ({"decay_fraction": 0.5}, "`decay_fraction` has no effect unless `lr_schedule` is 'wsd'"),
        ({"lr_schedule": "constant", "lr_floor": 0.5}, "`lr_floor` has no effect where `lr_schedule` is 'constant'"),
        ({"reference_decay": 1.5}, r"`reference_decay` must lie in \[0, 1\]"),
    ],
)
def test_config_refuses_nonsense(change, message):
    with pytest.raises(ConfigError, match=message):
        PPOConfig(**change)


def test_idle_slots_are_left_alone(policy, tokenizer):
    """A slot that has ended stays idle while others go on, and is scored once."""
    scored = []

    def reward(prompts, responses):
        scored.extend(responses)
        return [0.0] * len(responses)

    Collector(policy, make_envs(tokenizer, reward, num_envs=16), temperature=1.0, seed=0).collect(0)
    assert len(scored) == 16
    assert IDLE == -1


@pytest.mark.learning
def test_ppo_learns_what_is_rewarded(make_policy, tokenizer):
    envs = make_envs(tokenizer, num_envs=32)
    config = PPOConfig(learning_rate=3e-3, epochs=2, num_minibatches=2, micro_batch_size=16, kl_coef=0.02)
    scores = []
    PPO(make_policy(), envs, config=config).learn(3200, callback=lambda a, m: scores.append(m["objective/score"]))
    assert np.mean(scores[:3]) < 0.5
    assert np.mean(scores[-5:]) > 3.0
