"""Log-probabilities and their gradients beside the usual loop over padded rows: milliseconds of one update's passes.

    python benchmarks/updates.py                # llama-5m in float32 on the CPU
    python benchmarks/updates.py --check        # exit status 1 if slower, or below 1.5 times with common prompts
    python benchmarks/updates.py --json out.json

Both sides take the same weights and sequences and differentiate the sum of the answers' log-probabilities. The usual
loop is ``model(input_ids, attention_mask).logits``, a log-softmax and a gather; here it is ``CausalLMPolicy.evaluate``.
Prompts are half to all of their length, answers a third to all, as policies that end by themselves have it. Both take
turns, and what they find is compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

from agents.lm.models import ModelConfig, build_model, train_tokenizer
from agents.policy import CausalLMPolicy
from agents.policy.forward import SequenceBatch
from textenv.datasets import builtin_ratings
from textenv.memory import keep_freed_memory

TARGET = 1.5
AGREEMENT = 1e-4


class Case(NamedTuple):
    """A minibatch.

    Attributes:
        sequences: Rows.
        prompt: Tokens of the longest prompt.
        answer: Tokens of the longest answer.
        answers: Answers to each prompt.
    """

    sequences: int
    prompt: int
    answer: int
    answers: int


CASES = {
    "PPO, one answer a prompt": Case(64, 32, 32, 1),
    "DPO, two answers a prompt": Case(64, 64, 32, 2),
    "GRPO, eight answers a prompt": Case(64, 64, 32, 8),
}


def make_batch(case: Case, vocabulary: int, seed: int) -> SequenceBatch:
    """Random tokens, each prompt after a begin token."""
    rng = np.random.default_rng(seed)
    prompts, answers = [], []
    for _ in range(case.sequences // case.answers):
        size = rng.integers(case.prompt // 2, case.prompt + 1)
        prompt = [1, *rng.integers(3, vocabulary, size - 1).tolist()]
        for _ in range(case.answers):
            prompts.append(prompt)
            answers.append(rng.integers(3, vocabulary, rng.integers(case.answer // 3, case.answer + 1)).tolist())
    return SequenceBatch.from_ids(prompts, answers)


def ours(policy: CausalLMPolicy, batch: SequenceBatch) -> torch.Tensor:
    """Sum of log-probabilities."""
    return policy.evaluate(batch, values=False).logprobs.sum()


def usual(policy: CausalLMPolicy, batch: SequenceBatch) -> torch.Tensor:
    """The same through whole rows of logits."""
    places = torch.arange(batch.tokens.shape[1])
    mask = places < batch.lengths[:, None]
    logits = policy.model(input_ids=batch.tokens, attention_mask=mask.long()).logits[:, :-1]
    logprobs = logits.log_softmax(-1).gather(2, batch.tokens[:, 1:, None]).squeeze(2)
    return (logprobs * (mask & (places >= batch.prompt_lengths[:, None]))[:, 1:]).sum()


def timed(run: Callable[..., torch.Tensor], policy: CausalLMPolicy, batch: SequenceBatch) -> tuple[float, float, float]:
    """Seconds of both passes, the sum and the gradient's norm."""
    policy.zero_grad()
    began = time.perf_counter()
    total = run(policy, batch)
    total.backward()
    seconds = time.perf_counter() - began
    squares = [float((p.grad.double() ** 2).sum()) for p in policy.parameters() if p.grad is not None]
    return seconds, float(total.detach()), sum(squares) ** 0.5


def measure(policy: CausalLMPolicy, case: Case, rounds: int, seed: int) -> dict[str, Any]:
    """Median milliseconds of both sides, and how far apart they are."""
    batch = make_batch(case, policy.vocab_size, seed)
    turns = [(timed(ours, policy, batch), timed(usual, policy, batch)) for _ in range(rounds + 1)][1:]
    mine, theirs = ([turn[side][0] * 1000 for turn in turns] for side in (0, 1))
    (_, total, norm), (_, expected, expected_norm) = turns[0]
    return {
        "ours_ms": statistics.median(mine),
        "usual_ms": statistics.median(theirs),
        "ratio": statistics.median(other / own for own, other in zip(mine, theirs, strict=True)),
        "tokens": int(batch.lengths.sum()),
        "places": batch.tokens.numel(),
        "difference": max(abs(total / expected - 1), abs(norm / expected_norm - 1)),
    }


def main() -> int:
    """Parse the arguments, measure, print; returns 1 where ``--check`` fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="llama-5m")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0 leaves its default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()  # as training does; both sides gain from it
    tokenizer = train_tokenizer([text.text for text in builtin_ratings(2000)], options.vocab_size)
    tokenizer.add_tokens([f"<{number}>" for number in range(options.vocab_size - len(tokenizer))])
    policy = CausalLMPolicy(build_model(ModelConfig(preset=options.preset, context=256), tokenizer, 0), tokenizer)
    found = {name: measure(policy, case, options.rounds, options.seed) for name, case in CASES.items()}
    parameters, threads = sum(p.numel() for p in policy.model.parameters()), torch.get_num_threads()
    print(f"{options.preset}, {parameters:,} parameters, vocabulary {policy.vocab_size}, {threads} threads")
    for name, one in found.items():
        print(
            f"{name:30} usual {one['usual_ms']:6.0f} ms, textenv {one['ours_ms']:6.0f} ms, ratio {one['ratio']:.2f} "
            f"({one['tokens']} tokens in {one['places']} places, relative difference {one['difference']:.0e})"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    slow = [name for name, one in found.items() if one["ratio"] < (TARGET if CASES[name].answers > 1 else 1.0)]
    wrong = [name for name, one in found.items() if not one["difference"] < AGREEMENT]
    if options.check and (slow or wrong):
        print(f"FAILED: too slow: {slow}, not the same: {wrong}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
