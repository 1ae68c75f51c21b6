from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from textenv.errors import DataError
from textenv.records import read_rows, rows_of, write_rows

ROWS: list[Any] = [{"prompt": "one"}, {"prompt": "zwölf → 🙂", "n": 2.5}, ["a", 3], "text"]


def rows_of_file(path: Path) -> list[tuple[str, Any]]:
    return [(where.removeprefix(str(path)), value) for where, value in read_rows(path)]


def lines(rows: list[Any]) -> str:
    return "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("compressed", [False, True])
def test_lines_are_read_in_every_encoding_that_tells_itself(tmp_path, encoding: str, end: str, compressed: bool):
    content = lines(ROWS).replace("\n", end).encode(encoding)
    path = tmp_path / ("rows.jsonl.gz" if compressed else "rows.jsonl")
    path.write_bytes(gzip.compress(content, mtime=0) if compressed else content)
    assert rows_of_file(path) == [(f":{2 * i + 1}", row) for i, row in enumerate(ROWS)]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_arrays_are_read_with_the_line_of_each_element(tmp_path, indent: int | None, encoding: str):
    path = tmp_path / "rows.json"
    path.write_text("\n" + json.dumps(ROWS, indent=indent), encoding=encoding)
    assert rows_of_file(path) == list(zip([":3", ":6", ":10", ":14"] if indent else [":2"] * 4, ROWS, strict=True))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[]", []),
        (" \n", []),
        ('{"prompt": "a"}\n{"prompt": "b"}\n', [(":1", {"prompt": "a"}), (":2", {"prompt": "b"})]),
        ("[3, 4]\n[5]\n", [(":1", [3, 4]), (":2", [5])]),
        ('{"prompt":\n "a"}\n', [(":1", {"prompt": "a"})]),
        ('["\\ud83d\\ude42"]', [(":1", "🙂")]),
    ],
    ids=["empty array", "empty file", "lines", "lines of arrays", "one object", "a pair of surrogates"],
)
def test_json_files_are_arrays_or_lines(tmp_path, content: str, expected: Any):
    (tmp_path / "rows.json").write_text(content)
    assert rows_of_file(tmp_path / "rows.json") == expected


def test_csv_is_read_with_quoted_ends_of_lines_and_empty_fields(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes('prompt,task\r\n"a, ""b""\r\nc",\r\n\r\nd,t\r\n'.encode("utf-8-sig"))
    assert rows_of_file(path) == [(":3", {"prompt": 'a, "b"\r\nc', "task": None}), (":5", {"prompt": "d", "task": "t"})]


def test_parquet_rows_are_counted(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": ["a", "b"]}), path)
    assert rows_of_file(path) == [(": row 0", {"prompt": "a"}), (": row 1", {"prompt": "b"})]


def saved_dataset(folder: Path, parts: list[list[dict[str, Any]]]) -> None:
    """What ``datasets.Dataset.save_to_disk`` writes: Arrow streams, and a state that names them."""
    pa = pytest.importorskip("pyarrow")
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{len(parts):05d}.arrow" for i in range(len(parts))]
    for name, rows in zip(names, parts, strict=True):
        table = pa.Table.from_pylist(rows)
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}, indent=2))


def test_a_folder_that_datasets_saved_is_read(tmp_path):
    saved_dataset(tmp_path / "d" / "train", [[{"prompt": "a"}, {"prompt": "b"}], [{"prompt": "c"}]])
    expected = [(f": row {i}", {"prompt": prompt}) for i, prompt in enumerate("abc")]
    assert rows_of_file(tmp_path / "d" / "train") == expected
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(DataError, match=r"d: expected one split of a dataset, got train, test; name .*d/train"):
        list(read_rows(tmp_path / "d"))
    with pytest.raises(DataError, match=r"expected a file, or a folder that the `save_to_disk` of `datasets` wrote"):
        list(read_rows(tmp_path))
    next((tmp_path / "d" / "train").glob("*.arrow")).write_bytes(b"no")
    with pytest.raises(DataError, match=r"train: not a readable dataset"):
        list(read_rows(tmp_path / "d" / "train"))


def test_rows_of_collections_are_counted(tmp_path):
    assert list(rows_of([{"a": 1}, "b"])) == [("dataset: row 0", {"a": 1}), ("dataset: row 1", "b")]
    with pytest.raises(DataError, match="set: row 1: expected an object with named columns, got 'b'"):
        [row.columns for row in rows_of([{"a": 1}, "b"], "set")]
    with pytest.raises(DataError, match=r"set: expected rows, got a collection of splits \['test', 'train'\]"):
        rows_of({"train": [], "test": []}, "set")


