"""A file comes into the store whole or not at all, says there what it said, and comes out again as it was."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reward_models.labels import (
    BestOf,
    Comparison,
    Label,
    Ranking,
    Rating,
    agreement,
    labels_from_store,
    labels_into_store,
    read_labels,
    write_labels,
)
from textenv.answers import Chat
from textenv.cli.main import main
from textenv.errors import DataError
from textenv.feedback.formats import export_labels, import_labels
from textenv.feedback.measures.bias import length_bias
from textenv.feedback.measures.ceiling import noise_ceiling
from textenv.feedback.measures.figures import measures
from textenv.feedback.measures.judgements import JudgementLog
from textenv.feedback.store import Answer, FeedbackStore, Item
from textenv.feedback.store import Label as StoreLabel
from textenv.records import write_rows

SYSTEM = {"role": "system", "content": "Be brief."}
TOOLS = (
    SYSTEM,
    {"role": "user", "content": "How warm?"},
    {
        "role": "assistant",
        "content": "Let me look.",
        "tool_calls": [{"function": {"name": "weather", "arguments": "{}"}}],
    },
    {"role": "tool", "content": "17"},
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeedbackStore]:
    with FeedbackStore(tmp_path / "s.db") as made:
        yield made


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def figures(store: FeedbackStore) -> dict[str, Any]:
    log = JudgementLog(store.database)
    log.update()
    return measures(log.judgements())


def simulated(seed: int, prompts: int = 40) -> list[dict[str, Any]]:
    """Comparisons by raters with a taste of their own, who see the sides in any order."""
    rng = random.Random(seed)
    rows = []
    for number in range(prompts):
        a, b = f"answer {number} " + "x" * rng.randrange(9), f"another {number} " + "y" * rng.randrange(9)
        better = rng.random()
        for rater in rng.sample(("ann", "bob", "cy", "di"), rng.randrange(1, 5)):
            first, second = (a, b) if rng.random() < better else (b, a)
            rows.append({"prompt": f"q{number}", "chosen": first, "rejected": second, "rater": rater})
            rows[-1]["tie"] = rng.random() < 0.2
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_figures_of_the_store_equal_those_of_the_file(store: FeedbackStore, tmp_path: Path, seed: int):
    path = write(tmp_path / "l.jsonl", simulated(seed))
    labels: Any = read_labels(path)
    import_labels(store, path)
    said = figures(store)
    sides = [sorted((label.chosen, label.rejected)) for label in labels]
    values = [0.5 if x.tie else float(x.chosen == s[0]) for x, s in zip(labels, sides, strict=True)]
    units = np.unique([x.prompt for x in labels], return_inverse=True)[1]
    of_file, of_store = agreement(labels), said["agreement"][0]
    assert (of_store["alpha"]["value"], of_store["same"]["value"]) == pytest.approx((of_file.alpha, of_file.pairwise))
    ceiling = noise_ceiling(values, units, units)
    assert {name: said["ceiling"][0][name] for name in ("value", "low", "high")} == pytest.approx(
        {"value": ceiling.value, "low": ceiling.low, "high": ceiling.high}
    )
    longer = length_bias(values, [len(s[0]) for s in sides], [len(s[1]) for s in sides], units).longer
    assert said["length"]["longer"]["value"] == pytest.approx(longer.value)
    assert said["length"]["longer"]["low"] == pytest.approx(longer.low)
    assert said["position"][0]["share"]["number"] == 0  # nobody knows what was shown first
    assert all(label.label.order == () for label in store.labels())


@pytest.mark.parametrize("seed", range(3))
def test_ratings_agree_in_the_store_as_in_the_file(store: FeedbackStore, tmp_path: Path, seed: int):
    rng = random.Random(seed)
    rows = [
        {"prompt": f"q{n}", "response": f"a{n}", "score": rng.randint(0, 4), "scale": [0, 4], "rater": rater}
        for n in range(30)
        for rater in rng.sample(("ann", "bob", "cy"), 2)
    ]
    labels: Any = read_labels(write(tmp_path / "l.jsonl", rows))
    import_labels(store, tmp_path / "l.jsonl")
    (found,) = figures(store)["agreement"]
    assert (found["alpha"]["value"], found["same"]["value"]) == pytest.approx(agreement(labels)[:2])


def test_raters_who_disagree_still_disagree(store: FeedbackStore, tmp_path: Path):
    rows = []
    for i in range(60):
        rows.append({"prompt": f"p{i}", "chosen": "A", "rejected": "B", "rater": "ann"})
        rows.append({"prompt": f"p{i}", "chosen": "AB"[i % 2], "rejected": "BA"[i % 2], "rater": "bob"})
    assert import_labels(store, write(tmp_path / "d.jsonl", rows))[:3] == (60, 120, 0)
    assert figures(store)["agreement"][0]["same"]["value"] == 0.5


def test_a_disliked_answer_is_a_rating_of_0(store: FeedbackStore, tmp_path: Path):
    rows = [{"prompt": "Say hi", "completion": text, "label": text == "Hi."} for text in ("Get lost.", "Hi.")]
    import_labels(store, write(tmp_path / "kto.jsonl", rows))
    done = export_labels(store, tmp_path / "out.jsonl")
    assert (done.labels, done.demonstrations) == (2, 0)
    assert [label.score for label in read_labels(tmp_path / "out.jsonl") if isinstance(label, Rating)] == [0, 1]
    assert read_labels(tmp_path / "out.jsonl") == read_labels(tmp_path / "kto.jsonl")


def test_several_opinions_without_names_are_several_people_once(store: FeedbackStore, tmp_path: Path):
    rows: list[dict[str, Any]] = [{"prompt": "p", "response": "r", "score": x, "scale": [1, 5]} for x in (4, 2, 4)]
    path = write(tmp_path / "h.jsonl", rows)
    assert import_labels(store, path)[:3] == (1, 3, 0)
    assert import_labels(store, path)[:3] == (0, 0, 3)
    assert [each.label.rater for each in store.labels()] == ["imported", "imported-2", "imported-3"]
    rows = [{"prompt": "q", "response": "r", "ratings": [5, 1], "scale": [1, 5]}]
    assert labels_into_store(store, write(tmp_path / "r.jsonl", rows))[:3] == (1, 2, 0)
    rows = [{"prompt": "q", "responses": ["a", "b"], "rankings": [[1, 2], [2, 1]]}]
    assert labels_into_store(store, write(tmp_path / "k.jsonl", rows))[:3] == (1, 2, 0)
    assert {label.rater for label in labels_from_store(store)} == {None}


def test_one_name_for_two_things_keeps_both(store: FeedbackStore, tmp_path: Path):
    rows = [{"prompt": "p", "chosen": a, "rejected": b, "item": 7, "rater": "ann"} for a, b in ("AB", "CD")]
    assert import_labels(store, write(tmp_path / "i.jsonl", rows))[:3] == (2, 2, 0)
    assert [(label.chosen, label.item) for label in labels_from_store(store)] == [("A", "7"), ("C", "7")]  # type: ignore[union-attr]


def test_a_rater_who_says_two_things_is_kept_twice_and_said(store: FeedbackStore, tmp_path: Path):
    rows = [{"prompt": "p", "chosen": a, "rejected": b, "rater": "ann"} for a, b in ("AB", "BA", "AB")]
    path = write(tmp_path / "i.jsonl", rows)
    said = {"second opinions of a rater on the same item, kept as of `name (2)`": 2}
    assert import_labels(store, path) == (1, 3, 0, said)
    assert import_labels(store, path) == (0, 0, 3, {})
    assert [each.label.rater for each in store.labels()] == ["ann", "ann (2)", "ann (3)"]
    labels: Any = read_labels(path)
    assert list(labels_from_store(store)) == labels
    assert figures(store)["agreement"][0]["same"]["value"] == pytest.approx(agreement(labels).pairwise)
    for way in ("jsonl", "label-studio", "argilla"):
        export_labels(store, tmp_path / f"{way}.json", format=way)  # type: ignore[arg-type]
        with FeedbackStore(tmp_path / f"{way}.db") as other:
            import_labels(other, tmp_path / f"{way}.json", format=way)  # type: ignore[arg-type]
            assert list(labels_from_store(other)) == labels


def test_an_item_that_people_were_asked_is_the_same_in_a_file(store: FeedbackStore, tmp_path: Path):
    store.add_items([Item("compare", "p", (Answer("B"), Answer("A")), id="i", wanted=2)])
    store.save_label(StoreLabel("l", "i", "ann", {"preferred": 0}, order=(1, 0)))
    rows = [{"prompt": "p", "chosen": "A", "rejected": "B", "item": "i", "rater": "bob"}]
    assert import_labels(store, write(tmp_path / "i.jsonl", rows))[:3] == (0, 1, 0)
    assert [each.label.payload["preferred"] for each in store.labels()] == [0, 1]
    assert store.open_items() == []


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([{"prompt": "p", "response": "r", "score": 9}], r"x.jsonl:2: `score` must be a whole number from 1 to 5"),
        ([{"prompt": "p", "response": "r", "score": 2.5}], r"x.jsonl:2: field `score`: .* got 2.5"),
        ([{"prompt": "p", "response": "r", "score": 3, "count": 4}], r"x.jsonl:2: field `count`"),
        ([{"prompt": "p", "steps": ["a"], "labels": [1]}], r"x.jsonl:2: labels of steps have no place in the store"),
        ([{"prompt": "p", "response": "r", "ratings": [3, 4], "rater": "ann"}], r"x.jsonl:2: field `rater`"),
        ([{"prompt": "p", "chosen": "a", "rejected": "b", "rater": "x" * 201}], r"x.jsonl:2: a rater's name"),
    ],
)
def test_a_file_that_does_not_fit_says_where_and_leaves_nothing(
    store: FeedbackStore, tmp_path: Path, rows: list[dict[str, Any]], match: str
):
    good = {"prompt": "good", "chosen": "a", "rejected": "b", "rater": "bob"}
    with pytest.raises(DataError, match=match):
        labels_into_store(store, write(tmp_path / "x.jsonl", [good, *rows]))
    assert store.items() == []
    assert list(store.labels()) == []
    assert store.raters() == []


def test_a_label_of_steps_is_no_item_to_label(store: FeedbackStore, tmp_path: Path):
    rows = [{"prompt": "p", "response_a": "x", "response_b": "y", "winner": "a"}]
    with pytest.raises(DataError, match=r"x.jsonl:1: expected the columns of a label"):
        import_labels(store, write(tmp_path / "x.jsonl", rows))
    assert labels_into_store(store, tmp_path / "x.jsonl")[:3] == (1, 1, 0)


def test_answers_that_are_the_same_are_skipped_and_counted(store: FeedbackStore, tmp_path: Path):
    rows = [{"prompt": "p", "chosen": "a", "rejected": x} for x in "ab"]
    done = labels_into_store(store, write(tmp_path / "x.jsonl", rows))
    assert done.remarks == {"skipped, both answers are the same": 1}


def test_whole_conversations_keep_system_and_tool_turns(store: FeedbackStore, tmp_path: Path):
    sides = [[*TOOLS, {"role": "assistant", "content": text}] for text in ("Warm.", "Cold.")]
    path = write(tmp_path / "c.jsonl", [{"chosen": sides[0], "rejected": sides[1], "rater": "ann"}])
    labels_into_store(store, path)
    (item,) = store.items()
    assert item.messages == TOOLS
    (label,) = labels_from_store(store)
    assert isinstance(label, Comparison)
    assert isinstance(label.prompt, Chat)
    assert label.prompt.messages == TOOLS
    export_labels(store, tmp_path / "out.jsonl")
    assert [x.prompt.messages for x in read_labels(tmp_path / "out.jsonl")] == [TOOLS]  # type: ignore[attr-defined]


def test_what_was_changed_in_an_exported_file_counts(store: FeedbackStore, tmp_path: Path):
    import_labels(store, write(tmp_path / "a.jsonl", [{"prompt": "p", "response": "r", "score": 4, "scale": [1, 5]}]))
    export_labels(store, tmp_path / "out.jsonl")
    row = json.loads((tmp_path / "out.jsonl").read_text("utf-8"))
    write(tmp_path / "changed.jsonl", [row | {"score": 2}])
    with FeedbackStore(tmp_path / "b.db") as other:
        import_labels(other, tmp_path / "changed.jsonl")
        assert [each.label.payload for each in other.labels()] == [{"score": 2}]


def random_label(rng: random.Random, number: int) -> Label:
    """A label of any kind, about a text or a conversation, with what a file may say beside it."""
    prompt = Chat(TOOLS) if rng.random() < 0.3 else f"q{number}"
    beside: dict[str, Any] = {
        "rater": rng.choice((None, "ann", "bob")),
        "item": rng.choice((None, f"item {number}")),
        "source": rng.choice((None, "web")),
        "weight": rng.choice((1.0, 0.25)),
    }
    texts: list[str] = [f"answer {i} of {number}" for i in rng.sample(range(9), 4)]
    if rng.random() < 0.3:
        texts[1] = Chat([{"role": "assistant", "content": texts[1]}, SYSTEM])
    kind = rng.randrange(4)
    if kind == 0:
        scale = rng.choice((None, (0, 4)))
        return Rating(prompt, texts[0], float(rng.randint(1, 4)), scale=scale, **beside)
    if kind == 1:
        extras = {"margin": rng.choice((0.0, 0.7)), "tie": rng.random() < 0.3, "confidence": rng.choice((1.0, 0.8))}
        return Comparison(prompt, texts[0], texts[1], **extras, **beside)
    if kind == 2:
        return Ranking(
            prompt, tuple(texts), tuple([rng.choice((1, 2, None)) for _ in texts[:3]] + [rng.choice((1, 4))]), **beside
        )
    return BestOf(prompt, tuple(texts), rng.randrange(4), **beside)


@pytest.mark.parametrize("way", ["jsonl", "parquet", "argilla", "label-studio"])
@pytest.mark.parametrize("seed", range(6))
def test_random_labels_survive_import_and_export(store: FeedbackStore, tmp_path: Path, seed: int, way: Any):
    rng = random.Random(seed)
    labels = [random_label(rng, number) for number in range(60)]
    write_labels(tmp_path / "in.jsonl", labels)
    assert labels_into_store(store, tmp_path / "in.jsonl").labels == len(labels)
    out = tmp_path / f"out.{way if way in ('jsonl', 'parquet') else 'json'}"
    export_labels(store, out, format=way)
    with FeedbackStore(tmp_path / "b.db") as other:
        again = import_labels(other, out)
        assert (again.labels, again.known) == (len(labels), 0)
        export_labels(other, tmp_path / "last.jsonl")
    found = read_labels(tmp_path / "last.jsonl")
    assert sorted(map(repr, found)) == sorted(map(repr, labels))


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl.gz", "parquet"])
def test_files_of_every_ending_come_in(store: FeedbackStore, tmp_path: Path, ending: str):
    rows = [{"prompt": f"p{n}", "chosen": "a", "rejected": "b", "rater": "ann"} for n in range(3)]
    path = tmp_path / f"x.{ending}"
    if ending == "csv":
        path.write_text("prompt,chosen,rejected,rater\n" + "".join(f"p{n},a,b,ann\n" for n in range(3)), "utf-8")
    elif ending == "json":
        path.write_text(json.dumps(rows), "utf-8")
    elif ending == "parquet":
        write_rows(path, rows)
    else:
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    assert labels_into_store(store, path) == (3, 3, 0, {})
    assert list(labels_from_store(store)) == read_labels(path)


def test_the_command_says_what_was_assumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write(tmp_path / "x.jsonl", [{"prompt": "p", "response": "r", "score": s} for s in (0, 3)])
    db = str(tmp_path / "c.db")
    assert main(["labels", "import", str(path), "--db", db]) == 1
    assert f"{path}:1: `score` must be a whole number from 1 to 5" in capsys.readouterr().err
    assert main(["labels", "import", str(path), "--db", db, "--scale", "[0, 4]"]) == 0
    out = capsys.readouterr().out
    assert main(["labels", "import", str(path), "--db", db, "--format", "guess"]) == 1
    assert "`format` must be one of jsonl, parquet, argilla, label-studio, " in capsys.readouterr().err
    assert "1 new items, 2 new labels, 0 labels known before" in out
    assert "ratings that name no scale, taken as 0…4: 2" in out
