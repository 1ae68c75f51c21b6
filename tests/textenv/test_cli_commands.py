"""The table of commands, and settings that a command would not look at."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from textenv.cli.main import COMMANDS, Command, main, parse
from textenv.settings import Settings, field_help, refuse_unused

TASKS = ["--tasks", "[{name: copy}]"]
COPY = "[{name: copy}]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_configuration_with_a_line_of_help_for_each_field(name: str):
    kind = Command.named(name).config
    assert issubclass(kind, Settings)
    waiting: list[Any] = [kind]
    while waiting:
        settings = waiting.pop()
        for field in fields(settings):
            assert field_help(settings).get(field.name), f"{settings.__name__}.{field.name}"
            if field.default_factory is not MISSING and is_dataclass(inner := field.default_factory()):
                waiting.append(type(inner))


def test_help_imports_no_model_library():
    code = (
        "import sys; from textenv.cli.main import main; main(['--help']); main(['trajectories']); main(['nothing']);"
        "print([name for name in ('torch', 'transformers', 'jsonargparse') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"


def test_help_of_a_command_lists_nested_settings_as_flags(capsys: pytest.CaptureFixture[str]):
    assert main(["quickstart", "--help", "all"]) == 0
    shown = capsys.readouterr().out
    for flag in ("--pretrain.model.num_layers", "--sft.training.steps", "--ppo.training.clip_range", "--resume"):
        assert flag in shown


def test_a_missing_argument_is_bad_usage(capsys: pytest.CaptureFixture[str]):
    assert main(["report"]) == 2
    assert main(["labels", "export"]) == 2
    assert "the following arguments are required: file" in capsys.readouterr().err


def test_lists_and_positional_arguments_may_stand_in_a_recipe(tmp_path: Path):
    recipe = tmp_path / "evaluate.yaml"
    recipe.write_text("models: [base=a, sft=b]\ntasks: [{name: copy}]\n")
    config, _ = parse("evaluate", ["--config", str(recipe)])
    assert config.models == ["base=a", "sft=b"]
    config, _ = parse("trajectories compare", ["one", "two", "--seed", "3"])
    assert (config.stores, config.seed) == (["one", "two"], 3)


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16", "float32", "auto"])
def test_every_command_takes_the_same_dtypes(dtype: str):
    for name, flags in (("sample", ["--policy", "x"]), ("serve", ["--policy", "x"])):
        assert parse(name, [*flags, "--dtype", dtype])[0].dtype == dtype
    assert parse("ppo", ["--ppo.dtype", dtype])[0].ppo.dtype == dtype


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "--model", "x"], "`model` has no effect without `tasks`"),
        (["pretrain", "--pretrain.mixture.temperature", "2"], "`pretrain.mixture` has no effect without `tasks`"),
        (["pretrain", "--pretrain.block_length", "64"], "`pretrain.block_length` has no effect without `tasks`"),
        (["pretrain", *TASKS, "--model", "x", "--pretrain.model.num_layers", "9"], "`pretrain.model.num_layers`"),
        (["pretrain", *TASKS, "--data", "builtin"], "`data` has no effect with `tasks`"),
        (["pretrain", "--pretrain.training.seed", "3"], "`pretrain.training.seed` has no effect where `seed`"),
        (["pretrain", "--builtin_texts", "500"], "`builtin_texts` has no effect on human ratings; set `data`"),
        (["sft", "--chat", "true"], "`chat` has no effect without `tasks`"),
        (["sft", "--sft.weights", "{copy: 1}"], "`sft.weights` has no effect without `tasks`"),
        (["sft", "--sft.temperature", "2"], "`sft.temperature` has no effect without `tasks`"),
        (["sft", "--sft.samples", "0", "--sft.max_new_tokens", "9"], "`sft.max_new_tokens` has no effect where"),
        (["sft", "--conversations", "[a.jsonl]", "--data", "builtin"], "`data` has no effect with `conversations`"),
        (["reward", "--validation_labels", "x"], "`validation_labels` has no effect without `labels`"),
        (["reward", "--format", "shp"], "`format` has no effect without `labels`"),
        (["reward", "--columns.prompt", "q"], "`columns` needs `chosen` and `rejected`, or `answers`, or `steps`"),
        (
            ["reward", "--labels", "x", "--validation_labels", "y", "--split_by", "prompt"],
            "`split_by` has no effect with `validation_labels`",
        ),
        (["reward", "--temperature", "0.5"], "`temperature` has no effect without `policy`"),
        (["reward", "--reward.normalization_samples", "9"], "`reward.normalization_samples` has no effect without"),
        (["reward", "--model", "x"], "`model` has no effect on this trunk: give `--reward.trunk policy`"),
        (["reward", "--labels", "x", "--reward.domains", "[nyt]"], "`reward.domains` has no effect with `labels`"),
        (["reward", "--labels", "x", "--data", "builtin"], "`data` has no effect with `labels`"),
        (["ppo", "--ppo.training.eval_every", "5"], "set the stage's own `eval_every`"),
        (["ppo", "--ppo.training.ptx_coef", "1"], "texts for it are given in Python"),
        (["ppo", "--reward_weight", "2"], "unless `tasks` and `reward_model` are both given"),
        (["ppo", *TASKS, "--verifier_weight", "2"], "unless `tasks` and `reward_model` are both given"),
        (["ppo", *TASKS, "--ppo.domain", "nyt"], "`ppo.domain` has no effect with `tasks`"),
        (["quickstart", "--pretrain.block_length", "64"], "`pretrain.block_length` has no effect on rated texts"),
        (["quickstart", "--ppo.training.seed", "3"], "`ppo.training.seed` has no effect where `seed`"),
        (["answering", *TASKS, "--ppo.domain", "nyt"], "`ppo.domain` has no effect on tasks"),
        (["improve", "--sft.training.steps", "9"], "set `demonstration_epochs`"),
        (["improve", "--ppo.domain", "nyt"], "`ppo.domain` has no effect on what people said"),
        (["play", "--max_new_tokens", "9"], "`max_new_tokens` has no effect in the toy problem: give a `model` too"),
        (["trajectories", "show", "x", "--tokenizer", "y"], "`tokenizer` has no effect without `html`"),
        (["evaluate", *TASKS, "--models", "a=x", "--evaluation.reference", "b"], "unless `models` has one"),
        (["benchmark", "overoptimize", "--training.kl_coef", "1"], "set the experiment's own"),
        (["benchmark", "overoptimize", "--training.temperature", "0.5"], "which draws at temperature 1"),
        (["benchmark", "overoptimize", "--proxy", "lexicon", "--labels", "9"], "with a `proxy` that is there already"),
        (["serve", "--explore", "0.5"], "`explore` has no effect at random"),
        (["serve", "--num_slots", "4"], "`num_slots` has no effect without a policy"),
        (["serve", "--make.answers", "3"], "`answers` has no effect where `make.kind` is none"),
        (["serve", "--make.kind", "rate", "--make.answers", "3"], "`answers` has no effect where people rate"),
        (["serve", "--make.kind", "rate", "--make.overlap", "0.5"], "`overlap` has no effect with one rater"),
        (["label", "--url", "http://x", "--rater", "ann"], "`rater` has no effect with `url`"),
        (
            ["sample", "--policy", "x", "--backend", "vllm", "--dtype", "float64"],
            "take another, or `--backend textenv`",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_setting_that_nothing_would_look_at_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_settings_written_out_as_they_are_by_default_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["pretrain", "--print_config"])
    recipe = tmp_path / "all.yaml"
    recipe.write_text(capsys.readouterr().out)
    assert parse("pretrain", ["--config", str(recipe)]) == parse("pretrain", [])


def test_unused_settings_are_compared_with_the_default_of_their_own_class():
    config, _ = parse("rlhf", [])
    assert config.ppo.training.temperature == 0.7
    refuse_unused(config, "here", "ppo.training.temperature")
