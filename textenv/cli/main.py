"""The command line: ``textenv <command> --config recipe.yaml --field value``.

One table says of each command what it is for, which dataclass configures it and what runs it; the fields of the
dataclass are the flags. Everything that can go wrong for a reason that a person can mend ends in one line that says
what, where and what to do.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import MISSING, fields
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from textenv.errors import TextEnvError


class Command(NamedTuple):
    """A row of the table.

    Attributes:
        help: What it is for, in one line.
        config: Where its configuration stands, ``module:class`` inside ``textenv.cli``; imported when it is needed.
        run: What runs it, ``module:function``: takes the configuration and a console, and may return an exit status.
        resumable: Whether it goes on with an interrupted run; the function is then told by ``resume=``.
    """

    help: str
    config: str
    run: str
    resumable: bool = False


GROUPS: dict[str, dict[str, Command]] = {
    "train": {
        "quickstart": Command(
            "all four stages on rated texts, with a report: start here",
            "configs:QuickstartCommand",
            "commands:quickstart",
            True,
        ),
        "pretrain": Command(
            "a tokenizer and a language model, from scratch or on from one, on a mixture of tasks",
            "configs:PretrainCommand",
            "commands:pretrain",
            True,
        ),
        "sft": Command(
            "fine-tune a language model on demonstrations or conversations",
            "configs:SFTCommand",
            "commands:sft",
            True,
        ),
        "reward": Command(
            "train a reward model on human ratings, or on a file of labels",
            "configs:RewardCommand",
            "commands:reward",
            True,
        ),
        "ppo": Command("optimise a policy against a reward model", "configs:PPOCommand", "commands:ppo", True),
        "rlhf": Command(
            "reward model and PPO for a model that is there already, with a report",
            "configs:RLHFCommand",
            "commands:rlhf",
            True,
        ),
        "answering": Command(
            "from continuing to answering: pre-training, fine-tuning and verifiable rewards on tasks, compared",
            "configs:AnsweringCommand",
            "commands:answering",
            True,
        ),
    },
    "answer and look": {
        "play": Command(
            "be the policy: choose tokens yourself, see log-probs and reward", "play:PlayConfig", "play:play"
        ),
        "sample": Command(
            "answer prompts with a model; the answers go into a trajectory store",
            "sampling:SampleConfig",
            "sampling:run",
        ),
        "trajectories show": Command(
            "answers of a store with their scores; --html writes the per-token heat map",
            "trajectories:ShowOptions",
            "trajectories:show",
        ),
        "trajectories stats": Command(
            "figures of one trajectory store, with intervals", "trajectories:StatsOptions", "trajectories:stats"
        ),
        "trajectories compare": Command(
            "figures of several stores side by side, and a paired comparison on shared prompts",
            "trajectories:CompareOptions",
            "trajectories:compare",
        ),
        "report": Command("write the report of a run again", "report:ReportOptions", "report:report"),
    },
    "measure": {
        "evaluate": Command(
            "models of all stages on the same held-out prompts of tasks: do they answer, and rightly?",
            "evaluate:EvaluateCommand",
            "evaluate:evaluate",
        ),
        "benchmark": Command(
            "measure reward models: agreement with people, bias, robustness, over-optimisation",
            "benchmark:BenchmarkOptions",
            "benchmark:run_benchmark",
        ),
        "benchmark overoptimize": Command(
            "a policy and best-of-n against a proxy, while the true quality is known",
            "overoptimize:OveroptimizeOptions",
            "overoptimize:overoptimize",
        ),
    },
    "people": {
        "serve": Command(
            "an OpenAI-compatible API, and pages on which people rate, rank and write answers",
            "serve:ServeConfig",
            "serve:serve",
        ),
        "label": Command(
            "rate, compare, rank and write answers in this terminal, by keys", "label:LabelConfig", "label:label"
        ),
        "labels export": Command(
            "write the store's labels into a file: JSONL, Parquet, Argilla's or Label Studio's JSON",
            "labels:ExportOptions",
            "labels:export_file",
        ),
        "labels import": Command(
            "bring a file's items and labels into the store; what it knows already is left as it is",
            "labels:ImportOptions",
            "labels:import_file",
        ),
        "improve": Command(
            "train on what people said since the last round: a new version of the policy",
            "improve:ImproveCommand",
            "improve:improve",
            True,
        ),
    },
}
COMMANDS: dict[str, Command] = {name: command for group in GROUPS.values() for name, command in group.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 a mistake that is explained, 2 bad usage, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    taken = 2 if " ".join(words[:2]) in COMMANDS else 1
    name, rest = " ".join(words[:taken]), words[taken:]
    if name not in COMMANDS:
        return _usage(name, asked_for_help=name in ("-h", "--help") or rest[:1] in (["-h"], ["--help"]))
    command = COMMANDS[name]
    _quiet_libraries()
    try:
        config, resume = parse(name, rest)
        if hasattr(config, "prepare"):
            config.prepare()
        from rich.console import Console

        status = _named(command.run)(config, Console(), **({"resume": resume} if command.resumable else {}))
        return status if type(status) is int else 0
    except (TextEnvError, OSError) as error:
        print(f"textenv {name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if "arguments are required" in str(error) else 1
    except KeyboardInterrupt:
        hint = "; the same command with --resume goes on" if command.resumable else ""
        print(f"\ntextenv {name}: interrupted{hint}", file=sys.stderr)
        return 130


def parse(name: str, arguments: Sequence[str]) -> tuple[Any, bool]:
    """A command's configuration from ``--config`` and flags, and whether to resume.

    Raises:
        ConfigError: If a field is unknown or a value unusable; one line that names it.
    """
    import jsonargparse

    from textenv.errors import ConfigError

    kind = _named(COMMANDS[name].config)
    parser = parser_of(name)
    try:
        parsed = parser.parse_args(_with_new_names(kind, arguments))
        resume = bool(parsed.pop("resume", False))
        parsed.pop("config", None)
        return kind(**vars(parser.instantiate(parsed))), resume
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        if isinstance(error, TextEnvError):
            raise
        raise ConfigError(" ".join(str(error).split())) from error


def _with_new_names(kind: Any, arguments: Sequence[str]) -> list[str]:
    """Flags and recipes with the names that settings have now; one line says of each that has another."""
    import yaml

    from textenv.settings import renamed, renamed_flag

    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FutureWarning)
        for i, (word, value) in enumerate(pairwise(words[:])):
            if word == "--config" and Path(value).is_file():
                try:
                    recipe = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
                except (ValueError, yaml.YAMLError):
                    continue  # the parser says what is wrong with it
                told = len(caught)
                recipe = renamed(kind, recipe) if isinstance(recipe, dict) else recipe
                if len(caught) > told:
                    words[i + 1] = yaml.safe_dump(recipe, allow_unicode=True)
            elif word.startswith("--"):
                told, path = len(caught), word[2:].split(".")
                path, changed = renamed_flag(kind, path, value)
                if len(caught) > told:
                    words[i], words[i + 1] = f"--{'.'.join(path)}", str(changed)
    for line in dict.fromkeys(str(warning.message) for warning in caught):
        print(line, file=sys.stderr)
    return words


def parser_of(name: str) -> Any:
    """A command's parser: the fields of its configuration are the flags.

    Those without a default are positional arguments; what a field's metadata hold, such as ``nargs``, is for
    ``add_argument``.
    """
    import jsonargparse

    from textenv.settings import field_help

    command = COMMANDS[name]
    kind = _named(command.config)
    parser = jsonargparse.ArgumentParser(
        prog=f"textenv {name}", description=command.help, exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML recipe; flags override its fields")
    if command.resumable:
        parser.add_argument("--resume", action="store_true", help="go on with the newest run of this name")
    own_way = set()
    for field in fields(kind):
        needed = field.default is MISSING and field.default_factory is MISSING
        if needed or field.metadata:
            default = {} if field.default_factory is MISSING else {"default": field.default_factory()}
            flag = field.name if needed else f"--{field.name}"
            parser.add_argument(flag, help=field_help(kind)[field.name], **default, **field.metadata)
            own_way.add(field.name)
    parser.add_class_arguments(kind, as_group=False, skip=own_way)
    return parser


def _named(place: str) -> Any:
    """What stands at ``module:name`` inside this package."""
    module, _, name = place.partition(":")
    return getattr(import_module(f"textenv.cli.{module}"), name)


def _usage(name: str, *, asked_for_help: bool) -> int:
    """Say which commands there are, of all or of a group such as ``trajectories``; returns the exit status."""
    shown = {
        group: {full: command for full, command in commands.items() if full.startswith(f"{name} ")}
        for group, commands in GROUPS.items()
    }
    if name in ("", "-h", "--help"):
        shown = GROUPS
    elif not any(shown.values()):
        print(f"textenv: unknown command {name!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    print("usage: textenv <command> [--config FILE] [--field value …] [--resume]")
    for group, commands in shown.items():
        if commands:
            print(f"\n{group}:")
        for full, command in commands.items():
            print(f"  {full:<22}  {command.help}")
    print("\n`textenv <command> --help` lists every field. `python -m textenv` works too.")
    return 0 if asked_for_help else 2


def _quiet_libraries() -> None:
    """Keep other libraries' progress bars and notices out of ours."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    warnings.filterwarnings("ignore", module=r"(torch|transformers|tensorboard)\..*")


if __name__ == "__main__":
    sys.exit(main())
