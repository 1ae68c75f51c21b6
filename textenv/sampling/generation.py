"""Answers to prompts, sampled to their end.

As many sequences as fit are decoded side by side; where one ends, the next one takes its slot at once. Prompts of
different lengths are not padded to one another, and a prompt with several answers is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textenv.errors import ConfigError, DataError
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
    limits: Sequence[int] | None = None,
    first_prompt: int = 0,
    max_batch: int = 256,
    refill: bool = True,
) -> list[Trajectory]:
    """Sample answers to prompts.

    Args:
        policy: Samples.
        prompts: Texts, or token ids.
        params: Sampling settings; None samples at temperature 1.
        n: Answers per prompt.
        seed: The answer number j to prompt number i depends on the seed, i and j alone (up to the rounding of the
            model's arithmetic, which depends on the batch).
        limits: Length limit of each prompt's answers in tokens, at most ``params.max_new_tokens``; None means that.
        first_prompt: Number of the first of these prompts, where they are part of a longer list.
        max_batch: Sequences that are decoded side by side.
        refill: Whether a slot that is free takes the next prompt at once; else it waits until all have ended.

    Returns:
        ``len(prompts) * n`` trajectories, the answers to one prompt next to each other.

    Raises:
        DataError: If a prompt is empty or leaves no room in the model's context; the message names it.
        ConfigError: If ``n``, ``max_batch`` or a limit is out of its range.
    """
    numbered = stream(
        policy, prompts, params, n=n, seed=seed, limits=limits, first_prompt=first_prompt, max_batch=max_batch
    )
    return [trajectory for _, trajectory in sorted(numbered, key=lambda pair: pair[0])]


def stream(
    policy: GenerativePolicy,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    params: SamplingParams | None = None,
    *,
    n: int = 1,
    seed: int = 0,
    limits: Sequence[int] | None = None,
    first_prompt: int = 0,
    max_batch: int = 256,
    refill: bool = True,
) -> Iterator[tuple[int, Trajectory]]:
    """Like :func:`generate`, but every answer comes as soon as it has ended.

    Yields:
        The answer's place in the list that :func:`generate` returns, and the answer.

    Raises:
        DataError: As :func:`generate` does, at once.
        ConfigError: Likewise.
    """
    params = params or SamplingParams()
    if n < 1 or max_batch < 1:
        raise ConfigError(f"`n` and `max_batch` must be ≥ 1, got {n} and {max_batch}")
    ids = [policy.encode_prompt(p) if isinstance(p, str) else [int(token) for token in p] for p in prompts]
    most = prompt_limits(params, limits, len(ids))
    for number, tokens in enumerate(ids):
        if not tokens:
            raise DataError(f"prompt {number} has no tokens; give it at least one")
        if policy.context_length is not None and len(tokens) + most[number] > policy.context_length:
            raise DataError(
                f"prompt {number} has {len(tokens)} tokens; with {most[number]} new ones it exceeds the "
                f"model's context of {policy.context_length}; shorten it or lower `max_new_tokens`"
            )
    texts = [p if isinstance(p, str) else policy.tokenizer.decode(ids[i]) for i, p in enumerate(prompts)]
    jobs = [
        _Job(i * n + j, i, first_prompt + i + (j << 32), ids[i], most[i]) for i in range(len(ids)) for j in range(n)
    ]
    return _run(policy, texts, jobs, params, seed, max_batch, refill)


class _Job(NamedTuple):
    """One answer to be made: its place in the output, its prompt, the key of its draws, its length limit."""

    place: int
    prompt: int
    key: int
    ids: list[int]
    limit: int


def prompt_limits(params: SamplingParams, limits: Sequence[int] | None, count: int) -> list[int]:
    """Length limit of each prompt's answers, of a list of them or of the settings.

    Raises:
        ConfigError: If there are too many or too few, or one is out of its range.
    """
    if limits is None:
        return [params.max_new_tokens] * count
    if len(limits) != count:
        raise ConfigError(f"`limits` has {len(limits)} entries for {count} prompts")
    for number, limit in enumerate(limits):
        if not 1 <= limit <= params.max_new_tokens:
            raise ConfigError(f"`limits[{number}]` must lie in 1…max_new_tokens = {params.max_new_tokens}, got {limit}")
    return [int(limit) for limit in limits]


def _run(
    policy: GenerativePolicy,
    texts: list[str],
    jobs: list[_Job],
    params: SamplingParams,
    seed: int,
    max_batch: int,
    refill: bool,
) -> Iterator[tuple[int, Trajectory]]:
    """Decode all jobs in ``max_batch`` slots, the next job in the first slot that is free."""
    if not jobs:
        return
    count = min(max_batch, len(jobs))
    room, steps = max(len(job.ids) + job.limit for job in jobs), max(job.limit for job in jobs)
    eos = -1 if policy.tokenizer.eos_token_id is None else policy.tokenizer.eos_token_id
    tokens = np.zeros((count, room), np.int64)
    start, lengths, ends = np.zeros((3, count), np.int64)
    engine: Any = policy.slot_engine(count, room)
    if hasattr(engine, "prompt_lengths"):  # an encoder-decoder has to know where the answer begins
        engine.prompt_lengths = start
    uniforms = np.zeros((count, steps))
    behaviour, logprobs = np.zeros((2, count, steps), np.float32)
    held: list[_Job | None] = [None] * count
    waiting = iter(jobs)
    free = np.arange(count)
    while True:
        if not refill:
            free = np.arange(count if all(job is None for job in held) else 0)
        for row, job in zip(free, waiting, strict=False):  # `free` first: a job must not be taken for nothing
            held[row], size = job, len(job.ids)
            tokens[row, :size] = job.ids
            start[row], lengths[row], ends[row] = size, size, size + job.limit
            uniforms[row] = trajectory_uniforms(seed, np.array([job.key]), steps)[0]
        running = np.flatnonzero([job is not None for job in held])
        if not len(running):
            return
        step = lengths[running] - start[running]
        logits = engine.logits(tokens[running], lengths[running], running)[:, : policy.vocab_size]
        drawn = draw(logits, params, uniforms[running, step], history=(tokens[running], lengths[running]))
        chosen = drawn.tokens.cpu().numpy()
        tokens[running, lengths[running]] = chosen
        behaviour[running, step] = drawn.behaviour_logprobs.cpu().numpy()
        logprobs[running, step] = drawn.logprobs.cpu().numpy()
        lengths[running] += 1
        free = running[(chosen == eos) | (lengths[running] == ends[running])]
        for row in free:
            job, held[row] = held[row], None
            assert job is not None
            size = lengths[row] - start[row]
            yield (
                job.place,
                _trajectory(
                    policy,
                    texts[job.prompt],
                    tokens[row, : lengths[row]].copy(),
                    int(start[row]),
                    behaviour[row, :size].copy(),
                    logprobs[row, :size].copy(),
                    params,
                    seed,
                ),
            )


def _trajectory(
    policy: GenerativePolicy,
    prompt: str,
    tokens: NDArray[np.int64],
    start: int,
    behaviour: NDArray[np.float32],
    logprobs: NDArray[np.float32],
    params: SamplingParams,
    seed: int,
) -> Trajectory:
    answer = tokens[start:]
    ended = answer[-1] == policy.tokenizer.eos_token_id
    return Trajectory(
        prompt=prompt,
        prompt_ids=tokens[:start],
        token_ids=answer,
        response=policy.tokenizer.decode(answer[:-1] if ended else answer, skip_special_tokens=True),
        behaviour_logprobs=behaviour,
        logprobs=logprobs,
        finish_reason="eos" if ended else "length",
        sampling=vars(params).copy(),
        seed=seed,
    )
