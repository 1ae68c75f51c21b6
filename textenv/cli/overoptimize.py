"""``textenv benchmark overoptimize``: a policy and best-of-n against a proxy, while the true quality is known.

A tiny language model learns to write the reviews of the small world; a proxy learns from a few noisy comparisons of
its samples; then best-of-n and PPO push along the proxy, and the gold score of every answer is looked up.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from rich.console import Console

from agents.algorithms.ppo import PPO, PPOConfig
from agents.evaluation import evaluate_policy
from agents.lm.finetuning import SFTConfig, sft
from agents.lm.in_memory import LMConfig
from agents.lm.pretraining import ModelConfig, build_model, train_tokenizer
from agents.policy import CausalLMPolicy
from reward_models.benchmarking.overoptimization.curves import Curve, best_of_n_path, policy_path
from reward_models.benchmarking.overoptimization.proxy import WordCountModel, noisy_comparisons
from reward_models.benchmarking.overoptimization.report import overoptimization_report
from reward_models.benchmarking.overoptimization.world import gold_scores, prompts, review
from reward_models.benchmarking.result import BenchmarkReport
from reward_models.loading import load_reward_model
from textenv.cli.base import ModelCommand
from textenv.cli.benchmark import write
from textenv.datasets.demonstrations import Demonstration
from textenv.envs import TextGenerationVectorEnv
from textenv.sampling.params import SamplingParams
from textenv.settings import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, refuse_unused
from textenv.trajectories import Trajectory

TRAIN_PROMPTS = 40
"""Of the 64 prompts; the others are for measuring."""
SAMPLES_PER_CHECKPOINT = 12


@dataclass(frozen=True)
class OveroptimizeOptions(ModelCommand):
    """``textenv benchmark overoptimize``.

    Attributes:
        out: Folder for ``report.html`` and ``report.json``.
        labels: Noisy comparisons that the proxy learns from.
        noise: Scale of the simulated raters' noise, gold units.
        proxy: Folder of a reward model, or any other, in place of the trained proxy; empty trains one.
        samples: Samples per prompt for best-of-n, so the largest n.
        episodes: PPO's answers to train on.
        kl_coef: PPO's KL penalty; small, since it is over-optimisation that is looked for.
        language_model_steps: Training steps of the tiny language model.
        resamples: Bootstrap resamples behind every interval.
        seed: Of everything random.
        training: Other settings of PPO.
    """

    out: str = "overoptimization"
    labels: PositiveInt = 300
    noise: PositiveFloat = 1.0
    proxy: str = ""
    samples: PositiveInt = 4096
    episodes: PositiveInt = 2560
    kl_coef: NonNegativeFloat = 0.01
    language_model_steps: PositiveInt = 500
    resamples: PositiveInt = 1000
    seed: NonNegativeInt = 0
    training: PPOConfig = field(
        default_factory=lambda: PPOConfig(
            learning_rate=1.5e-4,
            lr_schedule="constant",
            epochs=2,
            num_minibatches=2,
            micro_batch_size=128,
            target_kl=0.1,
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unused(self, "here: set the experiment's own", "training.kl_coef", "training.seed")
        never = ("temperature", "log_every", "eval_every", "checkpoint_every", "keep_checkpoints", "ptx_coef")
        why = "in this experiment, which draws at temperature 1 and writes no checkpoints: leave it out"
        refuse_unused(self, why, *(f"training.{name}" for name in never))
        if self.proxy:
            refuse_unused(self, "with a `proxy` that is there already: leave it out", "labels", "noise")


def overoptimize(options: OveroptimizeOptions, console: Console) -> BenchmarkReport:
    """Run the experiment and write the report.

    Raises:
        ConfigError: If the proxy stands for nothing.
    """
    began = time.monotonic()

    def say(words: str) -> None:
        console.print(f"{time.monotonic() - began:6.0f} s  {words}", highlight=False)

    say("a tiny language model learns to write reviews")
    model, tokenizer = review_writer(options.language_model_steps, options.seed)
    policy, reference = (CausalLMPolicy(copy.deepcopy(model), tokenizer) for _ in range(2))
    asked, held_out = prompts()[:TRAIN_PROMPTS], prompts()[TRAIN_PROMPTS:]
    sampling = SamplingParams(1.0, max_new_tokens=40)
    proxy = _proxy(policy, asked, sampling, options)
    say(f"{len(held_out)} × {options.samples:,} samples for best-of-n")
    drawn = policy.generate(held_out, sampling, n=options.samples, seed=options.seed + 1, max_batch=1024)
    scores, gold = _both(proxy, drawn, (len(held_out), options.samples))
    rng = np.random.default_rng(options.seed)
    curves = [best_of_n_path(scores, gold, rng, name="best-of-n", resamples=options.resamples)]
    say(f"PPO against the proxy, {options.episodes:,} answers")
    curves.append(_train(policy, reference, proxy, asked, held_out, sampling, options))
    report = overoptimization_report(
        curves,
        title="A proxy under pressure",
        note=(
            f"A language model of {sum(w.numel() for w in model.parameters()):,} weights writes reviews; the proxy "
            f"learned from {options.labels:,} noisy comparisons of its samples"
            if not options.proxy
            else options.proxy
        )
        + f"; the gold value of every review is known. Measured on {len(held_out)} prompts that PPO does not train on.",
        prompts=len(held_out),
        samples=options.samples,
        seed=options.seed,
        resamples=options.resamples,
        seconds=time.monotonic() - began,
    )
    write(report, options.out, console)
    say("done")
    return report


def review_writer(steps: int, seed: int) -> tuple[Any, Any]:
    """A language model of some 400,000 weights that writes reviews of the small world, and its tokenizer.

    Args:
        steps: Training steps of 64 reviews.
        seed: Of the reviews, the first weights and the order.
    """
    rng = np.random.default_rng(seed)
    shown = [Demonstration("movies", prompt, review(rng)) for _ in range(100) for prompt in prompts()]
    tokenizer = train_tokenizer((d.prompt + d.response for d in shown), 420)
    size = ModelConfig(vocab_size=420, hidden_size=96, num_layers=3, num_heads=4, intermediate_size=256, context=96)
    model = build_model(size, tokenizer, seed)
    training = LMConfig(steps=steps, learning_rate=3e-3, warmup_steps=min(20, steps), eval_every=0, seed=seed)
    sft(model, tokenizer, shown[64:], shown[:64], SFTConfig(training))
    return model, tokenizer


def _proxy(policy: CausalLMPolicy, asked: list[str], sampling: SamplingParams, options: OveroptimizeOptions) -> Any:
    """The given proxy, or one that learns from noisy comparisons of the policy's own samples."""
    if options.proxy:
        return load_reward_model(options.proxy)
    per_prompt = 8
    drawn = policy.generate(asked, sampling, n=per_prompt, seed=options.seed + 2)
    rows = [[t.response for t in drawn[i : i + per_prompt]] for i in range(0, len(drawn), per_prompt)]
    rng = np.random.default_rng([options.seed, 3])
    labels = noisy_comparisons(asked, rows, gold_scores, rng, labels=options.labels, noise=options.noise)
    return WordCountModel().fit(labels)


