from __future__ import annotations

import json
import sys
import tracemalloc
import types
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from textenv.datasets.kjv import parse_paragraphs
from textenv.datasets.question_sets import parse_questions
from textenv.errors import ConfigError, DataError, MissingDependencyError
from textenv.tasks import Fields, TaskSource, load_task, load_tasks, read_task, same_choice, task_from_rows
from textenv.tasks.files import read_conversations
from textenv.tasks.public import ratings_task

ROWS = [
    {"q": "one and one?", "a": "2", "source": "users", "split": "test"},
    {"q": "one and two?", "a": "3"},
]
FIELDS = Fields(question="q", answer="a")


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), "utf-8")
    return path


def make_jsonl(folder: Path) -> Path:
    return write(folder / "a.jsonl", *ROWS)


def make_csv(folder: Path) -> Path:
    return write(folder / "a.csv", "q,a,source,split", "one and one?,2,users,test", '"one and two?",3,,')


def make_parquet(folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "a.parquet")
    return folder / "a.parquet"


@pytest.mark.parametrize("make", [make_jsonl, make_csv, make_parquet], ids=["jsonl", "csv", "parquet"])
def test_every_kind_of_file_gives_the_same_task(make, tmp_path: Path):
    task = read_task(make(tmp_path), "sums", fields=FIELDS)
    first, second = task.items
    assert (first.question, first.answers, first.source, first.split) == ("one and one?", ("2",), "users", "test")
    assert (second.question, second.answers, second.source) == ("one and two?", ("3",), "labelers")
    assert list(task.items) == list(task_from_rows(ROWS, "sums", fields=FIELDS).items)
    assert (task.items[-1], task.items[:1], task.items[::-1]) == (second, [first], [second, first])
    with pytest.raises(IndexError):
        task.items[2]


def test_documents_of_a_file_are_read_one_after_the_other(tmp_path: Path):
    def peak(records: int) -> int:
        path = write(tmp_path / f"{records}.jsonl", *({"question": f"{i} " + "word " * 50} for i in range(records)))
        tracemalloc.start()
        documents = sum(1 for _ in read_task(path, "t", verifier=None).documents("train"))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert documents > records * 0.7 / 6
        return found

    peak(10)  # whatever is imported on first use
    assert peak(4000) < 1.2 * peak(400)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"question": "a?", "answer": "b"}', '{"question": "a?"'], r"a\.jsonl:2: not valid JSON: .*column"),
        (["[1, 2]"], r"a\.jsonl:1: expected an object with named columns, got \[1, 2\]"),
        (['{"answer": "b"}'], r"a\.jsonl:1: field 'question': expected a text, got nothing \(the record has answer\)"),
        (['{"question": 3, "answer": "b"}'], r"a\.jsonl:1: field 'question': expected a text, got '3' \(int\)"),
        (['{"question": "a?", "answer": null}'], r"a\.jsonl:1: field 'answer': expected a text or a list .* got null"),
        (['{"question": "a?", "answer": {"x": 1}}'], r"field 'answer': expected a text or a list of texts, got .*dict"),
        (['{"question": "a?", "answer": []}'], r"field 'answer': expected at least one answer, got an empty list"),
        (['{"question": "a?", "answer": "b", "split": "dev"}'], r"field 'split': expected one of train.*got 'dev'"),
        (['{"question": "a?", "answer": "b", "source": 1}'], r"field 'source': expected a text, got '1' \(int\)"),
        ([""], "the file holds no records"),
    ],
)
def test_malformed_jsonl_is_named_with_file_line_field_and_what_was_expected(lines, message, tmp_path: Path):
    with pytest.raises(DataError, match=message):
        read_task(write(tmp_path / "a.jsonl", *lines), "t")


def test_malformed_files_of_other_kinds_are_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"a\.csv:3: expected 2 columns \(question, answer\), got another number"):
        read_task(write(tmp_path / "a.csv", "question,answer", "a?,b", "c?"), "t")
    with pytest.raises(DataError, match=r"a\.csv:2: field 'answer': expected .* got null"):
        read_task(write(tmp_path / "a.csv", "question,answer", "a?,"), "t")
    with pytest.raises(DataError, match=r"a\.parquet: not a readable Parquet file"):
        read_task(write(tmp_path / "a.parquet", "x"), "t")
    with pytest.raises(DataError, match=r"expected a file of \.jsonl.* got '\.txt'"):
        read_task(write(tmp_path / "a.txt", "x"), "t")
    with pytest.raises(DataError, match="no such file"):
        read_task(tmp_path / "b.jsonl", "t")
    (tmp_path / "bytes.jsonl").write_bytes(b'{"question": "\xff"}\n')
    with pytest.raises(DataError, match=r"bytes\.jsonl:1: expected UTF-8, got byte 0xff at 14"):
        read_task(tmp_path / "bytes.jsonl", "t")


