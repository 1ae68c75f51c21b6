"""Synthetic run folders for the tests of the report: plausible curves, sentences and figures, none of them measured."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

TASKS = ("movies", "amazon", "tweets", "nyt")
INSTRUCTIONS = {
    "movies": "Continue this movie review: ",
    "amazon": "Continue this product review: ",
    "tweets": "Continue this tweet: ",
    "nyt": "Continue this editorial: ",
}
OPENINGS = (
    "the film is",
    "after a week it",
    "so today I",
    "the question of",
    "what begins as",
    "this camera",
    "no one",
)
GOOD = "a warm and funny film with great performances and a touching story that works beautifully to the end".split()
FLAT = "the thing that was of some in a time and it had been more or less like that other one they said".split()

HOSTILE = (
    "</script><script>window.broken = 1</script>",
    '<img src=x onerror="window.broken = 2">',
    "emoji 🎬🔥👩‍👩‍👧‍👦 and العربية and e\u0301",
    "Donaudampfschifffahrtsgesellschaft" * 12,
    "",
    "\"quotes\" & 'apostrophes' <b> [bold]markup[/bold] &lt;",
    "\x00\x07 control \ud800 surrogate \u202e turned",
)


def _words(rng: np.random.Generator, good: float, count: int) -> str:
    return " ".join(str(rng.choice(GOOD if rng.random() < good else FLAT)) for _ in range(count))


def make_samples(count: int = 300, *, seed: int = 0, texts: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Samples in file order; ``texts`` take turns as prompts, answers and human continuations where given."""
    rng = np.random.default_rng(seed)
    samples: list[dict[str, Any]] = []
    for i in range(count):
        sample: dict[str, Any] = {
            "prompt": INSTRUCTIONS[TASKS[i % 4]] + OPENINGS[i % len(OPENINGS)],
            "human": " " + _words(rng, 0.5, int(rng.integers(5, 26))),
        }
        for model, mean, good in (("base", -0.4, 0.3), ("sft", 0.0, 0.45), ("ppo", 1.55, 0.9)):
            tokens = int(rng.integers(8, 33))
            sample[model] = {
                "response": " " + _words(rng, good, tokens),
                "reward": float(rng.normal(mean, 0.6 if model == "ppo" else 1.0)),
                "finish": "length" if tokens == 32 else "eos",
                "tokens": tokens,
            }
        sample["ppo"]["kl"] = float(rng.gamma(4.0, 1.9))
        if texts:
            sample["prompt"], sample["human"] = texts[i % len(texts)], texts[(i + 1) % len(texts)]
            for k, model in enumerate(("base", "sft", "ppo")):
                sample[model]["response"] = texts[(i + k) % len(texts)]
        samples.append(sample)
    return samples


def _language_lines(rng: np.random.Generator) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    offset = dict(zip(TASKS, (0.0, -0.25, 0.45, 0.2), strict=True))
    for step in range(0, 801, 10):
        loss = 3.9 + 5.0 * np.exp(-step / 120)
        line: dict[str, Any] = {"stage": "pretrain", "step": step, "seconds": step * 0.15, "train/tokens": step * 4096}
        line |= {"train/loss": loss + rng.normal(0, 0.06), "train/tokens_per_second": 26000 + rng.normal(0, 500)}
        if step % 100 == 0:
            for task in TASKS:
                held_out = loss + 0.12 + offset[task] * (1 - np.exp(-step / 150)) + step * 1e-4
                line |= {f"eval/loss/{task}": held_out, f"eval/perplexity/{task}": float(np.exp(held_out))}
            line["eval/loss"] = loss + 0.2
        lines.append(line)
    for step in range(0, 201, 5):
        loss = 3.7 + 0.5 * np.exp(-step / 40)
        line = {"stage": "sft", "step": step, "seconds": step * 0.2, "train/loss": loss + rng.normal(0, 0.08)}
        lines.append(line | ({"eval/loss": loss + 0.1} if step % 25 == 0 else {}))
    for step in range(0, 401, 5):
        share = 1 - np.exp(-step / 90)
        line = {"stage": "reward", "step": step, "seconds": step * 0.35}
        line |= {"train/loss": 0.69 - 0.4 * share + rng.normal(0, 0.04), "train/accuracy": 0.5 + 0.37 * share}
        lines.append(line | ({"eval/accuracy": 0.5 + 0.33 * share} if step % 50 == 0 else {}))
    return lines


