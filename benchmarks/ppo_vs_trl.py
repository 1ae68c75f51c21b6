"""One PPO iteration of SmolLM2-135M in bfloat16 on the CPU: textenv beside TRL 1.12.0, time and memory by phase.

    python benchmarks/ppo_vs_trl.py                          # all four candidates, about six minutes on two cores
    python benchmarks/ppo_vs_trl.py --candidates textenv-full textenv-lora

Every candidate runs alone in a process of its own: 32 episodes of 16 prompt tokens and 24 answer tokens, 4 epochs, one
minibatch, the same prompts, a reward that costs nothing (TRL usually carries a whole reward model; it is spared here).
No token ends an answer early. One iteration warms up, the median of the others counts. TRL gets an environment of its
own in ``.compat/`` with the torch and transformers of the one that runs this script, and is measured with bfloat16
weights and no autocast (``--trl_autocast``: its default, float32 weights under autocast).
"""

# TRL is not installed where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EPISODES, PROMPT_TOKENS, ANSWER_TOKENS, EPOCHS = 32, 16, 24, 4
RANK = 16
CANDIDATES = ("trl-full", "textenv-full", "trl-lora", "textenv-lora")
LOAD, OTHER = "load", "other"
ROLLOUT, SCORE, REFERENCE, OLD = "rollout", "score", "reference log-probs", "old log-probs, values"
FORWARD, BACKWARD, OPTIMISER = "forward", "backward", "optimiser"
PHASES = (LOAD, ROLLOUT, SCORE, REFERENCE, OLD, FORWARD, BACKWARD, OPTIMISER, OTHER)


