"""What the command line says about itself and about what was mistyped, without importing a model library for help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from textenv.cli.flags import flags_of, in_words, with_lists
from textenv.cli.flags_file import described
from textenv.cli.main import COMMANDS, main, parse


def test_the_file_of_flags_is_what_the_commands_take():
    outdated = [name for name in COMMANDS if described(name) != list(flags_of(name).values())]
    assert outdated == [], "run: python -m textenv.cli.flags_file"


@pytest.mark.parametrize("columns", ["60", "80", "200"])
@pytest.mark.parametrize("everything", [False, True])
def test_help_fits_the_terminal(
    columns: str, everything: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", columns)
    for name in COMMANDS:
        assert main([*name.split(), "--help", *(["all"] if everything else [])]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"usage: textenv {name}")
        assert ("--help all" in shown) == (not everything and any("." in flag for flag in flags_of(name)))
        if everything:
            assert all(f"--{flag.name}" in shown for flag in flags_of(name).values() if not flag.needed)
        # A flag's name and choices alone may be longer than a line.
        assert [line for line in shown.splitlines()[2:] if len(line) > int(columns) and line[:4] != "  --"] == []


def test_help_and_version_import_no_model_library():
    code = (
        "import sys; from textenv.cli.main import main; main(['rlhf', '--help']); main(['--version']); "
        "assert not {'torch', 'transformers', 'sklearn', 'pandas'} & set(sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.splitlines()[-1].startswith("textenv ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rlfh"], "unknown command 'rlfh'; did you mean rlhf?"),
        (["rlhf", "--nam", "x"], "there is no --nam; did you mean --name?"),
        (["rlhf", "--ppo.training.kl_coeff=1"], "kl_coeff; did you mean --ppo.training.kl_coef?"),
        (["rlhf", "--kl_coef", "1"], "there is no --kl_coef; did you mean --ppo.training.kl_coef?"),
        (["rlhf", "--seed", "x"], "`--seed` takes a whole number, got x"),
        (["rlhf", "--data", "humans"], "`--data` takes human|builtin, got humans; did you mean human?"),
        (["rlhf", "--config", "recip.yaml"], "there is no such file; did you mean recipe.yaml?"),
        (["rlhf", "--config", "recipe.yaml"], "recipe.yaml:4: textenv rlhf has no field ppo.training.kl_coeff; did"),
        (["rlhf", "--config", "broken.yaml"], "broken.yaml:3: not valid YAML: "),
        (["rlhf", "--config", "latin.yaml"], "latin.yaml`: not a text in UTF-8"),
    ],
)  # fmt: skip
def test_mistakes_are_bad_usage_and_say_what_was_meant(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("seed: 1\nppo:\n  training:\n    kl_coeff: 1\n", "utf-8")
    Path("broken.yaml").write_text("seed: 1\nppo: [\n", "utf-8")
    Path("latin.yaml").write_bytes("name: fünf\n".encode("latin-1"))
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "given",
    [
        "--reward.domains amazon",
        "--reward.domains=amazon",
        "--reward.domains [amazon]",
        "--reward.domains amazon tweets",
    ],
)
def test_a_list_may_be_given_as_words(given: str):
    config, _ = parse("rlhf", [*given.split(), "--seed", "3"])
    assert list(config.reward.domains) == ["amazon", *(["tweets"] if "tweets" in given else [])]
    assert config.seed == 3


def test_what_is_no_list_is_left_as_it_is():
    words = ["--seed", "3", "--name", "[a", "--unknown", "x", "y"]
    assert with_lists("rlhf", words) == words
    assert in_words("rlhf", "something else is wrong") == "something else is wrong"
