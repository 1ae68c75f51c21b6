"""The command line: ``textenv <command> --config recipe.yaml --field value``.

One table says of each command what it is for and which function runs it; the dataclass that configures the function has
the flags for fields. Everything that can go wrong for a reason that a person can mend ends in one line that says
what, where and what to do.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields
from importlib import import_module, metadata
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

from textenv.cli.flags import closest, help_text, in_words, refuse_unknown, with_lists
from textenv.errors import ConfigError, TextEnvError

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "train": {
        "quickstart": ("commands:quickstart", "all four stages on rated texts, with a report: start here"),
        "pretrain": (
            "commands:pretrain",
            "a tokenizer and a language model, from scratch or on from one, on a mixture of tasks",
        ),
        "sft": ("commands:sft", "fine-tune a language model on demonstrations or conversations"),
        "reward": ("commands:reward", "train a reward model on human ratings, or on a file of labels"),
        "ppo": ("commands:ppo", "optimise a policy against a reward model"),
        "rlhf": ("commands:rlhf", "reward model and PPO for a model that is there already, with a report"),
        "answering": (
            "commands:answering",
            "from continuing to answering: pre-training, fine-tuning and verifiable rewards on tasks, compared",
        ),
    },
    "answer and look": {
        "play": ("play:play", "be the policy: choose tokens yourself, see log-probs and reward"),
        "sample": ("sampling:run", "answer prompts with a model; the answers go into a trajectory store"),
        "trajectories show": (
            "trajectories:show",
            "answers of a trajectory store with their scores; --html writes the per-token heat map",
        ),
        "trajectories stats": ("trajectories:stats", "figures of one trajectory store, with intervals"),
        "trajectories compare": (
            "trajectories:compare",
            "figures of several stores side by side, and a paired comparison on shared prompts",
        ),
        "report": ("report:report", "write the report of a run again"),
    },
    "measure": {
        "evaluate": (
            "evaluate:evaluate",
            "models of all stages on the same held-out prompts of tasks: do they answer, and rightly?",
        ),
        "benchmark": (
            "benchmark:run_benchmark",
            "measure reward models: agreement with people, bias, robustness, over-optimisation",
        ),
        "benchmark overoptimize": (
            "overoptimize:overoptimize",
            "a policy and best-of-n against a proxy, while the true quality is known",
        ),
    },
    "people": {
        "serve": ("serve:serve", "an OpenAI-compatible API, and pages on which people rate, rank and write answers"),
        "label": ("label:label", "rate, compare, rank and write answers in this terminal, by keys"),
        "labels export": (
            "labels:export_file",
            "write the store's labels into a file: JSONL, Parquet, Argilla's or Label Studio's JSON",
        ),
        "labels import": (
            "labels:import_file",
            "bring a file's items and labels into the store; what it knows already is left as it is",
        ),
        "labels leaderboard": (
            "leaderboard:leaderboard",
            "policies by Bradley-Terry and Elo, with intervals, from a file of battles or from the store",
        ),
        "improve": (
            "improve:improve",
            "train on what people said since the last round: a new version of the policy",
        ),
    },
}
"""Of each command, what runs it (``module:function`` inside ``textenv.cli``, imported when it is needed) and its help.

