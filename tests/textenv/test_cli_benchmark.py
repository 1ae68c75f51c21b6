import json

import pytest

from textenv.cli.main import main


def test_benchmark_writes_page_and_figures_and_prints_a_table(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--models", "dice=random:1,random:2", "--suites", "simulated", "builtin/nyt", "--data", "builtin"]
    assert main(["benchmark", *arguments, "--quick", "true", "--out", str(out)]) == 0
    figures = json.loads((out / "report.json").read_text("utf-8"))
    assert list(figures["models"]) == ["dice #1", "dice #2", "lexicon", "length", "constant", "random", "tfidf"]
    assert (out / "report.html").read_text("utf-8").startswith("<!doctype html>")
    assert "lexicon" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suites", "humans"], "unknown suite 'humans'"),
        (["--models", "a=constant", "a=length"], "two models are called 'a'"),
        (["--models", "a="], "model 'a' has no spec"),
        (["--models", "a=/nowhere/at/all"], "/nowhere/at/all"),
        (["--baselines", "false"], "no models"),
        (["--data", "mars"], "`--data` takes human|builtin, got mars"),
        (["--resamples", "0"], "`resamples` must be ≥ 1, got 0"),
        (["--wrong", "1"], "wrong"),
        (["overoptimize", "--labels", "0"], "`labels` must be ≥ 1, got 0"),
        (["overoptimize", "--noise", "0"], "`noise` must be positive, got 0.0"),
    ],
)
def test_mistakes_are_explained_in_one_line(arguments, message, tmp_path, capsys):
    more = [] if arguments[0] == "overoptimize" or "--data" in arguments else ["--data", "builtin"]
    assert main(["benchmark", *arguments, *more, "--out", str(tmp_path / "out")]) in (1, 2)
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_overoptimize_runs_end_to_end(tmp_path):
    small = ["--samples", "8", "--episodes", "128", "--language_model_steps", "3", "--labels", "20"]
    assert main(["benchmark", "overoptimize", *small, "--resamples", "20", "--out", str(tmp_path)]) == 0
    pool = json.loads((tmp_path / "report.json").read_text("utf-8"))["overoptimization"]["overoptimize"]
    assert pool["curves"]["best-of-n"]["steps"] == [1, 2, 4, 8]
    assert pool["curves"]["PPO"]["steps"] == [0, 128]
    assert pool["curves"]["PPO"]["kl"][0] == pytest.approx(0, abs=1e-4)
    assert "Gold" in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.slow
def test_overoptimize_shows_gold_that_peaks_and_falls_while_the_proxy_rises(tmp_path):
    assert main(["benchmark", "overoptimize", "--out", str(tmp_path)]) == 0
    pool = json.loads((tmp_path / "report.json").read_text("utf-8"))["overoptimization"]["overoptimize"]
    for curve in pool["curves"].values():
        first = curve["proxy"][0]
        assert curve["proxy"][-1]["low"] > (first["value"] if first["high"] is None else first["high"])
        assert curve["shape_known"]
        assert curve["drop"]["low"] > 0
