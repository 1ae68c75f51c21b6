"""Learning beside TRL 1.12.0 at equal episodes: same start, prompts, reward and settings, reward against KL.

    python benchmarks/learning_vs_trl.py --policy runs/quickstart/sft --reward_model runs/quickstart/reward

trains textenv's PPO and TRL's, three seeds each, one process per run, and evaluates both with the same code on the same
held-out prompts as they learn. Prints the best reward within a KL and the reward after so many episodes, writes
``frontier.json`` and ``frontier.png``. A run that is done is not done again: ``--seeds 0``, then ``--seeds 0 1`` and so
on splits the work.

Same for both: learning rate, epochs, minibatch, beta, temperature, clip ranges, lambda, whitening, episodes. TRL keeps
what it has no setting for: a value model of its own (started from the same weights) and no gradient clipping.
"""

# TRL is not installed where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("textenv", "trl")
COLORS = {"textenv": "#cf6a0c", "trl": "#2868c8"}


def settings() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, default=Path("runs/quickstart/sft"), help="where both start")
    parser.add_argument("--reward_model", default="runs/quickstart/reward", help="a folder, or lexicon")
    parser.add_argument("--data", choices=("human", "builtin"), default="human", help="where prompts come from")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=3200)
    parser.add_argument("--batch", type=int, default=64, help="episodes per iteration")
    parser.add_argument("--max_new_tokens", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--kl_coef", type=float, default=0.1)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--eval_every", type=int, default=5, help="iterations between evaluations")
    parser.add_argument("--eval_prompts", type=int, default=256)
    parser.add_argument("--max_grad_norm", type=float, default=1.0, help="textenv's; TRL clips nothing")
    parser.add_argument("--own_critic", action="store_true", help="give textenv's critic a trunk of its own, as TRL's")
    parser.add_argument("--output", type=Path, default=Path("runs/learning_vs_trl"))
    parser.add_argument("--worker", choices=LIBRARIES, help=argparse.SUPPRESS)
    return parser


class Task:
    """What both libraries get: prompts, reward, and one way of evaluating a policy."""

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        from agents import CausalLMPolicy, SamplingParams
        from textenv.cli.data import load_data
        from textenv.cli.stages import load_reward

        data = load_data(options.data, 1200)
        self.options, self.seed = options, seed
        critic = "separate" if options.own_critic else "shared"
        self.policy = CausalLMPolicy.from_pretrained(options.policy, critic=critic)
        self.reference = CausalLMPolicy.from_pretrained(options.policy)
        self.reward = load_reward(options.reward_model)
        self.prompts = [shown.prompt for shown in data.demonstrations("train", "movies")]
        self.held_out = [shown.prompt for shown in data.demonstrations("validation", "movies")][: options.eval_prompts]
        self.sampling = SamplingParams(options.temperature, max_new_tokens=options.max_new_tokens)
        self.points: list[dict[str, float]] = []

    def score(self, prompts: list[str], responses: list[str]) -> list[float]:
        """The reward as a function."""
        from textenv.rewards import call_reward

        return [float(score) for score in call_reward(self.reward, prompts, responses)]

    def evaluate(self, iteration: int) -> None:
        """A point of the curve: held-out reward and KL of the policy as it stands; every so many iterations."""
        from agents import evaluate_policy

        episodes = iteration * self.options.batch
        if iteration % self.options.eval_every and episodes < self.options.episodes:
            return
        found = evaluate_policy(
            self.policy, self.held_out, self.reward, reference=self.reference, sampling=self.sampling, seed=1
        ).summary
        point = {"episodes": episodes, "score": found["reward_mean"], "kl": found["kl"]}
        self.points.append(point | {"distinct_2": found["distinct_2"], "tokens": found["response_tokens"]})


def train_textenv(task: Task) -> None:
    """Our learner."""
    import agents
    from textenv.envs import TextGenerationVectorEnv

    options = task.options
    envs = TextGenerationVectorEnv(
        options.batch, task.policy.tokenizer, task.prompts, task.reward, max_new_tokens=options.max_new_tokens
    )
    config = agents.PPOConfig(
        learning_rate=options.learning_rate,
        epochs=options.epochs,
        micro_batch_size=options.batch,
        kl_coef=options.kl_coef,
        temperature=options.temperature,
        max_grad_norm=options.max_grad_norm,
        seed=task.seed,
    )
    agent = agents.PPO(task.policy, envs, config=config)
    agent.learn(options.episodes, callback=lambda agent, metrics: task.evaluate(agent.iteration))