def test_records_without_answers_are_texts_to_read(tmp_path: Path):
    task = read_task(write(tmp_path / "a.jsonl", {"question": "A long text.", "split": "train"}), "t", verifier=None)
    assert task.demonstrations("train") == []
    assert list(task.documents("train")) == ["A long text."]


def test_conversations_are_read_with_their_source(tmp_path: Path):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    path = write(
        tmp_path / "a.jsonl", {"messages": turns, "source": "users"}, {"prompt": "hi", "response": "hello there"}
    )
    first, second = read_conversations(path)
    assert (first.source, [dict(m) for m in first.messages]) == ("users", turns)
    assert (second.source, second.messages[1]["content"]) == ("labelers", "hello there")


CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How old is Jo?"}]
LOOKED = [{"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "7"}]
ANSWER = {"role": "assistant", "content": "7 years"}


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        ({"messages": [*ASKED, *LOOKED, ANSWER]}, [*ASKED, *LOOKED, ANSWER]),
        ({"messages": json.dumps([*ASKED, *LOOKED, ANSWER])}, [*ASKED, *LOOKED, ANSWER]),
        ({"prompt": ASKED, "completion": [*LOOKED, ANSWER]}, [*ASKED, *LOOKED, ANSWER]),
        ({"prompt": ASKED, "chosen": [ANSWER], "rejected": [ANSWER]}, [*ASKED, ANSWER]),
        ({"prompt": "How old?", "chosen": [*ASKED, *LOOKED, ANSWER]}, [*ASKED, *LOOKED, ANSWER]),
        (
            {"chosen": "\n\nHuman: How old is Jo?\n\nAssistant: 7 years", "rejected": "\n\nHuman: a\n\nAssistant: b"},
            [ASKED[1], ANSWER],
        ),
        (
            {"messages": [{"from": "human", "value": "How old is Jo?"}, {"from": "gpt", "value": "7 years"}]},
            [ASKED[1], ANSWER],
        ),
        (
            {"messages": [*ASKED, {"role": "assistant", "content": None, "tool_calls": []}, ANSWER]},
            [*ASKED, ANSWER],
        ),
        ({"messages": [*ASKED, ANSWER, ASKED[1]]}, [*ASKED, ANSWER, ASKED[1]]),
    ],
)
def test_system_messages_and_turns_of_tools_survive(record: Any, messages: Any, tmp_path: Path) -> None:
    (conversation,) = read_conversations(write(tmp_path / "a.jsonl", record))
    assert list(conversation.messages) == messages


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": "hi"}, r"a\.jsonl:1: field 'messages': expected a list of messages, got 'hi' \(str\)"),
        ({"messages": [3]}, r"a\.jsonl:1: field 'messages': every chat message needs a text 'role' .* got 3"),
        ({"messages": [{"role": "x", "content": "y"}]}, r"a\.jsonl:1: field 'messages': message 0 needs 'role'"),
        ({"prompt": "hi"}, r"a\.jsonl:1: field 'response': expected a text, got nothing"),
    ],
)
def test_malformed_conversations_are_named(record, message, tmp_path: Path):
    with pytest.raises(DataError, match=message):
        read_conversations(write(tmp_path / "a.jsonl", record))


def test_a_collection_of_splits_is_refused():
    with pytest.raises(DataError, match=r"got a collection of splits \['test', 'train'\]; choose one"):
        task_from_rows({"train": ROWS, "test": ROWS}, "t")


def test_question_sets_are_parsed_in_both_forms():
    chat = json.dumps(
        {"input": [{"role": "system", "content": "s"}, {"role": "user", "content": "q? A: a"}], "ideal": "B"}
    )
    plain = json.dumps({"question": "\nWhich?\nA. x\nAnswer:", "answer": "A"})
    assert [tuple(q) for q in parse_questions(f"{chat}\n{plain}\n", "set", choices=True)] == [
        ("q? A: a", "B", True),
        ("Which?\nA. x", "A", True),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"set:1: expected one JSON object"),
        ("3", r"set:1: expected an object, got int"),
        ('{"input": [], "ideal": "A"}', r"set:1: field 'input': expected a list of chat messages"),
        ('{"question": "q", "answer": 3}', r"set:1: field 'ideal' or 'answer': expected a text, got 3"),
        ('{"question": "q", "answer": "yes"}', r"set:1: .* expected the letter of an option, got 'yes'"),
        ('{"question": "", "answer": "A"}', r"set:1: field 'question' or 'input': expected a text"),
    ],
)
def test_malformed_question_sets_are_named(line, message):
    with pytest.raises(DataError, match=message):
        parse_questions(line, "set", choices=True)


def test_bible_is_parsed_and_never_run():
    source = 'import nothing_like_this\nbible = Bible(K, """\nIn the [very]  beginning.\n\nAnd then.\n""")\nopen("x")\n'
    assert parse_paragraphs(source, "m") == ["In the very beginning.", "And then."]
    with pytest.raises(DataError, match="m is not the expected Python source"):
        parse_paragraphs("def (", "m")
    with pytest.raises(DataError, match="m holds no text"):
        parse_paragraphs("x = 1", "m")


