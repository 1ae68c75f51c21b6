"""Answers to prompts, sampled to their end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from textenv.errors import DataError
from textenv.protocols import GenerativePolicy
from textenv.sampling.params import SamplingParams
from textenv.sampling.sampler import draw, trajectory_uniforms
from textenv.trajectories import Trajectory


def generate(
    policy: GenerativePolicy,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    params: SamplingParams | None = None,
    *,
    n: int = 1,
    seed: int = 0,
    max_batch: int = 256,
) -> list[Trajectory]:
    """Sample answers to prompts.

    Args:
        policy: Samples.
        prompts: Texts, or token ids.
        params: Sampling settings; None samples at temperature 1.
        n: Answers per prompt.
        seed: The answer number j to prompt number i depends on the seed, i and j alone.
        max_batch: Sequences that are decoded side by side.

    Returns:
        ``len(prompts) * n`` trajectories, the answers to one prompt next to each other.

    Raises:
        DataError: If a prompt is empty or leaves no room in the model's context; the message names it.
    """
    params = params or SamplingParams()
    ids = [policy.encode_prompt(p) if isinstance(p, str) else list(p) for p in prompts]
    for number, tokens in enumerate(ids):
        if not tokens:
            raise DataError(f"prompt {number} has no tokens; give it at least one")
        if policy.context_length is not None and len(tokens) + params.max_new_tokens > policy.context_length:
            raise DataError(
                f"prompt {number} has {len(tokens)} tokens; with {params.max_new_tokens} new ones it exceeds the "
                f"model's context of {policy.context_length}; shorten it or lower `max_new_tokens`"
            )
    texts = [p if isinstance(p, str) else policy.tokenizer.decode(list(p)) for p in prompts]
    jobs = [(i, i * n + j) for i in range(len(ids)) for j in range(n)]
    out: list[Trajectory] = []
    for start in range(0, len(jobs), max_batch):
        wave = jobs[start : start + max_batch]
        answers = _decode(policy, [ids[i] for i, _ in wave], params, seed, np.array([number for _, number in wave]))
        for (i, _), (tokens, behaviour, logprobs) in zip(wave, answers, strict=True):
            ended = bool(len(tokens)) and tokens[-1] == policy.tokenizer.eos_token_id
            out.append(
                Trajectory(
                    prompt=texts[i],
                    prompt_ids=np.array(ids[i]),
                    token_ids=tokens,
                    response=policy.tokenizer.decode(tokens[:-1] if ended else tokens, skip_special_tokens=True),
                    behaviour_logprobs=behaviour,
                    logprobs=logprobs,
                    finish_reason="eos" if ended else "length",
                    sampling=vars(params).copy(),
                    seed=seed,
                )
            )
    return out


def _decode(
    policy: GenerativePolicy, prompts: list[list[int]], params: SamplingParams, seed: int, numbers: NDArray[np.int64]
) -> list[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]]:
    """Answers to prompts decoded side by side: token ids, behaviour log-probs and policy log-probs of each."""
    count, steps = len(prompts), params.max_new_tokens
    start = np.array([len(p) for p in prompts])
    tokens = np.zeros((count, int(start.max()) + steps), np.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    lengths = start.copy()
    uniforms = trajectory_uniforms(seed, numbers, steps)
    behaviour, logprobs = np.zeros((2, count, steps), np.float32)
    engine = policy.slot_engine(count, tokens.shape[1])
    running = np.arange(count)
    for step in range(steps):
        logits = engine.logits(tokens[running], lengths[running], running)[:, : policy.vocab_size]
        drawn = draw(logits, params, uniforms[running, step], history=(tokens[running], lengths[running]))
        tokens[running, lengths[running]] = chosen = drawn.tokens.cpu().numpy()
        behaviour[running, step] = drawn.behaviour_logprobs.cpu().numpy()
        logprobs[running, step] = drawn.logprobs.cpu().numpy()
        lengths[running] += 1
        running = running[chosen != policy.tokenizer.eos_token_id]
        if not len(running):
            break
    sizes = lengths - start
    return [
        (tokens[row, start[row] : lengths[row]], behaviour[row, : sizes[row]], logprobs[row, : sizes[row]])
        for row in range(count)
    ]
