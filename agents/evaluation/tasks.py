"""Does a model answer? Policies on the held-out prompts of tasks: form, accuracy, going on, length, likelihood, KL.

Every policy gets the same prompts and the same draws, so that the stages of one model can be laid side by side. What is
measured per answer stays in the result: intervals, tables and pictures are made of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_types import Gt

from agents.evaluation import SequenceEvaluator, TokenMasks, sequence_logprobs
from agents.policy import CausalLMPolicy
from textenv.datasets.rated_texts import Split
from textenv.errors import ConfigError, DataError
from textenv.sampling.params import SamplingParams, settle
from textenv.settings import PositiveInt, Settings
from textenv.statistics import ClusterBootstrap, Interval, Resampled, cluster_numbers
from textenv.tasks import Item, Task
from textenv.trajectories import Trajectory

MEASURES = (
    "answered",
    "accuracy",
    "greedy_accuracy",
    "goes_on",
    "tokens",
    "eos",
    "reference_logprob",
    "kl",
)
"""What is measured of each answer; ``answered``, both accuracies and ``goes_on`` only where a task has a verifier."""

_SHARES = ("answered", "accuracy", "greedy_accuracy", "goes_on", "eos")


@dataclass(frozen=True)
class EvaluationConfig(Settings):
    """How models are measured on tasks.

    Attributes:
        split: Whose prompts: ``test`` unless something is tuned.
        prompts: Most prompts of each task.
        max_new_tokens: Length limit of an answer; one that reaches it counts as no answer.
        temperature: Of the draws; accuracy is also measured on greedy answers.
        reference: Model that the KL of those after it is measured against; empty measures none.

    Raises:
        ConfigError: If a number is out of its range.
    """

    split: Split = "test"
    prompts: PositiveInt = 200
    max_new_tokens: PositiveInt = 32
    temperature: Annotated[float, Gt(0), "greedy accuracy is measured anyway"] = 1.0
    reference: str = "sft"


class Asked(NamedTuple):
    """One held-out prompt.

    Attributes:
        task: Its task.
        item: Question and answers.
        prompt: As the policy sees it.
        reference: The first accepted answer in the asked form.
    """

    task: Task
    item: Item
    prompt: str
    reference: str


class Answer(NamedTuple):
    """What a policy said to a prompt, and what was found.

    Attributes:
        response: The text.
        finish: ``eos`` or ``length``.
        figures: By the names of :data:`MEASURES`; shares are 0 or 1, ``reference_logprob`` is in nats per token of the
            reference answer with its end token, ``kl`` log π(answer) − log π_ref(answer) in nats.
    """

    response: str
    finish: str
    figures: dict[str, float]


def held_out(tasks: Sequence[Task], split: Split = "test", per_task: int = 200) -> list[Asked]:
    """The first prompts of each task's split.

    Args:
        tasks: Tasks with answers; their names differ.
        split: Which items.
        per_task: Most prompts of each task.

    Raises:
        DataError: If a task has no questions with answers in this split.
        ConfigError: If two tasks have the same name, or ``per_task`` is below 1.
    """
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise ConfigError(f"tasks need different names, got {', '.join(names)}")
    if per_task < 1:
        raise ConfigError(f"`per_task` must be ≥ 1, got {per_task}")
    questions = []
    for task in tasks:
        items = [item for item in task.split(split) if item.answers][:per_task]
        if not items:
            raise DataError(f"task {task.name!r} has no questions with answers in the {split} split")
        form = task.format
        questions += [Asked(task, item, form.ask(item.question), form.answer(item.answers[0])) for item in items]
    return questions


def answer_tasks(
    policy: CausalLMPolicy,
    questions: Sequence[Asked],
    *,
    reference: SequenceEvaluator | None = None,
    sampling: SamplingParams | None = None,
    seed: int = 0,
) -> list[Answer]:
    """Let a policy answer held-out prompts and measure every answer.

    An answer that the length limit cut off counts as no answer, as it does in :class:`textenv.tasks.TaskReward`.

    Args:
        policy: Answers.
        questions: The prompts.
        reference: For the KL; None leaves it out.
        sampling: Settings, the same for all policies that are compared; ``greedy_accuracy`` only takes the length.
        seed: Of the draws.

    Raises:
        ConfigError: If a reference is given and the sampling does more than divide the logits by a temperature.
        DataError: If a prompt leaves no room for an answer in the model's context.
    """
    sampling, _ = settle(policy, sampling)
    if reference is not None and (not sampling.stochastic or sampling.truncates or sampling.repetition_penalty != 1):
        raise ConfigError("a KL needs answers that are drawn plainly: give a temperature alone, or no reference")
    prompts = [_asked_as(one, policy) for one in questions]
    drawn = policy.generate(prompts, sampling, seed=seed)
    likeliest = policy.generate(prompts, SamplingParams(0.0, max_new_tokens=sampling.max_new_tokens), seed=seed)
    log_likelihood = _reference_logprobs(policy, questions, drawn)
    kl = None
    if reference is not None:
        masks = TokenMasks.of(sampling, policy.vocabulary)
        ours = sequence_logprobs(policy, drawn, temperature=sampling.temperature, masks=masks)
        theirs = sequence_logprobs(reference, drawn, temperature=sampling.temperature, masks=masks)
        kl = [float((a - b).astype(np.float64).sum()) for a, b in zip(ours, theirs, strict=True)]
    answers = []
    for i, one in enumerate(questions):
        figures = _judged(one, drawn[i]) | {
            "tokens": float(len(drawn[i])),
            "eos": float(drawn[i].finish_reason in ("eos", "stop")),
            "reference_logprob": log_likelihood[i],
        }
        if one.task.verifier is not None:
            figures["greedy_accuracy"] = _judged(one, likeliest[i])["accuracy"]
        if kl is not None:
            figures["kl"] = kl[i]
        answers.append(Answer(drawn[i].response, str(drawn[i].finish_reason), figures))
    return answers


def _asked_as(question: Asked, policy: CausalLMPolicy) -> str:
    """The prompt in the task's form; the question alone for a policy that was taught by conversations."""
    return question.item.question if policy.answer.chat else question.prompt


