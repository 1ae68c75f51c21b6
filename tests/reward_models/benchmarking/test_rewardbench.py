import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reward_models.benchmarking import rewardbench_suite
from reward_models.benchmarking.baselines import ConstantModel, LengthModel
from reward_models.benchmarking.measures.accuracy import suite_accuracy
from reward_models.benchmarking.measures.choices import choice_accuracy, ties_score
from tests.reward_models.benchmarking.rewardbench_files import V1, V2, write
from textenv.answers import Chat
from textenv.errors import DataError
from textenv.statistics import ClusterBootstrap


def measured(suite, model, measure) -> Any:
    bootstrap = ClusterBootstrap(suite.clusters, np.random.default_rng(0), resamples=200)
    return measure(model.score(suite.prompts, suite.responses).astype(float), suite, bootstrap)


def test_version_1_scores_equal_those_of_the_package(tmp_path):
    found = measured(rewardbench_suite(write(V1, tmp_path / "v1.jsonl")), LengthModel(), suite_accuracy)
    sections = {name: figure.value for name, figure in found.sections.items()}
    assert sections == pytest.approx({"Chat": 0.619047619047619, "Chat Hard": 1.0, "Reasoning": 0.4375})
    assert found.section_mean.value == pytest.approx((0.619047619047619 + 1 + 0.4375) / 3)


def test_version_1_without_the_upweighting_counts_math_by_its_size(tmp_path):
    suite = rewardbench_suite(write(V1, tmp_path / "v1.jsonl"), upweight_math=False)
    found = measured(suite, LengthModel(), suite_accuracy).sections["Reasoning"]
    assert found.value == pytest.approx((447 / 3 + 164 * 1.0 + 164 * 0.5) / (447 + 164 + 164))


def test_version_2_scores_equal_those_of_the_package(tmp_path):
    found = measured(rewardbench_suite(write(V2, tmp_path / "v2.jsonl")), LengthModel(), choice_accuracy)
    values = {name: figure.value for name, figure in found.subsets.items()}
    assert values == pytest.approx({"Focus": 2 / 3, "Math": 0.5, "Ties": 0.6978663526709981})
    assert found.mean.value == pytest.approx((2 / 3 + 0.5 + 0.6978663526709981) / 3)
    assert found.mean.low <= found.mean.value <= found.mean.high


def test_version_2_constant_model_gets_chance(tmp_path):
    found = measured(rewardbench_suite(write(V2, tmp_path / "v2.jsonl")), ConstantModel(), choice_accuracy)
    assert found.subsets["Math"].value == found.chance["Math"] == 0.25
    assert found.subsets["Ties"].value == found.chance["Ties"]


def test_ties_score_of_a_perfect_model_reaches_its_largest_value():
    groups = [("ref:0", np.array([1e9, 0.0]), 1), ("tied:0", np.array([1e9 + 1, 1e9, 0.0]), 2)]
    assert ties_score(groups) == pytest.approx(1.01)


def test_ties_score_without_common_questions_has_accuracy_only():
    assert ties_score([("ref:0", np.array([1.0, 0.0]), 1), ("tied:1", np.array([1.0, 1.0, 0.0]), 2)]) == 0.6


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r"bad\.jsonl:2: not valid JSON"),
        ("[1]", r"bad\.jsonl:2: expected an object"),
        (
            json.dumps({"prompt": "p", "chosen": "a"}),
            r"bad\.jsonl:2: field `rejected`: expected a text or a list of chat messages, got None",
        ),
        (
            json.dumps({"prompt": 3, "chosen": "a", "rejected": "b"}),
            r"bad\.jsonl:2: field `prompt`: expected a text or a list of chat messages, got 3",
        ),
    ],
    ids=["no-json", "no-object", "no-rejected", "prompt-no-text"],
)
def test_a_malformed_row_is_named_by_file_line_and_field(tmp_path, row, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(V1[0]) + "\n" + row + "\n", "utf-8")
    with pytest.raises(DataError, match=message):
        rewardbench_suite(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_correct": 2}, "`num_correct` is 2, but `chosen` holds 1"),
        ({"rejected": []}, "`rejected` must be a list of texts"),
        ({"subset": "Ties", "id": "7"}, "must be ref:<number> or tied:<number>, got '7'"),
    ],
    ids=["count", "empty-list", "tie-id"],
)
def test_a_malformed_version_2_row_is_explained(tmp_path, change, message):
    path = write([V2[0], V2[1] | change], tmp_path / "v2.jsonl")
    with pytest.raises(DataError, match=rf"v2\.jsonl:2: .*{message}"):
        rewardbench_suite(path)


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="empty"):
        rewardbench_suite(write([], tmp_path / "none.jsonl"))


def test_parquet_is_read_like_jsonl(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(V1), tmp_path / "v1.parquet")
    from_jsonl = rewardbench_suite(write(V1, tmp_path / "v1.jsonl"))
    assert rewardbench_suite(tmp_path / "v1.parquet").sha256() == from_jsonl.sha256()


def test_conversations_keep_their_messages(tmp_path: Path) -> None:
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    answers = {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    whole = {name: [*asked, *answer] for name, answer in answers.items()}
    for rows in ([{"prompt": asked, **answers}], [{"prompt": "Why?", **whole}], [{"prompt": asked, **whole}]):
        path = tmp_path / "chats.jsonl"
        path.write_text("".join(json.dumps(row | {"subset": "alpacaeval-easy"}) + "\n" for row in rows))
        suite = rewardbench_suite(path)
        assert suite.responses == ("chosen", "rejected")
        assert all(isinstance(prompt, Chat) and list(prompt.messages) == asked for prompt in suite.prompts)
    path.write_text(json.dumps({"prompt": asked, "chosen": ["a"], "rejected": ["b", "c"], "subset": "Math"}) + "\n")
    suite = rewardbench_suite(path)
    assert suite.responses == ("a", "b", "c")
    assert all(isinstance(prompt, Chat) for prompt in suite.prompts)