class Meter:
    """Seconds and peak resident memory of an iteration's phases; what is in no phase counts as ``other``.

    Attributes:
        iterations: Per finished iteration: seconds by phase and in all.
        peak_bytes: Highest resident memory seen in each phase of all iterations, and while loading.
    """

    def __init__(self) -> None:
        self.iterations: list[dict[str, float]] = []
        self.peak_bytes: dict[str, int] = dict.fromkeys(PHASES, 0)
        self._stack = [LOAD]
        self._seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self._began = time.perf_counter()
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while True:
            resident = int(Path("/proc/self/statm").read_text("ascii").split()[1]) * page
            phase = self.current
            self.peak_bytes[phase] = max(self.peak_bytes[phase], resident)
            time.sleep(0.005)

    def start(self) -> None:
        """Loading is over; the first iteration begins."""
        self._stack[0] = OTHER
        self._began = time.perf_counter()

    def mark(self, *_: Any) -> None:
        """An iteration is over, the next begins."""
        whole = time.perf_counter() - self._began
        inside = sum(self._seconds.values())
        self.iterations.append({**self._seconds, OTHER: self._seconds[OTHER] + whole - inside, "total": whole})
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._began = time.perf_counter()

    @property
    def current(self) -> str:
        """The innermost phase."""
        return self._stack[-1]

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time spent inside counts for this phase, and not for the one around it."""
        began = time.perf_counter()
        self._stack.append(name)
        try:
            yield
        finally:
            took = time.perf_counter() - began
            self._stack.pop()
            self._seconds[name] += took
            if len(self._stack) > 1:
                self._seconds[self._stack[-1]] -= took

    def wrap(self, function: Callable[..., Any], name: Callable[[], str] | str) -> Callable[..., Any]:
        """The function, timed as a phase."""

        def timed(*arguments: Any, **options: Any) -> Any:
            with self.phase(name if isinstance(name, str) else name()):
                return function(*arguments, **options)

        return timed


def free_reward(prompts: list[str], responses: list[str]) -> list[float]:
    """Share of vowels: something to learn, at no cost."""
    return [sum(c in "aeiou" for c in response) / max(len(response), 1) for response in responses]


def token_prompts(vocabulary: int) -> list[list[int]]:
    """As many prompts as episodes, each of 16 ordinary tokens."""
    import numpy as np

    return np.random.default_rng(0).integers(1000, vocabulary, (EPISODES, PROMPT_TOKENS)).tolist()


def lora_config() -> Any:
    """The adapter of both candidates: every linear layer of the trunk."""
    from peft import LoraConfig

    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=layers, task_type="CAUSAL_LM")


def measure_trl(meter: Meter, iterations: int, *, lora: bool, autocast: bool) -> None:
    """Runs TRL's trainer with its phases timed."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

    from tests.compat.trl_ppo import make_trainer, ppo_trainer_module
    from textenv.datasets import smollm2_path

    folder = smollm2_path()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    dtype = torch.float32 if autocast else torch.bfloat16
    module = ppo_trainer_module()
    module.batch_generation = meter.wrap(module.batch_generation, ROLLOUT)
    module.get_reward = meter.wrap(module.get_reward, OLD)
    module.forward = meter.wrap(module.forward, lambda: FORWARD if torch.is_grad_enabled() else REFERENCE)
    torch.Tensor.backward = meter.wrap(torch.Tensor.backward, BACKWARD)
    settings = {
        "output_dir": tempfile.mkdtemp(),
        "use_cpu": True,
        "bf16": autocast,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": EPISODES,
        "gradient_accumulation_steps": 1,
        "num_mini_batches": 1,
        "num_ppo_epochs": EPOCHS,
        "total_episodes": EPISODES * iterations,
        "response_length": ANSWER_TOKENS,
        "temperature": 1.0,
        "learning_rate": 1e-6,
    }
    trainer, _ = make_trainer(
        AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False),
        AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype, num_labels=1, trust_remote_code=False),
        meter.wrap(free_reward, SCORE),
        token_prompts(len(tokenizer)),
        tokenizer,
        settings,
        lora=lora_config() if lora else None,
    )
    trainer.optimizer.step = meter.wrap(trainer.optimizer.step, OPTIMISER)

    class Mark(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            meter.mark()

    trainer.add_callback(Mark())
    meter.start()
    trainer.train()


def measure_textenv(meter: Meter, iterations: int, *, lora: bool) -> None:
    """Runs our learner with its phases timed."""
    import gymnasium
    import torch

    import agents
    import textenv  # noqa: F401  (registers the environments)
    from textenv.datasets import smollm2_path

    adapter = lora_config() if lora else None
    policy = agents.CausalLMPolicy.from_pretrained(smollm2_path(), dtype="bfloat16", lora=adapter)
    envs = gymnasium.make_vec(
        "textenv/TextGeneration-v0",
        num_envs=EPISODES,
        vectorization_mode="vector_entry_point",
        tokenizer=policy.tokenizer,
        prompts=token_prompts(policy.vocab_size),
        reward=meter.wrap(free_reward, SCORE),
        max_new_tokens=ANSWER_TOKENS,
        eos_token_id=[],
    )
    config = agents.PPOConfig(learning_rate=1e-6, epochs=EPOCHS, micro_batch_size=EPISODES)
    agent = agents.PPO(policy, envs, config=config)
    agent.collector.collect = meter.wrap(agent.collector.collect, ROLLOUT)
    agent.reference.evaluate = meter.wrap(agent.reference.evaluate, REFERENCE)

    def purpose() -> str:
        # The adapter's reference is the policy itself.
        return FORWARD if torch.is_grad_enabled() else REFERENCE if meter.current == REFERENCE else OLD

    policy.evaluate = meter.wrap(policy.evaluate, purpose)
    torch.Tensor.backward = meter.wrap(torch.Tensor.backward, BACKWARD)
    policy.compute.pull_gradients = meter.wrap(policy.compute.pull_gradients, BACKWARD)
    agent.optimizer.step = meter.wrap(agent.optimizer.step, OPTIMISER)
    policy.compute.push_weights = meter.wrap(policy.compute.push_weights, OPTIMISER)
    torch.nn.utils.clip_grad_norm_ = meter.wrap(torch.nn.utils.clip_grad_norm_, OPTIMISER)
    meter.start()
    agent.learn(total_episodes=EPISODES * iterations, callback=meter.mark)


def work(candidate: str, iterations: int, output: Path, *, autocast: bool) -> None:
    """Measures one candidate in this process."""
    import resource

    meter = Meter()
    library, form = candidate.split("-")
    if library == "trl":
        measure_trl(meter, iterations, lora=form == "lora", autocast=autocast)
    else:
        measure_textenv(meter, iterations, lora=form == "lora")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    after = max(bytes_ for phase, bytes_ in meter.peak_bytes.items() if phase != LOAD)
    found = {"iterations": meter.iterations, "peaks": meter.peak_bytes, "process_peak": peak, "training_peak": after}
    output.write_text(json.dumps(found), encoding="utf-8")


def measure(candidate: str, iterations: int, python: str, *, autocast: bool) -> dict[str, Any]:
    """Measures one candidate in a process of its own: median seconds by phase, peak memory by phase.

    Raises:
        subprocess.CalledProcessError: If it fails.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "found.json"
        command = [python, __file__, "--worker", candidate, "--output", str(output), "--iterations", str(iterations)]
        subprocess.run([*command, *(["--trl_autocast"] if autocast else [])], check=True, cwd=ROOT, env=environment)
        found = json.loads(output.read_text("utf-8"))
    counted = found["iterations"][1:]
    found["seconds"] = {name: statistics.median(i[name] for i in counted) for name in counted[0]}
    return found


def tables(found: dict[str, dict[str, Any]]) -> str:
    """Seconds and memory of every candidate by phase, then the ratios."""
    names = list(found)
    head = f"{'':<24}" + "".join(f"{name:>15}" for name in names)
    lines = [f"seconds, median of {len(next(iter(found.values()))['iterations']) - 1} iterations", head]
    for phase in (*PHASES[1:], "total"):
        lines.append(f"{phase:<24}" + "".join(f"{found[name]['seconds'][phase]:>15.2f}" for name in names))
    rate = {name: EPISODES / found[name]["seconds"]["total"] for name in names}
    lines.append(f"{'episodes per second':<24}" + "".join(f"{rate[name]:>15.2f}" for name in names))
    lines += ["", "peak resident memory, GB", head]
    for phase in PHASES:
        lines.append(f"{phase:<24}" + "".join(f"{found[name]['peaks'][phase] / 1e9:>15.2f}" for name in names))
    lines.append(f"{'training, all phases':<24}" + "".join(f"{found[n]['training_peak'] / 1e9:>15.2f}" for n in names))
    lines.append(f"{'process, loading too':<24}" + "".join(f"{found[n]['process_peak'] / 1e9:>15.2f}" for n in names))
    lines.append("")
    for form in ("full", "lora"):
        ours, theirs = f"textenv-{form}", f"trl-{form}"
        if ours in found and theirs in found:
            memory = found[ours]["process_peak"] / found[theirs]["process_peak"]
            lines.append(f"{form}: {rate[ours] / rate[theirs]:.2f}x TRL's episodes per second, {memory:.2f}x its peak")
    return "\n".join(lines)


def main() -> None:
    """Measures the candidates one after the other and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", nargs="+", default=list(CANDIDATES), choices=CANDIDATES)
    parser.add_argument("--iterations", type=int, default=4, help="the first is not counted")
    parser.add_argument("--trl_autocast", action="store_true", help="TRL with float32 weights under bfloat16 autocast")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--worker", choices=CANDIDATES, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.iterations < 2:
        parser.error("--iterations must be at least 2: the first warms up")
    if options.worker:
        work(options.worker, options.iterations, options.output, autocast=options.trl_autocast)
        return
    python = {"textenv": sys.executable}
    if any(name.startswith("trl") for name in options.candidates):
        prepare = [sys.executable, "-m", "tests.compat.run", "--prepare", "trl"]
        made = subprocess.run(prepare, check=True, cwd=ROOT, capture_output=True, text=True)
        python["trl"] = made.stdout.strip().splitlines()[-1]
    from textenv.datasets import smollm2_path

    smollm2_path()
    print(f"load before the run: {os.getloadavg()[0]:.2f}; cores: {len(os.sched_getaffinity(0))}", flush=True)
    found = {}
    for name in options.candidates:
        executable = python[name.split("-")[0]]
        found[name] = measure(name, options.iterations, executable, autocast=options.trl_autocast)
    print(tables(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
