"""The whole loop with simulated people: users ask, people label over HTTP, the policy improves, the server takes it up.

    python -m examples.feedback_loop --policy runs/quickstart/sft      # after `textenv quickstart`
    python -m examples.feedback_loop                                   # from scratch on generated texts, no network

Two rounds of collecting and improving against a running ``textenv serve``. The people's true taste is hidden from the
training: a lexicon's opinion of the answer, seen through noise that differs from person to person. After every round
the policy that is served answers held-out prompts, and the true score of its answers is looked up. Writes
``loop.json`` and ``loop.png``. Needs the extra ``serve``.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from reward_models import Lexicon
from reward_models.simulation import LabellingClient, Rater, SimulatedPerson, disagreeing_raters
from textenv.cli.data import load_data
from textenv.datasets import Demonstration
from textenv.trajectories import bootstrap_interval

SCRATCH = ["--data", "builtin", "--builtin_texts", "4000"]


def settings() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, help="where to start; without it a small one is trained first")
    parser.add_argument("--data", choices=("human", "builtin"), help="where users' prompts come from")
    parser.add_argument("--out", type=Path, default=Path("runs/feedback_loop"), help="folder of everything")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--people", type=int, default=6)
    parser.add_argument("--prompts", type=int, default=240, help="users' prompts per round")
    parser.add_argument("--demonstrations", type=int, default=40, help="of those, answered by people")
    parser.add_argument("--held_out", type=int, default=256, help="prompts that the true score is measured on")
    parser.add_argument("--noise", type=float, default=0.5, help="of the people, in units of the true score")
    parser.add_argument("--episodes", type=int, default=2560, help="of PPO, per round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max_tokens", type=int, default=24)
    parser.add_argument("--pretrain_steps", type=int, default=150)
    return parser


def true_score(prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
    """What people really like: the lexicon's opinion of the answer, from -2 to 2; training never sees it."""
    return 2 * np.asarray(Lexicon(include_prompt=False).score(list(prompts), list(responses)))


