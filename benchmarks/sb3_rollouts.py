"""Stock Stable-Baselines3 PPO on SmolLM2-135M: rollouts with and without a cache, updates with and without sequences.

    python benchmarks/sb3_rollouts.py                   # about three minutes on two cores
    python benchmarks/sb3_rollouts.py --parts rollout   # or update, agreement
    python benchmarks/sb3_rollouts.py --check           # fails where a ratio misses its target

Rollouts: 16 slots, prompts of 48 tokens, answers of 48, bfloat16; PPO's own ``collect_rollouts`` with ``TextPolicy``,
with a policy that lets the padded observation through the model at every token (a few steps of it are timed), and the
native agents' collector. A rollout of SB3 is two answers long in every slot; its last act is to ask for the value of
what comes next, prompts of new answers here. Update: minibatches of 64 actions of the same rollout, stock buffer and
``SequenceRolloutBuffer``; the first ones are timed. Agreement: float32, one minibatch, fewer and shorter answers.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

import agents
from agents.learning.rollouts import Collector
from agents.sb3 import SequenceRolloutBuffer, TextPolicy, as_vec_env
from textenv.datasets import smollm2_path

PROMPT_TOKENS, ANSWER_TOKENS, SLOTS = 48, 48, 16
VOCABULARY = (1000, 40_000)  # ids of ordinary words, for random prompts
BATCH = 64
UNCACHED_STEPS = 8
PARTS = ("rollout", "update", "agreement")
TARGETS = {"cache": 10.0, "native": 1.3, "update": 10.0, "agreement": 1e-5}


class Silent(BaseCallback):
    """Goes on."""

    def _on_step(self) -> bool:
        return True


class UncachedPolicy(TextPolicy):
    """Lets the whole padded observation through the model at every token, as a policy without a cache does."""

    @torch.no_grad()
    def forward(self, obs: Any, deterministic: bool = False, action_masks: Any = None) -> Any:
        """Tokens, values and log-probs from a full pass."""
        rows = self._read(obs)
        model, lm = self.lm.compute.model, self.lm
        hidden = model.base_model(input_ids=torch.as_tensor(rows.tokens), use_cache=False).last_hidden_state
        last = hidden[torch.arange(len(hidden)), torch.as_tensor(rows.lengths) - 1]
        tokens, logprobs = self._draw(self._head(model)(last), deterministic, action_masks)
        assert lm.value_head is not None
        return tokens, lm.value_head(last.to(lm.value_head.weight.dtype)), logprobs


def make_envs(tokenizer: Any, slots: int, prompt_tokens: int, answer_tokens: int) -> Any:
    """Random prompts of one length; no token ends an answer early; a reward that costs nothing."""
    rng = np.random.default_rng(0)
    return gym.make_vec(
        "textenv/TextGeneration-v0",
        num_envs=slots,
        vectorization_mode="vector_entry_point",
        tokenizer=tokenizer,
        prompts=[rng.integers(*VOCABULARY, prompt_tokens).tolist() for _ in range(256)],
        reward=lambda asked, answers: [float(len(answer) % 7) for answer in answers],
        max_prompt_tokens=prompt_tokens,
        max_new_tokens=answer_tokens,
        eos_token_id=[],
    )


def make_model(lm: Any, policy: Any, envs: Any, n_steps: int, **options: Any) -> PPO:
    """Stock PPO, ready for ``collect_rollouts`` and ``train``."""
    settings: dict[str, Any] = {"batch_size": BATCH, "n_epochs": 1, "seed": 0, "device": "cpu"} | options
    model = PPO(policy, as_vec_env(envs), policy_kwargs={"policy": lm}, n_steps=n_steps, **settings)
    model._setup_learn(1, None)
    return model


def collect_seconds(model: PPO) -> float:
    """Seconds of one of SB3's rollouts, the cache empty at its start as after an update."""
    callback = Silent()
    callback.init_callback(model)
    assert model.env is not None
    model._last_obs = model.env.reset()  # type: ignore[assignment]
    model.policy.set_training_mode(True)
    began = time.perf_counter()
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return time.perf_counter() - began


