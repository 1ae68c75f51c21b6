"""Everybody who reads rows of a user's file reads them alike: labels, suites, tasks, prompts, people's feedback."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reward_models.benchmarking import rewardbench_suite
from reward_models.labels import read_labels
from textenv.errors import DataError
from textenv.feedback.formats import import_labels
from textenv.feedback.store import FeedbackStore
from textenv.prompts import read_prompts
from textenv.tasks import Fields, read_task

ROW = {"prompt": "Wie?", "chosen": "schön", "rejected": "arg"}
LINE = json.dumps(ROW, ensure_ascii=False)


def imported(path: Path) -> int:
    store = FeedbackStore(f"sqlite:///{path.parent / 'store.db'}")
    return import_labels(store, path).labels


READERS: dict[str, Callable[[Path], Any]] = {
    "labels": lambda path: len(read_labels(path)),
    "suite": lambda path: len(rewardbench_suite(path).pairs),
    "task": lambda path: len(read_task(path, "t", fields=Fields("prompt", "chosen")).items),
    "prompts": lambda path: len(read_prompts(path)),
    "feedback": imported,
}


@pytest.fixture(params=READERS.values(), ids=list(READERS))
def read(request: pytest.FixtureRequest) -> Iterator[Callable[[Path], int]]:
    return request.param


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.jsonl", b"\xef\xbb\xbf" + LINE.encode() + b"\r\n\n"),
        ("r.jsonl", LINE.encode("utf-16")),
        ("r.jsonl.gz", gzip.compress(LINE.encode(), mtime=0)),
        ("r.json", f"[{LINE}]".encode()),
        ("r.csv", "prompt,chosen,rejected\nWie?,schön,arg\n".encode("utf-8-sig")),
    ],
    ids=["byte order mark", "UTF-16", "gzip", "array", "CSV"],
)
def test_every_reader_takes_every_file(read: Callable[[Path], int], name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name) == 1


def test_every_reader_takes_parquet(read: Callable[[Path], int], tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([ROW]), tmp_path / "r.parquet")
    assert read(tmp_path / "r.parquet") == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (LINE.encode("latin-1"), r"r\.jsonl:2: expected UTF-8, got byte 0xf6 at 33; save the file as UTF-8"),
        (LINE.replace("chosen", "prompt").encode(), r"r\.jsonl:2: the key 'prompt' stands there more than once"),
        (b'{"prompt": NaN}', r"r\.jsonl:2: NaN is no JSON number \(field 'prompt'\)"),
        (b"[1, ", r"r\.jsonl:2: not valid JSON"),
    ],
    ids=["Latin-1", "doubled key", "NaN", "cut off"],
)
def test_every_reader_names_file_and_line(
    read: Callable[[Path], int], line: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "r.jsonl").write_bytes(LINE.encode() + b"\n" + line + b"\n")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "r.jsonl")