class Api:
    """The server as its users see it."""

    def __init__(self, base: str) -> None:
        self.base = base
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """JSON there and back."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"})
        with self._opener.open(request, timeout=300) as answer:
            return json.load(answer)

    def complete(self, model: str, prompt: str, seed: int, options: argparse.Namespace, *, store: bool) -> str:
        """One answer, as any OpenAI client would ask for it."""
        body = {"model": model, "prompt": prompt, "max_tokens": options.max_tokens, "temperature": 0.8, "seed": seed}
        return self.call("/v1/completions", body | {"store": store})["choices"][0]["text"]

    def version(self, model: str) -> str:
        """The version that is served."""
        return self.call("/admin/status")["policies"][model]["version"]


@contextmanager
def server(policy: Path, options: argparse.Namespace) -> Iterator[Api]:
    """``textenv serve`` in a process of its own, on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "textenv",
        "serve",
        "--policy",
        str(policy),
        "--db",
        str(options.out / "people.db"),
    ]
    command += ["--port", str(port), "--context", "96", "--labelling_rate", "100000", "--api_rate", "100000"]
    command += ["--gold_share", "0"]
    with (options.out / "server.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            api = Api(f"http://127.0.0.1:{port}")
            for _ in range(600):
                if process.poll() is not None:
                    told = (options.out / "server.log").read_text("utf-8").strip().splitlines()
                    raise SystemExit(f"the server ended: {told[-1] if told else 'it said nothing'}")
                try:
                    api.call("/health")
                    break
                except OSError:
                    time.sleep(0.2)
            yield api
        finally:
            process.terminate()
            process.wait()


def people(options: argparse.Namespace, shown: dict[str, list[str]]) -> list[SimulatedPerson]:
    """Raters who differ in noise and bias, and who write as the data's people did."""
    rng = np.random.default_rng(options.seed)
    good = [text for texts in shown.values() for text in texts]
    good = [text for text, worth in zip(good, true_score([""] * len(good), good), strict=True) if worth > 0.8]

    def write(prompt: str) -> str:
        """What somebody wrote to this prompt and liked; else something that people like."""
        own = [text for text in shown.get(prompt, ()) if true_score([prompt], [text])[0] > 0.4]
        return str(rng.choice(own or good))

    raters = disagreeing_raters(rng, options.people, Rater(noise=options.noise, tie_threshold=0.05), bias_std=0.2)
    return [SimulatedPerson(rater, true_score, write=write, seed=options.seed + i) for i, rater in enumerate(raters)]


def collect(api: Api, model: str, prompts: Sequence[str], crowd: Sequence[SimulatedPerson], options: Any) -> int:
    """A round's collecting: users ask, items are made of their prompts, people label until nothing is left."""
    with ThreadPoolExecutor(16) as users:
        list(users.map(lambda p: api.complete(model, p[1], p[0], options, store=True), enumerate(prompts)))
    sampling = {"temperature": 0.8, "max_new_tokens": options.max_tokens}
    make(api, {"kind": "demonstrate", "limit": options.demonstrations})
    make(api, {"kind": "rank", "answers": 4, "sampling": sampling, "seed": options.seed})
    with ThreadPoolExecutor(len(crowd)) as threads:
        return sum(threads.map(lambda person: person.label(session(api, person)), crowd))


def session(api: Api, person: SimulatedPerson) -> LabellingClient:
    """A person's own link, opened."""
    return LabellingClient(api.base + api.call("/admin/links", {"rater": person.rater.name})["link"])


def make(api: Api, order: dict[str, Any]) -> None:
    """Let the server make items, and wait for them."""
    api.call("/admin/make", order)
    while (making := api.call("/admin/status")["making"])["orders"]:
        time.sleep(0.2)
    if making["error"]:
        raise SystemExit(f"items could not be made: {making['error']}")


def measure(api: Api, model: str, prompts: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """The true score of what is served now, with its bootstrap interval over prompts."""
    with ThreadPoolExecutor(16) as users:
        answers = list(users.map(lambda p: api.complete(model, p, options.seed + 1, options, store=False), prompts))
    scores = true_score(prompts, answers)
    low, high = bootstrap_interval(scores, np.random.default_rng(0))
    found = {"version": api.version(model), "true_score": float(scores.mean()), "interval": [low, high]}
    return found | {"scores": scores.tolist(), "sample": {"prompt": prompts[0], "answer": answers[0]}}


def improve(policy: Path, options: argparse.Namespace) -> None:
    """``textenv improve`` on what was collected."""
    trunk = "minilm" if options.data == "human" else "policy"
    command = [sys.executable, "-m", "textenv", "improve", "--policy", str(policy)]
    command += ["--db", str(options.out / "people.db"), "--runs_dir", str(options.out / "runs")]
    command += ["--seed", str(options.seed), "--reward.trunk", trunk, "--ppo.total_episodes", str(options.episodes)]
    command += ["--ppo.max_new_tokens", str(options.max_tokens), "--ppo.training.kl_coef", "0.1"]
    command += ["--min_labels", "10"]
    if trunk == "policy":  # a small model that has read little: it needs more steps, and word embeddings that move
        training = {"learning_rate": "5e-4", "epochs": "8", "freeze_embeddings": "false", "rankings_loss": "pairs"}
        command += [word for name, value in training.items() for word in (f"--reward.training.{name}", value)]
    subprocess.run(command, check=True)


def start(options: argparse.Namespace) -> Path:
    """A small policy from scratch, where none is given."""
    runs = ["--runs_dir", str(options.out / "start"), *SCRATCH]
    steps = str(options.pretrain_steps)
    pretrained = [sys.executable, "-m", "textenv", "pretrain", *runs, "--pretrain.training.steps", steps]
    subprocess.run(pretrained, check=True)
    model = str(options.out / "start" / "pretrain" / "pretrain")
    tuned = [sys.executable, "-m", "textenv", "sft", *runs, "--model", model, "--sft.training.steps", steps]
    subprocess.run(tuned, check=True)
    return options.out / "start" / "sft" / "sft"


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """True score per round with intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    means = np.array([each["true_score"] for each in found])
    ends = np.array([each["interval"] for each in found]).T
    figure, panel = plt.subplots(figsize=(6, 3.4))
    panel.errorbar(range(len(found)), means, yerr=np.abs(ends - means), marker="o", capsize=4, color="#cf6a0c")
    panel.set_xticks(range(len(found)), ["start"] + [f"after round {i}" for i in range(1, len(found))])
    panel.set_ylabel("true score of the answers")
    panel.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Collect and improve, so many times; returns what was measured before and after each round."""
    options = settings().parse_args(arguments)
    began = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    if (options.out / "people.db").exists():
        raise SystemExit(f"{options.out} holds a loop already; give another --out")
    options.data = options.data or ("human" if options.policy else "builtin")
    policy = (options.policy or start(options)).resolve()
    model = policy.name
    data = load_data(options.data, 12_000)
    if options.data == "human":
        train, test = (data.demonstrations(split, "movies") for split in ("train", "test"))
    else:  # the generator knows few beginnings: films alone give too few prompts for two rounds
        train, test = (shuffled(data.demonstrations(split), options.seed) for split in ("train", "test"))
    asked, held_out = unique(d.prompt for d in train), unique(d.prompt for d in test)[: options.held_out]
    shown: dict[str, list[str]] = {}
    for d in train:
        shown.setdefault(d.prompt, []).append(d.response)
    crowd = people(options, shown)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with server(policy, options) as api:
        found = [measure(api, model, held_out, options)]
        for number in range(options.rounds):
            prompts = asked[number * options.prompts : (number + 1) * options.prompts]
            labels = collect(api, model, prompts, crowd, options)
            print(f"round {number + 1}: {labels} labels from {len(crowd)} people", flush=True)
            before = api.version(model)
            improve(policy, options)
            for _ in range(100):  # the server looks every two seconds
                if api.version(model) != before:
                    break
                time.sleep(0.2)
            found.append(measure(api, model, held_out, options))
            print(f"round {number + 1}: true score {show(found[-2])} -> {show(found[-1])}", flush=True)
    seconds = round(time.monotonic() - began)
    (options.out / "loop.json").write_text(json.dumps({"seconds": seconds, "rounds": found}, indent=1), "utf-8")
    draw(found, options.out / "loop.png")
    print(f"{seconds} s; {options.out / 'loop.png'}")
    return found


def shuffled(found: Sequence[Demonstration], seed: int) -> list[Demonstration]:
    """Domains mixed, so that each round has all of them."""
    return [found[place] for place in np.random.default_rng(seed).permutation(len(found))]


def unique(prompts: Iterator[str] | Any) -> list[str]:
    """Each once, in order."""
    return list(dict.fromkeys(prompts))


def show(measured: dict[str, Any]) -> str:
    """A score with its interval."""
    low, high = measured["interval"]
    return f"{measured['true_score']:+.2f} [{low:+.2f}, {high:+.2f}] ({measured['version']})"


if __name__ == "__main__":
    main()
