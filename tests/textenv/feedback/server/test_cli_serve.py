from __future__ import annotations

import argparse
import re
import urllib.request
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from benchmarks import serve_load
from textenv.cli.main import main
from textenv.cli.serve import ServeConfig
from textenv.errors import ConfigError
from textenv.feedback.store import FeedbackStore
from textenv.feedback.store.schema import metadata


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "needs a `token`"),
        (["--token", "short"], "at least 16 characters"),
        (["--port", "70000"], "`port` must lie in [0, 65535], got 70000"),
        (["--num_slots", "0"], "`num_slots` must be ≥ 1"),
        (["--db", "sqlite://"], "--key_file links.key"),
        (["--policy", "nowhere"], "there is no such folder"),
        (["--policy", "a=nowhere"], "there is no such folder"),
        (["--make.kind", "guess"], "make.kind"),
        (["--make.kind", "rate", "--make.prompts", "prompts.txt"], "need a policy that answers"),
    ],
)
def test_serve_says_what_is_wrong(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TEXTENV_TOKEN", raising=False)
    Path("prompts.txt").write_text("what is the sea?\n")

    assert main(["serve", "--db", "labels.db", *arguments]) in (1, 2)
    assert message in capsys.readouterr().err


def test_serve_config_is_checked():
    with pytest.raises(ConfigError, match="`link_days` must be positive, got 0"):
        ServeConfig(link_days=0)


def test_tables_can_be_made_on_another_database():
    dialect = postgresql.dialect()
    statements = [str(sa.schema.CreateTable(table).compile(dialect=dialect)) for table in metadata.sorted_tables]
    indices = [
        str(sa.schema.CreateIndex(index).compile(dialect=dialect))
        for table in metadata.sorted_tables
        for index in table.indexes
    ]

    assert len(statements) == 8
    assert any("UNIQUE INDEX labels_once_per_rater" in each and "WHERE undone IS NULL" in each for each in indices)


def options(**changed: float) -> argparse.Namespace:
    return argparse.Namespace(
        **{"raters": 40, "seconds": 5.0, "think": 0.4, "kill": 0.0, "items": 1500, **changed}, route="page", db=""
    )


@pytest.mark.slow
def test_many_raters_at_once_meet_no_error(capsys):
    serve_load.labels(options())  # how long saves took is for the benchmark to say, on an idle machine
    told = capsys.readouterr().out

    assert "errors 0, requests that met no server 0, labels lost 0, twice 0" in told
    assert int(re.search(r"(\d+) labels", told)[1]) > 40  # type: ignore[index]  # it says so


@pytest.mark.slow
def test_kill_9_under_load_loses_no_acknowledged_label(capsys):
    serve_load.labels(options(seconds=8.0, kill=2.0))  # how long saves took is not what this is about
    told = capsys.readouterr().out

    assert "up again" in told
    assert "errors 0, " in told
    assert "labels lost 0, twice 0" in told


@pytest.mark.slow
def test_serve_makes_items_and_answers(tmp_path, policy_folder):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("the old film\nthe new film\nthe long film\n")
    arguments = ["--policy", f"mine={policy_folder}", "--db", str(tmp_path / "labels.db"), "--context", "96"]
    making = ["--make.kind", "rate", "--make.prompts", str(prompts), "--make.sampling.max_new_tokens", "5"]
    server = serve_load.Server([*arguments, *making, "--raters", "ann"])
    try:
        request = urllib.request.Request(
            f"{server.url}/v1/models", headers={"Authorization": f"Bearer {serve_load.TOKEN}"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert b'"id":"mine"' in answer.read()
    finally:
        server.stop()
    with FeedbackStore(tmp_path / "labels.db") as store:
        assert len(store.open_items()) == 3
        assert [policy.name for policy in store.policies()] == ["mine"]
