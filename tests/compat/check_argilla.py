"""Argilla's SDK on our exports, and our import on what it writes: the same labels either way.

Records go through `Record.from_dict`, `to_json`, the flat rows of `to_list` and a Hugging Face dataset, and the models
of the server's API; no server is asked.
"""

# The client is not installed where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import sys
import tempfile
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any

import argilla as rg
from argilla._models import UserResponseModel
from argilla.records._io import GenericIO, JsonIO
from datasets import Dataset

from tests.compat.feedback_files import content, random_store
from textenv.feedback.formats import export_labels, import_labels
from textenv.feedback.store import FeedbackStore


def check_export(folder: Path) -> int:
    """Our records are Argilla's; what it writes of them is read as it was."""
    with random_store(folder / "a.db", seed=2, count=40) as store:
        export_labels(store, folder / "out.json", format="argilla")
        written = json.loads((folder / "out.json").read_text("utf-8"))
        records = [rg.Record.from_dict(record) for record in written]
        for ours, theirs in zip(written, records, strict=True):
            assert theirs.to_dict() | ours == theirs.to_dict(), (ours, theirs.to_dict())
        JsonIO.to_json(records, folder / "theirs.json")
        flat = GenericIO.to_list(records, flatten=True)
        (folder / "flat.json").write_text(json.dumps(flat), "utf-8")
        # As on the hub: one file for each question, since a column holds values of one type.
        kinds = sorted({record["kind"] for record in flat})
        for kind in kinds:
            rows = [row for row in flat if row["kind"] == kind]
            names = {name: None for row in rows for name in row if row[name] is not None}
            Dataset.from_list([{name: row.get(name) for name in names} for row in rows]).to_parquet(
                folder / f"{kind}.parquet"
            )
        for name, files in {
            "ours": ["out.json"],
            "theirs": ["theirs.json"],
            "flat": ["flat.json"],
            "hub": [f"{kind}.parquet" for kind in kinds],
        }.items():
            with FeedbackStore(folder / f"{name}.db") as copy:
                for file in files:
                    import_labels(copy, folder / file)
                assert content(copy) == content(store), (name, set(content(copy)) ^ set(content(store)))
    return len(written)


def check_import(folder: Path) -> None:
    """Responses of users, with questions of one's own, as the SDK and the server write them."""
    users = [uuid.uuid4() for _ in range(4)]
    fields = {"instruction": "Q?", "completion_a": "one", "completion_b": "two", "completion_c": "three"}
    order = ["completion_c", "completion_a", "completion_b"]
    record = rg.Record(
        id="r1",
        fields=fields,
        responses=[
            rg.Response("which order", order, users[0], "submitted"),
            rg.Response("remarks", "none", users[0], "submitted"),
            rg.Response("which order", order[::-1], users[1], "draft"),
            rg.Response("which order", order, users[2], "discarded"),
        ],
    )
    (folder / "flat2.json").write_text(json.dumps([GenericIO._record_to_dict(record, flatten=True)]), "utf-8")
    ties = [
        {"value": "completion_a", "rank": 1},
        {"value": "completion_b", "rank": 1},
        {"value": "completion_c", "rank": 3},
    ]
    answer = UserResponseModel(values={"which order": {"value": ties}}, status="submitted", user_id=users[3])
    api: dict[str, Any] = {"external_id": "r1", "fields": fields, "responses": [answer.model_dump(mode="json")]}
    (folder / "api.json").write_text(json.dumps([api]), "utf-8")
    with FeedbackStore(folder / "in.db") as store:
        first = import_labels(store, folder / "flat2.json")
        import_labels(store, folder / "api.json")
        found = {each.label.rater: each.label.payload for each in store.labels()}
    assert found == {str(users[0]): {"ranks": [2, 3, 1]}, str(users[3]): {"ranks": [1, 1, 3]}}, found
    assert first.remarks == {
        "drafts, left out": 1,
        "question `remarks`: not read": 1,
        "discarded responses, kept as skips": 1,
    }, first


def main() -> int:
    """Both directions."""
    with tempfile.TemporaryDirectory() as name:
        count = check_export(Path(name))
        check_import(Path(name))
    sys.stdout.write(f"argilla {version('argilla')}: {count} records, all labels came back\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
