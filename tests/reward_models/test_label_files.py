"""Label files: every convention is read, every kind comes back as it was, every mistake is named with its place."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_models.labels import BestOf, Comparison, Label, Ranking, Rating, StepLabels
from reward_models.labels.columns import KNOWN_COLUMNS, labels_of_row
from reward_models.labels.files import read_labels, to_dataset, write_labels
from textenv.answers import chat_text
from textenv.errors import DataError, MissingDependencyError, UnusableRow

EVERY_KIND: list[Label] = [
    Comparison("p", "a", "b"),
    Comparison("p", "a", "b", margin=0.5, weight=2.0, tie=True, confidence=0.75, rater="x", item="i", source="s"),
    Rating("p", "r", 1.5),
    Rating("p", "r", 4.0, weight=0.5, scale=(1, 5), spread=0.5, count=3, rater="x"),
    Ranking("p", ("a", "b", "c"), (2, 1, None), weight=2.0, item="i"),
    BestOf("p", ("a", "b"), 0),
    BestOf("p", ("a", "b"), 1, source="s"),
    StepLabels("p", ("one ", "two"), (1.0, None), rater="y"),
]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_every_kind_comes_back_as_it_was(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"labels.{ending}"
    write_labels(path, EVERY_KIND)
    assert read_labels(path) == EVERY_KIND


class FakeDataset:
    """Rows that know their columns, as Hugging Face's datasets do: every row has every column."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.column_names = sorted({name for row in rows for name in row})

    def __iter__(self) -> Any:
        return iter({name: row.get(name) for name in self.column_names} for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def from_list(cls, rows: list[dict[str, Any]]) -> FakeDataset:
        return cls(rows)


def test_datasets_in_and_out(monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("datasets")
    module.Dataset = FakeDataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    made = to_dataset(EVERY_KIND)
    assert {"prompt", "chosen", "ranks", "score"} <= set(made.column_names)
    assert read_labels(made) == EVERY_KIND


def test_to_dataset_without_the_library_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match="pip install datasets"):
        to_dataset(EVERY_KIND)


def test_read_labels_of_several_splits_asks_for_one() -> None:
    with pytest.raises(DataError, match=r"expected rows, got a collection of splits \['test', 'train'\]"):
        read_labels({"train": [], "test": []})  # type: ignore[arg-type]


USER, BOT, WORSE = ({"role": r, "content": c} for r, c in (("user", "why?"), ("assistant", "so"), ("assistant", "no")))
CONVENTIONS: list[tuple[str, dict[str, Any], list[Label]]] = [
    ("TRL", {"prompt": "p", "chosen": "a", "rejected": "b"}, [Comparison("p", "a", "b")]),
    ("chats", {"prompt": [USER], "chosen": [BOT], "rejected": [WORSE]}, [Comparison("why?", "so", "no")]),
    ("implicit prompt", {"chosen": [USER, BOT], "rejected": [USER, WORSE]}, [Comparison("why?", "so", "no")]),
    (
        "UltraFeedback: prompt and whole chats",
        {"prompt": "why?", "chosen": [USER, BOT], "rejected": [USER, WORSE]},
        [Comparison("why?", "so", "no")],
    ),
    ("arena a", {"prompt": "p", "response_a": "a", "response_b": "b", "winner": "a"}, [Comparison("p", "a", "b")]),
    (
        "arena b",
        {"prompt": "p", "response_a": "a", "response_b": "b", "winner": "model_b"},
        [Comparison("p", "b", "a")],
    ),
    (
        "arena tie",
        {"prompt": "p", "response_a": "a", "response_b": "b", "winner": "tie (bothbad)"},
        [Comparison("p", "a", "b", tie=True)],
    ),
    ("ranks", {"prompt": "p", "responses": ["a", "b"], "ranks": [2, 1]}, [Ranking("p", ("a", "b"), (2, 1))]),
    (
        "ranking with a tie, one unranked",
        {"prompt": "p", "responses": ["a", "b", "c", "d"], "ranking": [3, [0, 2]]},
        [Ranking("p", ("a", "b", "c", "d"), (2, None, 2, 1))],
    ),
    (
        "rankings of two people",
        {"prompt": "p", "responses": ["a", "b"], "rankings": [[1, 2], [2, 1]]},
        [Ranking("p", ("a", "b"), (1, 2)), Ranking("p", ("a", "b"), (2, 1))],
    ),
    (
        "rankings, flat",
        {"prompt": "p", "responses": ["a", "b"], "rankings": [1, 1]},
        [Ranking("p", ("a", "b"), (1, 1))],
    ),
    ("best", {"prompt": "p", "responses": ["a", "b"], "best": 1}, [BestOf("p", ("a", "b"), 1)]),
    ("rating", {"prompt": "p", "completion": "r", "rating": 3}, [Rating("p", "r", 3.0)]),
    ("ratings", {"prompt": "p", "response": "r", "ratings": [1, 3]}, [Rating("p", "r", 2.0, spread=2**0.5, count=2)]),
    ("KTO", {"prompt": "p", "completion": "r", "label": True}, [Rating("p", "r", 1.0, scale=(0, 1))]),
    (
        "stepwise",
        {"prompt": "p", "completions": ["a", "b"], "labels": [True, False]},
        [StepLabels("p", ("a\n", "b"), (1.0, 0.0))],
    ),
    (
        "steps that bring their separator",
        {"prompt": "p", "completions": ["a\n", "b", " c"], "labels": [True, None, False], "step_separator": " "},
        [StepLabels("p", ("a\n ", "b", " c"), (1.0, None, 0.0))],
    ),
    ("number as text", {"prompt": "p", "response": "r", "score": "3"}, [Rating("p", "r", 3.0)]),
    (
        "whole conversation, rated",
        {"messages": [USER, BOT, USER, WORSE], "score": 1},
        [Rating("User: why?\n\nAssistant: so\n\nUser: why?\n\nAssistant:", "no", 1.0)],
    ),
    ("number as rater", {"prompt": "p", "response": "r", "score": 1, "rater": 7}, [Rating("p", "r", 1.0, rater="7")]),
]


@pytest.mark.parametrize(("row", "expected"), [case[1:] for case in CONVENTIONS], ids=[case[0] for case in CONVENTIONS])
def test_conventions_of_the_ecosystem(row: dict[str, Any], expected: list[Label]) -> None:
    assert labels_of_row(row, "here") == expected


def test_several_turns_end_where_the_answer_begins() -> None:
    assert chat_text([USER, BOT, USER]) == "User: why?\n\nAssistant: so\n\nUser: why?\n\nAssistant:"
    row = {"prompt": [USER, BOT, USER], "response": "r", "score": 1}
    assert labels_of_row(row, "here", lambda messages: f"{len(messages)} turns") == [Rating("3 turns", "r", 1.0)]


GOOD = '{"prompt": "p", "chosen": "a", "rejected": "b"}'
MISTAKES: list[tuple[str, bytes | str, str]] = [
    ("bad JSON", '{"prompt": "p", ', r":2: not valid JSON: .* at column \d+"),
    ("no object", '["p", "a"]', r":2: expected an object with named columns, got \['p', 'a'\]"),
    ("no label", '{"prompt": "p"}', r":2: field `chosen`: expected the columns of some label .* got \['prompt'\]"),
    ("missing field", '{"prompt": "p", "chosen": "a"}', r":2: field `rejected`: expected a text .*, got nothing"),
    ("wrong type", '{"prompt": "p", "chosen": 3, "rejected": "b"}', r":2: field `chosen`: expected a text .*, got 3"),
    (
        "bad chat",
        '{"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}',
        r":2: field `prompt`: .* got \{'role': 'user'\} as",
    ),
    ("NaN", '{"prompt": "p", "response": "r", "score": NaN}', r":2: NaN is no JSON number \(field 'score'\)"),
    ("true as number", '{"prompt": "p", "response": "r", "score": true}', r"`score`: expected a finite number, got Tr"),
    ("two scores", '{"prompt": "p", "response": "r", "score": 1, "rating": 1}', r"`score`: expected exactly one of"),
    ("no score", '{"prompt": "p", "response": "r"}', r"`score`: expected exactly one of .*, got nothing"),
    ("KTO number", '{"prompt": "p", "completion": "r", "label": 1}', r"`label`: expected true or false, got 1"),
    (
        "off scale",
        '{"prompt": "p", "response": "r", "score": 9, "scale": [1, 5]}',
        r":2: field `score` must be a whole",
    ),
    ("bad scale", '{"prompt": "p", "response": "r", "score": 1, "scale": [1]}', r"`scale`: expected two whole numbers"),
    ("count", '{"prompt": "p", "response": "r", "score": 1, "count": 1.5}', r"`count`: expected a whole number"),
    ("weight", '{"prompt": "p", "chosen": "a", "rejected": "b", "weight": -1}', r":2: field `weight` must be finite"),
    ("tie", '{"prompt": "p", "chosen": "a", "rejected": "b", "tie": 1}', r":2: field `tie`: expected true or false"),
    (
        "winner",
        '{"prompt": "p", "response_a": "a", "response_b": "b", "winner": 0}',
        r"`winner`: expected a, b or tie, got 0",
    ),
    ("few ranks", '{"prompt": "p", "responses": ["a", "b"], "ranks": [1]}', r":2: field `ranks` must be one rank per"),
    ("rank 0", '{"prompt": "p", "responses": ["a", "b"], "ranks": [0, 1]}', r"`ranks`: .* whole numbers from 1"),
    (
        "duplicate",
        '{"prompt": "p", "responses": ["a", "b"], "ranking": [0, 0]}',
        r"`ranking`: expected each index once",
    ),
    (
        "out of range",
        '{"prompt": "p", "responses": ["a", "b"], "ranking": [0, 2]}',
        r"an index from 0 to 1 \(there are 2",
    ),
    ("best", '{"prompt": "p", "responses": ["a", "b"], "best": 2}', r"`best`: expected an index from 0 to 1 .*, got 2"),
    (
        "two orders",
        '{"prompt": "p", "responses": ["a", "b"], "best": 0, "ranks": [1, 2]}',
        r"exactly one of the columns",
    ),
    ("no order", '{"prompt": "p", "responses": ["a", "b"]}', r"`ranks`: expected exactly one of .*, got nothing"),
    ("responses", '{"prompt": "p", "responses": "ab", "best": 0}', r"`responses`: expected a list of texts, got 'ab'"),
    (
        "steps",
        '{"prompt": "p", "steps": ["a"], "labels": ["yes"]}',
        r"`labels`: expected a list of numbers from 0 to 1",
    ),
    ("step count", '{"prompt": "p", "steps": ["a"], "labels": [1, 0]}', r":2: field `labels` must be one label per"),
    ("rater", '{"prompt": "p", "response": "r", "score": 1, "rater": [1]}', r"`rater`: expected a text or a whole"),
    (
        "twins",
        '{"prompt": "p", "prompt": "q", "chosen": "a", "rejected": "b"}',
        r":2: the key 'prompt' stands there more than once",
    ),
    (
        "digits",
        '{"prompt": "p", "response": "r", "score": ' + 5000 * "1" + "}",
        r":2: the number 111111111111… has 5000 digits",
    ),
    (
        "spread of a yes",
        '{"prompt": "p", "completion": "r", "label": true, "spread": ""}',
        r":2: field `spread`: expected a finite number, got ''",
    ),
    ("not UTF-8", b'{"prompt": "\xff"}', r":2: expected UTF-8, got byte 0xff at 12; save the file"),
]


@pytest.mark.parametrize(("line", "message"), [case[1:] for case in MISTAKES], ids=[case[0] for case in MISTAKES])
def test_mistake_names_file_line_field_and_what_was_expected(line: bytes | str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_bytes(GOOD.encode() + b"\n" + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(DataError, match=message) as caught:
        read_labels(path)
    assert str(caught.value).startswith(f"{path}:2: ")


UNUSABLE: list[tuple[str, dict[str, Any], str]] = [
    ("null", {"prompt": None, "chosen": "a", "rejected": "b"}, "no `prompt`"),
    ("null answer", {"prompt": "p", "chosen": "a", "rejected": None}, "no `rejected`"),
    ("nulls", {"prompt": "p", "chosen": None, "rejected": None}, "nothing but nulls"),
    ("same texts", {"prompt": "p", "chosen": "a", "rejected": "a"}, "both answers are the same"),
    ("chats alike", {"chosen": [USER, BOT], "rejected": [USER, BOT]}, "both answers are the same"),
    ("questions alone", {"chosen": [USER], "rejected": [USER]}, "a conversation does not end with an answer"),
    (
        "conversations of their own",
        {"prompt": "why?", "chosen": [USER, BOT], "rejected": [{"role": "user", "content": "who?"}, WORSE]},
        "the conversations begin differently",
    ),
    ("unknown vote", {"prompt": "p", "response_a": "a", "response_b": "b", "winner": "c"}, "an unknown vote, 'c'"),
    ("no ratings", {"prompt": "p", "response": "r", "ratings": []}, "no rating"),
    ("no rating", {"prompt": "p", "response": "r", "rating": "N/A"}, "no rating"),
    ("null rating", {"prompt": "p", "response": "r", "rating": None}, "no rating"),
    ("no step rated", {"prompt": "p", "steps": ["a"], "labels": [None]}, "no step is labelled"),
    (
        "opposite scores",
        {"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 2},
        "`score_chosen` is below `score_rejected`",
    ),
]


@pytest.mark.parametrize(("row", "reason"), [case[1:] for case in UNUSABLE], ids=[case[0] for case in UNUSABLE])
def test_rows_of_no_use_are_counted_by_reason_or_strictly_refused(row: dict[str, Any], reason: str) -> None:
    rows = [row, {"prompt": "p", "chosen": "a", "rejected": "b"}, row]
    with pytest.warns(UserWarning, match="2 skipped") as caught:
        assert read_labels(rows) == [Comparison("p", "a", "b")]
    assert f"dataset: 2 skipped: {reason} (first at dataset: row 0)" in [str(each.message) for each in caught]
    with pytest.raises(DataError, match=re.escape(f"dataset: row 0: {reason}; leave `strict` out")):
        read_labels(rows, strict=True)
    with pytest.raises(DataError, match=re.escape(f"dataset: none of 1 rows can be used; 1 skipped: {reason}")):
        read_labels([row])


ODD = st.sampled_from(
    [None, True, 0, -1, 2.5, 10**400, "", "a", [], ["a"], [[1]], [1, 2], [None], {}, {"role": "user"}]
)
COLUMNS = st.sampled_from(sorted(KNOWN_COLUMNS))


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(COLUMNS, ODD, max_size=4), st.sampled_from([case[1] for case in CONVENTIONS]))
def test_whatever_stands_in_a_row_it_is_read_or_a_data_error(odd: dict[str, Any], row: dict[str, Any]) -> None:
    problem, labels = "", []
    try:
        labels = labels_of_row(row | odd, "here:1")
    except UnusableRow:
        return
    except DataError as error:
        problem = str(error)
    assert labels or problem.startswith("here:1: field `")


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_file_is_an_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=r"labels\.jsonl: expected at least one label, the file is empty"):
        read_labels(path)


def test_missing_file_and_unknown_ending_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_labels(tmp_path / "none.jsonl")
    (tmp_path / "labels.yaml").write_text("prompt\n")
    with pytest.raises(DataError, match=r"labels.yaml: expected a file of .jsonl, .*, got '.yaml'"):
        read_labels(tmp_path / "labels.yaml")
    with pytest.raises(DataError, match=r"expected a file of .jsonl or .parquet, got '.txt'"):
        write_labels(tmp_path / "labels.txt", EVERY_KIND)
    with pytest.raises(DataError, match="there are no labels to write"):
        write_labels(tmp_path / "labels.jsonl", [])


def test_byte_order_mark_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode() + b"\n\n" + GOOD.encode())
    assert len(read_labels(path)) == 2


def test_unknown_column_warns_once_and_can_be_silenced(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"prompt": "p", "chosen": "a", "rejected": "b", "colour": 1}\n' * 2)
    with pytest.warns(UserWarning, match=r":1: column `colour` belongs to no label.*`ignore_columns`") as caught:
        read_labels(path)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_labels(path, ignore_columns=["colour"])) == 2


def test_parquet_that_is_none_and_parquet_with_a_mistake(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "labels.parquet"
    path.write_bytes(b"PAR")
    with pytest.raises(DataError, match=r"labels.parquet: not a readable Parquet file"):
        read_labels(path)
    pq.write_table(pa.table({"prompt": ["p", "q"], "chosen": ["a", "b"], "rejected": ["c", None]}), path)
    with pytest.raises(DataError, match=r"labels.parquet: row 1: no `rejected`; leave `strict` out"):
        read_labels(path, strict=True)
