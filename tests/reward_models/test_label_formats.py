"""The field's files of labels: every form in every container reads as the same labels, messages and all."""

from __future__ import annotations

import csv
import gzip
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from reward_models.labels import Comparison, Label, LabelColumns, Rating, read_labels, write_labels
from reward_models.labels.files import read_label_file
from reward_models.labels.formats import FORMATS
from tests.reward_models.label_rows import CALL, HELPSTEER, SAMPLES, ULTRA, said
from textenv.answers import Chat
from textenv.errors import ConfigError, DataError

Rows = Sequence[dict[str, Any]]


def messages(labels: Sequence[Label]) -> list[Any]:
    """Labels with everything that a chat among their texts holds; equal texts alone would not tell."""

    def shown(value: Any) -> Any:
        if isinstance(value, tuple):
            return [shown(entry) for entry in value]
        return list(value.messages) if isinstance(value, Chat) else value

    return [{name: shown(getattr(label, name)) for name in label.__slots__} for label in labels]


def as_parquet(rows: Rows, path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows)), path / "rows.parquet")
    return path / "rows.parquet"


def as_csv(rows: Rows, path: Path, show: Callable[[Any], str] = json.dumps) -> Any:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for row in rows:
            cells = [row.get(name) for name in names]
            writer.writerow(show(cell) if isinstance(cell, (list, dict)) else cell for cell in cells)
    return path / "rows.csv"


def as_lines(rows: Rows, path: Path) -> Any:
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path / "rows.jsonl"


def as_array(rows: Rows, path: Path) -> Any:
    (path / "rows.json").write_text(json.dumps(list(rows)))
    return path / "rows.json"


def as_gzip(rows: Rows, path: Path) -> Any:
    (path / "rows.jsonl.gz").write_bytes(gzip.compress(as_lines(rows, path).read_bytes()))
    return path / "rows.jsonl.gz"


def as_dataset(rows: Rows, path: Path) -> Any:
    return pytest.importorskip("datasets").Dataset.from_list(list(rows))


def as_saved_dataset(rows: Rows, path: Path) -> Any:
    as_dataset(rows, path).save_to_disk(path / "saved")
    return path / "saved"


def as_frame(rows: Rows, path: Path) -> Any:
    return pytest.importorskip("pandas").DataFrame(list(rows))


def as_frame_of_parquet(rows: Rows, path: Path) -> Any:
    return pytest.importorskip("pandas").read_parquet(as_parquet(rows, path))


