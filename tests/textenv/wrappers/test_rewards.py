"""Wrappers that change rewards, in both forms."""

import copy
import json
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import textenv.wrappers.vector as vector_wrappers
from tests.textenv.envs.helpers import EOS, A, B, make_env, make_envs, write
from textenv import ConfigError, DataError, FinishReason, wrappers
from textenv.envs import toy
from textenv.kl import k1, k2, k3
from textenv.wrappers.kl import AdaptiveKLController, kl_full
from textenv.wrappers.recording import read_episodes

MDP = toy.ToyMDP.random(np.random.default_rng(0), 3, 3)
POLICY = np.random.default_rng(1).dirichlet(np.ones(3), size=MDP.num_states)
REFERENCE_FN = toy.TablePolicy(MDP, MDP.ref_probs)
POLICY_FN = toy.TablePolicy(MDP, POLICY)


def constant(value):
    return lambda prompts, responses: [value] * len(responses)


WRAPPERS = {
    "kl-k1": lambda ns, env: ns.KLPenalty(env, REFERENCE_FN, POLICY_FN, coef=0.3),
    "kl-k2-last": lambda ns, env: ns.KLPenalty(env, REFERENCE_FN, POLICY_FN, coef=0, estimator="k2", placement="last"),
    "kl-k3": lambda ns, env: ns.KLPenalty(env, REFERENCE_FN, POLICY_FN, coef=0, estimator="k3"),
    "kl-full": lambda ns, env: ns.KLPenalty(env, REFERENCE_FN, POLICY_FN, coef=0, estimator="full"),
    "kl-adaptive": lambda ns, env: ns.KLPenalty(env, REFERENCE_FN, POLICY_FN, target_kl=0.5, horizon=10),
    "reference": lambda ns, env: ns.ReferenceLogProb(env, REFERENCE_FN, 0.2),
    "scale": lambda ns, env: ns.ScaleReward(env, 2.0),
    "clip": lambda ns, env: ns.ClipReward(env, -0.1, 0.1),
    "length": lambda ns, env: ns.LengthPenalty(env, 0.5, 1),
    "eos": lambda ns, env: ns.MissingEosPenalty(env, 3.0),
    "stack": lambda ns, env: ns.ScaleReward(ns.MissingEosPenalty(ns.LengthPenalty(env, 0.1)), 0.5),
}
any_wrappers: Any = wrappers  # for arguments of the wrong type
ADAPTS = {"kl-adaptive"}  # rewards depend on earlier episodes, as they must
every_wrapper = pytest.mark.parametrize("name", WRAPPERS)


def single(name="scale"):
    return WRAPPERS[name](wrappers, toy.ToyEnv(mdp=MDP))


def vector(name="scale", num_envs=3, mode=AutoresetMode.NEXT_STEP):
    return WRAPPERS[name](vector_wrappers, toy.ToyVectorEnv(num_envs, mdp=MDP, autoreset_mode=mode))


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
@pytest.mark.parametrize("name", sorted(set(WRAPPERS) - ADAPTS))
def test_wrapped_environment_passes_the_checkers(name):
    env = WRAPPERS[name](wrappers, gym.make("textenv/Toy-v0", mdp=MDP, disable_env_checker=True))
    check_env(env, skip_render_check=True)
    sb3_check_env(env)


@pytest.mark.parametrize("name", sorted(set(WRAPPERS) - ADAPTS))
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_vector_form_equals_gymnasiums_vector_of_wrapped_single_ones(name, mode):
    own = vector(name, 3, mode)
    sync = gym.vector.SyncVectorEnv([lambda: single(name)] * 3, autoreset_mode=mode)
    rng = np.random.default_rng(0)
    assert data_equivalence(own.reset(seed=2), sync.reset(seed=2))
    for _ in range(30):
        actions = rng.integers(3, size=3)
        mine, theirs = own.step(actions), sync.step(actions)
        np.testing.assert_allclose(mine[1], theirs[1], atol=1e-12)
        assert data_equivalence(mine, theirs)
    assert own.autoreset_mode is mode


@every_wrapper
def test_spec_rebuilds_the_wrapped_environment(name):
    env = WRAPPERS[name](wrappers, gym.make("textenv/Toy-v0", mdp=MDP))
    assert env.spec is not None
    again = gym.make(env.spec)
    env.reset(seed=0)
    again.reset(seed=0)
    assert data_equivalence([env.step(1), env.step(2)], [again.step(1), again.step(2)])


def all_returns(env):
    """Return of every answer of the toy problem, by prompt and tokens."""
    found = {}
    for prompt, answer in MDP.answers():
        env.reset(options={"prompt_index": prompt})
        found[prompt, answer] = sum(env.step(token)[1] for token in answer)
    return found


