"""How much of the project one has to read to follow one PPO iteration.

    python -m benchmarks.iteration_trace            # prints the figures
    python -m benchmarks.iteration_trace --list     # and every function that is entered, by file
    python -m benchmarks.iteration_trace --check    # and fails where a figure misses its bound

The iteration is the second of a run on the tiny model: the first one also runs the checks. Counted are the
project's own files, functions and classes that it enters, and the calls from ``learn`` down to the line that computes
the probability ratio.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

from agents import PPO, CausalLMPolicy, PPOConfig
from agents.lm.pretraining import ModelConfig, build_model, train_tokenizer
from textenv import TextGenerationVectorEnv

ROOT = Path(__file__).parents[1]
ROOMS = ("textenv", "agents", "reward_models")
BOUNDS = {"files": 20, "functions": 110, "calls_from_learn_to_the_ratio": 4}


class Trace(NamedTuple):
    """What an iteration entered.

    Attributes:
        entered: Code of every function of the project.
        depth: Calls from ``learn`` down to the function that computes the ratio.
    """

    entered: set[CodeType]
    depth: int

    def figures(self) -> dict[str, float]:
        """Files, functions and classes entered, and the depth of the ratio."""
        named = {code for code in self.entered if not code.co_name.startswith("<")}
        classes = {(code.co_filename, code.co_qualname.rpartition(".")[0]) for code in named if "." in code.co_qualname}
        return {
            "files": len({code.co_filename for code in named}),
            "functions": len(named),
            "classes": len({each for each in classes if "<locals>" not in each[1]}),
            "calls_from_learn_to_the_ratio": self.depth,
        }


def is_ours(code: CodeType) -> bool:
    """Whether a function is the project's."""
    path = Path(code.co_filename)
    return path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ROOMS


def trace() -> Trace:
    """Run two iterations and watch the second."""
    entered: set[CodeType] = set()
    depths: list[int] = []

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event != "call" or not is_ours(frame.f_code):
            return
        entered.add(frame.f_code)
        if "ratio" in frame.f_code.co_varnames and "clip_range" in {*frame.f_code.co_names, *frame.f_code.co_varnames}:
            depths.append(calls_below(frame, "learn"))

    tokenizer = train_tokenizer(["the film is good", "a bad film"], 270)
    shape = ModelConfig(vocab_size=270, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, context=48)
    policy = CausalLMPolicy(build_model(shape, tokenizer, 0), tokenizer)

    def reward(prompts: list[str], responses: list[str]) -> list[float]:
        return [float(len(set(response))) for response in responses]

    envs = TextGenerationVectorEnv(8, tokenizer, ["the film", "a"], reward, max_new_tokens=8)
    agent = PPO(policy, envs, config=PPOConfig(epochs=2, num_minibatches=2, micro_batch_size=2))
    agent.learn(8)
    sys.setprofile(profile)
    try:
        agent.learn(16)
    finally:
        sys.setprofile(None)
    return Trace(entered, min(depths))


def calls_below(frame: FrameType, name: str) -> int:
    """How many of the project's calls a frame stands below the function of this name."""
    depth = 0
    walked: FrameType | None = frame
    while walked is not None and walked.f_code.co_name != name:
        depth += is_ours(walked.f_code)
        walked = walked.f_back
    return depth


def main() -> None:
    """Traces, prints and, where asked, checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail where a figure misses its bound")
    parser.add_argument("--list", action="store_true", help="print the functions entered, by file")
    options = parser.parse_args()
    traced = trace()
    figures = traced.figures()
    if options.list:
        for code in sorted(traced.entered, key=lambda code: (code.co_filename, code.co_firstlineno)):
            print(f"{Path(code.co_filename).relative_to(ROOT)}:{code.co_firstlineno} {code.co_qualname}")
    for name, value in figures.items():
        print(f"{name:32} {value:6}")
    missed = [
        f"{name} is {figures[name]}, expected at most {most}" for name, most in BOUNDS.items() if figures[name] > most
    ]
    if options.check and missed:
        raise SystemExit("\n".join(missed))


if __name__ == "__main__":
    main()