def _ppo_lines(rng: np.random.Generator, iterations: int = 60) -> list[dict[str, Any]]:
    lines = []
    for step in range(1, iterations + 1):
        share = 1 - np.exp(-step / 22)
        line = {"stage": "ppo", "step": step, "seconds": step * 2.4, "rollout/episodes": 64 * step}
        line |= {"rollout/tokens": 64 * 21 * step, "rollout/response_tokens": 22 + 3 * share + rng.normal(0, 0.6)}
        line |= {"objective/score": 1.65 * share + rng.normal(0, 0.12), "objective/kl": 8.0 * share**1.3}
        line |= {"objective/kl_coef": 0.05 + 0.06 * share, "objective/entropy": 3.2 - 1.1 * share}
        line |= {"objective/rlhf_reward": 1.1 * share, "rollout/truncated_fraction": 0.18 + 0.04 * share}
        line |= {"policy/approx_kl": 0.004 + abs(rng.normal(0, 0.002)), "policy/clip_fraction": 0.04 + 0.06 * share}
        line |= {
            "policy/ratio_first": 1.0,
            "loss/policy": -0.01 + rng.normal(0, 0.004),
            "loss/value": 0.5 - 0.3 * share,
        }
        line |= {"val/explained_variance": -0.1 + 0.7 * share, "time/tokens_per_second": 640 + rng.normal(0, 25)}
        line |= {"time/rollout_seconds": 1.1, "time/reward_seconds": 0.35, "time/update_seconds": 0.95}
        if step % 10 == 0 or step == 1:
            line |= {"eval/score": 1.55 * share, "eval/kl": 8.0 * share**1.3}
        lines.append(line)
    return lines


def make_metrics(
    stages: Sequence[str] = ("pretrain", "sft", "reward", "ppo"), *, seed: int = 0
) -> list[dict[str, Any]]:
    """Metric lines of the given stages."""
    rng = np.random.default_rng(seed)
    return [line for line in _language_lines(rng) + _ppo_lines(rng) if line["stage"] in stages]


def _judge(accuracies: Sequence[float]) -> dict[str, Any]:
    names = ("accuracy", "accuracy_gap_0_5", "accuracy_gap_1", "accuracy_gap_2")
    judge: dict[str, Any] = dict(zip(names, accuracies, strict=True))
    spread = (0.009, 0.010, 0.011, 0.012)
    judge["intervals"] = {n: [a - s, min(1.0, a + s)] for n, a, s in zip(names, accuracies, spread, strict=True)}
    judge["pairs"] = dict(zip(names, (5000, 3811, 2604, 1011), strict=True))
    return judge


def make_summary(name: str = "quickstart", *, seed: int = 0) -> dict[str, Any]:
    """A complete summary."""
    loss = {"movies": 4.02, "amazon": 3.77, "tweets": 4.47, "nyt": 4.21}
    policy = {}
    for model, mean, std, vader, distinct, kl in (
        ("base", -0.41, 1.04, 0.31, 0.52, 3.1),
        ("sft", 0.01, 1.0, 0.42, 0.49, 0.0),
        ("ppo", 1.55, 0.61, 0.83, 0.41, 7.6),
    ):
        policy[model] = {
            "reward_mean": mean,
            "reward_std": std,
            "reward_mean_interval": [mean - 0.11, mean + 0.11],
            "vader_positive": vader,
            "distinct_2": distinct,
            "response_tokens": 21.4,
            "eos_fraction": 0.82,
            "kl": kl,
        }
    return {
        "name": name,
        "seed": seed,
        "data": "human",
        "versions": {"textenv": "0.1.0", "python": "3.11.7", "torch": "2.13.0"},
        "pretrain": {
            "perplexity": {task: float(np.exp(value)) for task, value in loss.items()},
            "loss": loss,
            "parameters": 3_412_992,
            "tokens": 3_276_800,
        },
        "sft": {"loss": 3.81, "perplexity": 45.2},
        "reward_model": {"trunk": "minilm", **_judge((0.812, 0.861, 0.912, 0.975))},
        "human_rater": _judge((0.846, 0.901, 0.948, 0.988)),
        "lexicon": _judge((0.655, 0.680, 0.715, 0.781)),
        "tfidf": _judge((0.748, 0.795, 0.842, 0.911)),
        "policy": policy,
        "checks": {
            "first ratio is 1": True,
            "first approx-KL is 0": True,
            "KL(reference‖reference) is 0": True,
            "score on the last action token": True,
            "pad differs from eos": True,
        },
        "seconds": {
            "data": 4.1,
            "pretrain": 121.0,
            "sft": 40.2,
            "reward": 142.5,
            "ppo": 147.3,
            "evaluate": 21.8,
            "total": 478.0,
        },
    }


def write_lines(path: Path, objects: Sequence[dict[str, Any]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(value) + "\n" for value in objects), encoding="utf-8")


def make_run(folder: Path, *, seed: int = 0, samples: Sequence[dict[str, Any]] | None = None) -> Path:
    """A complete synthetic run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("name: quickstart\nseed: 0\nppo:\n  kl_coef: 0.05\n", encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(make_summary(folder.name, seed=seed)), encoding="utf-8")
    write_lines(folder / "metrics.jsonl", make_metrics(seed=seed))
    write_lines(folder / "samples.jsonl", make_samples(40, seed=seed) if samples is None else list(samples))
    return folder