@pytest.mark.parametrize("placement", ["token", "last"])
def test_expected_penalised_return_is_the_exact_objective(placement: Any):
    env = wrappers.KLPenalty(toy.ToyEnv(mdp=MDP), REFERENCE_FN, POLICY_FN, coef=0.3, placement=placement)
    probabilities = toy.answer_distribution(MDP, POLICY)
    expected = sum(probabilities[answer] * value for answer, value in all_returns(env).items()) / MDP.num_prompts
    assert expected == pytest.approx(toy.evaluate(MDP, POLICY, 0.3).objective, rel=1e-10)


@pytest.mark.parametrize("estimator", ["k1", "k3", "full"])
def test_expected_measure_is_the_exact_divergence(estimator: Any):
    env = wrappers.KLPenalty(toy.ToyEnv(mdp=MDP), REFERENCE_FN, POLICY_FN, coef=0.0, estimator=estimator)
    probabilities, expected = toy.answer_distribution(MDP, POLICY), 0.0
    for prompt, answer in MDP.answers():
        env.reset(options={"prompt_index": prompt})
        expected += probabilities[prompt, answer] * sum(env.step(token)[4]["kl"] for token in answer) / MDP.num_prompts
    assert expected == pytest.approx(toy.evaluate(MDP, POLICY, 0.3).kl, rel=1e-10)


@pytest.mark.parametrize("estimator", ["k2", "k3", "full"])
@pytest.mark.parametrize("coef", [0.1, AdaptiveKLController()])
def test_only_k1_can_be_paid(estimator: Any, coef: Any):
    for namespace, env in ((wrappers, toy.ToyEnv(mdp=MDP)), (vector_wrappers, toy.ToyVectorEnv(2, mdp=MDP))):
        made: Any = namespace
        with pytest.raises(ConfigError, match=f"'{estimator}' cannot be paid.*estimator='k1', or pass coef=0"):
            made.KLPenalty(env, REFERENCE_FN, POLICY_FN, coef=coef, estimator=estimator)


def test_reference_bonus_with_entropy_is_kl_regularisation():
    beta = 0.4
    env = wrappers.ReferenceLogProb(toy.ToyEnv(mdp=MDP), REFERENCE_FN, beta)
    probabilities = toy.answer_distribution(MDP, POLICY)
    expected = sum(probabilities[answer] * value for answer, value in all_returns(env).items()) / MDP.num_prompts
    entropy = -sum(p * np.log(p) for p in probabilities.values()) / MDP.num_prompts
    assert expected + beta * entropy == pytest.approx(toy.evaluate(MDP, POLICY, beta).objective, rel=1e-10)


def test_penalty_is_paid_on_each_token_or_on_the_last():
    def ratio(tokens, lengths):
        return np.log(np.tile([0.5, 0.3, 0.2], (len(tokens), 1)))

    def uniform(tokens, lengths):
        return np.full((len(tokens), 3), np.log(1 / 3))

    mdp = toy.ToyMDP(3, 3, 2)
    cases: Any = (("token", [1.0, 1.0, 1.0]), ("last", [0.0, 0.0, 3.0]))
    for placement, expected in cases:
        env = wrappers.KLPenalty(toy.ToyEnv(mdp=mdp), uniform, ratio, coef=2.0, placement=placement)
        _, info = env.reset(seed=0)
        assert info["kl"] == 0.0
        each = -2.0 * np.log(0.3 * 3)
        paid = [env.step(1) for _ in range(3)]
        np.testing.assert_allclose([step[1] for step in paid], np.array(expected) * each)
        np.testing.assert_allclose([step[4]["kl"] for step in paid], np.log(0.9))


def test_algorithm_can_give_its_own_logprobs():
    envs = vector_wrappers.KLPenalty(toy.ToyVectorEnv(2, mdp=MDP), REFERENCE_FN, coef=1.0)
    observations, _ = envs.reset(seed=0)
    full = POLICY_FN(observations, envs.lengths)
    reference = REFERENCE_FN(observations, envs.lengths)
    envs.give_logprobs(full[[0, 1], [1, 2]])
    rewards = envs.step(np.array([1, 2]))[1]
    np.testing.assert_allclose(rewards, -(full - reference)[[0, 1], [1, 2]])
    with pytest.raises(ConfigError, match="needs give_logprobs"):
        envs.step(np.array([1, 2]))
    env = wrappers.KLPenalty(toy.ToyEnv(mdp=MDP), REFERENCE_FN, coef=0.0, estimator="full")
    env.reset(seed=0)
    env.give_logprobs(np.log(POLICY[0]))
    assert np.isfinite(env.step(1)[1])
    env.give_logprobs(-0.5)
    with pytest.raises(ValueError, match="'full' estimator needs log-probabilities of every token"):
        env.step(1)


