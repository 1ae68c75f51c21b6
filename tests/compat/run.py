"""Runs the checks with third-party clients, each client in a virtual environment of its own under ``.compat/``.

    python -m tests.compat.run                  # all
    python -m tests.compat.run torchrl skrl     # some
    python -m tests.compat.run --list
    python -m tests.compat.run --prepare trl    # only makes the environment, prints its Python

An environment stands on top of the one that runs this script (its packages are visible, so that torch is not fetched
again) and installs the client beside it; what the client pins otherwise, it gets for itself. They are kept for the next
time; ``--fresh`` makes them anew. A client that cannot be installed is a failure, and is named.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".compat"
OUR_TESTS = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/textenv/envs", "tests/textenv/wrappers")


@dataclass(frozen=True)
class Client:
    """What to install, and what to run with it.

    Attributes:
        requirements: What pip installs.
        arguments: What the environment's Python runs, in the repository's root.
        with_dependencies: Whether pip also installs what the requirements need.
        beside: What pip installs after that, with what it needs.
    """

    requirements: tuple[str, ...]
    arguments: tuple[str, ...]
    with_dependencies: bool = True
    beside: tuple[str, ...] = ()


def check(name: str) -> tuple[str, ...]:
    """Arguments that run one of the checks beside this file."""
    return ("-m", f"tests.compat.check_{name}")


CLIENTS = {
    "gymnasium-1.1": Client(("gymnasium==1.1.1",), OUR_TESTS, with_dependencies=False),
    "gymnasium-1.2": Client(("gymnasium==1.2.2",), OUR_TESTS, with_dependencies=False),
    "gymnasium": Client(("gymnasium>=1.4,<2", "moviepy"), OUR_TESTS),
    "torchrl": Client(("torchrl",), check("torchrl")),
    "torchrl-gymnasium-1.2": Client(("torchrl", "gymnasium==1.2.2"), check("torchrl")),
    "tianshou": Client(("tianshou>=2",), check("tianshou")),
    "rllib": Client(("ray[rllib]",), check("rllib")),
    "skrl": Client(("skrl",), check("skrl")),
    "rl_zoo3": Client(("rl_zoo3",), check("rl_zoo3")),
    "minari": Client(("minari[create,hdf5]",), check("minari")),
    "lm-eval": Client(("lm-eval[api,hf]>=0.4.9,<0.5",), check("lm_eval")),
    "argilla": Client(("argilla==2.8.0",), check("argilla")),
    "label-studio": Client(("label-studio-sdk==2.1.2",), check("label_studio")),
    "trl": Client(("trl==1.12.0",), check("trl")),  # the last release with PPO
    # Without its own requirements: a comparison of scores needs no quantisation, formatters or chat server.
    "rewardbench": Client(
        (
            "rewardbench==0.1.4",
            "transformers==4.51.0",
            "tokenizers<0.22",
            "huggingface_hub<1",
            "trl==0.17.0",
            "fschat",
            "sentencepiece",
        ),
        check("rewardbench"),
        with_dependencies=False,
        beside=("wandb", "datasets", "setuptools<81", "huggingface_hub<1"),
    ),
}


def prepare(name: str, client: Client, *, fresh: bool) -> Path:
    """The environment's Python, with the client installed.

    Raises:
        subprocess.CalledProcessError: If pip fails.
    """
    folder = FOLDER / name
    python = folder / "bin" / "python"
    done = folder / "installed.txt"
    wanted = "\n".join(client.requirements + client.beside)
    if fresh or not done.is_file() or done.read_text("utf-8") != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        own = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
        (own / "underneath.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        flags = () if client.with_dependencies else ("--no-deps",)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, *flags, *client.requirements], check=True)
        if client.beside:
            subprocess.run([*command, *client.beside], check=True)
        done.write_text(wanted, encoding="utf-8")
    return python


def run(name: str, *, fresh: bool) -> bool:
    """Prepares and runs one client's checks; says whether they passed."""
    client = CLIENTS[name]
    start = time.perf_counter()
    try:
        python = prepare(name, client, fresh=fresh)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TEXTENV_PYTHON": sys.executable}
        subprocess.run([str(python), *client.arguments], check=True, cwd=ROOT, env=environment)
    except subprocess.CalledProcessError as error:
        sys.stdout.write(f"{name}: FAILED, exit status {error.returncode} of {error.cmd}\n")
        return False
    sys.stdout.write(f"{name}: passed in {time.perf_counter() - start:.0f} s\n")
    sys.stdout.flush()
    return True


def main() -> int:
    """Runs the chosen clients one after the other; returns 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clients", nargs="*", help="clients to run; all where none is named")
    parser.add_argument("--fresh", action="store_true", help="make the environments anew")
    parser.add_argument("--list", action="store_true", help="list the clients")
    parser.add_argument("--prepare", action="store_true", help="make the environments and print their Pythons")
    options = parser.parse_args()
    unknown = sorted(set(options.clients) - set(CLIENTS))
    if unknown:
        parser.error(f"unknown client {unknown[0]!r}; there are: {', '.join(CLIENTS)}")
    if options.list:
        sys.stdout.write("\n".join(CLIENTS) + "\n")
        return 0
    if options.prepare:
        for name in options.clients or CLIENTS:
            sys.stdout.write(f"{prepare(name, CLIENTS[name], fresh=options.fresh)}\n")
        return 0
    results = {name: run(name, fresh=options.fresh) for name in options.clients or CLIENTS}
    failed = [name for name, passed in results.items() if not passed]
    sys.stdout.write(f"{len(results) - len(failed)} of {len(results)} clients passed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
