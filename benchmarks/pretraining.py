"""Pre-training beside transformers' ``Trainer``: tokens per second on the same model and data, and memory.

    python benchmarks/pretraining.py                     # llama-5m on human-written texts, blocks of 256 tokens
    python benchmarks/pretraining.py --check             # exit status 1 below 1.2 times, or if memory grows
    python benchmarks/pretraining.py --json out.json

Both sides train the same weights on the same packed blocks with AdamW, clipping and the same losses counted. The
``Trainer`` runs in float32 and, where the machine computes in bfloat16 natively, in bfloat16, each with attention kept
inside documents (position ids, as here) and without that work, and is measured by the fastest of these; then both take
turns step by step, so that a busy machine slows both. The search shows the ``Trainer`` as it is by itself; in the turns
it gains from the freed memory that our loop lets the process keep.
Memory is the peak of processes that each write a corpus and train on it, one ten times as large as the other.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

from agents.lm.config import LMConfig
from agents.lm.corpus import CorpusBatches, open_corpus
from agents.lm.loop import LanguageModeling
from agents.lm.models import ModelConfig, build_model, train_tokenizer
from agents.lm.pretraining import PretrainConfig, pretrain_on_tasks
from textenv.corpora import Mixture, MixtureConfig, TokenFile
from textenv.datasets import builtin_ratings, human_ratings
from textenv.mixed_precision import fast_bf16

TARGET = 1.2
MEMORY_GROWTH = 1.1
WARM_UP_STEPS = 3


class Setting(NamedTuple):
    """How transformers' Trainer runs."""

    bf16: bool
    documents_apart: bool

    def __str__(self) -> str:
        attention = "inside documents" if self.documents_apart else "across documents"
        return f"{'bfloat16' if self.bf16 else 'float32'}, attention {attention}"


class Data(NamedTuple):
    """What both sides train on."""

    file: TokenFile
    tokenizer: Any


def make_data(options: argparse.Namespace, folder: Path) -> Data:
    """Tokenizer and packed blocks."""
    rated = human_ratings(split="train") if options.data == "human" else builtin_ratings(8000)
    texts = [text.text for text in rated]
    tokenizer = train_tokenizer(texts, 8192)
    return Data(open_corpus(folder / "corpus", texts, tokenizer, options.block_length), tokenizer)


def model_of(options: argparse.Namespace, tokenizer: Any) -> Any:
    """The same fresh weights for every run."""
    return build_model(ModelConfig(preset=options.preset, context=options.block_length), tokenizer, 0)


def our_trainer(options: argparse.Namespace, data: Data, steps: int) -> LanguageModeling:
    """This project's loop, past its first steps, in which kernels are chosen."""
    mixture = Mixture(
        {"all": len(data.file)}, MixtureConfig(), draws_per_step=options.batch_size, steps=steps, seed=options.seed
    )
    config = LMConfig(steps=steps, batch_size=options.batch_size, warmup_steps=1)
    training = LanguageModeling(model_of(options, data.tokenizer), CorpusBatches({"all": data.file}, mixture), config)
    for _ in range(WARM_UP_STEPS):
        training.iterate(config.learning_rate)
    return training


class _Turns(transformers.TrainerCallback):
    """Times the steps of transformers' Trainer, and takes one of ours after each."""

    def __init__(self, ours: LanguageModeling | None) -> None:
        self.ours = ours
        self.seconds: list[tuple[float, float]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # the library's signature
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # the library's signature
        ended = time.perf_counter()
        if self.ours is not None:
            self.ours.iterate(self.ours.config.learning_rate)
        now = time.perf_counter()
        if state.global_step > WARM_UP_STEPS:
            self.seconds.append((ended - self.began, now - ended))
        self.began = time.perf_counter()


def take_turns(
    options: argparse.Namespace, data: Data, steps: int, setting: Setting, ours: LanguageModeling | None = None
) -> list[tuple[float, float]]:
    """Seconds of each step of transformers' Trainer after its warm-up, and of the step of ours that followed it."""
    steps += WARM_UP_STEPS
    rng = np.random.default_rng(options.seed)
    rows = []
    for block in rng.permutation(len(data.file))[: steps * options.batch_size]:
        tokens, positions, mask = (torch.as_tensor(part[0]) for part in data.file.read([int(block)]))
        rows.append({"input_ids": tokens, "labels": torch.where(mask, tokens, -100)})
        if setting.documents_apart:
            rows[-1]["position_ids"] = positions
    model = model_of(options, data.tokenizer)
    model.config.use_cache = False
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=options.batch_size,
            learning_rate=1e-3,
            bf16=setting.bf16,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            log_level="error",
            disable_tqdm=True,
        )
        turns = _Turns(ours)
        trainer = transformers.Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[turns])  # type: ignore[arg-type]  # a list is a dataset
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return turns.seconds


