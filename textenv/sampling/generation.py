"""Answers to prompts, sampled to their end.

As many sequences as fit are decoded side by side; where one ends, the next one takes its slot at once. Prompts of
different lengths are not padded to one another, and a prompt with several answers is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from textenv.answers import Answers, answers_of
from textenv.errors import ConfigError, DataError
from textenv.prompts import as_prompt
from textenv.protocols import GenerativePolicy
from textenv.sampling.params import SamplingParams, SettledParams, settle
from textenv.sampling.sampler import draw, trajectory_uniforms
from textenv.trajectory import Trajectory

Prompts = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | Sequence[Any]
"""Texts, lists of token ids, conversations, or one of these."""


def generate(
    policy: GenerativePolicy,
    prompts: Prompts,
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
        prompts: Texts, token ids, or conversations; a single one is a list of one.
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
    prompts: Prompts,
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
    params, answers = settle(policy, params)
    if n < 1 or max_batch < 1:
        raise ConfigError(f"`n` and `max_batch` must be ≥ 1, got {n} and {max_batch}")
    listed = as_prompts(prompts)
    most = prompt_limits(params, limits, len(listed))
    encoded = encode_prompts(policy, listed, most)
    jobs = [
        _Job(i * n + j, i, first_prompt + i + (j << 32), ids, most[i])
        for i, ids in enumerate(encoded.ids)
        for j in range(n)
    ]
    return _run(policy, answers, encoded.texts, jobs, params, seed, max_batch, refill)


class EncodedPrompts(NamedTuple):
    """Prompts as texts and as token ids."""

    texts: list[str]
    ids: list[list[int]]


def as_prompts(prompts: Prompts) -> Sequence[Any]:
    """A list of prompts; one text, one list of token ids or one conversation is a list of one."""
    if isinstance(prompts, str):
        return [prompts]
    first: Any = prompts[0] if len(prompts) else None
    alone = isinstance(first, (int, np.integer)) or (isinstance(first, Mapping) and "role" in first)
    return [prompts] if alone else prompts


def encode_prompts(policy: Any, prompts: Sequence[Any], limits: Sequence[int]) -> EncodedPrompts:
    """Texts and token ids of prompts.

    Args:
        policy: Reads them: ``encode_prompt``, ``vocab_size``, ``context_length`` and ``tokenizer`` of a
            :class:`textenv.protocols.GenerativePolicy`.
        prompts: Texts, token ids, conversations, or what else :func:`textenv.prompts.as_prompt` takes.
        limits: Length limit of each one's answers.

    Raises:
        DataError: If one is empty, holds ids that the policy does not have, or leaves no room in the model's context;
            the message names it.
    """
    encoded = EncodedPrompts([], [])
    for number, (item, limit) in enumerate(zip(prompts, limits, strict=True)):
        prompt = as_prompt(item, f"prompt {number}")
        if prompt.ids is not None:
            ids = list(prompt.ids)
        elif prompt.messages is not None:
            ids = answers_of(policy).encode_prompt(prompt.messages, f"prompt {number}").ids
        else:
            ids = list(policy.encode_prompt(prompt.text or ""))
        if not ids:
            raise DataError(f"prompt {number} has no tokens; give it at least one")
        if not 0 <= min(ids) <= max(ids) < policy.vocab_size:
            raise DataError(
                f"prompt {number} contains the id {next(i for i in ids if not 0 <= i < policy.vocab_size)}; the policy "
                f"has the tokens 0 … {policy.vocab_size - 1}"
            )
        if policy.context_length is not None and len(ids) + limit > policy.context_length:
            raise DataError(
                f"prompt {number} has {len(ids)} tokens; with {limit} new ones it exceeds the model's context of "
                f"{policy.context_length}; shorten it or lower `max_new_tokens`"
            )
        encoded.texts.append(prompt.text if prompt.text is not None else policy.tokenizer.decode(ids))
        encoded.ids.append(ids)
    return encoded


class _Job(NamedTuple):
    """One answer to be made: its place in the output, its prompt, the key of its draws, its length limit."""

    place: int
    prompt: int
    key: int
    ids: list[int]
    limit: int


def prompt_limits(params: SettledParams, limits: Sequence[int] | None, count: int) -> list[int]:
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
    answers: Answers,
    texts: list[str],
    jobs: list[_Job],
    params: SettledParams,
    seed: int,
    max_batch: int,
    refill: bool,
) -> Iterator[tuple[int, Trajectory]]:
    """Decode all jobs in ``max_batch`` slots, the next job in the first slot that is free."""
    if not jobs:
        return
    count = min(max_batch, len(jobs))
    room, steps = max(len(job.ids) + job.limit for job in jobs), max(job.limit for job in jobs)
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
        history = (tokens[running], lengths[running])
        allowed = may_end(answers, step, logits)
        drawn = draw(logits, params, uniforms[running, step], allowed=allowed, history=history)
        chosen = drawn.tokens.cpu().numpy()
        tokens[running, lengths[running]] = chosen
        behaviour[running, step] = drawn.behaviour_logprobs.cpu().numpy()
        logprobs[running, step] = drawn.logprobs.cpu().numpy()
        lengths[running] += 1
        reasons = finish_reasons(answers, tokens, start, lengths, running)
        over = np.array([reason is not None for reason in reasons]) | (lengths[running] == ends[running])
        free = running[over]
        for row, reason in zip(free, (reasons[i] for i in np.flatnonzero(over)), strict=True):
            job, held[row] = held[row], None
            assert job is not None
            size = lengths[row] - start[row]
            yield (
                job.place,
                make_trajectory(
                    answers,
                    texts[job.prompt],
                    tokens[row, : lengths[row]].copy(),
                    int(start[row]),
                    behaviour[row, :size].copy(),
                    logprobs[row, :size].copy(),
                    reason,
                    params,
                    seed,
                ),
            )


def may_end(answers: Answers, sizes: NDArray[np.int64], logits: torch.Tensor) -> torch.Tensor | None:
    """Masks ``(B, V)`` without end tokens where answers of these sizes are too short to end; None where none is."""
    early = sizes < answers.format.min_new_tokens
    if not early.any() or not answers.format.eos_token_ids:
        return None
    allowed = np.ones(logits.shape, np.bool_)
    for token in answers.format.eos_token_ids:
        if token < logits.shape[1]:
            allowed[early, token] = False
    return torch.as_tensor(allowed, device=logits.device)


def finish_reasons(
    answers: Answers,
    tokens: NDArray[np.int64],
    start: NDArray[np.int64],
    lengths: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> list[str | None]:
    """Why rows end with their last token, ``"eos"`` or ``"stop"``; None where they go on.

    Args:
        answers: What ends an answer.
        tokens: Prompts and answers, shape ``(N, L)``.
        start: Length of each prompt, shape ``(N,)``.
        lengths: Of prompt and answer, shape ``(N,)``.
        rows: Which rows, shape ``(k,)``.
    """
    last = tokens[rows, lengths[rows] - 1]
    reasons: list[str | None] = ["eos" if ended else None for ended in answers.is_eos[last].tolist()]
    if answers.stops is not None:
        for i, row in enumerate(rows):
            reasons[i] = answers.finish(tokens[row, start[row] : lengths[row]], tokens[row, : start[row]])
    return reasons


def make_trajectory(
    answers: Answers,
    prompt: str,
    tokens: NDArray[np.int64],
    start: int,
    behaviour: NDArray[np.float32],
    logprobs: NDArray[np.float32],
    reason: str | None,
    params: SettledParams,
    seed: int,
) -> Trajectory:
    """The record of an answer, its text made of its tokens in their place; no reason means the length limit."""
    return Trajectory(
        prompt=prompt,
        prompt_ids=tokens[:start],
        token_ids=tokens[start:],
        response=answers.answer_text(tokens[:start], tokens[start:]),
        behaviour_logprobs=behaviour,
        logprobs=logprobs,
        finish_reason=reason or "length",
        sampling=vars(params).copy(),
        seed=seed,
    )
