"""Stock SB3 PPO in the place of the native agent.

    python -m examples.sb3_quickstart runs/quickstart

Takes the fine-tuned model and the reward model of a finished ``textenv quickstart`` and trains on the same prompts with
the same KL-regularisation, then answers the test prompts with both policies.
"""

import argparse
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import StopTrainingOnMaxEpisodes
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecMonitor

from agents import CausalLMPolicy, SamplingParams, evaluate_policy
from agents.sb3 import FrozenReference, SequenceRolloutBuffer, TextLogger, TextPolicy, as_vec_env, connect_kl
from reward_models import SequenceRewardModel
from textenv import TextGenerationVectorEnv
from textenv.datasets import builtin_ratings, demonstrations, human_ratings
from textenv.wrappers.vector import KLPenalty


def prompts_of(run: Path, split: str, domain: str) -> list[str]:
    """The prompts that the quickstart itself uses."""
    config = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    rated = human_ratings() if config["data"] == "human" else builtin_ratings(n=config["builtin_texts"])
    return [shown.prompt for shown in demonstrations(r for r in rated if (r.split, r.domain) == (split, domain))]


def train(run: Path, settings: dict[str, Any], episodes: int, log: str | None = None) -> PPO:
    """SB3's PPO on the quickstart's fine-tuned model, with the native agent's settings."""
    own = settings["training"]
    policy = CausalLMPolicy.from_pretrained(run / "sft", dtype="auto")
    envs: Any = TextGenerationVectorEnv(
        settings["num_envs"],
        policy.tokenizer,
        prompts_of(run, "train", settings["domain"]),
        SequenceRewardModel.from_pretrained(run / "reward"),
        max_new_tokens=settings["max_new_tokens"],
        prompt_dealing="shared",
    )
    reference = FrozenReference(policy, envs, temperature=own["temperature"])
    envs = KLPenalty(envs, reference, coef=own["kl_coef"])
    steps = settings["num_envs"] * 16
    model = PPO(
        TextPolicy,
        VecMonitor(as_vec_env(envs)),
        policy_kwargs={"policy": policy, "temperature": own["temperature"], "exact_entropy": False},
        rollout_buffer_class=SequenceRolloutBuffer,
        learning_rate=lambda left: own["learning_rate"] * left,
        n_steps=16,
        batch_size=steps // own["num_minibatches"],
        n_epochs=own["epochs"],
        gamma=1.0,
        clip_range=own["clip_range"],
        vf_coef=own["vf_coef"],
        max_grad_norm=own["max_grad_norm"],
        seed=0,
        device="cpu",
    )
    connect_kl(model)
    if log is not None:
        model.set_logger(configure(log, ["csv", "tensorboard"]))
    # SB3 counts tokens, and its learning rate decays by them: an answer of the native agent takes about eleven.
    stop = StopTrainingOnMaxEpisodes(max(1, episodes // settings["num_envs"]))
    return model.learn(episodes * 11, callback=[TextLogger(), stop])


def evaluate(run: Path, policies: dict[str, CausalLMPolicy], settings: dict[str, Any], count: int) -> dict[str, Any]:
    """Reward and KL of answers to test prompts, by policy."""
    temperature, limit = settings["training"]["temperature"], settings["max_new_tokens"]
    sampling = SamplingParams(temperature=temperature, max_new_tokens=limit)
    prompts, found = prompts_of(run, "test", settings["domain"])[:count], {}
    reference, reward = CausalLMPolicy.from_pretrained(run / "sft"), SequenceRewardModel.from_pretrained(run / "reward")
    for name, policy in policies.items():
        measured = evaluate_policy(policy, prompts, reward, reference=reference, sampling=sampling)
        found[name] = {key: measured.summary[key] for key in ("reward_mean", "kl", "response_tokens")}
    return found


def main(run: Path, episodes: int | None = None, count: int = 512, log: str | None = None) -> dict[str, Any]:
    """Train, and compare with the fine-tuned model and the native agent's policy."""
    settings = yaml.safe_load((run / "config.yaml").read_text("utf-8"))["ppo"]
    model = train(run, settings, settings["total_episodes"] if episodes is None else episodes, log)
    policies = {name: CausalLMPolicy.from_pretrained(run / name) for name in ("sft", "ppo")}
    text_policy = model.policy
    assert isinstance(text_policy, TextPolicy)
    return evaluate(run, {**policies, "sb3": text_policy.lm}, settings, count)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished quickstart, such as runs/quickstart")
    parser.add_argument("--episodes", type=int, help="answers to train on; as many as the native agent by default")
    parser.add_argument("--log", help="a folder for SB3's logs")
    chosen = parser.parse_args()
    for name, figures in main(chosen.run, chosen.episodes, log=chosen.log).items():
        print(name, "  ".join(f"{key} {value:.3f}" for key, value in figures.items()))