The function takes a configuration, of the class that its first argument is annotated with, and a console; where it has
an argument ``resume`` the command has a flag of that name. It may return an exit status.
"""
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


class Command(NamedTuple):
    """A command, imported.

    Attributes:
        run: What runs it.
        config: Class of its configuration.
        resumable: Whether it goes on with an interrupted run.
    """

    run: Callable[..., Any]
    config: type
    resumable: bool

    @classmethod
    def named(cls, name: str) -> Command:
        """The command of the table."""
        place, _, function = COMMANDS[name][0].partition(":")
        module = import_module(f"textenv.cli.{place}")
        run = getattr(module, function)
        config = getattr(module, next(iter(run.__annotations__.values())))
        return cls(run, config, "resume" in signature(run, follow_wrapped=False).parameters)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 a mistake that is explained, 2 bad usage, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    taken = 2 if " ".join(words[:2]) in COMMANDS else 1
    name, rest = " ".join(words[:taken]), words[taken:]
    if name == "--version":
        print(f"textenv {metadata.version('textenv')}")
        return 0
    if name not in COMMANDS:
        return _usage(name, asked_for_help=name in ("-h", "--help") or rest[:1] in (["-h"], ["--help"]))
    if "-h" in rest or "--help" in rest:  # answered from a file: no model library is imported for it
        print(help_text(name, COMMANDS[name][1], everything="all" in rest))
        return 0
    _quiet_libraries()
    hint = ""
    try:
        command = Command.named(name)
        hint = "; the same command with --resume goes on" if command.resumable else ""
        try:
            config, resume = parse(name, rest)
        except (ConfigError, OSError) as error:
            return _refused(name, error, status=2)
        if hasattr(config, "prepare"):
            config.prepare()
        from rich.console import Console

        status = command.run(config, Console(), **({"resume": resume} if command.resumable else {}))
        return status if type(status) is int else 0
    except (TextEnvError, OSError) as error:
        return _refused(name, error, status=1)
    except KeyboardInterrupt:
        print(f"\ntextenv {name}: interrupted{hint}", file=sys.stderr)
        return 130


def _refused(name: str, error: Exception, *, status: int) -> int:
    print(f"textenv {name}: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def parse(name: str, arguments: Sequence[str]) -> tuple[Any, bool]:
    """A command's configuration from ``--config`` and flags, and whether to resume.

    Raises:
        ConfigError: If a field is unknown or a value unusable; one line that names it.
    """
    import jsonargparse

    kind, parser = Command.named(name).config, parser_of(name)
    try:
        words = _with_new_names(kind, arguments)
        refuse_unknown(name, words)
        parsed = parser.parse_args(with_lists(name, words))
        resume = bool(parsed.pop("resume", False))
        parsed.pop("config", None)
        return kind(**vars(parser.instantiate(parsed))), resume
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        if isinstance(error, TextEnvError):
            raise
        raise ConfigError(in_words(name, " ".join(str(error).split()))) from error


def _with_new_names(kind: Any, arguments: Sequence[str]) -> list[str]:
    """Flags and recipes with the names that settings have now; one line says of each that has another."""
    import yaml

    from textenv.settings import renamed, renamed_flag

    words = list(arguments)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FutureWarning)
        for i, word in enumerate(arguments):
            flag, inline, value = word.partition("=")
            if not flag.startswith("--") or not (inline or words[i + 1 :]):
                continue
            value, told = value if inline else words[i + 1], len(caught)
            if flag == "--config":
                recipe = None
                with suppress(OSError, ValueError, yaml.YAMLError):  # the parser says what is wrong with it
                    recipe = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
                if isinstance(recipe, dict):
                    value = yaml.safe_dump(renamed(kind, recipe), allow_unicode=True)
            else:
                path, value = renamed_flag(kind, flag[2:].split("."), value)
                flag, value = f"--{'.'.join(path)}", "null" if value is None else value
            if len(caught) > told:  # else word for word as they were
                words[i : i + 2 - bool(inline)] = [f"{flag}={value}"] if inline else [flag, f"{value}"]
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

    command = Command.named(name)
    kind: Any = command.config
    parser = jsonargparse.ArgumentParser(
        prog=f"textenv {name}", description=COMMANDS[name][1], exit_on_error=False, allow_abbrev=False
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


def _usage(name: str, *, asked_for_help: bool) -> int:
    """Say which commands there are, of all or of a group such as ``trajectories``; returns the exit status."""
    shown = {
        group: {full: command for full, command in commands.items() if full.startswith(f"{name} ")}
        for group, commands in GROUPS.items()
    }
    if name in ("", "-h", "--help"):
        shown = GROUPS
    elif not any(shown.values()):
        meant = closest(name, COMMANDS) or f"; there are: {', '.join(COMMANDS)}"
        print(f"textenv: unknown command {name!r}{meant}", file=sys.stderr)
        return 2
    print("usage: textenv <command> [--config FILE] [--field value …] [--resume]")
    for group, commands in shown.items():
        if commands:
            print(f"\n{group}:")
        for full, (_, about) in commands.items():
            print(f"  {full:<22}  {about}")
    print("\n`textenv <command> --help` shows a command's fields, `--help all` those of its stages too.")
    return 0 if asked_for_help else 2


def _quiet_libraries() -> None:
    """Keep other libraries' progress bars and notices out of ours."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    logging.getLogger("reward_models.reading").setLevel(logging.INFO)  # how a reward model reads: one line each
    warnings.filterwarnings("ignore", module=r"(torch|transformers|tensorboard)\..*")


if __name__ == "__main__":
    sys.exit(main())
