"""Stage one: a tokenizer and a causal LM, from scratch or continued, on several tasks at once.

Two ways of giving texts: :func:`pretrain` takes lists and pads each text, :func:`pretrain_on_tasks` takes tasks, writes
token files, packs documents into full blocks and mixes tasks by tokens, whatever the size of the corpus.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from agents.lm.batches import check_packing
from agents.lm.corpus import CorpusBatches, HeldOutText, evaluate_corpus, mixture_texts, open_corpus
from agents.lm.in_memory import Example, LMConfig, train_lm
from agents.lm.loop import LanguageModeling
from agents.lm.models import BOS, EOS, PAD, PRESETS, ModelConfig, build_model, train_tokenizer
from textenv.corpora import Mixture, MixtureConfig, TokenFile
from textenv.datasets.rated_texts import Split
from textenv.errors import ConfigError, DataError
from textenv.runs import Run
from textenv.training.world import World

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "PRESETS",
    "ModelConfig",
    "PretrainConfig",
    "build_model",
    "pretrain",
    "pretrain_on_tasks",
    "text_examples",
    "train_tokenizer",
]

_TOKENIZER_BYTES = 20_000_000  # of text that a tokenizer is trained on
_HELD_OUT_BLOCKS = 64  # of each task, while training; all of them at the end


class TextTask(Protocol):
    """What pre-training needs of a task; :class:`textenv.tasks.Task` is one."""

    @property
    def name(self) -> str:
        """Unique among the tasks."""
        ...

    def documents(self, split: Split, /) -> Iterable[str]:
        """Texts of a split."""
        ...


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-training.

    Attributes:
        model: Size of the model.
        training: Steps, rates, batch size.
        weights: Share of each task; empty means proportional to sizes. Counted in texts where texts are given as lists;
            with tasks, the short form of ``mixture.weights``, counted in tokens.
        mixture: Where tasks are given: their shares by weights or temperature, fixed or on a schedule.
        block_length: Tokens of a packed block; 0 takes the model's context.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    training: LMConfig = field(default_factory=lambda: LMConfig(steps=1000, batch_size=64, learning_rate=3e-3))
    weights: dict[str, float] = field(default_factory=dict)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    block_length: int = 0

    def __post_init__(self) -> None:
        if self.block_length and not 2 <= self.block_length <= self.model.context:
            raise ConfigError(
                f"`block_length` must lie between 2 and the context ({self.model.context}), got {self.block_length}"
            )
        if self.weights and (self.mixture.weights or self.mixture.schedule):
            raise ConfigError("give the shares of tasks once: in `weights`, or in `mixture`")


def text_examples(texts: Sequence[str], tokenizer: Any, context: int) -> list[Example]:
    """Whole texts as examples: begin token, text, end token; loss on everything after the begin token.

    Args:
        texts: One document each.
        tokenizer: Puts the begin token in front.
        context: Longest sequence in tokens; the rest of a longer text is left out.
    """
    examples = []
    for ids in tokenizer(list(texts))["input_ids"]:
        kept = [*ids, tokenizer.eos_token_id][:context]
        examples.append(Example(np.array(kept), prompt_length=1))
    return examples


def pretrain(
    texts: Mapping[str, Sequence[str]],
    validation: Mapping[str, Sequence[str]],
    config: PretrainConfig,
    *,
    run: Run | None = None,
) -> tuple[Any, Any, dict[str, Any]]:
    """Train a tokenizer and a language model on several tasks.

    Args:
        texts: Training texts of each task.
        validation: Held-out texts of each task.
        config: Settings.
        run: Logs, progress, checkpoints and resume.

    Returns:
        The model, its tokenizer, and a summary: per task loss (nats per token) and perplexity, parameters, tokens.

    Raises:
        DataError: If the two sets of tasks differ.
    """
    if set(texts) != set(validation):
        raise DataError(f"training tasks {sorted(texts)} and validation tasks {sorted(validation)} differ")
    every = (text for task in sorted(texts) for text in texts[task])
    tokenizer = train_tokenizer(every, config.model.vocab_size, split_digits=config.model.split_digits)
    model = build_model(config.model, tokenizer, config.training.seed)
    examples = {task: text_examples(texts[task], tokenizer, config.model.context) for task in texts}
    held_out = {task: text_examples(validation[task], tokenizer, config.model.context) for task in validation}
    losses = train_lm(model, examples, held_out, config.training, weights=config.weights or None, run=run)
    mean_length = np.mean([len(example.tokens) for task in examples.values() for example in task])
    summary = {
        "loss": losses,
        "perplexity": {task: math.exp(loss) for task, loss in losses.items()},
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocab_size": len(tokenizer),
        "tokens": int(config.training.steps * config.training.batch_size * mean_length),
    }
    return model, tokenizer, summary


def pretrain_on_tasks(
    tasks: Sequence[TextTask],
    config: PretrainConfig,
    folder: Path,
    *,
    start: tuple[Any, Any] | None = None,
    run: Run | None = None,
    world: World | None = None,
) -> tuple[Any, Any, dict[str, Any]]:
    """Train a language model on a mixture of tasks, from scratch or on from a model.

    Args:
        tasks: Training and validation documents; their names differ.
        config: Settings.
        folder: Where token files are written, and found again by a resumed run.
        start: Model and tokenizer to go on with; None makes new ones.
        run: Logs, progress, checkpoints and resume.
        world: The processes that share the work.

    Returns:
        The model, its tokenizer, and a summary: per task loss (nats per token), perplexity, bits per byte, asked shares
        and blocks drawn; parameters, tokens, tokens per second.

    Raises:
        DataError: If a task has no documents to train or to validate on.
        ConfigError: If the model cannot keep packed documents apart, or the mixture names other tasks.
    """
    training = config.training
    shares = replace(config.mixture, weights=config.weights) if config.weights else config.mixture
    if start is None:
        texts = {task.name: task.documents("train") for task in tasks}
        sample = mixture_texts(texts, _first(shares), most_bytes=_TOKENIZER_BYTES, seed=training.seed)
        tokenizer = train_tokenizer(sample, config.model.vocab_size, split_digits=config.model.split_digits)
        model = build_model(config.model, tokenizer, training.seed)
    else:
        model, tokenizer = start
    check_packing(model)
    length = config.block_length or min(config.model.context, model.config.max_position_embeddings)
    world = world or World()
    if not world.is_main:
        world.barrier()  # the first process writes the files that all read
    files = _corpora(tasks, "train", tokenizer, length, folder, training.seed)
    held_out = _corpora(tasks, "validation", tokenizer, length, folder, training.seed)
    if world.is_main:
        world.barrier()
    mixture = Mixture(
        {name: len(file) for name, file in files.items()},
        shares,
        sizes={name: float(file.tokens) for name, file in files.items()},
        draws_per_step=training.batch_size,
        steps=training.steps,
        seed=training.seed,
    )
    device = model.get_input_embeddings().weight.device
    source = CorpusBatches(
        files,
        mixture,
        micro_batch_size=training.micro_batch_size,
        device=device,
        world=world,
    )
    loop = LanguageModeling(
        model,
        source,
        training,
        held_out=lambda trained, last: _figures(_measure(trained, held_out, 0 if last else _HELD_OUT_BLOCKS)),
        context=length,
        run=run,
        world=world,
    )
    trained = loop.train()
    measured = _measure(trained, held_out, 0)
    summary = {
        "loss": {name: text.loss for name, text in measured.items()},
        "perplexity": {name: text.perplexity for name, text in measured.items()},
        "bits_per_byte": {name: text.bits_per_byte for name, text in measured.items()},
        "shares": mixture.shares(training.steps - 1),
        "blocks": mixture.counts(0, training.steps),
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocab_size": len(tokenizer),
        "tokens": int(training.steps * training.batch_size * length * np.mean([file.fill for file in files.values()])),
        "tokens_per_second": loop.trainer.tokens_per_second,
    }
    return model, tokenizer, summary


def _first(mixture: MixtureConfig) -> MixtureConfig:
    """The mixture at the beginning of its schedule."""
    return MixtureConfig(mixture.schedule[0].weights) if mixture.schedule else mixture


def _corpora(
    tasks: Sequence[TextTask], split: Split, tokenizer: Any, length: int, folder: Path, seed: int
) -> dict[str, TokenFile]:
    """Token file of each task's split."""
    return {
        task.name: open_corpus(
            folder / split / task.name, _documents(task, split), tokenizer, length, seed=seed, name=task.name
        )
        for task in tasks
    }


def _documents(task: TextTask, split: Split) -> Iterator[str]:
    """A task's documents.

    Raises:
        DataError: If there are none; names the task and the split.
    """
    empty = True
    for document in task.documents(split):
        empty = False
        yield document
    if empty:
        raise DataError(f"task {task.name!r} has no documents in the {split} split; give it more items")


def _measure(model: Any, files: Mapping[str, TokenFile], blocks: int) -> dict[str, HeldOutText]:
    return {name: evaluate_corpus(model, file, blocks=blocks) for name, file in files.items()}


def _figures(measured: Mapping[str, HeldOutText]) -> dict[str, float]:
    metrics = {"eval/loss": sum(text.loss for text in measured.values()) / len(measured)}
    for name, text in measured.items():
        metrics |= {f"eval/{key}/{name}": value for key, value in text._asdict().items()}
    return metrics