CONTAINERS: dict[str, Callable[[Rows, Path], Any]] = {
    "jsonl": as_lines,
    "jsonl.gz": as_gzip,
    "json": as_array,
    "csv": as_csv,
    "csv as Python writes lists": lambda rows, path: as_csv(rows, path, repr),
    "parquet": as_parquet,
    "datasets": as_dataset,
    "saved dataset": as_saved_dataset,
    "data frame": as_frame,
    "data frame of parquet": as_frame_of_parquet,
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("sample", SAMPLES)
def test_every_form_reads_alike_from_every_container(sample: str, container: str, tmp_path: Path) -> None:
    form, rows, labels = SAMPLES[sample]
    source = CONTAINERS[container](rows, tmp_path)
    read = read_label_file(source)
    assert messages(read.labels) == messages(labels)
    assert FORMATS[form].title in read.lines[0]
    named = read_label_file(source, form)
    assert messages(named.labels) == messages(labels)
    assert named.lines == read.lines
    with_rows_skipped = {"rating_strings": "no rating", "identical_pair": "both answers are the same"}
    assert list(read.skipped) == [reason for name, reason in with_rows_skipped.items() if name == sample]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_conversations_are_written_and_read_back(ending: str, tmp_path: Path) -> None:
    labels = [label for _, _, labels in SAMPLES.values() for label in labels]
    write_labels(tmp_path / f"labels.{ending}", labels)
    assert messages(read_labels(tmp_path / f"labels.{ending}")) == messages(labels)


def test_what_was_recognised_and_what_is_not_used_is_said() -> None:
    (line,) = read_label_file([ULTRA]).lines
    assert line == (
        "dataset: read as ultrafeedback (openbmb/UltraFeedback; rating: mean of instruction_following, honesty, "
        "truthfulness, helpfulness; left out: `custom_system_prompt`, which the judges did not see and which differs "
        "from answer to answer); 2 labels of 1 rows; not used: correct_answers, models"
    )


@pytest.mark.parametrize(
    ("rows", "attribute", "ratings"),
    [
        ([ULTRA], "instruction_following", [(5.0, (1, 5)), (1.0, (1, 5))]),
        ([ULTRA], "honesty", [(2.0, (1, 5))]),
        ([ULTRA], "overall_score", [(8.5, None), (2.0, None)]),
        ([ULTRA], {"overall_score": 0.5, "fine-grained_score": 1.0}, [(8.5, None), (2.0, None)]),
        ([HELPSTEER], None, [(3.0, (0, 4))]),
        ([HELPSTEER], "verbosity", [(1.0, (0, 4))]),
        ([HELPSTEER], {"helpfulness": 0.65, "correctness": 0.8, "verbosity": -0.4}, [(4.75, None)]),
        ([HELPSTEER], "mean", [(2.8, None)]),
    ],
)
def test_one_attribute_or_a_weighted_sum_is_the_rating(rows: Rows, attribute: Any, ratings: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels = read_labels(rows, attribute=attribute)
    assert all(isinstance(label, Rating) for label in labels)
    assert [(round(label.score, 9), label.scale) for label in labels if isinstance(label, Rating)] == ratings


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"format": "hh"}, ConfigError, "`format` must be one of hh_rlhf, .*, got 'hh'; or give `columns`"),
        ({"format": "shp"}, DataError, r"^dataset: row 0: expected the columns of shp \(history, .*, got prompt"),
        ({"attribute": "taste"}, ConfigError, "helpsteer2 has no 'taste'; it has helpfulness, .*, and `mean`"),
        ({"format": "columns", "attribute": "x"}, ConfigError, "the format columns have no attributes; leave it out"),
        ({"columns": {"answers": "a", "rating": "b"}, "format": "shp"}, ConfigError, "leave `format` and `attribute`"),
    ],
)
def test_a_choice_that_does_not_fit_is_one_line(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_labels([HELPSTEER], **arguments)


def test_rows_of_several_forms_are_read_each_as_its_own() -> None:
    rows = [*SAMPLES["hh_rlhf"][1], *SAMPLES["shp"][1], *SAMPLES["kto"][1]]
    read = read_label_file(rows)
    assert len(read.labels) == 5
    assert "hh_rlhf (Anthropic/hh-rlhf) in 1 rows, shp (stanfordnlp/SHP) in 2 rows, kto" in read.lines[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (SAMPLES["arena_55k"][1][0] | {"response_b": '["B"]'}, "field `response_b`: expected a list of turns, as many"),
        (SAMPLES["arena_55k"][1][0] | {"prompt": "Hi"}, "field `prompt`: expected JSON in the text, got 'Hi'"),
        (SAMPLES["summarize_comparisons"][1][0] | {"summaries": "x"}, "`summaries.text`: expected something with a"),
        (SAMPLES["prm800k"][1][0] | {"label": {"steps": [{"completions": [{"rating": 1}]}]}}, "not as openai/prm800k"),
        (HELPSTEER | {"helpfulness": "good"}, "field `helpfulness`: expected a number, or a word that `coding` knows"),
        (HELPSTEER | {"helpfulness": 7}, "field `helpfulness` must be a whole number from 0 to 4"),
        ({"chosen": [{"role": "user"}], "rejected": [{"role": "user"}]}, "field `chosen`: every chat message needs"),
    ],
)
def test_what_is_malformed_is_an_error_with_its_line(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = as_lines([row], tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        read_labels(path)
    assert str(caught.value).startswith(f"{path}:1: ")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"response_b": '["B", null]'}, "a turn of `response_b` is null"),
        ({"response_b": '["B", "\\ud83d"]'}, "`response_b` holds half a character"),
        ({"winner_model_a": 1}, "not one of the answers or the tie is marked"),
    ],
)
def test_arena_rows_of_no_use_are_skipped(change: dict[str, Any], reason: str) -> None:
    row = SAMPLES["arena_55k"][1][0]
    assert read_label_file([row, row | change]).skipped == {reason: 1}


