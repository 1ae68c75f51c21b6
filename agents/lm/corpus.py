"""Pre-training on token files: batches of packed blocks from a mixture of tasks, and held-out figures per task."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from agents.lm.batches import PackedBatch, token_losses
from textenv.corpora import Mixture, MixtureConfig, TokenFile, encode_documents, write_token_file
from textenv.corpora.mixture import mixture_shares
from textenv.errors import DataError
from textenv.training.world import World


class CorpusBatches:
    """A mixture's packed blocks as the loop wants them.

    Args:
        files: Token file of each task.
        mixture: Decides which block of which task comes when.
        micro_batch_size: Blocks of a part of a step's batch; None puts all into one.
        device: Where batches go.
        world: The processes that share a step's blocks.
    """

    def __init__(
        self,
        files: Mapping[str, TokenFile],
        mixture: Mixture,
        *,
        micro_batch_size: int | None = None,
        device: Any = "cpu",
        world: World | None = None,
    ) -> None:
        self._files, self._mixture, self._size = dict(files), mixture, micro_batch_size
        self._device, self._world = device, world or World()

    def parts(self, step: int) -> list[PackedBatch]:
        """The parts of a step's batch that this process computes."""
        drawn = self._mixture.draws(step, rank=self._world.rank, world=self._world.size)
        size = self._size or max(1, len(drawn))
        return [self._read(drawn[i : i + size]) for i in range(0, len(drawn), size)]

    def _read(self, drawn: Sequence[tuple[str, int]]) -> PackedBatch:
        read = [self._files[name].read([block]) for name, block in drawn]
        rows = [np.concatenate(parts) for parts in zip(*read, strict=True)]
        return PackedBatch(*(torch.as_tensor(part, device=self._device) for part in rows))


class HeldOutText(NamedTuple):
    """How well a model predicts held-out documents.

    Attributes:
        loss: Nats per token, end tokens included.
        perplexity: exp(loss).
        bits_per_byte: Bits per byte of text in UTF-8, which models with different tokenizers can be compared by.
    """

    loss: float
    perplexity: float
    bits_per_byte: float


@torch.no_grad()
def evaluate_corpus(model: Any, file: TokenFile, *, blocks: int = 0, batch_size: int = 16) -> HeldOutText:
    """Loss of a model on a token file.

    Args:
        model: A transformers causal LM.
        file: Held-out documents.
        blocks: Only the first ones; 0 takes all. Bytes are then taken in proportion to tokens.
        batch_size: Blocks at a time.
    """
    device = model.get_input_embeddings().weight.device
    count = min(blocks or len(file), len(file))
    nats, predicted, read = 0.0, 0, 0
    for start in range(0, count, batch_size):
        packed = file.read(range(start, min(start + batch_size, count)))
        losses = token_losses(model, PackedBatch.from_packed(packed, device=device))
        nats += float(losses.double().sum())
        predicted += len(losses)
        read += int(packed.loss_mask.sum() + (packed.positions == 0).sum())
    share = 1.0 if count == len(file) else min(1.0, read / file.tokens)
    loss = nats / predicted
    return HeldOutText(loss, math.exp(min(loss, 700.0)), nats / math.log(2) / max(1.0, file.text_bytes * share))


def fingerprint(tokenizer: Any) -> str:
    """SHA-256 of what decides a tokenizer's ids."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content.pop("padding", None)
    content.pop("truncation", None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def open_corpus(
    folder: Path, texts: Iterable[str], tokenizer: Any, block_length: int, *, seed: int = 0, name: str = ""
) -> TokenFile:
    """A token file: the one that is there if it was made with this tokenizer and block length, else written now.

    Args:
        folder: The token file's; its parents are made.
        texts: Documents; not read where the file is there.
        tokenizer: Makes ids.
        block_length: Tokens in a block.
        seed: Of the order of documents.
        name: Noted in the file; another name makes it anew.

    Raises:
        DataError: If there are no documents.
    """
    meta = {"tokenizer": fingerprint(tokenizer), "seed": seed, "name": name}
    if (folder / "index.json").exists():
        try:
            file = TokenFile(folder)
        except DataError:  # damaged: written again below
            file = None
        if file is not None and file.meta == meta and file.block_length == block_length:
            return file
    folder.parent.mkdir(parents=True, exist_ok=True)
    documents = encode_documents(texts, tokenizer)
    return write_token_file(
        folder,
        documents,
        block_length=block_length,
        vocab_size=len(tokenizer),
        pad_id=tokenizer.pad_token_id or 0,  # never read
        seed=seed,
        meta=meta,
    )


def mixture_texts(
    texts: Mapping[str, Iterable[str]], config: MixtureConfig, *, most_bytes: int, seed: int = 0
) -> Iterator[str]:
    """Texts of several tasks in the proportions of a mixture, such as for training a tokenizer.

    The next text comes from the task that is furthest behind its share of bytes; a task that runs out is left to its
    own devices, and the others go on.

    Args:
        texts: Texts of each task; read as far as needed.
        config: The shares; those of sizes count every task's texts as equally large.
        most_bytes: Where to stop, in bytes of UTF-8.
        seed: Decides between tasks that are equally far behind.
    """
    names = sorted(texts)
    shares = mixture_shares(dict.fromkeys(names, 1.0), config.weights, config.temperature)
    tie = np.random.default_rng(seed).permutation(len(names)) * 1e-9
    sources = {name: iter(texts[name]) for name in names}
    given = np.zeros(len(names))
    live = shares > 0
    while live.any() and given.sum() < most_bytes:
        behind = np.where(live, given / np.where(shares > 0, shares, 1.0) + tie, np.inf)
        chosen = int(behind.argmin())
        text = next(sources[names[chosen]], None)
        if text is None:
            live[chosen] = False
            continue
        given[chosen] += len(text.encode("utf-8", "replace"))
        yield text
