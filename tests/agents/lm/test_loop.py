from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.lm.batches import Example, PackedBatch, collate, token_losses, weighted_loss
from agents.lm.config import LMConfig
from agents.lm.corpus import CorpusBatches, evaluate_corpus, mixture_texts, open_corpus
from agents.lm.in_memory import train_lm
from agents.lm.loop import LanguageModeling
from agents.lm.pretraining import PretrainConfig, build_model, pretrain_on_tasks
from tests.agents.conftest import TINY
from tests.agents.lm.test_batches import examples
from tests.agents.worlds import in_parallel
from textenv.corpora import Mixture, MixtureConfig, MixturePoint
from textenv.errors import DataError
from textenv.runs import Run
from textenv.tasks import Item, Task, procedural_task
from textenv.training.trainer import make_optimizer

ROOT = Path(__file__).parents[3]
CONFIG = LMConfig(
    steps=6, batch_size=8, learning_rate=3e-3, warmup_steps=2, eval_every=3, checkpoint_every=2, dtype="float32"
)


class Fixed:
    """The same examples at every step, in parts."""

    def __init__(self, some: list[Example], parts: int = 1, packed: int = 0, ranks: tuple[int, int] = (0, 1)) -> None:
        own = some[ranks[0] :: ranks[1]]
        size = -(-len(own) // parts)
        groups = [own[i : i + size] for i in range(0, len(own), size)]
        self._parts = [PackedBatch.from_examples(g, packed) if packed else collate(g) for g in groups]

    def parts(self, step: int) -> list[Any]:
        return self._parts


def weights(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def losses_of(training: LanguageModeling, steps: int) -> list[float]:
    """Loss of each of the next steps."""
    config = training.config
    return [training.iterate(config.learning_rate_at(step, config.steps))["train/loss"] for step in range(steps)]


def trained(tokenizer: Any, source: Any, config: LMConfig, steps: int = 3) -> tuple[list[float], torch.Tensor]:
    model = build_model(TINY, tokenizer, 0)
    training = LanguageModeling(model, source, config)
    return losses_of(training, steps), weights(model)


@pytest.mark.parametrize("reduction", ["token", "example"])
def test_accumulated_and_packed_steps_equal_one_whole_batch(reduction, tokenizer):
    config = replace(CONFIG, loss_reduction=reduction)
    some = examples(8)
    whole, after = trained(tokenizer, Fixed(some), config)
    for source in (Fixed(some, parts=4), Fixed(some, packed=40), Fixed(some, parts=2, packed=40)):
        losses, found = trained(tokenizer, source, config)
        assert losses == pytest.approx(whole, abs=1e-5)
        torch.testing.assert_close(found, after, atol=2e-4, rtol=0)


def test_several_processes_do_what_one_does(tokenizer):
    some = examples(8)
    whole, after = trained(tokenizer, Fixed(some), CONFIG)

    def work(world: Any, model: Any) -> tuple[list[float], torch.Tensor]:
        training = LanguageModeling(model, Fixed(some, ranks=(world.rank, world.size)), CONFIG, world=world)
        return losses_of(training, 3), weights(model)

    for losses, found in in_parallel(lambda rank: build_model(TINY, tokenizer, 0), 2, work):
        assert losses == pytest.approx(whole, abs=1e-5)
        torch.testing.assert_close(found, after, atol=2e-4, rtol=0)


def theirs_of_trainer(model: Any, batches: list[dict[str, torch.Tensor]], folder: Path) -> list[float]:
    """Losses of transformers' Trainer on given batches, one a step."""
    import transformers

    losses: list[float] = []

    class Recording(transformers.Trainer):
        def compute_loss(self, *arguments: Any, **rest: Any) -> Any:
            loss: Any = super().compute_loss(*arguments, **rest)
            losses.append(float(loss))
            return loss

        def get_train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]  # a list is one

    optimizer = make_optimizer(
        model.parameters(),
        learning_rate=CONFIG.learning_rate,
        weight_decay=CONFIG.weight_decay,
        betas=(0.9, 0.95),
    )
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: CONFIG.learning_rate_at(s, CONFIG.steps) / CONFIG.learning_rate
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=len(batches), max_grad_norm=CONFIG.max_grad_norm, use_cpu=True, report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    model.config.use_cache = False
    Recording(model=model, args=arguments, train_dataset=batches, optimizers=(optimizer, rates)).train()  # type: ignore[arg-type]
    return losses


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["pretraining", "sft"])
def test_losses_of_every_step_equal_those_of_the_transformers_trainer(kind, tokenizer, tmp_path: Path):
    some = examples(8) if kind == "sft" else [Example(e.tokens, 1) for e in examples(8)]
    batch = collate(some)
    labels = torch.full_like(batch.tokens, -100)
    rows, steps = batch.action_mask.nonzero(as_tuple=True)
    columns = batch.prompt_lengths[rows] + steps
    labels[rows, columns] = batch.tokens[rows, columns]
    model = build_model(TINY, tokenizer, 0).eval()
    theirs = theirs_of_trainer(model, [{"input_ids": batch.tokens, "labels": labels}] * 4, tmp_path)
    ours, _ = trained(tokenizer, Fixed(some), CONFIG, steps=4)
    packed, _ = trained(tokenizer, Fixed(some, packed=40), CONFIG, steps=4)
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert packed == pytest.approx(theirs, abs=1e-5)
    assert theirs[-1] < theirs[0] - 0.1


