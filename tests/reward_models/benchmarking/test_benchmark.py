import json
import re
from html.parser import HTMLParser
from importlib import import_module
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import reward_models
from reward_models import benchmark
from reward_models.benchmarking import BenchmarkReport, ratings_suite, rewardbench_suite
from reward_models.benchmarking.baselines import BagOfWords, ConstantModel, LengthModel, RandomModel
from tests.reward_models.benchmarking.rewardbench_files import V1, V2, write
from textenv.datasets import builtin_ratings
from textenv.errors import ConfigError, DataError

EVIL = "<script>alert('x')</script>"


class Failing:
    def score(self, prompts, responses):
        if any("cast" in response for response in responses):
            raise ValueError(f"cannot read {EVIL}")
        return np.array([np.nan if "music" in response else len(response) for response in responses])


@pytest.fixture(scope="module")
def report():
    models = {
        "constant": ConstantModel(),
        "length": LengthModel(),
        f"evil {EVIL}": Failing(),
        "dice": [RandomModel(0), RandomModel(1)],
    }
    texts = [f"{EVIL} number {i} with {'many ' * (i % 7)}words" for i in range(30)]
    own = ratings_suite("own", f"Own {EVIL}", ["p"] * 30, texts, [[i % 7, (i * 3) % 5] for i in range(30)])
    return benchmark(models, ["builtin/movies", "builtin/nyt", "simulated", "overoptimization", own], quick=True)


def test_the_contracts_names_work():
    assert callable(reward_models.benchmark)
    assert import_module("reward_models.benchmarking").benchmark is reward_models.benchmark


def test_a_constant_model_is_chance_everywhere(report):
    for suite in report.figures["suites"].values():
        found = suite["models"]["constant"]
        assert found["headline"]["value"] == 0.5
        assert found["accuracy"]["tie_rate"]["value"] == 1
        assert found["ranking"]["kendall"]["value"] == 0
        assert found["calibration"]["fitted"]["nll"]["value"] == pytest.approx(np.log(2))
        assert found["length"]["difference"]["value"] == 0


def test_a_failing_model_is_listed_and_loses_only_its_texts(report):
    models = report.figures["models"]
    evil = models[f"evil {EVIL}"]
    assert 0 < evil["speed"]["failed_texts"] < evil["speed"]["texts"]
    errors = {failure["error"].split(":")[0] for failure in evil["failures"]}
    assert "ValueError" in errors
    assert models["length"]["failures"] == []
    assert report.figures["suites"]["simulated"]["models"]["length"]["headline"]["value"] > 0.5


def test_seeds_of_a_kind_get_a_spread(report):
    spread = report.figures["seed_spread"]["dice"]["simulated"]
    suite = report.figures["suites"]["simulated"]["models"]
    values = [suite[f"dice #{number}"]["headline"]["value"] for number in (1, 2)]
    assert spread["mean"] == pytest.approx(np.mean(values))
    assert spread["sd"] == pytest.approx(np.std(values, ddof=1))
    assert spread["agreement"] == pytest.approx(0.5, abs=0.1)


def test_figures_are_json_and_come_back(report, tmp_path):
    path = report.save_json(tmp_path / "report.json")
    assert json.loads(path.read_text("utf-8")) == report.to_json()
    assert BenchmarkReport.load(path).to_json() == report.to_json()
    assert {len(suite["sha256"]) for suite in report.figures["suites"].values()} == {64}


def test_the_same_seed_gives_the_same_figures():
    runs = [benchmark({"dice": RandomModel()}, ["simulated"], quick=True, probes=False).figures for _ in range(2)]
    assert runs[0]["suites"] == runs[1]["suites"]


def test_another_suite_changes_no_figure():
    alone = benchmark({"dice": RandomModel()}, ["simulated"], quick=True, probes=False).figures
    beside = benchmark({"dice": RandomModel()}, ["builtin/nyt", "simulated"], quick=True, probes=False).figures
    assert alone["suites"]["simulated"] == beside["suites"]["simulated"]


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_page_shows_texts_as_text_and_loads_nothing(report, tmp_path):
    page = report.save(tmp_path / "report.html").read_text("utf-8")
    assert EVIL not in page
    assert "&lt;script&gt;" in page
    tags = Tags()
    tags.feed(page)
    assert sum(tag == "script" for tag, _ in tags.found) == 1
    loading = [(tag, attrs) for tag, attrs in tags.found if {"src", "href"} & attrs.keys()]
    assert all(tag == "a" and attrs["href"].startswith("#") for tag, attrs in loading)
    assert "default-src 'none'" in page
    assert re.search(r'<table class="sortable">', page)
    for title in ("Leaderboard", "Over-optimisation", "Calibration", "Across domains", "Small changes", "How to read"):
        assert title in page


