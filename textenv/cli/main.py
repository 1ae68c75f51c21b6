"""The command line: ``textenv <command> --config recipe.yaml --field value``.

Everything that can go wrong for a reason that a person can mend ends in one line that says what, where and what to do.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from textenv.errors import TextEnvError

COMMANDS = {
    "quickstart": "all four stages on rated texts, with a report: start here",
    "pretrain": "a tokenizer and a language model, from scratch or on from one, on a mixture of tasks",
    "sft": "fine-tune a language model on demonstrations or conversations",
    "reward": "train a reward model on human ratings, or on a file of labels",
    "ppo": "optimise a policy against a reward model",
    "rlhf": "reward model and PPO for a model that is there already, with a report",
    "answering": "from continuing to answering: pre-training, fine-tuning and verifiable rewards on tasks, compared",
    "play": "be the policy: choose tokens yourself, see log-probs and reward",
    "report": "write the report of a run again",
    "sample": "answer prompts with a model; the answers go into a trajectory store",
    "evaluate": "models of all stages on the same held-out prompts of tasks: do they answer, and rightly?",
    "trajectories": "look into trajectory stores: show, stats, compare",
    "serve": "an OpenAI-compatible API, and pages on which people rate, rank and write answers",
    "label": "rate, compare, rank and write answers in this terminal, by keys",
    "labels": "collected labels into a file, or a file's labels and items into the store",
    "improve": "train on what people said since the last round: a new version of the policy",
    "benchmark": "measure reward models: agreement with people, bias, robustness, over-optimisation",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 a mistake that is explained, 2 bad usage, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        _usage()
        return 0 if arguments else 2
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        print(f"textenv: unknown command {command!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    _quiet_libraries()
    alone = {
        "report": _report,
        "play": _play,
        "sample": _sample,
        "evaluate": _evaluate,
        "trajectories": _trajectories,
        "benchmark": _benchmark,
        "serve": _serve,
        "label": _label,
        "labels": _labels,
        "improve": _improve,
    }
    try:
        return alone.get(command, lambda rest: _run(command, rest))(rest)
    except (TextEnvError, OSError) as error:
        print(f"textenv {command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        hint = "" if command in alone and command != "improve" else "; the same command with --resume goes on"
        print(f"\ntextenv {command}: interrupted{hint}", file=sys.stderr)
        return 130


def _usage() -> None:
    print("usage: textenv <command> [--config FILE] [--field value …] [--resume]\n")
    for name, what in COMMANDS.items():
        print(f"  {name:<12} {what}")
    print("\n`textenv <command> --help` lists every field. `python -m textenv` works too.")


def _quiet_libraries() -> None:
    """Keep other libraries' progress bars and notices out of ours."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    warnings.filterwarnings("ignore", module=r"(torch|transformers|tensorboard)\..*")