def test_ratings_are_a_task_to_read_and_go_on_with():
    from textenv.datasets import builtin_ratings

    task = ratings_task("movies", builtin_ratings(40))
    shown = task.demonstrations("train")[0]
    assert shown.prompt.startswith("Continue this movie review: ")
    assert (shown.prompt + shown.response).removeprefix("Continue this movie review: ") in set(task.documents("train"))


def test_recipe_sources_are_loaded_with_their_own_form(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", {"question": "a?", "answer": "B"})
    source = TaskSource(
        "mine", "file", str(path), verifier="same_choice", prompt="Q: {question}", response="-> {answer}"
    )
    task = load_task(source)
    assert task.verifier is same_choice
    assert task.reward.score(["Q: a?"], ["-> (b)"]).tolist() == [1.0]
    assert [t.name for t in load_tasks([TaskSource("copy", count=20), TaskSource("text", count=9)])] == ["copy", "text"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": ""}, "`name` must be non-empty, got ''; every task has one"),
        ({"name": "a", "kind": "file"}, "`kind: file` needs a `path`"),
        ({"name": "a", "verifier": "magic"}, "`verifier` must be none or one of same_text"),
    ],
)
def test_recipe_sources_refuse_nonsense(arguments, message):
    with pytest.raises(ConfigError, match=message):
        TaskSource(**arguments)


def test_recipe_sources_with_one_name_twice_are_refused():
    with pytest.raises(ConfigError, match="tasks need different names, got copy, copy"):
        load_tasks([TaskSource("copy"), TaskSource("copy")])
    with pytest.raises(ConfigError, match="`kind: ratings` knows movies"):
        load_task(TaskSource("films", "ratings"))


@pytest.fixture
def reasoning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with the package's interface: a dataset of entries with ``score_answer``."""

    class Dataset(list):
        def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
            return 1.0 if answer == entry["answer"] else 0.01

    def create_dataset(name: str, *, size: int, seed: int, low: int = 0) -> Dataset:
        if name != "sums":
            raise ValueError(f"Dataset '{name}' not registered")
        return Dataset({"question": f"{low + i % 4}+{seed}", "answer": str(low + i % 4 + seed)} for i in range(size))

    module = types.ModuleType("reasoning_gym")
    module.create_dataset = create_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "reasoning_gym", module)


@pytest.mark.usefixtures("reasoning")
def test_reasoning_gym_generators_are_tasks_with_their_own_verifier():
    task = load_task(TaskSource("plus", "reasoning_gym", "sums", count=6, seed=2, settings={"low": 10}))
    assert [item.question for item in task.items] == ["10+2", "11+2", "12+2", "13+2"]
    assert task.reward.score(["10+2\n"] * 3, ["Answer: 12", "Answer: 13", "12"]).tolist() == [1.0, 0.01, 0.0]
    with pytest.raises(ConfigError, match="cannot make 'none'"):
        load_task(TaskSource("x", "reasoning_gym", "none"))
    with pytest.raises(ConfigError, match="high"):
        load_task(TaskSource("x", "reasoning_gym", "sums", settings={"high": 1}))


def test_a_folder_of_saved_splits_is_a_task_without_the_library(tmp_path):
    pa = pytest.importorskip("pyarrow")
    for split, count in (("train", 3), ("test", 2)):
        (tmp_path / split).mkdir()
        table = pa.table({"question": [f"{split} {i}?" for i in range(count)], "answer": ["a"] * count})
        with pa.OSFile(str(tmp_path / split / "d.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
            out.write_table(table)
        (tmp_path / split / "state.json").write_text('{"_data_files": [{"filename": "d.arrow"}]}')
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')

    def questions(split: str) -> list[str]:
        return [
            item.question
            for item in load_task(TaskSource("t", "dataset", str(tmp_path), settings={"split": split})).items
        ]

    assert questions("test") == ["test 0?", "test 1?"]
    assert len(questions("train")) == 3
    with pytest.raises(DataError, match="expected one split of a dataset, got train, test"):
        questions("dev")


@pytest.mark.parametrize(("kind", "package"), [("reasoning_gym", "reasoning"), ("dataset", "datasets")])
def test_a_missing_extra_is_one_line_with_the_command(kind, package, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=rf'pip install "textenv\[{package}\]"'):
        load_task(TaskSource("x", kind, "some"))


@pytest.mark.network
def test_real_question_sets_and_bible_have_what_is_promised():
    for name, count in (("socialiqa", 2224), ("quartz", 3860), ("crepe", 1520)):
        task = load_task(TaskSource(name, "questions"))
        assert len(task.items) == count
        shown = task.demonstrations("test")[0]
        assert task.reward.score([shown.prompt], [shown.response]).tolist() == [1.0]
    bible = load_task(TaskSource("bible", "bible"))
    assert sum(len(text) for split in ("train", "validation", "test") for text in bible.documents(split)) > 4_000_000
