from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from textenv.corpora import TokenFile, pack, pieces_of, write_token_file
from textenv.corpora.token_files import Document
from textenv.errors import ConfigError, DataError

ROOT = Path(__file__).parents[3]


def documents(count: int, seed: int = 0, longest: int = 12) -> list[Document]:
    rng = np.random.default_rng(seed)
    return [Document(rng.integers(5, 100, size=int(rng.integers(2, longest))).tolist(), 3) for _ in range(count)]


def write(folder: Path, docs: list[Document], length: int = 16, vocab_size: int = 100) -> TokenFile:
    return write_token_file(folder / "t", docs, block_length=length, vocab_size=vocab_size, pad_id=0)


def read_pieces(file: TokenFile) -> list[tuple[int, ...]]:
    """All pieces of a file, from tokens, positions and mask."""
    found = []
    packed = file.read(range(len(file)))
    for tokens, positions, mask in zip(*packed, strict=True):
        starts = [*np.flatnonzero(positions == 0), len(tokens)]
        for start, end in itertools.pairwise(starts):
            if mask[start + 1 : end].any():
                found.append(tuple(tokens[start:end].tolist()))
    return found


def test_pieces_predict_every_token_but_the_first_exactly_once():
    for length in range(1, 40):
        tokens = list(range(length))
        pieces = list(pieces_of(tokens, 8))
        assert [t for piece in pieces for t in piece[1:]] == tokens[1:]
        assert max(map(len, pieces)) <= 8


def test_packing_keeps_documents_whole_and_blocks_nearly_full():
    docs = [d.tokens for d in documents(3000, longest=60)]
    blocks = list(pack(docs, 128, window=500))
    packed = Counter(tuple(piece) for block in blocks for piece in block)
    assert packed == Counter(map(tuple, docs))
    sizes = [sum(map(len, block)) for block in blocks]
    assert max(sizes) <= 128
    assert sum(sizes) / (128 * len(blocks)) > 0.97


def test_file_gives_back_what_was_written(tmp_path: Path):
    docs = documents(200)
    file = write(tmp_path, docs)
    assert Counter(read_pieces(file)) == Counter(tuple(d.tokens) for d in docs)
    assert (file.documents, file.text_bytes, file.tokens) == (200, 600, sum(len(d.tokens) for d in docs))
    assert file.fill > 0.95
    again = TokenFile(file.path)
    assert (again.read([3, 0]).tokens == file.read([3, 0]).tokens).all()


def test_unused_ends_carry_no_loss(tmp_path: Path):
    packed = write(tmp_path, [Document([7, 8, 9], 1)], length=8).read([0])
    assert packed.tokens.tolist() == [[7, 8, 9, 0, 0, 0, 0, 0]]
    assert packed.positions.tolist() == [[0, 1, 2, 0, 1, 2, 3, 4]]
    assert packed.loss_mask.tolist() == [[False, True, True, False, False, False, False, False]]


def test_large_vocabularies_take_four_bytes(tmp_path: Path):
    file = write(tmp_path, [Document([70_000, 5], 1)], vocab_size=80_000)
    assert file.read([0]).tokens[0, 0] == 70_000
    assert (file.path / "tokens.bin").stat().st_size == 16 * 4


def test_bad_documents_and_blocks_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"document 1: token ids must lie in 0 … 99, got 100"):
        write(tmp_path, [Document([1], 1), Document([3, 100], 1)])
    with pytest.raises(DataError, match="there are no documents"):
        write(tmp_path, [])
    assert list(tmp_path.iterdir()) == []
    file = write(tmp_path, documents(3))
    with pytest.raises(ConfigError, match="asked for 99"):
        file.read([99])
    with pytest.raises(ConfigError, match="`block_length` must be ≥ 2, got 1"):
        list(pieces_of([1, 2], 1))


def test_damaged_files_are_named(tmp_path: Path):
    file = write(tmp_path, documents(20))
    tokens = (file.path / "tokens.bin").read_bytes()
    (file.path / "tokens.bin").write_bytes(tokens[:-2])
    with pytest.raises(DataError, match=r"tokens\.bin is missing or cut off"):
        TokenFile(file.path)
    index = json.loads((file.path / "index.json").read_text())
    (file.path / "index.json").write_text(json.dumps(index | {"format": 9}))
    with pytest.raises(DataError, match="expected format 1, got 9"):
        TokenFile(file.path)
    (file.path / "index.json").write_text("{")
    with pytest.raises(DataError, match=r"index\.json is not the index of a token file"):
        TokenFile(file.path)


PROGRAM = """
import resource, sys
import numpy as np
from textenv.corpora import write_token_file
from textenv.corpora.token_files import Document

count, folder = int(sys.argv[1]), sys.argv[2]
ids = np.arange(200, dtype=np.int64)
documents = (Document((ids + i) % 60000, 800) for i in range(count))
file = write_token_file(folder, documents, block_length=256, vocab_size=60000, pad_id=0)
rng = np.random.default_rng(0)
for _ in range(len(file) // 32):
    file.read(rng.integers(len(file), size=32).tolist())
status = dict(line.split(":") for line in open("/proc/self/status"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, (len(file) * 256 * 2) // 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_stays_flat_while_the_corpus_grows_tenfold(tmp_path: Path):
    peaks, sizes = [], []
    for count in (20_000, 200_000):
        command = [sys.executable, "-c", PROGRAM, str(count), str(tmp_path / str(count))]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peak, size = map(int, done.stdout.split())
        peaks.append(peak)
        sizes.append(size)
    assert sizes[1] > 9 * sizes[0] > 80
    assert peaks[1] < peaks[0] + 25  # MiB: the larger corpus alone has nine times as many