class Broken:
    def score(self, prompts, responses):
        raise ValueError(EVIL)


@pytest.mark.parametrize("rows", [V1, V2], ids=["pairs", "choices"])
def test_the_page_of_rewardbench_shows_its_parts(rows, tmp_path):
    suite = rewardbench_suite(write(rows, tmp_path / "bench.jsonl"))
    models = {"length": LengthModel(), "constant": ConstantModel(), "broken": Broken()}
    report = benchmark(models, [suite], quick=True, probes=False)
    page = report.save(tmp_path / "report.html").read_text("utf-8")
    for part in {row["subset"] for row in rows}:
        assert re.search(rf'<th scope="row">{re.escape(part)}', page)
    assert ": parts</h3>" in page
    assert "The probes were not run." in page
    assert EVIL not in page


def test_the_page_of_nothing_but_paths_has_their_sections(report, tmp_path):
    figures = report.figures | {"suites": {}, "models": {}, "probes": None, "seed_spread": {}}
    page = BenchmarkReport(figures).save(tmp_path / "report.html").read_text("utf-8")
    assert re.findall(r'<h2 id="([^"]+)">', page) == ["overoptimization", "reading"]
    assert "Along the proxy" in page
    assert "Nothing was measured." in BenchmarkReport(figures | {"overoptimization": {}}).save(
        tmp_path / "empty.html"
    ).read_text("utf-8")


def test_the_page_shows_every_figure_of_the_table_of_models(report, tmp_path):
    page = report.save(tmp_path / "report.html").read_text("utf-8")
    board = page[page.index('id="leaderboard"') : page.index('id="overoptimization"')]
    suite = report.figures["suites"]["simulated"]["models"]
    for model in suite.values():
        assert f'data-v="{model["headline"]["value"]:.9g}"' in board
    assert board.count("<tr>") == 1 + len(report.figures["models"])


def test_the_summary_names_models_and_failures(report):
    console = Console(width=160, record=True, file=StringIO())
    console.print(report.summary())
    words = console.export_text()
    assert "constant" in words
    assert "Optimised against" in words
    assert "texts without a score, which count as ties" in words


@pytest.mark.parametrize(
    ("models", "message"),
    [({}, "no models: give at least one"), ({"x": 3}, r"model 'x' \(int\) has no method `score")],
    ids=["none", "no-model"],
)
def test_wrong_models_are_explained(models, message):
    with pytest.raises(ConfigError, match=message):
        benchmark(models, ["simulated"], quick=True)


def test_files_that_are_no_benchmark_are_refused(tmp_path):
    (tmp_path / "a.json").write_text("[]", "utf-8")
    (tmp_path / "b.json").write_text('{"schema_version": 99}', "utf-8")
    with pytest.raises(DataError, match="expected an object"):
        BenchmarkReport.load(tmp_path / "a.json")
    with pytest.raises(DataError, match="schema version 99; this textenv reads 1"):
        BenchmarkReport.load(tmp_path / "b.json")
    with pytest.raises(DataError, match="cannot be read"):
        BenchmarkReport.load(tmp_path / "none.json")


def test_progress_is_told_while_texts_are_scored():
    said = []
    benchmark({"a": ConstantModel()}, ["simulated"], quick=True, progress=lambda *what: said.append(what))
    assert ("scoring with a", 256, 256) in said


def test_a_bag_of_words_beats_chance_on_the_domain_it_has_seen_and_on_others():
    texts = builtin_ratings(1500)
    found = benchmark(
        {"movies": BagOfWords(texts, ["movies"])}, ["builtin/movies", "builtin/nyt"], quick=True, probes=False
    )
    for suite in found.figures["suites"].values():
        assert suite["models"]["movies"]["headline"]["low"] > 0.7
    with pytest.raises(DataError, match="no rated texts of mars"):
        BagOfWords(texts, ["mars"])


def test_the_block_in_the_documentation_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[3] / "docs" / "benchmark.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 1
    exec(compile(blocks[0], str(page), "exec"), {})
    assert (tmp_path / "report.html").exists()
