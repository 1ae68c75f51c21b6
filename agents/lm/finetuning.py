"""Stage two: supervised fine-tuning on demonstrations, cross-entropy on the answer tokens only.

A demonstration is a prompt with a response, or a conversation in which every turn of the assistant is learned. Each
carries its task and its source (InstructGPT's were labelers, who wrote question and answer, and users, whose prompts
labelers answered), and either can be weighted or left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from agents.lm.chat import conversation_example, default_chat_template
from agents.lm.in_memory import Example, LMConfig, train_lm
from agents.lm.samples import sample_writer
from textenv.answers import AnswerFormat, Answers, Message
from textenv.corpora.mixture import mixture_shares
from textenv.errors import ConfigError, DataError
from textenv.runs import Run


class DemonstrationLike(Protocol):
    """A prompt and the answer that a person wrote; ``source`` and ``task`` are read where it has them."""

    @property
    def prompt(self) -> str:
        """What was asked."""
        ...

    @property
    def response(self) -> str:
        """What the person answered."""
        ...


class ConversationLike(Protocol):
    """A conversation in which the assistant's turns are to be learned; ``source`` and ``task`` as above."""

    @property
    def messages(self) -> Sequence[Message]:
        """``{"role", "content"}``."""
        ...


@dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning.

    Attributes:
        training: Steps, rates, batch size, loss reduction, NEFTune.
        packing: Put several examples into a row of the context's length, none seeing another; else each has its own.
        weights: Share of examples drawn from each task; empty takes sizes and temperature.
        temperature: T of p ∝ n^(1/T) with n a task's examples: 1 is proportional, large T is uniform.
        sources: Share of each source among the examples of a task, such as ``{labelers: 1, users: 3}``; 0 leaves it
            out, empty takes them as they come.
        lora_rank: Rank of an adapter on every linear layer, which alone is trained and then merged; 0 trains all
            weights.
        samples: Held-out prompts that are answered at every evaluation, into ``generations.jsonl``.
        max_new_tokens: Length limit of those answers.

    Raises:
        ConfigError: If a number is out of its range.
    """

    training: LMConfig = field(
        default_factory=lambda: LMConfig(steps=300, batch_size=64, learning_rate=5e-4, warmup_steps=20, eval_every=50)
    )
    packing: bool = False
    weights: dict[str, float] = field(default_factory=dict)
    temperature: float = 1.0
    sources: dict[str, float] = field(default_factory=dict)
    lora_rank: int = 0
    samples: int = 0
    max_new_tokens: int = 48

    def __post_init__(self) -> None:
        for name, least in (("lora_rank", 0), ("samples", 0), ("max_new_tokens", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"`{name}` must be ≥ {least}, got {getattr(self, name)}")
        if not self.temperature > 0:
            raise ConfigError(f"`temperature` must be positive, got {self.temperature}")
        for name in ("weights", "sources"):
            given = getattr(self, name)
            if given and (min(given.values()) < 0 or not any(given.values())):
                raise ConfigError(f"`{name}` must be ≥ 0 and not all 0, got {given}")


class Prepared(NamedTuple):
    """Demonstrations as examples.

    Attributes:
        examples: Of each group: everything (``sft``), a task, or ``task/source`` where sources are weighted.
        left_out: For each demonstration that the context would cut off, what it is and how long.
        sources: Examples of each source.
    """

    examples: dict[str, list[Example]]
    left_out: list[str]
    sources: dict[str, int]


def prepare(
    demonstrations: Sequence[DemonstrationLike | ConversationLike],
    tokenizer: Any,
    context: int,
    sources: Mapping[str, float] | None = None,
    *,
    by_task: bool = False,
    answer: AnswerFormat | None = None,
) -> Prepared:
    """Demonstrations of any kind as examples, in groups; those that the context would cut off are left out.

    Args:
        demonstrations: Prompts with answers, conversations, or both.
        tokenizer: The policy's; conversations need a chat template.
        context: Longest sequence in tokens.
        sources: Share of each source, 0 leaves it out; empty or None keeps all together.
        by_task: Make a group of each task; else there is one, ``sft``.
        answer: What an answer is; None takes what is declared for the tokenizer.

    Raises:
        ConfigError: If the shares of sources do not name those of the demonstrations.
        DataError: If a conversation has no answer.
    """
    present = sorted({_source(record) for record in demonstrations})
    if sources and not set(present) <= set(sources):
        raise ConfigError(f"`sources` names {sorted(sources)}, the demonstrations come from {present}")
    kept = [record for record in demonstrations if not sources or sources[_source(record)] > 0]
    prepared = Prepared({}, [], Counter())
    for record, example in zip(kept, _encoded(kept, Answers(tokenizer, answer)), strict=True):
        source, task = _source(record), (getattr(record, "task", "") if by_task else "") or "sft"
        if len(example.tokens) > context:
            start = tokenizer.decode(example.tokens[: example.prompt_length], skip_special_tokens=True)[:60]
            prepared.left_out.append(f"{task}, {source or 'no source'}: {start!r} ({len(example.tokens)} tokens)")
            continue
        prepared.sources[source] = prepared.sources.get(source, 0) + 1
        prepared.examples.setdefault(f"{task}/{source}" if sources else task, []).append(example)
    return prepared


def _source(record: Any) -> str:
    return getattr(record, "source", "")


def _encoded(records: Sequence[Any], answers: Answers) -> list[Example]:
    """An example of each record, in their order."""
    plain = [] if answers.format.chat else [record for record in records if not hasattr(record, "messages")]
    prompts = answers.encode_prompts([record.prompt for record in plain])
    responses = answers.encode_responses(prompts, [record.response for record in plain])
    known = iter(zip(prompts, responses, strict=True))
    examples = []
    for record in records:
        messages = getattr(record, "messages", None)
        if messages is None and answers.format.chat:
            messages = [{"role": "user", "content": record.prompt}, {"role": "assistant", "content": record.response}]
        if messages is not None:
            examples.append(conversation_example(messages, answers.tokenizer, answers.format))
            continue
        prompt, response = next(known)
        examples.append(Example(np.array([*prompt.ids, *response]), prompt_length=len(prompt.ids)))
    return examples


def group_shares(sizes: Mapping[str, int], config: SFTConfig) -> dict[str, float] | None:
    """Share of examples drawn from each group; None where they come in proportion to their number.

    Args:
        sizes: Examples of each group, ``task`` or ``task/source``.
        config: Weights, temperature and sources.

    Raises:
        ConfigError: If the weights name other tasks.
    """
    if not config.weights and not config.sources and config.temperature == 1.0:
        return None
    tasks: dict[str, dict[str, int]] = {}
    for group, size in sizes.items():
        task, _, source = group.rpartition("/") if config.sources else (group, "", "")
        tasks.setdefault(task, {})[source] = size
    of_tasks = mixture_shares(
        {task: sum(by_source.values()) for task, by_source in tasks.items()}, config.weights, config.temperature
    )
    shares = {}
    for (task, by_source), share in zip(tasks.items(), of_tasks, strict=True):
        if not config.sources:
            shares[task] = float(share)
            continue
        total = sum(config.sources[source] for source in by_source)
        shares |= {f"{task}/{source}": float(share) * config.sources[source] / total for source in by_source}
    return shares


def sft(
    model: Any,
    tokenizer: Any,
    demonstrations: Sequence[DemonstrationLike | ConversationLike],
    validation: Sequence[DemonstrationLike | ConversationLike],
    config: SFTConfig,
    *,
    by_task: bool = False,
    run: Run | None = None,
    answer: AnswerFormat | None = None,
) -> dict[str, Any]:
    """Fine-tune a language model to answer.

    Args:
        model: Transformers causal LM, trained in place.
        tokenizer: Its tokenizer; given a default chat template if it has none and conversations need one.
        demonstrations: Training demonstrations.
        validation: Held-out demonstrations.
        config: Settings.
        by_task: Keep tasks apart, for weights, temperature and a held-out loss of each; else all are one.
        run: Logs, progress, checkpoints and resume.
        answer: What an answer is (:func:`agents.lm.chat.taught_format` says what it becomes by conversations); None
            takes what is declared for the tokenizer.

    Returns:
        Held-out ``loss`` (nats per answer token, mean over tasks), ``perplexity``, ``left_out`` (demonstrations that
        the context would cut off), ``examples`` of each source, and with several tasks ``losses`` of each.

    Raises:
        DataError: If no demonstration fits the context.
        ConfigError: If weights or sources do not fit the demonstrations.
    """
    if tokenizer.chat_template is None and any(hasattr(d, "messages") for d in (*demonstrations, *validation)):
        tokenizer.chat_template = default_chat_template(tokenizer)
    context = model.config.max_position_embeddings
    prepared = prepare(demonstrations, tokenizer, context, config.sources, by_task=by_task, answer=answer)
    held_out = prepare(validation, tokenizer, context, by_task=by_task, answer=answer)
    if not prepared.examples or not held_out.examples:
        raise DataError(f"no demonstration fits the model's context of {context} tokens; use a model with a longer one")
    _report(prepared.left_out + held_out.left_out, len(demonstrations) + len(validation), context, run)
    shares = group_shares({group: len(examples) for group, examples in prepared.examples.items()}, config)
    training = config.training
    writer = None
    if config.samples and run is not None:
        writer = sample_writer(
            held_out.examples,
            tokenizer,
            run,
            "sft",
            count=config.samples,
            max_new_tokens=config.max_new_tokens,
            seed=training.seed,
            answer=answer,
        )
    losses = train_lm(
        model,
        {group: examples for group, examples in prepared.examples.items() if shares is None or shares[group] > 0},
        held_out.examples,
        training,
        weights=None if shares is None else {group: share for group, share in shares.items() if share > 0},
        packed_length=context if config.packing else 0,
        on_evaluate=writer,
        run=run,
        stage="sft",
    )
    loss = sum(losses.values()) / len(losses)
    summary = {"loss": loss, "perplexity": math.exp(loss), "left_out": len(prepared.left_out)}
    summary |= {"left_out_held_out": len(held_out.left_out), "examples": dict(prepared.sources)}
    return summary if len(losses) == 1 else summary | {"losses": losses}


def _report(left_out: Sequence[str], total: int, context: int, run: Run | None) -> None:
    """Say which demonstrations are not used, since half an answer would teach to stop anywhere."""
    if left_out and run is not None:
        shown = "; ".join(left_out[:3]) + ("; …" if len(left_out) > 3 else "")
        run.say(
            f"{'sft':<12} {len(left_out)} of {total} demonstrations exceed the context of {context} tokens and are "
            f"left out: {shown}"
        )