class Streamed:
    """A task whose documents are made while they are read.

    Args:
        documents: How many there are to train on.
    """

    name = "streamed"

    def __init__(self, documents: int) -> None:
        self._documents = documents

    def documents(self, split: str, /) -> Iterator[str]:
        """Rows of made-up words, about 80 each."""
        rng = np.random.default_rng([len(split), 0])
        words = np.array([f"{a}{b}{c}" for a, b, c in product("bdfgk", "aeiou", "lmnrst")])
        for _ in range(self._documents if split == "train" else 200):
            yield " ".join(words[rng.integers(len(words), size=int(rng.integers(20, 140)))])


def peak_memory(documents: int) -> None:
    """Write a corpus, train on it for some steps, and print this process's peak memory in MB and the corpus's size."""
    task = Streamed(documents)
    model = ModelConfig(vocab_size=512, preset="llama-1m", context=128)
    config = PretrainConfig(model=model, training=LMConfig(steps=30, batch_size=16, eval_every=0, dtype="float32"))
    with tempfile.TemporaryDirectory() as folder:
        _, _, summary = pretrain_on_tasks([task], config, Path(folder))
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.bin"))
    # Not getrusage: what it tells begins with the peak of the process that started this one.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert peak is not None, "the system does not tell the peak memory of a process"
    print(json.dumps({"peak_mb": int(peak[1]) / 1024, "corpus_mb": size / 2**20, "loss": summary["loss"]["streamed"]}))


def measure_memory(documents: int) -> list[dict[str, float]]:
    """Peak memory with a corpus and with one ten times as large."""
    found = []
    for count in (documents, 10 * documents):
        command = [sys.executable, __file__, "--peak-memory", str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def measure_speed(options: argparse.Namespace) -> dict[str, Any]:
    """Tokens per second of both sides."""
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(options, Path(folder))
        # Emulated bfloat16 crawls: one of its steps takes minutes.
        dtypes = (False, True) if fast_bf16(torch.device("cpu")) else (False,)
        tokens = options.batch_size * options.block_length
        search = {}
        for setting in (Setting(*chosen) for chosen in product(dtypes, (False, True))):
            found = take_turns(options, data, options.search_steps, setting)
            search[setting] = tokens / statistics.median(seconds for seconds, _ in found)
        best = max(search, key=lambda setting: search[setting])
        ours = our_trainer(options, data, 2 * WARM_UP_STEPS + options.steps)
        their, own = zip(*take_turns(options, data, options.steps, best, ours), strict=True)
        ratios = [other / mine for mine, other in zip(own, their, strict=True)]
        return {
            "preset": options.preset,
            "parameters": sum(p.numel() for p in ours.model.parameters()),
            "tokens_per_step": tokens,
            "fill": data.file.fill,
            "threads": torch.get_num_threads(),
            "trainer_settings": {str(setting): rate for setting, rate in search.items()},
            "trainer_best": str(best),
            "tokens_per_second": {
                "textenv": tokens / statistics.median(own),
                "trainer": tokens / statistics.median(their),
            },
            "ratio": statistics.median(their) / statistics.median(own),
            "ratio_quartiles": statistics.quantiles(ratios)[::2],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }


def main() -> int:
    """Parse the arguments, measure, print; returns 1 where ``--check`` fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="llama-5m")
    parser.add_argument("--block-length", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=16, help="blocks a step")
    parser.add_argument("--steps", type=int, default=40, help="of each side, warm-up apart")
    parser.add_argument("--search-steps", type=int, default=5, help="for each setting of the Trainer")
    parser.add_argument("--data", choices=("human", "builtin"), default="human")
    parser.add_argument("--documents", type=int, default=15_000, help="of the smaller corpus; 0 leaves memory out")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0 leaves its default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--peak-memory", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_memory:
        peak_memory(options.peak_memory)
        return 0
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module=r"(torch|transformers)\..*")
    if options.threads:
        torch.set_num_threads(options.threads)
    found = measure_speed(options)
    failed = found["ratio"] < TARGET
    print(f"{found['preset']}, {found['parameters']:,} parameters, {found['tokens_per_step']} tokens a step")
    for name, rate in found["trainer_settings"].items():
        print(f"  Trainer, {name}: {rate:8,.0f} tokens/s")
    speed = found["tokens_per_second"]
    print(f"textenv {speed['textenv']:8,.0f} tokens/s, attention inside documents")
    print(f"Trainer {speed['trainer']:8,.0f} tokens/s at its best ({found['trainer_best']})")
    lower, upper = found["ratio_quartiles"]
    print(f"ratio   {found['ratio']:8.2f} of the median steps (half of the pairs of steps: {lower:.2f} to {upper:.2f})")
    if options.documents:
        found["memory"] = small, large = measure_memory(options.documents)
        growth = large["peak_mb"] / small["peak_mb"]
        failed |= growth > MEMORY_GROWTH
        print(
            f"memory  {small['peak_mb']:.0f} MB with a corpus of {small['corpus_mb']:.0f} MB, "
            f"{large['peak_mb']:.0f} MB with one of {large['corpus_mb']:.0f} MB ({growth:.2f} times)"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if options.check and failed:
        print(f"FAILED: at least {TARGET} times the Trainer and at most {MEMORY_GROWTH} times the memory are asked for")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