@pytest.mark.parametrize("packed_length", [0, 48])
def test_training_with_every_option_resumes_to_the_same_numbers(packed_length, tokenizer, tmp_path: Path):
    config = replace(CONFIG, micro_batch_size=4, loss_reduction="example", neftune_alpha=5.0, lr_schedule="wsd")
    some = {"a": examples(12, 1), "b": examples(9, 2)}

    def run(folder: Path, stop: bool) -> dict[str, float]:
        if stop:

            def interrupt(step: int, model: Any) -> None:
                raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                train_lm(
                    build_model(TINY, tokenizer, 0), some, some, config, packed_length=packed_length,
                    on_evaluate=interrupt, run=Run(folder, tensorboard=False),
                )  # fmt: skip
        return train_lm(
            build_model(TINY, tokenizer, 0), some, some, config, packed_length=packed_length,
            run=Run(folder, tensorboard=False),
        )  # fmt: skip

    assert run(tmp_path / "a", False) == run(tmp_path / "b", True)


def test_corpus_batches_read_the_blocks_that_the_mixture_draws(tokenizer, tmp_path: Path):
    tasks = [procedural_task("copy", 200), procedural_task("compare", 200)]
    files = {t.name: open_corpus(tmp_path / t.name, t.documents("train"), tokenizer, 48, name=t.name) for t in tasks}
    sizes = {name: len(file) for name, file in files.items()}
    mixture = Mixture(sizes, MixtureConfig(), draws_per_step=4, steps=10, seed=0)
    (whole,) = CorpusBatches(files, mixture).parts(3)
    halves = CorpusBatches(files, mixture, micro_batch_size=4).parts(3)
    assert torch.equal(torch.cat([half.tokens for half in halves]), whole.tokens)
    expected = [files[name].read([block]).tokens[0] for name, block in mixture.draws(3)]
    assert whole.tokens.tolist() == [row.tolist() for row in expected]


def test_a_corpus_is_written_once_and_anew_for_another_tokenizer_setting(tokenizer, tmp_path: Path):
    first = open_corpus(tmp_path / "t", ["one two", "three"], tokenizer, 16)
    assert open_corpus(tmp_path / "t", iter(()), tokenizer, 16).tokens == first.tokens
    assert open_corpus(tmp_path / "t", ["four"], tokenizer, 8).documents == 1
    (tmp_path / "t" / "tokens.bin").write_bytes(b"")
    assert open_corpus(tmp_path / "t", ["five", "six"], tokenizer, 8).documents == 2


def test_held_out_figures_by_hand(tokenizer, tmp_path: Path):
    model = build_model(TINY, tokenizer, 0).eval()
    texts = ["the old film is good", "the new film"]
    file = open_corpus(tmp_path / "t", texts, tokenizer, 48)
    ids = [[*tokenizer.encode(text), tokenizer.eos_token_id] for text in texts]
    losses = token_losses(model, collate([Example(torch.tensor(i).numpy(), 1) for i in ids])).detach().double()
    found = evaluate_corpus(model, file)
    assert found.loss == pytest.approx(float(losses.mean()), abs=1e-5)
    assert found.perplexity == pytest.approx(float(losses.mean().exp()), rel=1e-4)
    text_bytes = sum(len(text) for text in texts)
    bits = float(losses.sum()) / math.log(2)
    assert found.bits_per_byte == pytest.approx(bits / text_bytes, rel=1e-4)


