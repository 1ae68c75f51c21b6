"""The loop with simulated people, as the example runs it: a server of its own, labels over HTTP, a new version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples import feedback_loop
from textenv.feedback.store import FeedbackStore


@pytest.mark.slow
def test_a_round_with_simulated_people_makes_a_version_that_is_served(finished: Path, tmp_path: Path):
    policy = finished / "runs" / "tiny" / "sft"
    out = tmp_path / "loop"
    arguments = ["--policy", str(policy), "--data", "builtin", "--out", str(out), "--rounds", "1", "--prompts", "90"]
    arguments += ["--demonstrations", "8", "--held_out", "16", "--episodes", "64", "--max_tokens", "6", "--people", "3"]
    before, after = feedback_loop.main(arguments)
    with FeedbackStore(out / "people.db") as store:
        said = list(store.labels())
        assert {entry.item.kind for entry in said} == {"demonstrate", "rank"}
        assert {entry.label.rater for entry in said} == {"rater-0", "rater-1", "rater-2"}
        assert len({(entry.item.id, entry.label.rater) for entry in said}) == len(said)
        (round_,) = store.rounds()
        served = store.policies("sft")[-1].version
    assert round_.upto == len(said)
    assert after["version"] == served == ("round-1" if round_.figures["served"] else before["version"])
    assert json.loads((out / "loop.json").read_text())["rounds"][0]["version"] == before["version"]
    assert (out / "loop.png").exists()