def _both(
    proxy: Any, answers: list[Trajectory], shape: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Proxy and gold scores of answers, prompts in rows."""
    asked, given = [t.prompt for t in answers], [t.response for t in answers]
    found = np.asarray(proxy.score(asked, given), np.float64), np.asarray(gold_scores(asked, given), np.float64)
    return found[0].reshape(shape), found[1].reshape(shape)


def _train(
    policy: CausalLMPolicy,
    reference: CausalLMPolicy,
    proxy: Any,
    asked: list[str],
    held_out: list[str],
    sampling: SamplingParams,
    options: OveroptimizeOptions,
) -> Curve:
    """PPO against the proxy; proxy, gold and KL on held-out prompts along the way."""
    envs = TextGenerationVectorEnv(
        128,
        policy.tokenizer,
        asked,
        proxy,
        max_new_tokens=sampling.max_new_tokens,
        autoreset_mode=AutoresetMode.DISABLED,
        prompt_dealing="shared",
    )
    steps: list[int] = []
    points: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]] = []
    shape = (len(held_out), SAMPLES_PER_CHECKPOINT)

    def measure(episodes: int) -> None:
        found = evaluate_policy(
            policy, held_out, proxy, reference=reference, sampling=sampling, n=shape[1], seed=options.seed + 4
        )
        scores, gold = _both(proxy, found.trajectories, shape)
        steps.append(episodes)
        points.append((found.kl.reshape(shape), scores, gold))

    def follow(agent: Any, metrics: dict[str, float]) -> None:
        if agent.iteration <= 10 or agent.iteration % 3 == 0:
            measure(agent.episodes)

    measure(0)
    config = replace(options.training, kl_coef=options.kl_coef, temperature=1.0, seed=options.seed)
    PPO(policy, envs, config=config).learn(options.episodes, callback=follow)
    kl, scores, gold = (np.stack(values) for values in zip(*points, strict=True))
    rng = np.random.default_rng([options.seed, 5])
    return policy_path(kl, scores, gold, steps, rng, name="PPO", resamples=options.resamples)