def train_trl(task: Task) -> None:
    """TRL's trainer; its policy is the very model that the task evaluates."""
    from transformers import AutoModelForSequenceClassification, TrainerCallback

    from tests.compat.trl_ppo import make_trainer

    class Evaluate(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            task.evaluate(state.global_step)

    options, tokenizer = task.options, task.policy.tokenizer
    value_model = AutoModelForSequenceClassification.from_pretrained(
        options.policy, num_labels=1, trust_remote_code=False
    )
    trainer, _ = make_trainer(
        task.policy.causal_lm,
        value_model,
        task.score,
        [task.policy.encode_prompt(prompt) for prompt in task.prompts],
        tokenizer,
        {
            "output_dir": tempfile.mkdtemp(),
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "per_device_train_batch_size": options.batch,
            "gradient_accumulation_steps": 1,
            "num_mini_batches": 1,
            "num_ppo_epochs": options.epochs,
            "total_episodes": options.episodes,
            "response_length": options.max_new_tokens,
            "stop_token": "eos",
            "temperature": options.temperature,
            "learning_rate": options.learning_rate,
            "adam_epsilon": 1e-5,
            "kl_coef": options.kl_coef,
            "seed": task.seed,
        },
    )
    trainer.add_callback(Evaluate())
    trainer.train()


def work(options: argparse.Namespace) -> None:
    """One library, one seed, in this process; writes the points of its curve."""
    import torch

    seed = options.seeds[0]
    torch.manual_seed(seed)
    task = Task(options, seed)
    task.evaluate(0)
    {"textenv": train_textenv, "trl": train_trl}[options.worker](task)
    curve_file(options, options.worker, seed).write_text(json.dumps(task.points, indent=1) + "\n", encoding="utf-8")


def curve_file(options: argparse.Namespace, library: str, seed: int) -> Path:
    """Where the points of a run stand."""
    return options.output / f"{library}-{seed}.json"


def at(points: list[dict[str, float]], axis: str, place: float) -> float:
    """The score of a curve at a place on an axis, linear between points; along the KL the best that cost no more."""
    order = sorted(points, key=lambda point: point[axis])
    scores = np.array([point["score"] for point in order])
    return float(
        np.interp(place, [point[axis] for point in order], np.maximum.accumulate(scores) if axis == "kl" else scores)
    )


def compare(curves: dict[str, list[list[dict[str, float]]]]) -> dict[str, Any]:
    """Scores of both at equal KL (within what every run reached) and at equal episodes: mean and deviation of seeds."""
    reached = min(max(point["kl"] for point in points) for runs in curves.values() for points in runs)
    last = max(point["episodes"] for point in curves["textenv"][0])
    places: dict[str, np.ndarray] = {
        "kl": np.linspace(0, reached, 6)[1:],
        "episodes": np.linspace(0, last, 6)[1:],
    }
    found: dict[str, Any] = {}
    for axis, values in places.items():
        for library, runs in curves.items():
            scores = np.array([[at(points, axis, value) for value in values] for points in runs])
            deviation = scores.std(0, ddof=1) if len(runs) > 1 else np.zeros(len(values))
            found.setdefault(axis, {})[library] = {"mean": scores.mean(0).tolist(), "std": deviation.tolist()}
        found[axis]["places"] = values.tolist()
    return found


def table(found: dict[str, Any]) -> str:
    """The comparison in two blocks."""
    lines = []
    for axis, unit in (("kl", "KL, nats per answer"), ("episodes", "episodes")):
        lines.append(f"{unit:<22}{'textenv':>18}{'TRL':>18}{'difference':>14}")
        for i, place in enumerate(found[axis]["places"]):
            cells, means = "", []
            for library in LIBRARIES:
                mean, std = found[axis][library]["mean"][i], found[axis][library]["std"][i]
                means.append(mean)
                cells += f"{f'{mean:.3f} ± {std:.3f}':>18}"
            lines.append(f"{place:<22.2f}{cells}{means[0] - means[1]:>+14.3f}")
        lines.append("")
    return "\n".join(lines)


def draw(curves: dict[str, list[list[dict[str, float]]]], path: Path) -> None:
    """Reward against KL, and against episodes: one line per seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for panel, axis, label in zip(axes, ("kl", "episodes"), ("KL, nats per answer", "episodes"), strict=True):
        for library, runs in curves.items():
            for i, points in enumerate(runs):
                x, y = [point[axis] for point in points], [point["score"] for point in points]
                name = None if i else {"textenv": "textenv", "trl": "TRL 1.12"}[library]
                panel.plot(x, y, marker=".", color=COLORS[library], alpha=0.8, label=name)
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("reward on held-out prompts")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def run_worker(options: argparse.Namespace, library: str, seed: int, python: str, arguments: list[str]) -> None:
    """One run in a process of its own, where it is not done yet.

    Raises:
        subprocess.CalledProcessError: If it fails.
    """
    if curve_file(options, library, seed).exists():
        return
    threads = os.environ.get("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads}
    command = [python, __file__, *arguments, "--worker", library, "--seeds", str(seed)]
    print(f"{library}, seed {seed} ...", flush=True)
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def main() -> None:
    """Trains what is missing, prints the table, draws the figure."""
    options = settings().parse_args()
    if options.worker:
        work(options)
        return
    prepare = [sys.executable, "-m", "tests.compat.run", "--prepare", "trl"]
    made = subprocess.run(prepare, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    python: dict[str, str] = {"textenv": sys.executable, "trl": made.strip().splitlines()[-1]}
    options.output.mkdir(parents=True, exist_ok=True)
    curves: dict[str, list[list[dict[str, float]]]] = {library: [] for library in LIBRARIES}
    for seed in options.seeds:
        for library in LIBRARIES:
            run_worker(options, library, seed, python[library], sys.argv[1:])
            curves[library].append(json.loads(curve_file(options, library, seed).read_text("utf-8")))
    found = compare(curves)
    chosen = {name: str(value) for name, value in vars(options).items() if name not in ("worker", "output")}
    written = {"settings": chosen, "compared": found, "curves": curves}
    (options.output / "frontier.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    draw(curves, options.output / "frontier.png")
    print(table(found))


if __name__ == "__main__":
    main()
