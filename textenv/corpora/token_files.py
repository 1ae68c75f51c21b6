"""Token files: a task's documents as packed blocks of token ids on disk, read through a memory map.

Layout of a folder::

    index.json    block length, data type, number of blocks, pieces, documents, tokens, and bytes of text
    tokens.bin    blocks one after the other, ``uint16`` or ``uint32``; a block's unused end holds the pad id
    pieces.bin    length of each piece, ``uint32``
    blocks.bin    number of the first piece of each block and of the end, ``uint64``

The folder appears in one step when it is complete. Reading gives pages back as it goes, so that neither the corpus nor
what has been read of it stays in memory.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textenv.corpora.packing import pack
from textenv.errors import ConfigError, DataError

_FORMAT = 1
_FLUSH_BLOCKS = 256
_SHUFFLE_DOCUMENTS = 8192
_ENCODED_TOGETHER = 512
_RELEASE_BYTES = 16 * 2**20  # read since pages were last given back


class PackedTokens(NamedTuple):
    """Some blocks.

    Attributes:
        tokens: Ids, int64, shape ``(B, L)``.
        positions: Place of each token in its own piece, int64, shape ``(B, L)``; the unused end counts as a piece.
        loss_mask: True on tokens that are predicted: all but the first of each piece and the unused end, ``(B, L)``.
    """

    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    loss_mask: NDArray[np.bool_]


class Document(NamedTuple):
    """A document to write: its token ids, and the bytes of its text in UTF-8."""

    tokens: Sequence[int]
    text_bytes: int


def encode_documents(texts: Iterable[str], tokenizer: Any) -> Iterator[Document]:
    """Tokenise texts, some hundred at a time: what the tokenizer puts in front, the text, the end token.

    Args:
        texts: One document each; any iterable, it is never held as a whole.
        tokenizer: A transformers tokenizer with an end-of-text token.
    """
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == _ENCODED_TOGETHER:
            yield from _encoded(batch, tokenizer)
            batch = []
    if batch:
        yield from _encoded(batch, tokenizer)


def _encoded(texts: list[str], tokenizer: Any) -> Iterator[Document]:
    for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True):
        yield Document([*ids, tokenizer.eos_token_id], len(text.encode("utf-8", "replace")))


def write_token_file(
    folder: str | Path,
    documents: Iterable[Document],
    *,
    block_length: int,
    vocab_size: int,
    pad_id: int,
    seed: int = 0,
    meta: Mapping[str, Any] | None = None,
) -> TokenFile:
    """Pack documents into blocks and write them; what is there already is replaced when the new one is complete.

    Documents are shuffled within a buffer of 8,192; blocks get their order when they are read.

    Args:
        folder: Where to write; its parent must exist.
        documents: See :func:`encode_documents`; read once, in bounded memory.
        block_length: Tokens in a block, at least 2.
        vocab_size: Ids that may occur; up to 65,536 take two bytes each, more take four.
        pad_id: Fills the unused ends of blocks.
        seed: Of the shuffle.
        meta: Anything JSON can hold to know the file by later, such as the tokenizer's fingerprint.

    Raises:
        DataError: If there is no document, or an id is outside the vocabulary.
    """
    folder = Path(folder)
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    counts = {"documents": 0, "text_bytes": 0, "tokens": 0}
    try:
        blocks, pieces = _write_blocks(
            fresh, _counted(documents, counts, vocab_size, seed), block_length, vocab_size, pad_id
        )
        if not blocks:
            raise DataError(f"{folder}: there are no documents to write")
        index = {"format": _FORMAT, "block_length": block_length, "bytes_per_token": _dtype(vocab_size).itemsize}
        index |= {"blocks": blocks, "pieces": pieces, "vocab_size": vocab_size, **counts, "meta": dict(meta or {})}
        (fresh / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return TokenFile(folder)


def _dtype(vocab_size: int) -> np.dtype[Any]:
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


def _counted(
    documents: Iterable[Document], counts: dict[str, int], vocab_size: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    """Token ids of the documents, shuffled within a buffer; counts what passes."""
    rng = np.random.default_rng(seed)
    buffer: list[NDArray[np.int64]] = []
    for number, document in enumerate(documents):
        tokens = np.asarray(document.tokens, np.int64)
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
            raise DataError(f"document {number}: token ids must lie in 0 … {vocab_size - 1}, got {tokens.max()}")
        counts["documents"] += 1
        counts["text_bytes"] += document.text_bytes
        counts["tokens"] += len(tokens)
        buffer.append(tokens)
        if len(buffer) > _SHUFFLE_DOCUMENTS:
            chosen = int(rng.integers(len(buffer)))
            buffer[chosen], buffer[-1] = buffer[-1], buffer[chosen]
            yield buffer.pop()
    for chosen in rng.permutation(len(buffer)):
        yield buffer[chosen]


def _write_blocks(
    folder: Path, documents: Iterator[NDArray[np.int64]], block_length: int, vocab_size: int, pad_id: int
) -> tuple[int, int]:
    """Write the three binary files; returns the numbers of blocks and pieces."""
    dtype = _dtype(vocab_size)
    blocks = pieces = 0
    names = ("tokens.bin", "pieces.bin", "blocks.bin")
    with (
        (folder / names[0]).open("wb") as ids,
        (folder / names[1]).open("wb") as lengths,
        (folder / names[2]).open("wb") as starts,
    ):
        for block in pack(documents, block_length):  # type: ignore[arg-type]  # arrays are sequences of ids
            row = np.full(block_length, pad_id, dtype)
            flat = np.concatenate([np.asarray(piece) for piece in block])
            row[: len(flat)] = flat
            ids.write(row.tobytes())
            lengths.write(np.array([len(piece) for piece in block], "<u4").tobytes())
            starts.write(np.uint64(pieces).tobytes())
            blocks, pieces = blocks + 1, pieces + len(block)
        starts.write(np.uint64(pieces).tobytes())
    return blocks, pieces


@dataclass(frozen=True)
class _Index:
    block_length: int
    bytes_per_token: int
    blocks: int
    pieces: int
    documents: int
    tokens: int
    text_bytes: int
    vocab_size: int
    meta: dict[str, Any]
    format: int


class TokenFile:
    """A token file, opened for reading.

    Attributes:
        path: Its folder.
        block_length: Tokens in a block.
        documents: Documents in it.
        tokens: Tokens of the documents.
        text_bytes: Bytes of their texts in UTF-8.
        meta: What the writer noted.

    Args:
        path: A folder that :func:`write_token_file` wrote.

    Raises:
        DataError: If a file is missing, cut off, or of another format.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            index = _Index(**json.loads((self.path / "index.json").read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{self.path / 'index.json'} is not the index of a token file: {error}") from error
        if index.format != _FORMAT:
            raise DataError(f"{self.path}: expected format {_FORMAT}, got {index.format}; write the token file again")
        self.block_length, self.documents, self.tokens = index.block_length, index.documents, index.tokens
        self.text_bytes, self.meta, self._size = index.text_bytes, index.meta, index.blocks
        dtype = np.dtype("<u2") if index.bytes_per_token == 2 else np.dtype("<u4")
        self._tokens = _Mapped(self.path / "tokens.bin", dtype, index.blocks * index.block_length)
        self._pieces = _Mapped(self.path / "pieces.bin", np.dtype("<u4"), index.pieces)
        self._starts = _Mapped(self.path / "blocks.bin", np.dtype("<u8"), index.blocks + 1)

    def __len__(self) -> int:
        """Number of blocks."""
        return self._size

    @property
    def fill(self) -> float:
        """Share of the blocks' places that tokens take."""
        return self.tokens / (self._size * self.block_length)

    def read(self, blocks: Sequence[int]) -> PackedTokens:
        """Some blocks, in the order asked for.

        Raises:
            ConfigError: If a block does not exist.
        """
        bad = [block for block in blocks if not 0 <= block < self._size]
        if bad:
            raise ConfigError(f"{self.path} has blocks 0 … {self._size - 1}, asked for {bad[0]}")
        length = self.block_length
        tokens = np.empty((len(blocks), length), np.int64)
        positions = np.empty_like(tokens)
        mask = np.zeros(tokens.shape, np.bool_)
        for row, block in enumerate(blocks):
            tokens[row] = self._tokens.read(block * length, (block + 1) * length)
            first, end = (int(n) for n in self._starts.read(block, block + 2))
            lengths = self._pieces.read(first, end).astype(np.int64)
            used = int(lengths.sum())
            every = np.append(lengths, length - used)
            starts = np.cumsum(every) - every
            positions[row] = np.arange(length) - np.repeat(starts, every)
            mask[row, :used] = positions[row, :used] > 0
        return PackedTokens(tokens, positions, mask)


class _Mapped:
    """A binary file as an array that gives its pages back now and then."""

    def __init__(self, path: Path, dtype: np.dtype[Any], count: int) -> None:
        if not path.is_file() or path.stat().st_size != count * dtype.itemsize:
            raise DataError(f"{path} is missing or cut off (expected {count * dtype.itemsize} bytes); write it again")
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._array = np.frombuffer(self._map, dtype)
        self._since = 0

    def read(self, start: int, end: int) -> NDArray[Any]:
        """A copy of a stretch."""
        found = self._array[start:end].copy()
        # A page that is touched brings its neighbours along, so count more than was asked for.
        self._since += max(found.nbytes, 64 * 1024)
        if self._since > _RELEASE_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
            self._since = 0
        return found
