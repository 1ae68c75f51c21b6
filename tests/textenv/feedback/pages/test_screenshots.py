"""The pictures of the documentation can be made again, and their made-up raters are found for what they are."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from examples import feedback_screenshots
from tests.textenv.feedback.pages.conftest import find_browser
from textenv.feedback.measures.figures import Dashboard
from textenv.feedback.store import FeedbackStore

pytestmark = pytest.mark.slow


def test_the_dashboard_finds_what_the_simulated_raters_were_given(tmp_path):
    clock = feedback_screenshots.Clock()
    with FeedbackStore(tmp_path / "x.db", clock=clock) as store:
        feedback_screenshots.simulate(store, clock)
        found = Dashboard(store.database, clock, patience=60.0).figures()

    raters = {each["name"]: each for each in found["raters"]}
    assert {name for name, each in raters.items() if each["one_sided"]} == {"dae-jung"}
    assert {name for name, each in raters.items() if each["below"]} == {"farid"}
    assert raters["farid"]["gold"]["value"] < 0.6 < raters["amira"]["gold"]["low"]
    wins = {(each["first"], each["second"]): each["share"] for each in found["win_rates"]}
    assert wins["ppo@round-2", "sft@v1"]["low"] > 0.5
    assert found["length"]["longer"]["low"] > 0.5
    assert all(each["value"] > 0.6 for each in found["ceiling"])


def test_pictures_are_made_again_and_small(tmp_path):
    if find_browser() is None:
        pytest.skip("no browser")
    pytest.importorskip("playwright.sync_api", reason="needs the extra [dev]")
    feedback_screenshots.main(["--out", str(tmp_path)])
    made = {path.name: path for path in tmp_path.glob("*.png")}

    views = ("demonstrate", "rate", "rank", "compare", "phone", "signin", "dashboard", "dashboard-phone")
    assert set(made) == {f"{name}.png" for name in views}
    for path in made.values():
        assert path.stat().st_size < 150_000
        assert np.asarray(Image.open(path).convert("L")).std() > 5  # not a blank page
