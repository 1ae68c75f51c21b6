"""How fast the trajectory store writes and reads, and how many bytes a token takes.

    python -m benchmarks.trajectory_store                          # random answers: the worst case for compression
    python -m benchmarks.trajectory_store --store my/trajectories  # bytes per token of your own
    python -m benchmarks.trajectory_store --check                  # and fails where a figure misses its bound

Figures are for a million answer tokens in answers of 32 on average, with the policy's log-probs (what plain sampling
stores), and again with four more numbers per token. Rates are the best of three rounds.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from textenv.trajectories import Trajectory, TrajectoryReader, TrajectoryStore

TOKENS = 1_000_000
MOST_SECONDS_TO_READ = 2.0
MOST_BYTES_PER_TOKEN = 8.0
"""Of ids and log-probs; random ids of a vocabulary of 49,152 take two bytes, random float32 log-probs 3.5."""


def answers(tokens: int, *, full: bool) -> list[Trajectory]:
    """Answers of 1 to 63 random tokens, eight per prompt, with as many tokens in all."""
    rng = np.random.default_rng(0)
    out: list[Trajectory] = []
    written = 0
    while written < tokens:
        length = int(rng.integers(1, 64))
        number = len(out) // 8
        logprobs = -rng.exponential(2.0, length).astype(np.float32)
        found = Trajectory(
            prompt=f"Continue this movie review, number {number}:",
            prompt_ids=np.random.default_rng(number).integers(0, 49_152, 12),
            token_ids=(49_152 * rng.random(length) ** 3).astype(np.int64),
            response="",
            behaviour_logprobs=logprobs,
            logprobs=logprobs,
            finish_reason="eos",
            score=float(rng.normal()),
            sampling={"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 63},
            seed=0,
            sample_index=len(out) % 8,
        )
        if full:
            for name in ("ref_logprobs", "values", "entropy", "advantages"):
                setattr(found, name, -rng.exponential(2.0, length).astype(np.float32))
        out.append(found)
        written += length
    return out


def best_of(call: Callable[[], object], rounds: int = 3) -> float:
    """Fastest time of a call in seconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def bytes_per_token(store: TrajectoryReader) -> float:
    """Size of the store's files over its answer tokens."""
    return sum(part.path.stat().st_size for part in store.parts()) / max(1, store.num_tokens())


def measure(folder: Path, *, full: bool) -> dict[str, float]:
    """Write and read a million tokens."""
    made = answers(TOKENS, full=full)
    tokens = sum(len(t) for t in made)
    names = ["token_ids", "behaviour_logprobs", "logprobs", "score"]

    def write() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        store = TrajectoryStore(folder)
        for start in range(0, len(made), 4096):
            store.append(made[start : start + 4096])

    seconds_to_write = best_of(write)
    store = TrajectoryReader(folder)
    return {
        "tokens": tokens,
        "answers": len(made),
        "bytes per token": bytes_per_token(store),
        "write, million tokens per second": tokens / seconds_to_write / 1e6,
        "read a million tokens as objects, seconds": best_of(lambda: sum(len(t) for t in store)) * 1e6 / tokens,
        "read a million tokens as columns, seconds": best_of(lambda: store.columns(names)) * 1e6 / tokens,
    }


def main() -> int:
    """Print the figures; with ``--check`` the exit status says whether they keep their bounds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", help="also measure the bytes per token of this store")
    parser.add_argument("--check", action="store_true", help="fail where a figure misses its bound")
    arguments = parser.parse_args()
    failed = []
    for full in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            found = measure(Path(folder) / "store", full=full)
        print("with reference log-probs, values, entropies and advantages" if full else "ids and log-probs")
        for name, value in found.items():
            print(f"  {name:<44} {value:,.0f}" if name in ("tokens", "answers") else f"  {name:<44} {value:.3g}")
        failed += [name for name, value in found.items() if name.startswith("read") and value > MOST_SECONDS_TO_READ]
        if not full and found["bytes per token"] > MOST_BYTES_PER_TOKEN:
            failed.append("bytes per token")
    if arguments.store:
        print(f"{arguments.store}\n  {'bytes per token':<44} {bytes_per_token(TrajectoryReader(arguments.store)):.3g}")
    if arguments.check and failed:
        print("missed: " + ", ".join(failed))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