def test_tool_turns_reach_the_chat_template_in_both_forms() -> None:
    from reward_models.base import ChatTemplate
    from tests.reward_models.tiny import word_tokenizer

    tokenizer = word_tokenizer(["a"], encoder=False)
    (label,) = read_labels(SAMPLES["chat_with_tools"][1])
    assert isinstance(label, Comparison)
    start, end = "<system>Answer in French.<user>Name a fruit.<assistant>", "<tool>Jo is 7.<assistant>7"
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    assert ChatTemplate(tokenizer)(label.prompt, label.chosen) == f'{start}look({{"for": "Jo"}}){end}'
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content or m.tool_calls[0].id }}{% endfor %}"
    assert ChatTemplate(tokenizer)(label.prompt, label.chosen) == f"{start}1{end}"


# --- column maps ------------------------------------------------------------------------------------------------------

A_B = "a > b"
MAPPED: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "stack exchange: two scores": (
        {"qid": 1, "question": "p", "response_j": "a", "response_k": "b", "score_j": 7, "score_k": 2},
        {"prompt": "question", "answers": ["response_j", "response_k"], "preference": ["score_j", "score_k"]},
        [A_B],
    ),
    "embedding style": (
        {"query": "p", "pos": "a", "neg": "b"},
        {"prompt": "query", "chosen": "pos", "rejected": "neg"},
        [A_B],
    ),
    "better names the column": (
        {"context": "p", "answer_0": "b", "answer_1": "a", "better": "answer_1"},
        {"prompt": "context", "answers": ["answer_0", "answer_1"], "preference": "better"},
        [A_B],
    ),
    "better is a number": (
        {"context": "p", "answer_0": "b", "answer_1": "a", "better": 1},
        {"prompt": "context", "answers": ["answer_0", "answer_1"], "preference": "better", "coding": {0: "a", 1: "b"}},
        [A_B],
    ),
    "preference in words": (
        {"q": "p", "x": "a", "y": "b", "verdict": "X is much better", "who": 7},
        {
            "prompt": "q",
            "answers": ["x", "y"],
            "preference": "verdict",
            "coding": {"x is much better": "a", "y is much better": "b"},
            "rater": "who",
        },
        ["a > b by 7"],
    ),
    "Likert in words": (
        {"q": "p", "reply": "a", "verdict": "Agree"},
        {
            "prompt": "q",
            "answers": "reply",
            "rating": "verdict",
            "coding": {"disagree": 1, "neutral": 2, "agree": 3},
            "scale": [1, 3],
        },
        ["a = 3 of (1, 3)"],
    ),
    "Likert about the middle, with a margin": (
        {"q": "p", "x": "b", "y": "a", "likert": "6", "by": -2},
        {
            "prompt": "q",
            "answers": ["x", "y"],
            "preference": "likert",
            "coding": {"<4": "a", "4": "tie", ">4": "b"},
            "margin": "by",
        },
        ["a > b + 2"],
    ),
    "HelpSteer3": (
        {"context": [{"role": "user", "content": "p"}], "response1": "a", "response2": "b", "overall_preference": 0},
        {
            "prompt": "context",
            "answers": ["response1", "response2"],
            "preference": "overall_preference",
            "coding": {"<0": "a", "0": "tie", ">0": "b"},
        },
        ["a ~ b"],
    ),
    "ratings of a list of answers": (
        {"instruction": "p", "generations": ["a", "b"], "rating": [9, "N/A"]},
        {"prompt": "instruction", "answers": "generations", "rating": "rating", "scale": [1, 10]},
        ["a = 9 of (1, 10)"],
    ),
    "answers in objects": (
        {"in": {"text": "p"}, "out": [{"text": "a", "marks": {"style": 2, "truth": 4}}, {"text": "b", "marks": None}]},
        {
            "prompt": "in.text",
            "answers": "out.text",
            "attributes": {"out.marks.style": 0.25, "out.marks.truth": 0.5},
        },
        ["a = 2.5"],
    ),
    "votes": (
        {"p": "p", "l": "a", "r": "b", "votes_l": 9, "votes_r": 3},
        {"prompt": "p", "answers": ["l", "r"], "preference": ["votes_l", "votes_r"], "votes": True},
        ["a > b at 0.75"],
    ),
    "one-hot with a tie": (
        {"p": "p", "l": "a", "r": "b", "win_l": False, "win_r": False, "draw": True},
        {"prompt": "p", "answers": ["l", "r"], "preference": ["win_l", "win_r", "draw"]},
        ["a ~ b"],
    ),
    "a tie by another name, a system prompt and a weight": (
        {"sys": "s", "p": "p", "l": "a", "r": "b", "win": "egal", "sure": 0.5},
        {
            "system": "sys",
            "prompt": "p",
            "answers": ["l", "r"],
            "preference": "win",
            "ties": ["egal"],
            "weight": "sure",
        },
        ["System: s\n\nUser: p\n\nAssistant: a ~ b x 0.5"],
    ),
    "several answers with scores": (
        {"p": "p", "answers": [{"t": "b", "s": 1}, {"t": "a", "s": 5}, {"t": "c", "s": 1}]},
        {"prompt": "p", "answers": "answers.t", "preference": "answers.s"},
        ["b, a, c: 2, 1, 2"],
    ),
    "steps in words": (
        {"problem": "p", "solution": ["a", "b"], "verdicts": ["+", "-"]},
        {
            "prompt": "problem",
            "steps": "solution",
            "step_labels": "verdicts",
            "coding": {"+": 1, "-": 0},
            "step_separator": "\n\n",
        },
        ["a\n\n|b: 1.0, 0.0"],
    ),
    "thumbs": (
        {"conversation": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}], "thumb": "up"},
        {"answers": "conversation", "rating": "thumb", "coding": {"up": 1, "down": 0}, "scale": [0, 1]},
        ["a = 1 of (0, 1)"],
    ),
    "several people's ratings": (
        {"p": "p", "a": "a", "stars": "[1, 3]"},
        {"prompt": "p", "answers": "a", "rating": "stars"},
        ["a = 2"],
    ),
    "a pair with equal ratings": (
        {"p": "p", "up": "a", "down": "b", "up_r": 3, "down_r": "3"},
        {"prompt": "p", "chosen": "up", "rejected": "down", "rating": ["up_r", "down_r"]},
        ["a ~ b"],
    ),
}


