"""``textenv sample`` and ``textenv trajectories``, on the tiny quickstart run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from textenv.cli import sampling
from textenv.cli.main import main
from textenv.errors import DataError
from textenv.pages.numbers import fixed
from textenv.trajectories import TrajectoryStore


@pytest.fixture(scope="module")
def stores(finished: Path) -> dict[str, Path]:
    """Two stores over the same prompts, of two policies."""
    run, made = finished / "runs" / "tiny", {}
    (finished / "prompts.txt").write_text("the film is\n\na story that\nÜber alles\n", encoding="utf-8")
    for stage in ("sft", "ppo"):
        made[stage] = finished / f"answers-{stage}"
        flags = ["--policy", str(run / stage), "--reference", str(run / "sft"), "--reward_model", "lexicon"]
        flags += ["--prompts", str(finished / "prompts.txt"), "--n", "4", "--batch_size", "5", "--dtype", "float32"]
        assert main(["sample", *flags, "--store", str(made[stage]), "--sampling.max_new_tokens", "6"]) == 0
    return made


def test_sample_writes_scored_and_annotated_answers_in_batches(stores: dict[str, Path]):
    store = TrajectoryStore(stores["ppo"], create=False)
    assert [part.rows for part in store.parts()] == [4, 4, 4]
    answers = store.load()
    assert [a.prompt for a in answers[::4]] == ["the film is", "a story that", "Über alles"]
    assert [a.sample_index for a in answers] == [0, 1, 2, 3] * 3
    for a in answers:
        assert a.sampling["max_new_tokens"] == 6
        assert a.sampling["temperature"] == 1.0
        assert a.score is not None
        assert a.reward_model == "lexicon"
        for name in ("ref_logprobs", "entropy", "exact_kl"):
            assert len(getattr(a, name)) == len(a)
    assert len({a.group_id for a in answers}) == 3


def test_same_seed_gives_the_same_answers_and_a_store_takes_them_once(
    finished: Path, capsys: pytest.CaptureFixture[str]
):
    flags = ["--policy", str(finished / "runs/tiny/sft"), "--prompts", '["the film is", "a story"]']
    flags += ["--dtype", "float32", "--sampling.max_new_tokens", "6"]
    first, again = finished / "first", finished / "again"
    for path, n in ((first, "3"), (again, "3"), (again, "3"), (again, "5")):
        assert main(["sample", *flags, "--n", n, "--store", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "6 of 6 answers are in" in printed
    assert "6 of 10 answers are in" in printed
    assert "give another --seed" in printed
    store = TrajectoryStore(again, create=False)
    assert [t.response for t in store[:6]] == [t.response for t in TrajectoryStore(first)]
    assert [(t.prompt_id, t.sample_index) for t in store[6:]] == [("0", 3), ("0", 4), ("1", 3), ("1", 4)]
    assert store[0].score is None
    assert store[0].ref_logprobs is None
    for changed in (["--seed", "1"], ["--sampling.temperature", "0.5"]):
        assert main(["sample", *flags, *changed, "--store", str(again)]) == 0
    assert len(store) == 14
    assert len({t.group_id for t in store}) == 6


def test_retrained_policy_in_the_same_folder_is_another_policy(finished: Path, tmp_path: Path):
    flags = ["--policy", str(tmp_path / "policy"), "--prompts", '["the film is"]', "--store", str(tmp_path / "store")]
    for stage in ("sft", "ppo"):
        shutil.copytree(finished / "runs/tiny" / stage, tmp_path / "policy", dirs_exist_ok=True)
        assert main(["sample", *flags, "--sampling.max_new_tokens", "3"]) == 0
    one, other = TrajectoryStore(tmp_path / "store")
    assert one.policy == other.policy
    assert one.policy_hash != other.policy_hash
    assert one.group_id != other.group_id


def test_words_are_prompts_unless_they_name_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for given in ("Hello", "Hello...", "it is 3.5/5 stars", ["data/prompts", "p.csv"]):
        config = sampling.SampleConfig(policy="x", prompts=given)
        assert [p.text for p in sampling.load_prompts(config)] == ([given] if isinstance(given, str) else given)
    Path("prompts.txt").write_text("a\n")
    Path("openings").write_text("a\n")
    Path("folder").mkdir()
    for given, message in (
        ("prompts", r"`--prompts prompts`: there is no such prompt file; did you mean prompts\.txt\?"),
        ("openings", r"`--prompts openings` is a file, but of no known kind \(\.txt, "),
        ("folder", r"""`--prompts folder` is a folder; .* write --prompts '\["folder"\]'"""),
    ):
        with pytest.raises(DataError, match=message):
            sampling.load_prompts(sampling.SampleConfig(policy="x", prompts=given))


def test_interrupted_sampling_keeps_what_is_finished(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    answer, calls = sampling._answer, []

    def once(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return answer(*arguments)

    monkeypatch.setattr(sampling, "_answer", once)
    flags = ["--policy", str(finished / "runs/tiny/sft"), "--batch_size", "2", "--limit", "6", "--annotate", "false"]
    assert main(["sample", *flags, "--store", str(finished / "cut"), "--sampling.max_new_tokens", "3"]) == 130
    assert "interrupted: 2 of 6 answers are in" in capsys.readouterr().out
    assert len(TrajectoryStore(finished / "cut", create=False)) == 2


def test_stats_as_json_and_as_table(stores: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    assert main(["trajectories", "stats", str(stores["ppo"]), "--json", "true"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["answers"], found["prompts"]) == (12, 3)
    assert set(found["kl"]) == {"k1", "k2", "k3", "exact"}
    assert main(["trajectories", "stats", str(stores["ppo"]), "--where", "{prompt: the film is}"]) == 0
    table = capsys.readouterr().out
    assert "KL to reference, exact" in table
    assert "repeated draws" not in table
    assert "expected best of 4" in table


def test_stats_of_the_reference_itself_have_no_divergence(stores: dict[str, Path], capsys):
    assert main(["trajectories", "stats", str(stores["sft"]), "--json", "true"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kl"]["exact"]["value"] == pytest.approx(0, abs=1e-5)
    assert found["kl"]["k1"]["value"] == pytest.approx(0, abs=1e-3)
    assert found["ess_share"] == pytest.approx(1, abs=1e-3)


def test_compare_pairs_prompts_and_draws_the_frontier(stores: dict[str, Path], tmp_path: Path, capsys):
    both = [str(stores["sft"]), str(stores["ppo"])]
    frontier = tmp_path / "frontier.png"
    assert main(["trajectories", "compare", *both, "--json", "true", "--frontier", str(frontier)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["answers-sft"]["against_first"] is None
    assert found["answers-ppo"]["against_first"]["prompts"] == 3
    means = [TrajectoryStore(path).columns(["score"]).array("score").mean() for path in stores.values()]
    assert found["answers-ppo"]["against_first"]["difference"]["value"] == pytest.approx(means[1] - means[0])
    assert frontier.stat().st_size > 10_000
    assert main(["trajectories", "compare", *both]) == 0
    assert "shared prompts" in capsys.readouterr().out


def test_show_prints_answers_or_writes_the_page(stores: dict[str, Path], tmp_path: Path, capsys):
    assert main(["trajectories", "show", str(stores["ppo"]), "--limit", "2", "--order", "best"]) == 0
    printed = capsys.readouterr().out
    assert "2 of 12 answers" in printed
    scores = TrajectoryStore(stores["ppo"]).columns(["score"]).array("score")
    assert f"score {fixed(scores.max(), 3, signed=True)}" in printed
    page = tmp_path / "page.html"
    assert main(["trajectories", "show", str(stores["ppo"]), "--html", str(page)]) == 0
    assert '"tokens":[' in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample"], "`--policy` is needed"),
        (["sample", "--policy", "./nowhere"], "`--policy ./nowhere`: there is no such folder"),
        (["sample", "--policy", "x", "--reference", "runs/a/b"], "`--reference runs/a/b`: there is no such folder"),
        (["sample", "--policy", "x", "--n", "0"], "`n` must be ≥ 1, got 0"),
        (["sample", "--policy", "x", "--prompts", "none.jsonl"], "none.jsonl: no such file"),
        (["sample", "--policy", "x", "--prompts", "none.txt"], "none.txt: no such prompt file"),
        (["sample", "--policy", "x", "--prompts", "data/prompts"], "`--prompts data/prompts`: there is no such prompt"),
        (["sample", "--policy", "x", "--prompts", "p.csv"], "`--prompts p.csv`: there is no such prompt file; to"),
        (
            ["sample", "--policy", "x", "--reward_model", "runs/none"],
            "no reward model: `runs/none`: there is no such folder",
        ),
        (["sample", "--policy", "x", "--sampling.top_p", "0"], "`top_p` must lie in (0, 1]"),
        (["sample", "--policy", "x", "--sampling.topp", "0"], "topp"),
        (["trajectories", "show", "nowhere"], "nowhere: there is no trajectory store; `textenv sample`"),
        (["trajectories", "show", "a", "b"], "show takes one store, got 2"),
        (["trajectories", "compare", "a"], "compare needs at least two stores"),
        (["trajectories", "compare", "a", "b", "--names", "[x]"], "`names` must hold 2 different names"),
        (["trajectories", "stats", "a", "--colour", "red"], "there is no --colour"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) in (1, 2)
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_bad_filters_and_folders_are_named(stores: dict[str, Path], capsys: pytest.CaptureFixture[str]):
    store = str(stores["ppo"])
    for flags, message in (
        (["--where", "{finish_reason: bored}"], "no trajectory matches"),
        (["--where", "{colour: red}"], "cannot filter by `colour`"),
        (["--html", "no/such/folder/x.html"], "there is no folder no/such/folder"),
        (["--limit", "-1"], "`limit` must be ≥ 0"),
    ):
        assert main(["trajectories", "show", store, *flags]) in (1, 2)
        assert message in capsys.readouterr().err


def test_usage_lists_the_actions(capsys: pytest.CaptureFixture[str]):
    assert main(["trajectories"]) == 2
    assert main(["trajectories", "--help"]) == 0
    assert "compare" in capsys.readouterr().out
