"""Label Studio's SDK on our exports, and our import on what it makes: the same labels either way.

The SDK's labelling interface checks every task and every result against the project's configuration; its converter
writes the JSON export of a project. The configurations are those that we name, and others with controls of their own.
"""

# The client is not installed where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from label_studio_sdk.converter import Converter
from label_studio_sdk.label_interface import LabelInterface
from label_studio_sdk.label_interface.control_tags import RankerValue

from tests.compat.feedback_files import content, random_store
from textenv.feedback.formats import export_labels, import_labels
from textenv.feedback.formats.label_studio import LABELING_CONFIG
from textenv.feedback.store import FeedbackStore

FOREIGN = """<View>
  <Text name="q" value="$question"/>
  <Pairwise name="better" toName="left,right"/>
  <Text name="left" value="$answer_a"/>
  <Text name="right" value="$answer_b"/>
  <TextArea name="why" toName="q"/>
</View>"""


def check_export(folder: Path) -> int:
    """Every task and result of our export is one for the SDK; what its converter writes of it is read as it was."""
    results = 0
    with random_store(folder / "a.db", seed=1, count=40) as store:
        export_labels(store, folder / "out.json", format="label-studio")
        tasks = json.loads((folder / "out.json").read_text("utf-8"))
        for task in tasks:
            interface = LabelInterface(LABELING_CONFIG[task["meta"]["kind"]])
            # Without its annotations, which `validate_task` of this version cannot check (it calls itself wrongly).
            assert interface.validate_task({"data": task["data"]}), task
            for annotation in task["annotations"]:
                for result in annotation["result"]:
                    results += 1
                    problems = interface.validate_region(result, return_errors=True)
                    assert not problems, (problems, result)
                    if result["type"] == "ranker":
                        RankerValue(**result["value"])
                assert interface.validate_annotation(annotation), annotation
        # Label Studio gives annotators numbers of its own: here all were imported by user 7.
        for task in tasks:
            for number, annotation in enumerate(task["annotations"]):
                annotation |= {"completed_by": 7, "id": number, "unique_id": f"{task['id']}-{number}"}
        (folder / "project.json").write_text(json.dumps(tasks), "utf-8")
        converted = folder / "converted"
        Converter(LABELING_CONFIG["rate"], str(folder)).convert_to_json(
            str(folder / "project.json"), str(converted), False
        )
        (written,) = converted.glob("*.json")
        for file in (folder / "out.json", written):
            with FeedbackStore(folder / f"{file.stem}.db") as copy:
                import_labels(copy, file, format="label-studio")
                assert content(copy) == content(store), file
    return results


def check_import(folder: Path) -> None:
    """Results that the SDK's tags make are read as they were meant."""
    said: list[dict[str, Any]] = []

    def task(config: str, data: dict[str, Any], control: str, value: dict[str, Any]) -> None:
        made = LabelInterface(config)
        region = {"id": "r", "from_name": control, "to_name": made.get_control(control).to_name[0], "value": value}
        region["type"] = made.get_control(control).tag.lower()
        assert not made.validate_region(region, return_errors=True), region
        said.append({"id": len(said), "data": data, "annotations": [{"completed_by": 3, "result": [region]}]})

    listed = [{"id": "x", "title": "X", "body": "one"}, {"id": "y", "title": "Y", "body": "two"}]
    pair = {"question": "Q?", "answer_a": "one", "answer_b": "two"}
    task(LABELING_CONFIG["rank"], {"prompt": "Q?", "items": listed}, "ranking", {"ranker": {"ranking": ["y", "x"]}})
    task(FOREIGN, pair, "better", LabelInterface(FOREIGN).get_control("better").label("right").value.model_dump())
    task(LABELING_CONFIG["rate"], {"prompt": "Q?", "response": "one"}, "rating", {"rating": 4})
    task(LABELING_CONFIG["demonstrate"], {"prompt": "Q?"}, "demonstration", {"text": ["so"]})
    (folder / "in.json").write_text(json.dumps(said), "utf-8")
    with FeedbackStore(folder / "in.db") as store:
        import_labels(store, folder / "in.json")
        found = [each.label.payload for each in store.labels()]
    assert found[0] == {"ranks": [2, 1]}, found
    assert found[1]["preferred"] == 1, found
    assert found[2:] == [{"score": 4}, {"text": "so"}], found


def main() -> int:
    """Both directions."""
    with tempfile.TemporaryDirectory() as name:
        results = check_export(Path(name))
        check_import(Path(name))
    sys.stdout.write(f"label-studio-sdk {version('label-studio-sdk')}: {results} results valid, all labels came back\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