def test_idle_slots_pay_no_penalty():
    envs = vector("kl-k1", 2, AutoresetMode.DISABLED)
    envs.reset(seed=0)
    rewards, infos = envs.step(np.array([-1, 1]))[1::3]
    assert rewards[0] == infos["kl"][0] == 0.0
    assert rewards[1] != 0.0


def test_estimators_by_hand():
    own, reference = np.log(np.array([0.5, 0.2])), np.log(np.array([0.25, 0.4]))
    np.testing.assert_allclose(k1(own - reference), [np.log(2), -np.log(2)])
    np.testing.assert_allclose(k2(own - reference), np.log(2) ** 2 / 2)
    np.testing.assert_allclose(k3(own - reference), [0.5 - 1 + np.log(2), 2 - 1 - np.log(2)])
    with np.errstate(divide="ignore"):
        p, q = np.log(np.array([0.5, 0.5, 0.0])), np.log(np.array([0.25, 0.75, 0.0]))
        assert kl_full(p, q) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))
        assert kl_full(np.log(np.array([1.0, 0.0])), np.log(np.array([0.0, 1.0]))) == np.inf


def test_adaptive_controller_by_hand():
    controller = AdaptiveKLController(0.1, target_kl=6.0, horizon=100)
    controller.update(np.array([12.0, 12.0]))
    assert controller.coef == pytest.approx(0.1 * (1 + 0.2 * 2 / 100))
    controller.update(np.array([5.7]))
    assert controller.coef == pytest.approx(0.1004 * (1 - 0.05 / 100))
    controller.update(np.zeros(0))
    again = AdaptiveKLController(1.0, 6.0, 100)
    again.set_state(json.loads(json.dumps(controller.get_state())))
    assert again.coef == controller.coef


def test_adaptive_coefficient_follows_the_answers():
    envs = vector("kl-adaptive", 4)
    envs.reset(seed=0)
    assert envs.coef == 0.05
    rng = np.random.default_rng(0)
    for _ in range(20):
        envs.step(rng.integers(3, size=4))
    assert envs.coef != 0.05


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda env: any_wrappers.KLPenalty(env, REFERENCE_FN, estimator="k4"), "estimator must be"),
        (lambda env: any_wrappers.KLPenalty(env, REFERENCE_FN, placement="first"), "placement must be"),
        (lambda env: wrappers.KLPenalty(env, REFERENCE_FN, target_kl=-1.0), "target_kl and horizon must be above 0"),
        (lambda env: wrappers.ClipReward(env, 1.0, 0.0), "low must not exceed high"),
        (lambda env: wrappers.ScaleReward(gym.make("CartPole-v1"), 1.0), "ScaleReward needs a textenv environment"),
    ],
)
def test_unusable_arguments_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make(toy.ToyEnv())


def test_reference_of_the_wrong_shape_is_refused():
    env = wrappers.ReferenceLogProb(toy.ToyEnv(), lambda tokens, lengths: np.zeros(4), 1.0)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"reference must return log-probabilities .* of shape \(1, 4\), got \(4,\)"):
        env.step(1)


def test_length_and_eos_penalties_by_hand():
    env = wrappers.LengthPenalty(make_env(reward=constant(1.0)), 0.25, free_tokens=1)
    env.reset(seed=0)
    assert write(env, [A, B, EOS])[1] == 1.0 - 0.25 * 2
    env = wrappers.MissingEosPenalty(make_env(reward=constant(1.0), stop="b"), 5.0)
    for tokens, expected in (([A, EOS], 1.0), ([A, B], 1.0), ([A] * 5, -4.0)):
        env.reset(seed=0)
        assert write(env, tokens)[1] == expected


def test_cut_off_answers_are_not_penalised():
    env = wrappers.MissingEosPenalty(make_env(max_episode_steps=2), 5.0)
    env.reset(seed=0)
    step = write(env, [A, A])
    assert (step[1], step[3]) == (0.0, True)


def test_scale_and_clip_by_hand():
    env = wrappers.ClipReward(wrappers.ScaleReward(make_env(reward=constant(3.0)), 2.0), -1.0, 5.0)
    env.reset(seed=0)
    assert write(env, [EOS])[1] == 5.0