def short(label: Any) -> str:
    """What a label says, in a few signs."""
    start = "" if label.prompt == "p" else f"{label.prompt} "
    end = (f" by {label.rater}" if label.rater else "") + (f" x {label.weight:g}" if label.weight != 1 else "")
    if hasattr(label, "chosen"):
        sure = f" at {label.confidence:g}" if label.confidence != 1 else ""
        margin = f" + {label.margin:g}" if label.margin else ""
        return f"{start}{label.chosen} {'~' if label.tie else '>'} {label.rejected}{margin}{sure}{end}"
    if hasattr(label, "steps"):
        return f"{start}{'|'.join(label.steps)}: {', '.join(map(str, label.labels))}"
    if hasattr(label, "ranks"):
        return f"{start}{', '.join(label.responses)}: {', '.join(map(str, label.ranks))}"
    return f"{start}{label.response} = {label.score:g}" + (f" of {label.scale}" if label.scale else "") + end


@pytest.mark.parametrize("container", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("name", MAPPED)
def test_other_files_of_the_same_ideas_are_read_by_a_map_of_their_columns(
    name: str, container: str, tmp_path: Path
) -> None:
    row, columns, expected = MAPPED[name]
    if container == "parquet" and name == "ratings of a list of answers":
        row = row | {"rating": ["9", "N/A"]}
    read = read_label_file(CONTAINERS[container]([row], tmp_path), columns=columns)
    assert [short(label) for label in read.labels] == expected
    assert f"read as your columns; {len(expected)} labels of 1 rows" in read.lines[0]


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        (
            {"q": "p", "x": "a", "y": "b", "win": 1},
            {"prompt": "q", "answers": ["x", "y"], "preference": "win"},
            r"row 0: field `win`: expected `coding` to say what 1 means, such as \{",
        ),
        ({"q": "p"}, {"prompt": "q", "chosen": "x", "rejected": "y"}, r"row 0: field `x`: expected this column, got"),
        (
            {"q": "p", "x": "a", "y": "b"},
            {"prompt": "q", "chosen": "x", "rejected": "y", "rater": "who"},
            "the column 'who' of `columns` stands in no row",
        ),
        (
            {"q": "p", "x": "a", "stars": "many"},
            {"prompt": "q", "answers": "x", "rating": "stars"},
            "field `stars`: expected a number, or a word that `coding` knows, got 'many'",
        ),
        (
            {"q": "p", "x": "a", "stars": 9},
            {"prompt": "q", "answers": "x", "rating": "stars", "scale": [1, 5]},
            "field `stars` must be a whole number from 1 to 5",
        ),
        (
            {"q": "p", "x": 3, "y": "b"},
            {"prompt": "q", "chosen": "x", "rejected": "y"},
            "field `x`: expected a text or a list of chat messages, got 3",
        ),
        (
            {"q": "p", "x": ["a", "b"], "stars": [1]},
            {"prompt": "q", "answers": "x", "rating": "stars"},
            "expected a rating of each of 2 answers, got 1",
        ),
    ],
)
def test_what_a_map_cannot_read_is_named_in_the_files_own_words(row: Any, columns: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_labels([row], columns=columns)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt": "q"}, "needs `chosen` and `rejected`, or `answers`, or `steps`"),
        ({"chosen": "x"}, "`columns.chosen` and `columns.rejected` are needed together"),
        ({"answers": "x"}, "`columns.answers` needs one of .* got none"),
        ({"answers": "x", "rating": "r", "best": "b"}, "needs one of .* got best and rating"),
        ({"steps": "s"}, "`columns.step_labels` are needed together"),
        ({"chosen": "x", "rejected": "y", "scale": [1, 5]}, "`columns.scale` has no effect"),
        ({"chosen": "x", "rejected": "y", "coding": {"1": "a"}}, "`columns.coding` has no effect"),
    ],
)
def test_a_map_that_makes_no_label_is_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LabelColumns(**columns)


@pytest.mark.parametrize("vote", ["who knows", None, "n/a", 9])
def test_votes_that_a_coding_does_not_know_are_skipped(vote: Any) -> None:
    row = {"q": "p", "x": "a", "y": "b", "win": 1}
    columns = {"prompt": "q", "answers": ["x", "y"], "preference": "win", "coding": {"1": "a", "2": "b"}}
    read = read_label_file([row, row | {"win": vote}], columns=columns)
    assert len(read.labels) == 1
    assert sum(read.skipped.values()) == 1


def test_messages_of_a_call_survive_a_cell_of_text() -> None:
    chosen = json.dumps([said("user", "p"), said("assistant", None, tool_calls=[CALL]), said("assistant", "a")])
    row = {"chosen": chosen, "rejected": json.dumps([said("user", "p"), said("assistant", "b")])}
    (label,) = read_labels([row])
    assert label.chosen.messages[0]["tool_calls"] == [CALL]  # type: ignore[union-attr]  # a Chat
