"""Settings by the names of the version before: in Python, in recipes, as flags and in the folders of runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from agents import DPOConfig, LMConfig, PPOConfig
from reward_models import RewardModelConfig
from textenv.cli.main import main, parse
from textenv.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        (PPOConfig, {"warmup_iterations": 3}, {"warmup_steps": 3}),
        (DPOConfig, {"warmup_iterations": 3}, {"warmup_steps": 3}),
        (LMConfig, {"schedule": "wsd"}, {"lr_schedule": "wsd"}),
        (LMConfig, {"accumulation": 4, "batch_size": 32}, {"micro_batch_size": 8, "batch_size": 32}),
        (LMConfig, {"accumulation": 1}, {"micro_batch_size": None}),
        (LMConfig, {"bf16": None}, {"dtype": "auto"}),
        (LMConfig, {"bf16": True}, {"dtype": "bfloat16"}),
        (RewardModelConfig, {"warmup_fraction": 0.1}, {"warmup_steps": 0.1}),
    ],
)
def test_old_name_stands_for_the_new_one_with_a_warning(kind, old, new):
    name = next(iter(old))
    with pytest.warns(FutureWarning, match=f"`{name}` of {kind.__name__} is now called `{next(iter(new))}`"):
        given = kind(**old)
    assert given == kind(**new)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_has_no_single_new_value_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match="multiply `batch_size` by 2 and give the old one as `micro_batch_size`"):
        RewardModelConfig(accumulate=2)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ConfigError, match="give it `batch_size` divided by 2"):
        LMConfig(accumulation=2)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ConfigError, match="`schedule` is the old name of `lr_schedule`: give one of them"):
        LMConfig(schedule="wsd", lr_schedule="cosine")  # pyright: ignore[reportCallIssue]


def test_recipe_and_flags_take_old_names_and_say_the_new_ones(tmp_path: Path, capsys):
    recipe = tmp_path / "old.yaml"
    training = {"schedule": "wsd", "batch_size": 8, "accumulation": 2}
    recipe.write_text(yaml.safe_dump({"pretrain": {"training": training}}))
    config, _ = parse("pretrain", ["--config", str(recipe), "--pretrain.training.bf16", "false"])
    training = config.pretrain.training
    assert (training.lr_schedule, training.micro_batch_size, training.dtype) == ("wsd", 4, "float32")
    assert sorted(capsys.readouterr().err.splitlines()) == [
        "`accumulation` of LMConfig is now called `micro_batch_size`",
        "`bf16` of LMConfig is now called `dtype`",
        "`schedule` of LMConfig is now called `lr_schedule`",
    ]
    config, _ = parse("pretrain", ["--pretrain.training.schedule=constant"])
    assert config.pretrain.training.lr_schedule == "constant"
    config, _ = parse("pretrain", ["--pretrain.training.accumulation=1"])
    assert config.pretrain.training.micro_batch_size is None
    recipe.write_text("reward: {training: {accumulate: 2}}")
    with pytest.raises(ConfigError, match="multiply `batch_size` by 2"):
        parse("reward", ["--config", str(recipe)])
    config, _ = parse("sample", ["--policy=x", "--prompts=--a=b"])  # what is not renamed stays as it was written
    assert config.prompts == "--a=b"


def test_run_of_the_version_before_is_resumed_and_other_settings_are_still_refused(finished: Path, capsys):
    runs = finished / "runs"
    run = runs / "tiny"
    written = (run / "config.yaml").read_text()
    old = yaml.safe_load(written)
    for stage in ("pretrain", "sft"):
        training = old[stage]["training"]
        training["schedule"] = training.pop("lr_schedule")
        training.pop("keep_checkpoints")  # there was none
    old["ppo"]["training"]["warmup_iterations"] = old["ppo"]["training"].pop("warmup_steps")
    arguments = [
        "quickstart",
        "--config",
        str(finished / "tiny.yaml"),
        "--runs_dir",
        str(finished / "runs"),
        "--resume",
    ]
    try:
        (run / "config.yaml").write_text(yaml.safe_dump(old))
        assert main(arguments) == 0
        old["ppo"]["training"]["warmup_iterations"] = 17
        (run / "config.yaml").write_text(yaml.safe_dump(old))
        assert main(arguments) == 1
        assert (
            "was started with another configuration (different: ppo.training.warmup_steps)" in capsys.readouterr().err
        )
    finally:
        (run / "config.yaml").write_text(written)