def test_whitened_rewards_have_mean_0_and_deviation_1():
    scores = iter(np.random.default_rng(0).normal(7.0, 3.0, size=4000))
    envs = vector_wrappers.WhitenReward(
        make_envs(4, reward=lambda p, r: [next(scores) for _ in r], autoreset_mode=AutoresetMode.SAME_STEP)
    )
    envs.reset(seed=0)
    paid = np.concatenate([envs.step(np.full(4, EOS))[1] for _ in range(900)])
    assert paid[400:].mean() == pytest.approx(0.0, abs=0.1)
    assert paid[400:].std() == pytest.approx(1.0, abs=0.05)
    assert (envs.hook.mean, envs.hook.std) == (pytest.approx(7.0, abs=0.2), pytest.approx(3.0, abs=0.15))
    saved = json.loads(json.dumps(envs.hook.get_state()))
    again = vector_wrappers.WhitenReward(make_envs(1))
    again.hook.set_state(saved)
    assert again.hook.std == envs.hook.std
    envs.hook.frozen = True
    envs.step(np.full(4, EOS))
    assert envs.hook.get_state() == saved


@pytest.mark.parametrize("value", [0.3, 100.1, -512.3])
def test_equal_scores_are_whitened_to_exactly_0(value: float):
    envs = vector_wrappers.WhitenReward(
        make_envs(7, reward=constant(value), autoreset_mode=AutoresetMode.SAME_STEP), epsilon=0.0
    )
    envs.reset(seed=0)
    for _ in range(9):
        assert not envs.step(np.full(7, EOS))[1].any()
    assert (envs.hook.mean, envs.hook.std) == (value, 1.0)


def test_whitening_statistics_equal_numpy():
    values = np.random.default_rng(3).normal(size=50)
    scores = iter(values)
    env = wrappers.WhitenReward(make_env(reward=lambda p, r: [next(scores)]), shift_mean=False)
    for _ in values:
        env.reset()
        env.step(EOS)
    assert (env.hook.mean, env.hook.std) == (pytest.approx(values.mean()), pytest.approx(values.std()))


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_recorded_trajectories_can_be_read_back(tmp_path, mode):
    path = tmp_path / "runs" / "episodes.jsonl"
    envs = vector_wrappers.RecordTrajectories(make_envs(2, autoreset_mode=mode), path)
    envs.reset(seed=0)
    seen = []
    for row in ([A, EOS], [EOS, A], [A, A], [A, EOS]):
        if mode is AutoresetMode.DISABLED and envs.slots.finish_reasons.any():
            envs.reset(options={"reset_mask": envs.slots.finish_reasons != 0})
        over = np.logical_or(*envs.step(np.array(row))[2:4])
        seen += [envs.last_episodes[slot] for slot in np.flatnonzero(over)]
    envs.close()
    assert list(read_episodes(path)) == seen
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["number"] for record in records] == list(range(len(seen)))
    assert all(sum(record["step_rewards"]) == record["score"] for record in records)
    assert all(len(record["step_rewards"]) == len(record["response_ids"]) for record in records)


def test_recording_follows_its_trigger_and_appends(tmp_path):
    path = tmp_path / "episodes.jsonl"
    for _ in range(2):
        env = wrappers.RecordTrajectories(make_env(), path, lambda number: number % 2 == 0)
        for _ in range(3):
            env.reset()
            env.step(EOS)
        env.close()
        env.close()
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [0, 2, 0, 2]


def test_damaged_recording_is_named(tmp_path):
    path = tmp_path / "episodes.jsonl"
    path.write_text('{"prompt": \n')
    with pytest.raises(DataError, match=r"episodes\.jsonl:1: not an episode"):
        list(read_episodes(path))
    with pytest.raises(DataError, match="no such file of episodes"):
        list(read_episodes(tmp_path / "none.jsonl"))


@pytest.mark.parametrize("name", ["kl-k1", "stack"])
@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_wrapped_environments_can_be_copied(name, copy_of):
    for env, action in ((single(name), 1), (vector(name), np.array([1, 2, 1]))):
        env.reset(seed=0)
        again = copy_of(env)
        assert data_equivalence(env.step(action)[:4], again.step(action)[:4])


def test_gymnasium_wrappers_fit_inside_and_outside():
    envs = gym.wrappers.vector.RecordEpisodeStatistics(vector("stack"))
    envs.reset(seed=0)
    envs.step(np.array([0, 0, 0]))
    inner = gym.wrappers.vector.RecordEpisodeStatistics(toy.ToyVectorEnv(2, mdp=MDP))
    outer = vector_wrappers.LengthPenalty(inner, 1.0)
    outer.reset(seed=0)
    assert outer.step(np.array([0, 0]))[4]["finish_reason"].tolist() == [FinishReason.EOS] * 2
