"""Exports are read back as they were, by us and by what else reads such files; imports say what is wrong and where."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reward_models.labels import Comparison, Ranking, Rating, labels_from_store, read_labels
from textenv.cli.main import main
from textenv.errors import DataError
from textenv.feedback.formats import FORMATS, Exported, Imported, export_labels, import_labels
from textenv.feedback.store import Answer, FeedbackStore, Item, Label, Scale


def answers(*texts: str) -> tuple[Answer, ...]:
    sampling = {"temperature": 0.7, "max_new_tokens": 24}
    return tuple(Answer(text, "writer", f"v{i}", sampling, seed=i) for i, text in enumerate(texts))


RATE = Item("rate", "A film?", answers(" Lovely."), scale=Scale(1, 7, {}), source="prompts.jsonl", wanted=3)
RANK = Item("rank", "A dish?", answers(" Soup.", " Bread <b>.", " Ice."), wanted=3)
COMPARE = Item("compare", "A song?", answers(" La la.", " Dum."), wanted=4)
WRITE = Item("demonstrate", "A poem?", wanted=2)
SAID: list[tuple[Item, str, dict[str, Any]]] = [
    (RATE, "ann", {"score": 6}),
    (RATE, "bob", {"score": 2}),
    (RANK, "ann", {"ranks": [2, 1, 2]}),
    (RANK, "bob", {"ranks": [1, None, 2]}),
    (COMPARE, "ann", {"preferred": 1, "margin": 2, "both_bad": False}),
    (COMPARE, "bob", {"preferred": None, "margin": 0, "both_bad": True}),
    (COMPARE, "cy", {"preferred": 0, "margin": 0, "both_bad": True}),
    (WRITE, "ann", {"text": "Roses\nare “red”."}),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeedbackStore]:
    with FeedbackStore(tmp_path / "a.sqlite") as filled:
        filled.add_items([RATE, RANK, COMPARE, WRITE])
        for i, (item, rater, payload) in enumerate(SAID):
            order = tuple(reversed(range(len(item.answers))))
            filled.save_label(Label(f"label-{i}", item.id, rater, payload, seconds=i + 0.5, order=order))
        filled.save_label(Label("skip", RATE.id, "cy", skipped="no idea"))
        filled.save_label(Label("gone", WRITE.id, "bob", {"text": "oops"}))
        filled.undo("bob", "gone")
        yield filled


def content(store: FeedbackStore) -> list[tuple[Any, ...]]:
    """What the labels of a store say, without when they were saved."""
    kept = sorted(store.labels(), key=lambda entry: entry.label.id)
    return [
        (
            entry.label.id,
            entry.label.rater,
            dict(entry.label.payload),
            entry.label.seconds,
            entry.label.order,
            entry.item.id,
            entry.item.prompt,
            entry.item.answers,
            entry.item.source,
            entry.item.kind,
        )
        for entry in kept
    ]


ENDINGS = {"jsonl": ".jsonl", "parquet": ".parquet", "argilla": ".json", "label-studio": ".json"}


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_is_imported_as_it_was(store: FeedbackStore, tmp_path: Path, format: Any):
    file = tmp_path / f"labels{ENDINGS[format]}"
    exported = export_labels(store, file, format=format)
    with FeedbackStore(tmp_path / "b.sqlite") as copy:
        found = [import_labels(copy, file) for file in exported.files]
        assert content(copy) == content(store)
        assert sum(part.labels for part in found) == len(SAID) + (format == "label-studio")  # which keeps skips
        again = [import_labels(copy, file) for file in exported.files]
        assert sum(part.labels for part in again) == sum(part.items for part in again) == 0
        assert sum(part.known for part in again) == sum(part.labels for part in found)


def test_rows_are_labels_that_reward_models_read(store: FeedbackStore, tmp_path: Path):
    exported = export_labels(store, tmp_path / "labels.jsonl")
    assert exported == Exported(7, 1, (tmp_path / "labels.jsonl", tmp_path / "labels.demonstrations.jsonl"))
    labels = read_labels(tmp_path / "labels.jsonl")
    assert labels == list(labels_from_store(store))
    assert labels[0] == Rating("A film?", " Lovely.", 6.0, scale=(1, 7), rater="ann", item=RATE.id, source=RATE.source)
    ranking = labels[2]
    assert isinstance(ranking, Ranking)
    assert ranking.ranks == (2, 1, 2)
    assert ranking.responses[1] == " Bread <b>."
    better, tie = labels[4], labels[5]
    assert isinstance(better, Comparison)
    assert isinstance(tie, Comparison)
    assert (better.chosen, better.rejected, better.margin, better.tie) == (" Dum.", " La la.", 2 / 3, False)
    assert tie.tie
    assert tie.margin == 0
    written = json.loads((tmp_path / "labels.demonstrations.jsonl").read_text(encoding="utf-8"))
    assert (written["prompt"], written["completion"]) == ("A poem?", "Roses\nare “red”.")
    told = written["provenance"]
    assert told["seconds"] == 7.5
    assert told["time"].endswith("Z")


def test_every_row_says_where_its_answers_come_from(store: FeedbackStore, tmp_path: Path):
    export_labels(store, tmp_path / "labels.jsonl")
    row = json.loads((tmp_path / "labels.jsonl").read_text(encoding="utf-8").splitlines()[2])
    sampling = {"temperature": 0.7, "max_new_tokens": 24}
    assert row["provenance"]["answers"][2] == {"policy": "writer", "version": "v2", "sampling": sampling, "seed": 2}
    assert row["provenance"]["order"] == [2, 1, 0]
    assert row["rater"] == "ann"


def test_labels_from_a_store_come_since_a_label(store: FeedbackStore):
    everything = list(labels_from_store(store))
    assert list(labels_from_store(store, after=4)) == everything[4:]
    assert list(labels_from_store(store, after=2, upto=5)) == everything[2:5]


def test_a_comparison_of_an_answer_with_itself_is_no_label(store: FeedbackStore):
    same = Item("compare", "Again?", answers(" Yes.", " Yes."))
    store.add_items([same])
    store.save_label(Label("same", same.id, "ann", {"preferred": 0}))
    assert len(list(labels_from_store(store))) == 7


def test_argilla_records_have_its_shape(store: FeedbackStore, tmp_path: Path):
    export_labels(store, tmp_path / "labels.json", format="argilla")
    records = {record["id"]: record for record in json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))}
    ranking = records[RANK.id]
    assert ranking["fields"]["response-3"] == " Ice."
    assert [said["value"] for said in ranking["responses"]["ranking"]] == [
        ["response-2", "response-1", "response-3"],
        ["response-1", "response-3"],
    ]
    assert uuid.UUID(ranking["responses"]["ranking"][0]["user_id"]).version == 5
    assert [said["value"] for said in records[COMPARE.id]["responses"]["preference"]] == [
        "response-2",
        "both-bad",
        "response-1",
    ]
    assert set(ranking) == {"id", "fields", "metadata", "suggestions", "responses", "vectors"}


def test_foreign_argilla_records_are_read(tmp_path: Path):
    user = str(uuid.uuid4())
    records = [
        {
            "id": "1",
            "fields": {"prompt": "Q?", "response-1": "a", "response-2": "b", "response-3": "c"},
            "responses": {"ranking": [{"value": [{"rank": 1, "value": "response-3"}], "user_id": user}]},
        },
        {"id": "2", "fields": {"prompt": "Q?", "response": "a"}, "metadata": {}, "responses": {}},
    ]
    (tmp_path / "in.json").write_text(json.dumps(records), encoding="utf-8")
    with FeedbackStore(tmp_path / "s.sqlite") as store:
        assert import_labels(store, tmp_path / "in.json") == Imported(2, 1, 0)
        (only,) = store.labels()
        assert only.label.payload == {"ranks": [None, None, 1]}
        assert only.label.rater == user
        assert [item.kind for item in store.items(open_only=True) if item.id == "2"] == ["rate"]


def test_label_studio_results_have_its_types(store: FeedbackStore, tmp_path: Path):
    export_labels(store, tmp_path / "labels.json", format="label-studio")
    tasks = {task["meta"]["item"]: task for task in json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))}
    first = tasks[COMPARE.id]["annotations"][0]
    assert first["result"][0] == {
        "from_name": "preference",
        "to_name": "response_1",
        "type": "pairwise",
        "value": {"selected": "right"},
        "id": "label-4",
    }
    assert tasks[RANK.id]["annotations"][0]["result"][0]["value"] == {"ranker": {"ranking": ["2", "1", "3"]}}
    assert tasks[RATE.id]["annotations"][2]["was_cancelled"] is True


def test_a_foreign_label_studio_export_is_read(tmp_path: Path):
    tasks = [
        {
            "id": 7,
            "data": {"prompt": "Q?", "items": [{"id": "x", "body": "a"}, {"id": "y", "body": "b"}]},
            "annotations": [
                {
                    "completed_by": {"id": 3, "email": "ann@example.org"},
                    "lead_time": 4.25,
                    "was_cancelled": False,
                    "result": [{"from_name": "r", "to_name": "l", "type": "ranker", "value": {"ranker": ["y", "x"]}}],
                },
            ],
        },
        {
            "id": 8,
            "data": {"prompt": "Q?", "response": "a"},
            "annotations": [
                {
                    "completed_by": 3,
                    "was_cancelled": False,
                    "result": [{"from_name": "r", "to_name": "t", "type": "rating", "value": {"rating": 4}}],
                }
            ],
        },
        {"id": 9, "data": {"prompt": "Write!"}},
    ]
    (tmp_path / "in.json").write_text(json.dumps(tasks), encoding="utf-8")
    with FeedbackStore(tmp_path / "s.sqlite") as store:
        assumed = {"ratings that name no scale, taken as 1…5": 1}
        assert import_labels(store, tmp_path / "in.json") == Imported(3, 2, 0, assumed)
        ranked, rated = (entry.label for entry in store.labels())
        assert (ranked.payload, ranked.rater, ranked.seconds) == ({"ranks": [2, 1]}, "ann@example.org", 4.25)
        assert (rated.payload, rated.rater) == ({"score": 4}, "label-studio-3")
        assert [item.kind for item in store.items(open_only=True)] == ["demonstrate"]


def test_rows_without_a_label_are_items_to_label(tmp_path: Path):
    rows = [
        {"prompt": "Q1?"},
        {"prompt": "Q2?", "response": "a"},
        {"prompt": "Q3?", "responses": ["a", "b"]},
        {"prompt": "Q4?", "responses": ["a", "b", "c"]},
        {"prompt": "Q5?", "chosen": "a", "rejected": "b", "margin": 0.7},
        {"prompt": "Q6?", "completion": "a"},
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    with FeedbackStore(tmp_path / "s.sqlite") as store:
        assert import_labels(store, tmp_path / "in.jsonl") == Imported(6, 2, 0)
        kinds = {item.prompt: item.kind for item in store.items(open_only=True)}
        assert kinds == {"Q1?": "demonstrate", "Q2?": "rate", "Q3?": "compare", "Q4?": "rank"}
        first = next(iter(store.labels())).label
        assert first.payload == {"preferred": 0, "margin": 2, "both_bad": False}
        assert first.rater == "imported"


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.jsonl", '{"prompt": "Q?"}\n{"prompt": 3}', r"a.jsonl:2: field `prompt`: expected a text, got 3"),
        ("a.jsonl", "{", r"a.jsonl:1: not valid JSON"),
        ("a.jsonl", "[1]", r"a.jsonl:1: expected an object"),
        ("a.jsonl", '{"prompt": "Q?", "response": "a", "score": 2.5}', r"a.jsonl:1: field `score`: .* got 2.5"),
        ("a.jsonl", '{"prompt": "Q?", "responses": "ab", "ranks": [1]}', r"field `responses`: expected a list"),
        ("a.jsonl", '{"prompt": "Q?", "chosen": "a"}', r"field `rejected`: expected a text, got nothing"),
        ("a.jsonl", '{"prompt": "Q?", "provenance": "{"}', r"field `provenance`"),
        ("a.json", "[]", r"a.json: cannot tell the format"),
        ("a.json", '[{"x": 1}]', r"a.json: cannot tell the format; say which of jsonl, parquet, argilla, label-studio"),
        ("a.json", '[{"fields": {"prompt": 1}}]', r"a.json: record 0: field `fields.prompt`"),
        ("a.json", '[{"data": {"text": "Q?"}}]', r"a.json: task 0: field `data.prompt`"),
        ("a.txt", "x", r"a.txt: expected a file of .jsonl, .*, got .\.txt."),
        ("a.parquet", "x", r"a.parquet: not a readable Parquet file"),
    ],
)
def test_a_bad_file_says_where_and_saves_nothing(tmp_path: Path, name: str, text: str, match: str):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with FeedbackStore(tmp_path / "s.sqlite") as store:
        with pytest.raises(DataError, match=match):
            import_labels(store, tmp_path / name)
        assert store.items() == []
        assert list(store.labels()) == []


def test_nothing_to_export_is_said(tmp_path: Path):
    with FeedbackStore(tmp_path / "s.sqlite") as store, pytest.raises(DataError, match="no labels to export"):
        export_labels(store, tmp_path / "out.jsonl")


def test_the_command_writes_and_reads(store: FeedbackStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = str(tmp_path / "out.parquet")
    assert main(["labels", "export", out, "--db", str(tmp_path / "a.sqlite")]) == 0
    assert "7 labels and 1 demonstrations in" in capsys.readouterr().out
    assert main(["labels", "import", out, "--db", str(tmp_path / "b.sqlite")]) == 0
    assert "3 new items, 7 new labels, 0 labels known before" in capsys.readouterr().out
    assert main(["labels", "export", out, "--db", str(tmp_path / "missing.sqlite")]) == 1
    assert "there is no such file" in capsys.readouterr().err
    assert main(["labels"]) == 2