def rollout_speeds(lm: Any, repeats: int) -> dict[str, float]:
    """Tokens per second of each kind of rollout, in turns."""
    envs = [make_envs(lm.tokenizer, SLOTS, PROMPT_TOKENS, ANSWER_TOKENS) for _ in range(3)]
    cached = make_model(lm, TextPolicy, envs[0], 2 * ANSWER_TOKENS, rollout_buffer_class=SequenceRolloutBuffer)
    uncached = make_model(lm, UncachedPolicy, envs[1], UNCACHED_STEPS)
    collector = Collector(lm, envs[2], temperature=1.0, seed=0)
    collect_seconds(cached)  # kernels are made for the shapes
    collector.collect(0)
    rounds: list[tuple[float, float, float]] = []
    for number in range(repeats):
        ours = collect_seconds(cached)
        began = time.perf_counter()
        for part in range(2):
            collector.collect((2 * number + part) * SLOTS)
        native = time.perf_counter() - began
        # Its observations are padded to their full width, so every step costs the same.
        plain = collect_seconds(uncached) * 2 * ANSWER_TOKENS / UNCACHED_STEPS
        rounds.append((ours, native, plain))
    tokens = 2 * ANSWER_TOKENS * SLOTS
    names = ("TextPolicy", "native", "no cache")
    return {name: tokens / statistics.median(side) for name, side in zip(names, zip(*rounds, strict=True), strict=True)}


def update_seconds(lm: Any, buffer: Any, minibatches: int) -> float:
    """Seconds per action of ``PPO.train``, over the first minibatches of an epoch, after one that warms up."""
    envs = make_envs(lm.tokenizer, SLOTS, PROMPT_TOKENS, ANSWER_TOKENS)
    model = make_model(lm, TextPolicy, envs, ANSWER_TOKENS, rollout_buffer_class=buffer)
    collect_seconds(model)
    whole, marks, actions = model.rollout_buffer.get, [], 0

    def first(batch_size: int | None = None) -> Any:
        nonlocal actions
        for number, samples in enumerate(whole(batch_size)):
            marks.append(time.perf_counter())
            if number > minibatches:
                return
            actions += len(samples.actions) if number else 0
            yield samples

    model.rollout_buffer.get = first  # type: ignore[method-assign]
    model.train()
    return (marks[-1] - marks[1]) / actions


def disagreement() -> float:
    """Largest difference of a weight after one float32 update in one minibatch, stock buffer or sequences."""
    weights = []
    for buffer in (None, SequenceRolloutBuffer):
        lm = agents.CausalLMPolicy.from_pretrained(smollm2_path())
        envs = make_envs(lm.tokenizer, 4, 8, 6)
        model = make_model(lm, TextPolicy, envs, 6, batch_size=24, rollout_buffer_class=buffer, learning_rate=1e-5)
        collect_seconds(model)
        model.train()
        weights.append([p.detach() for p in lm.parameters()])
    return max(float((a - b).abs().max()) for a, b in zip(*weights, strict=True))


def main() -> int:
    """Measure everything and print it; 1 where ``--check`` finds a miss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="rounds of the rollouts; the medians count")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--check", action="store_true", help="fail where a ratio misses its target")
    args = parser.parse_args()
    lm = agents.CausalLMPolicy.from_pretrained(smollm2_path(), dtype="bfloat16")
    threads = torch.get_num_threads()
    print(f"SmolLM2-135M, bfloat16, {threads} threads; {PROMPT_TOKENS} + {ANSWER_TOKENS} tokens", flush=True)
    found: dict[str, float] = {}
    if "rollout" in args.parts:
        speed = rollout_speeds(lm, args.repeats)
        for name, value in speed.items():
            print(f"rollout, {name:12} {value:8.1f} tokens/s")
        found["cache"] = speed["TextPolicy"] / speed["no cache"]
        found["native"] = speed["native"] / speed["TextPolicy"]
        print(f"TextPolicy over a policy without cache: {found['cache']:.1f} times (target {TARGETS['cache']:.0f})")
        print(f"native over TextPolicy: {found['native']:.2f} times (target at most {TARGETS['native']})", flush=True)
    if "update" in args.parts:
        ours, theirs = update_seconds(lm, SequenceRolloutBuffer, 6), update_seconds(lm, None, 2)
        print(f"update, sequences    {1e3 * ours:8.1f} ms per action and epoch")
        print(f"update, stock buffer {1e3 * theirs:8.1f} ms per action and epoch")
        found["update"] = theirs / ours
        print(f"sequences over stock buffer: {found['update']:.1f} times (target {TARGETS['update']:.0f})", flush=True)
    if "agreement" in args.parts:
        found["agreement"] = disagreement()
        print(f"weights after a float32 update differ by {found['agreement']:.1e} (target {TARGETS['agreement']:.0e})")
    missed = [name for name in ("cache", "update") if found.get(name, 1e9) < TARGETS[name]]
    missed += [name for name in ("native", "agreement") if found.get(name, 0.0) > TARGETS[name]]
    if missed:
        print(f"missed: {', '.join(missed)}")
    return 1 if args.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