def test_mixture_texts_have_the_asked_proportions_of_bytes():
    texts = {"a": ["x" * 10] * 1000, "b": ["y" * 7] * 1000, "c": ["z"] * 5}
    drawn = list(mixture_texts(texts, MixtureConfig({"a": 1, "b": 3, "c": 1}), most_bytes=4000))
    shares = {letter: sum(len(t) for t in drawn if t[0] == letter) for letter in "xyz"}
    assert shares["z"] == 5  # ran out
    assert shares["y"] / shares["x"] == pytest.approx(3, abs=0.05)
    assert 4000 <= sum(shares.values()) < 4020


def test_pretraining_on_tasks_from_scratch_and_continued(tmp_path: Path):
    tasks = [procedural_task("copy", 300), procedural_task("facts", 300), procedural_task("text", 100)]
    shares = ({"copy": 1.0, "facts": 1.0, "text": 2.0}, {"copy": 1.0, "facts": 1.0, "text": 0.0})
    points = [MixturePoint(float(at), weights) for at, weights in enumerate(shares)]
    config = PretrainConfig(
        model=replace(TINY, context=64, split_digits=True),
        training=replace(CONFIG, steps=8, micro_batch_size=4),
        mixture=MixtureConfig(schedule=points),
    )
    run = Run(tmp_path / "run", tensorboard=False)
    model, tokenizer, summary = pretrain_on_tasks(tasks, config, tmp_path / "corpus", run=run)
    assert set(summary["bits_per_byte"]) == {"copy", "facts", "text"}
    assert sum(summary["blocks"].values()) == 64
    assert summary["tokens_per_second"] > 0
    logged = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert all(name in logged for name in ("eval/bits_per_byte/copy", "train/model_flops_utilization"))
    before = copy.deepcopy(summary["loss"])
    fixed = replace(config, mixture=MixtureConfig(temperature=2.0))
    _, _, further = pretrain_on_tasks(tasks, fixed, tmp_path / "more", start=(model, tokenizer))
    assert all(further["loss"][name] < before[name] for name in before)


def test_pretraining_stopped_between_two_parts_of_a_step_resumes_to_the_same_weights(tmp_path: Path, monkeypatch):
    tasks = [procedural_task("copy", 150), procedural_task("text", 60)]
    config = PretrainConfig(model=replace(TINY, context=64), training=replace(CONFIG, micro_batch_size=2))

    def run(name: str) -> tuple[torch.Tensor, dict[str, Any]]:
        record = Run(tmp_path / name, tensorboard=False)
        model, _, summary = pretrain_on_tasks(tasks, config, tmp_path / name / "corpus", run=record)
        return weights(model), {key: value for key, value in summary.items() if key != "tokens_per_second"}

    calls = 0

    def interrupted(model: Any, batch: Any, token_weights: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 4 * 3 + 3:  # step 3, third part; the last checkpoint is that of step 2
            raise KeyboardInterrupt
        return weighted_loss(model, batch, token_weights)

    with monkeypatch.context() as patch:
        patch.setattr("agents.lm.loop.weighted_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("stopped")
    (whole, expected), (resumed, found) = run("whole"), run("stopped")
    assert torch.equal(whole, resumed)
    assert found == expected


PROGRAM = """
import sys
from pathlib import Path
import torch
from textenv.training.world import World
from agents.lm.pretraining import pretrain_on_tasks
from tests.agents.lm.test_loop import SHARED, shared_tasks

torch.set_num_threads(1)
world = World.current(torch.device("cpu"))
model, _, summary = pretrain_on_tasks(shared_tasks(), SHARED, Path(sys.argv[1]) / "corpus", world=world)
if world.is_main:
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.save({"size": world.size, "weights": weights}, sys.argv[2])
"""
SHARED = PretrainConfig(model=replace(TINY, context=64), training=CONFIG)


def shared_tasks() -> list[Task]:
    return [procedural_task("copy", 150), procedural_task("text", 60)]


@pytest.mark.slow
def test_two_processes_pretrain_what_one_does(tmp_path: Path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    found = []
    for processes in (1, 2):
        folder, out = tmp_path / str(processes), tmp_path / f"{processes}.pt"
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *launch, str(program), str(folder), str(out)]
        subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, timeout=600)
        found.append(torch.load(out, weights_only=True))
    assert [one["size"] for one in found] == [1, 2]
    torch.testing.assert_close(found[0]["weights"], found[1]["weights"], atol=2e-4, rtol=0)


def test_a_task_without_validation_documents_is_named(tmp_path: Path):
    task = Task("lonely", [Item("only this", split="train")], verifier=None)
    with pytest.raises(DataError, match="task 'lonely' has no documents in the validation split"):
        pretrain_on_tasks([task], PretrainConfig(model=TINY, training=CONFIG), tmp_path)
