"""What a model answers while it is trained: a few held-out prompts, written down at every evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agents.lm.batches import Example
from agents.policy import CausalLMPolicy
from textenv.answers import AnswerFormat
from textenv.checkpoints import write_atomic
from textenv.runs import Run
from textenv.sampling.params import SamplingParams

FILE = "generations.jsonl"


def sample_writer(
    held_out: Mapping[str, Sequence[Example]],
    tokenizer: Any,
    run: Run,
    stage: str,
    *,
    count: int,
    max_new_tokens: int,
    seed: int,
    answer: AnswerFormat | None = None,
) -> Callable[[int, Any], None]:
    """A function of step and model that adds answers to ``<stage>/generations.jsonl``.

    Args:
        held_out: Examples of each task; prompts are taken in turn from one task after the other.
        tokenizer: Of the model.
        run: Its folder is written to; what a resumed run generates again is replaced.
        stage: Name of the stage.
        count: Prompts.
        max_new_tokens: Length limit of an answer.
        seed: Of the answers, sampled at temperature 0.7.
        answer: What an answer is; None takes what tokenizer and model say.
    """
    chosen = _in_turn(held_out, count)
    file = run.stage(stage) / FILE

    def write(step: int, model: Any) -> None:
        policy = CausalLMPolicy(model, tokenizer, answer=answer)
        context = policy.context_length or 10**9
        prompts = [example.tokens[: example.prompt_length].tolist() for _, example in chosen]
        limits = [max(1, min(max_new_tokens, context - len(prompt))) for prompt in prompts]
        sampling = SamplingParams(0.7, max_new_tokens=max_new_tokens)
        given = policy.generate(prompts, sampling, seed=seed, limits=limits)
        lines = [line for line in _lines(file) if json.loads(line)["step"] < step]
        for (task, example), prompt, said in zip(chosen, prompts, given, strict=True):
            record = {"step": step, "task": task, "prompt": tokenizer.decode(prompt, skip_special_tokens=True)}
            reference = policy.answers.text(prompt, example.tokens[example.prompt_length :].tolist())
            record |= {"response": said.response, "finish": said.finish_reason, "reference": reference}
            lines.append(json.dumps(record, ensure_ascii=False))
        write_atomic(file, "\n".join(lines) + "\n")

    return write


def _lines(file: Any) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def _in_turn(held_out: Mapping[str, Sequence[Example]], count: int) -> list[tuple[str, Example]]:
    """The first examples of each task, one task after the other, until there are enough."""
    deepest = max(len(examples) for examples in held_out.values())
    every = [(task, held_out[task][i]) for i in range(deepest) for task in held_out if i < len(held_out[task])]
    return every[:count]