def _quiet_transformers() -> None:
    """Its own notices and progress bars; apart, since it takes seconds to import."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _run(command: str, arguments: list[str]) -> int:
    from rich.console import Console

    from textenv.cli import commands
    from textenv.cli.data import RatedData, load_data
    from textenv.cli.label_stage import load_labels
    from textenv.cli.task_stages import load_task_data

    _quiet_transformers()
    config, resume = parse(command, arguments)
    # Before the run's folder exists: without data there is no run.
    if getattr(config, "labels", ""):
        load_labels(config.labels, config.validation_labels)
        data = RatedData(config.data, ())
    elif getattr(config, "tasks", ()) or getattr(config, "conversations", ()):
        data = load_task_data(config)
    else:
        data = load_data(config.data, config.builtin_texts)
    run = commands.open_run(config, Console(), resume=resume)
    try:
        getattr(commands, command)(config, run, data)
    finally:
        run.close()
    return 0


def parse(command: str, arguments: Sequence[str]) -> tuple[Any, bool]:
    """A command's configuration from ``--config`` and flags, and whether to resume.

    Raises:
        ConfigError: If a field is unknown or a value unusable; one line that names it.
    """
    from textenv.cli import configs
    from textenv.cli.answering import AnsweringCommand

    kind = {
        "answering": AnsweringCommand,
        "quickstart": configs.QuickstartCommand,
        "pretrain": configs.PretrainCommand,
        "sft": configs.SFTCommand,
        "reward": configs.RewardCommand,
        "ppo": configs.PPOCommand,
        "rlhf": configs.RLHFCommand,
    }[command]
    values, resume = _parse_fields(command, kind, arguments, resumable=True)
    return kind(**values), resume


def _parse_fields(
    command: str, kind: type, arguments: Sequence[str], *, resumable: bool
) -> tuple[dict[str, Any], bool]:
    """Fields of a configuration class from ``--config`` and flags, and whether to resume."""
    import jsonargparse

    from textenv.errors import ConfigError

    parser = jsonargparse.ArgumentParser(
        prog=f"textenv {command}", description=COMMANDS[command], exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML recipe; flags override its fields")
    if resumable:
        parser.add_argument("--resume", action="store_true", help="go on with the newest run of this name")
    parser.add_class_arguments(kind, as_group=False)
    try:
        parsed = parser.parse_args(list(arguments))
        resume = bool(parsed.pop("resume")) if resumable else False
        parsed.pop("config", None)
        return vars(parser.instantiate(parsed)), resume
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        if isinstance(error, TextEnvError):
            raise
        raise ConfigError(" ".join(str(error).split())) from error


def _parsed(parser: Any, arguments: list[str], kind: type, *apart: str) -> tuple[Any, list[Any]]:
    """A configuration of this class from the command line, and the arguments that stand apart from its fields."""
    import jsonargparse

    from textenv.errors import ConfigError

    try:
        parsed = parser.parse_args(arguments)
        parsed.pop("config", None)
        found = [parsed.pop(name) for name in apart]
        return kind(**vars(parser.instantiate(parsed))), found
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        if isinstance(error, TextEnvError):
            raise
        raise ConfigError(" ".join(str(error).split())) from error


def _play(arguments: list[str]) -> int:
    from textenv.cli.play import PlayConfig, play

    values, _ = _parse_fields("play", PlayConfig, arguments, resumable=False)
    play(PlayConfig(**values), read=input)
    return 0


def _sample(arguments: list[str]) -> int:
    from rich.console import Console

    from textenv.cli.sampling import SampleConfig, sample

    values, _ = _parse_fields("sample", SampleConfig, arguments, resumable=False)
    config = SampleConfig(**values)
    _quiet_transformers()
    done = sample(config, Console())
    return 0 if done.complete else 130


def _evaluate(arguments: list[str]) -> int:
    import jsonargparse
    from rich.console import Console

    from textenv.cli.evaluate import EvaluateOptions, evaluate

    _quiet_transformers()
    parser = jsonargparse.ArgumentParser(
        prog="textenv evaluate", description=COMMANDS["evaluate"], exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML recipe; flags override its fields")
    parser.add_argument("--models", nargs="+", default=[], help="name=folder: base=DIR sft=DIR rl=DIR")
    parser.add_class_arguments(EvaluateOptions, as_group=False)
    options, (models,) = _parsed(parser, arguments, EvaluateOptions, "models")
    evaluate(models, options, Console())
    return 0


def _trajectories(arguments: list[str]) -> int:
    import jsonargparse
    from rich.console import Console

    from textenv.cli import trajectories

    action, rest = (arguments[0] if arguments else ""), arguments[1:]
    if action not in trajectories.ACTIONS:
        print("usage: textenv trajectories <show|stats|compare> STORE … [--field value …]\n")
        for name, what in trajectories.ACTIONS.items():
            print(f"  {name:<12} {what}")
        return 0 if action in ("-h", "--help") else 2
    options = {
        "show": trajectories.ShowOptions,
        "stats": trajectories.StatsOptions,
        "compare": trajectories.CompareOptions,
    }[action]
    parser = jsonargparse.ArgumentParser(
        prog=f"textenv trajectories {action}",
        description=trajectories.ACTIONS[action],
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("stores", nargs="+", help="folder of a trajectory store")
    parser.add_class_arguments(options, as_group=False)
    chosen, (stores,) = _parsed(parser, rest, options, "stores")
    getattr(trajectories, action)(stores, chosen, Console())
    return 0


def _serve(arguments: list[str]) -> int:
    import jsonargparse
    from rich.console import Console

    from textenv.cli.serve import ServeConfig, serve

    _quiet_transformers()
    parser = jsonargparse.ArgumentParser(
        prog="textenv serve", description=COMMANDS["serve"], exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML recipe; flags override its fields")
    parser.add_argument("--policy", action="append", default=[], help="folder, or name=folder; may come several times")
    parser.add_argument(
        "--reward_model", action="append", default=[], help="folder of a member, for --select ensemble; several times"
    )
    parser.add_class_arguments(ServeConfig, as_group=False)
    config, (policies, members) = _parsed(parser, arguments, ServeConfig, "policy", "reward_model")
    serve(policies, config, Console(), reward_models=members)
    return 0


def _benchmark(arguments: list[str]) -> int:
    import jsonargparse
    from rich.console import Console

    from textenv.cli import benchmark

    _quiet_transformers()
    if arguments[:1] == ["overoptimize"]:
        from textenv.cli.overoptimize import OveroptimizeOptions, overoptimize

        values, _ = _parse_fields("benchmark", OveroptimizeOptions, arguments[1:], resumable=False)
        overoptimize(OveroptimizeOptions(**values), Console())
        return 0
    parser = jsonargparse.ArgumentParser(
        prog="textenv benchmark",
        description=COMMANDS["benchmark"] + "; `textenv benchmark overoptimize` trains a policy against a proxy",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--models", nargs="+", default=[], help="name=spec: a folder, URL, lexicon, tfidf:movies, …")
    parser.add_argument("--suites", nargs="+", default=list(benchmark.DEFAULT_SUITES), help="names, or label files")
    parser.add_class_arguments(benchmark.BenchmarkOptions, as_group=False)
    options, (models, suites) = _parsed(parser, arguments, benchmark.BenchmarkOptions, "models", "suites")
    benchmark.run_benchmark(models, suites, options, Console())
    return 0


def _label(arguments: list[str]) -> int:
    from rich.console import Console

    from textenv.cli.label import LabelConfig, label

    values, _ = _parse_fields("label", LabelConfig, arguments, resumable=False)
    label(LabelConfig(**values), Console())
    return 0


def _labels(arguments: list[str]) -> int:
    import jsonargparse
    from rich.console import Console

    from textenv.cli import labels

    action, rest = (arguments[0] if arguments else ""), arguments[1:]
    if action not in labels.ACTIONS:
        print("usage: textenv labels <export|import> FILE [--db FILE] [--format …]\n")
        for name, what in labels.ACTIONS.items():
            print(f"  {name:<12} {what}")
        return 0 if action in ("-h", "--help") else 2
    parser = jsonargparse.ArgumentParser(
        prog=f"textenv labels {action}", description=labels.ACTIONS[action], exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("file", help="the file")
    parser.add_class_arguments(labels.LabelsOptions, as_group=False)
    options, (file,) = _parsed(parser, rest, labels.LabelsOptions, "file")
    {"export": labels.export_file, "import": labels.import_file}[action](file, options, Console())
    return 0


def _improve(arguments: list[str]) -> int:
    from rich.console import Console

    from textenv.cli.improve import ImproveCommand, improve

    values, resume = _parse_fields("improve", ImproveCommand, arguments, resumable=True)
    _quiet_transformers()
    improve(ImproveCommand(**values), Console(), resume=resume)
    return 0


def _report(arguments: list[str]) -> int:
    from pathlib import Path

    from textenv.errors import ConfigError
    from textenv.report import write_report

    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: textenv report RUN_FOLDER")
        return 0 if arguments in (["-h"], ["--help"]) else 2
    folder = Path(arguments[0])
    if not folder.is_dir():
        raise ConfigError(f"there is no run folder `{folder}`")
    print(write_report(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
