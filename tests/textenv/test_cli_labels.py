"""Files of labels on the command line: forms, maps of columns, splits, and what is said about them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from textenv.answers import Chat
from textenv.cli.data import data_of
from textenv.cli.main import main, parse
from textenv.errors import DataError


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def dialogues(count: int) -> list[dict[str, Any]]:
    """Rows as in HH-RLHF, two of each dialogue; of every tenth both answers are the same."""
    rows = []
    for number in range(count):
        name = "".join("aeioubdgkl"[int(digit)] * 3 for digit in f"{number:04}")
        first = f"\n\nHuman: {name}?\n\nAssistant:"
        rows.append({"chosen": f"{first} yes {number}", "rejected": f"{first} {'yes' if number % 10 else 'no'}"})
        then = f"{first} yes {number}\n\nHuman: Why?\n\nAssistant:"
        rows.append(
            {"chosen": f"{then} so {number}", "rejected": f"{then} {f'so {number}' if number % 10 == 0 else 'no'}"}
        )
    return rows


def test_dialogues_are_recognised_counted_and_split_by_their_beginnings(tmp_path: Path) -> None:
    file = write(tmp_path / "hh.jsonl", dialogues(300))
    for flags in ([], ["--format", "hh_rlhf"]):
        data = data_of(parse("reward", ["--labels", file, *flags])[0])
        assert data.labels is not None
        assert sum(map(len, data.labels)) == 570
        assert list(data.notes[:2]) == [
            "hh.jsonl: read as hh_rlhf (Anthropic/hh-rlhf); 570 labels of 600 rows",
            f"hh.jsonl: 30 skipped: both answers are the same (first at {file}:2)",
        ]
        assert re.fullmatch(r"\d+ of \d+ held-out labels have an answer that training labels have too", data.notes[2])
        firsts = [
            {label.prompt.messages[0]["content"] if isinstance(label.prompt, Chat) else label.prompt for label in part}
            for part in data.labels
        ]
        assert sum(map(len, firsts)) == len(set().union(*firsts)) == 300
    with pytest.raises(DataError, match=rf"^{re.escape(file)}:2: both answers are the same; leave `strict` out"):
        data_of(parse("reward", ["--labels", file, "--strict", "true"])[0])


def test_a_map_of_columns_and_a_column_to_split_by(tmp_path: Path) -> None:
    rows = [{"q": f"{i}", "x": "a", "y": f"b{i}", "w": i % 2, "topic": f"t{i % 25}"} for i in range(200)]
    file = write(tmp_path / "own.jsonl", rows)
    recipe = tmp_path / "reward.yaml"
    recipe.write_text("columns: {prompt: q, answers: [x, y], preference: w, coding: {0: a, 1: b}}\n")
    data = data_of(parse("reward", ["--config", str(recipe), "--labels", file, "--split_by", "topic"])[0])
    assert data.labels is not None
    topics = [{int(label.prompt) % 25 for label in part} for part in data.labels]
    assert sum(map(len, topics)) == 25
    assert data.notes[0] == "own.jsonl: read as your columns; 200 labels of 200 rows"
    flags = ["--columns.prompt", "q", "--columns.answers", "[x, y]", "--columns.preference", "w"]
    flags += ["--columns.coding", "{0: a, 1: b}"]
    assert data_of(parse("reward", ["--labels", file, *flags])[0]).labels is not None
    with pytest.raises(DataError, match=r"own.jsonl: no row has the column 'theme', by which it is to be split"):
        data_of(parse("reward", ["--labels", file, *flags, "--split_by", "theme"])[0])


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        (
            5 * [{"prompt": "p", "chosen": "a", "rejected": "b"}],
            [],
            "5 labels of 1 different prompts or groups are too",
        ),
        ([{"prompt": "p", "chosen": "a", "rejected": "a"}], [], "none of 1 rows can be used; 1 skipped: both answers"),
        ([{"a": 1}], ["--format", "shp"], r"labels.jsonl:1: expected the columns of shp \(history, .*\), got a"),
        ([{"a": 1}], ["--format", "hh"], "`format` must be one of hh_rlhf, "),
        (
            [{"q": "p", "x": "a"}],
            ["--columns", "{prompt: q, answers: x, rating: r}"],
            ":1: field `r`: expected this col",
        ),
    ],
)
def test_a_mistake_is_one_line(
    rows: list[dict[str, Any]], flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "labels.jsonl", rows)
    assert main(["reward", "--runs_dir", str(tmp_path / "runs"), "--labels", file, *flags]) == 1
    err = capsys.readouterr().err
    assert re.search(message, err)
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()