@pytest.mark.parametrize("name", ["r.jsonl", "r.ndjson", "r.parquet"])
def test_what_is_written_is_read_back(tmp_path, name: str):
    write_rows(tmp_path / name, [{"a": 1}, {"a": 2, "b": "ö"}])
    found = [value for _, value in read_rows(tmp_path / name)]
    assert found == [{"a": 1, "b": None} if name == "r.parquet" else {"a": 1}, {"a": 2, "b": "ö"}]
    with pytest.raises(DataError, match=r"expected a file of \.jsonl or \.parquet, got '\.csv'"):
        write_rows(tmp_path / "r.csv", [{"a": 1}])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.jsonl", b'{"a": 1}\n{"a": 1, "a": 2}\n', r"r\.jsonl:2: the key 'a' stands there more than once"),
        ("r.jsonl", b'{"b": {"a": 1, "a": 1}}', r"r\.jsonl:1: the key 'a' stands there more than once"),
        ("r.jsonl", b"[" * 100_000, r"r\.jsonl:1: nested too deeply"),
        ("r.jsonl", b"[" * 100_000 + b"]" * 100_000, r"r\.jsonl:1: nested too deeply"),
        ("r.jsonl", b"\n1e999\n", r"r\.jsonl:2: the number 1e999 is too large"),
        ("r.jsonl", b"9" * 5000, r"r\.jsonl:1: the number 999999999999… has 5000 digits"),
        ("r.jsonl", b'{"n": 123456789012345678901}', r"r\.jsonl:1: the number 123456789012… has 21 digits"),
        ("r.jsonl", b"NaN", r"r\.jsonl:1: NaN is no JSON number"),
        ("r.jsonl", b'{"a": -Infinity}', r"r\.jsonl:1: -Infinity is no JSON number"),
        ("r.jsonl", b'"\\ud83d"', r"r\.jsonl:1: holds half a character, \\ud83d"),
        ("r.jsonl", b'{"\\uDE42 a": 1}', r"r\.jsonl:1: holds half a character, \\ude42"),
        ("r.jsonl", b'"a"\n"caf\xe9"\n', r"r\.jsonl:2: expected UTF-8, got byte 0xe9 at 4; .*iconv -f latin1"),
        ("r.jsonl", b'"a" "b"\n', r"r\.jsonl:1: not valid JSON: more follows the value, at column 4"),
        ("r.jsonl", b'{"prompt": \n', r"r\.jsonl:1: not valid JSON: .* at column"),
        ("r.json", b'[{"a": 1},\n {"a": 1, "a": 2}]', r"r\.json:2: the key 'a' stands there more than once"),
        ("r.json", b"[1,\n2\n", r"r\.json:3: not valid JSON: expected ',' or the end of the array"),
        ("r.json", b'["a"\n "b"]', r"r\.json:2: not valid JSON: expected ','"),
        ("r.json", b'["a",\n]', r"r\.json:2: not valid JSON"),
        ("r.json", b'["a"] x', r"r\.json:1: not valid JSON: expected ',' or the end"),
        ("r.json", b'{"a":\n 1} 2', r"r\.json:1: not valid JSON: more follows"),
        ("r.csv", b"prompt\ncaf\xe9\n", r"r\.csv:2: expected UTF-8, got byte 0xe9"),
        ("r.csv", b"a,b,a\n1,2,3\n", r"r\.csv:1: the column 'a' stands there more than once"),
        ("r.csv", b"a,b\n1,2\n3\n", r"r\.csv:3: expected 2 columns \(a, b\), got another number, 1"),
        ("r.csv", b'a\n"b\n', r"r\.csv:2: not a readable CSV file"),
        ("r.jsonl.gz", b"no", r"r\.jsonl\.gz: cannot be read: Not a gzipped file"),
        ("r.jsonl.gz", gzip.compress(b'"a"\n' * 99, mtime=0)[:-9], r"r\.jsonl\.gz: not a readable gzip file"),
        ("r.jsonl", b"\xff\xfe\x00\xd8", r"r\.jsonl: not readable as utf-16"),
        ("r.parquet", b"no", r"r\.parquet: not a readable Parquet file"),
        ("r.txt", b"", r"r\.txt: expected a file of \.jsonl, .*, got '\.txt'"),
        ("r.parquet.gz", b"", r"r\.parquet\.gz: expected a file of"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_file_and_line(tmp_path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        list(read_rows(tmp_path / name))
    assert "\n" not in str(raised.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        list(read_rows(tmp_path / "none.jsonl"))


def test_rows_are_read_one_after_the_other(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('"a"\n{\n')
    rows = read_rows(path)
    assert next(rows).value == "a"
    with pytest.raises(DataError, match=":2: not valid JSON"):
        next(rows)