def _judged(question: Asked, answer: Trajectory) -> dict[str, float]:
    """The verifier's word on an answer; nothing where there is no verifier."""
    if question.task.verifier is None:
        return {}
    verdict = question.task.verify(question.item, answer.response)
    ended = answer.finish_reason != "length"
    answered = ended and verdict.answer is not None
    return {
        "answered": float(answered),
        "accuracy": verdict.score if answered else 0.0,
        "goes_on": float(question.task.format.goes_on(answer.response)),
    }


def _reference_logprobs(
    policy: CausalLMPolicy, questions: Sequence[Asked], answers: Sequence[Trajectory]
) -> list[float]:
    """Log-probability of the reference answer and its end token, nats per token."""
    read = policy.answers.encode_prompts([_asked_as(one, policy) for one in questions])
    ends = bool(policy.answer.eos_token_ids)
    encoded = policy.answers.encode_responses(read, [one.reference for one in questions], end=ends)
    given = []
    for one, ids, answer in zip(questions, encoded, answers, strict=True):
        room = (policy.context_length or 10**9) - len(answer.prompt_ids)
        tokens = np.array(ids[:room])
        given.append(
            Trajectory(
                prompt=one.prompt,
                prompt_ids=answer.prompt_ids,
                token_ids=tokens,
                response=one.reference,
                behaviour_logprobs=np.zeros(len(tokens), np.float32),
                logprobs=np.zeros(len(tokens), np.float32),
                finish_reason="eos",
            )
        )
    return [float(row.astype(np.float64).mean()) for row in sequence_logprobs(policy, given, temperature=1.0)]


def summarize_answers(
    questions: Sequence[Asked], answers: Sequence[Answer], *, seed: int = 0
) -> dict[str, dict[str, Interval]]:
    """Figures of each task, and under ``mean`` the mean over tasks, with bootstrap intervals over prompts.

    Args:
        questions: The prompts.
        answers: One to each.
        seed: Of the resamples; the mean resamples within the tasks.

    Returns:
        ``{task: {measure: figure}}``; a measure that a task does not have is left out, and out of the mean too.
    """
    rng = np.random.default_rng(seed)
    figures: dict[str, dict[str, Interval]] = {}
    resampled: dict[str, list[Resampled]] = {}
    places: dict[str, list[int]] = {}
    for place, one in enumerate(questions):
        places.setdefault(one.task.name, []).append(place)
    for name, rows in places.items():
        bootstrap = ClusterBootstrap(cluster_numbers([questions[i].prompt for i in rows], len(rows)), rng)
        figures[name] = {}
        for measure in MEASURES:
            values = [answers[i].figures[measure] for i in rows if measure in answers[i].figures]
            if len(values) == len(rows):
                means = bootstrap.item_mean(values)
                figures[name][measure] = means.interval(_bounds(measure))
                resampled.setdefault(measure, []).append(means)
    mean = {measure: Resampled.mean(means).interval(_bounds(measure)) for measure, means in resampled.items()}
    return figures | {"mean": mean}


def _bounds(measure: str) -> tuple[float, float] | None:
    return (0.0, 1.0) if measure in _SHARES else None


def answer_records(questions: Sequence[Asked], answers: Mapping[str, Sequence[Answer]]) -> list[dict[str, Any]]:
    """One object per prompt with every model's answer, as ``answers.jsonl`` holds them.

    Args:
        questions: The prompts.
        answers: Each model's answers, in the order of the prompts.
    """
    records = []
    for i, one in enumerate(questions):
        record: dict[str, Any] = {"task": one.task.name, "prompt": one.prompt, "reference": one.reference}
        for model, given in answers.items():
            figures = {name: round(value, 4) for name, value in given[i].figures.items()}
            record[model] = {"response": given[i].response, "finish": given[i].finish, **figures}
        records.append(record)
    return records
