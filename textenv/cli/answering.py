"""From continuing to answering: pre-training, demonstrations and verifiable rewards on the same tasks; the figures.

The stages of ``textenv answering``, and what ``textenv ppo`` does with tasks. Each is a function that writes its folder
and returns its summary, as in :mod:`textenv.cli.stages`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from agents.evaluation.tasks import EvaluationConfig
from textenv.answers import format_of_folder
from textenv.cli.configs import AnsweringCommand, PPOCommand, PPOStageConfig
from textenv.cli.data import RatedData
from textenv.cli.evaluate import evaluate_models
from textenv.cli.stages import load_reward, once, ppo_on_prompts, pretrain_stage, sft_stage
from textenv.datasets.rated_texts import SPLITS
from textenv.errors import ConfigError
from textenv.pretrained import find_folder
from textenv.report import answers_table
from textenv.rewards import SumReward
from textenv.runs import Run
from textenv.tasks import Task, TaskReward


def answer_stages(config: AnsweringCommand, run: Run, data: RatedData) -> dict[str, dict[str, Any]]:
    """All stages; a finished one is not done again. Returns their summaries.

    Raises:
        ConfigError: If no task has a verifier.
    """
    verifiable_tasks(data.tasks)
    base, tuned, seed = run.stage("pretrain"), run.stage("sft"), config.seed
    shown = replace(data, tasks=[with_few_demonstrations(task, config.demonstrations) for task in data.tasks])
    models = {"base": base, "sft": tuned, "rl": run.stage("ppo")}
    return {
        "pretrain": once(run, "pretrain", pretrain_stage, data, config.pretrain, seed),
        "sft": once(run, "sft", sft_stage, shown, config.sft, base, seed),
        "ppo": once(run, "ppo", verified_stage, data.tasks, config.ppo, tuned, TaskReward, seed),
        "evaluate": once(run, "evaluate", measure_stage, models, data.tasks, config.evaluation, seed + 1),
    }


def with_few_demonstrations(task: Task, most: int) -> Task:
    """The task with its first items of each split alone; 0 keeps everything."""
    if not most:
        return task
    return replace(task, items=[item for split in SPLITS for item in task.split(split)[:most]])


def verifiable_tasks(tasks: Sequence[Task]) -> list[Task]:
    """The tasks with a verifier.

    Raises:
        ConfigError: If there is none.
    """
    verifiable = [task for task in tasks if task.verifier is not None]
    if not verifiable:
        names = ", ".join(task.name for task in tasks)
        raise ConfigError(f"no task has a verifier to learn from: {names}; add one, such as `- name: addition`")
    return verifiable


def ppo_on_tasks(config: PPOCommand, run: Run, tasks: Sequence[Task], start: Path) -> dict[str, dict[str, Any]]:
    """``textenv ppo --tasks``: PPO with verifiers, mixed with a learned reward where one is named, then the figures."""
    learned = load_reward(config.reward_model) if config.reward_model else None

    def reward(verifiable: Sequence[Task]) -> Any:
        verified = TaskReward(verifiable)
        if learned is None:
            return verified
        parts = {"verified": verified, "learned": learned}
        return SumReward(parts, [config.verifier_weight, config.reward_weight])

    measured = EvaluationConfig(
        prompts=-(-config.evaluation_prompts // len(tasks)),
        max_new_tokens=config.ppo.max_new_tokens,
        temperature=config.ppo.training.temperature,
    )
    models = {"sft": start, "rl": run.stage("ppo")}
    return {
        "ppo": once(run, "ppo", verified_stage, tasks, config.ppo, start, reward, config.seed),
        "evaluate": once(run, "evaluate", measure_stage, models, tasks, measured, config.seed + 1),
    }


def verified_stage(
    run: Run, tasks: Sequence[Task], config: PPOStageConfig, start: Path, reward: Any, seed: int
) -> dict[str, Any]:
    """PPO on the tasks with verifiers, in equal shares: prompts of their train split; the validation split to measure.

    Writes ``ppo/``.

    Args:
        run: Gets the stage.
        tasks: Those without a verifier are left out.
        config: The stage.
        start: Where the policy starts; also the reference.
        reward: Makes the reward of the tasks with verifiers, such as :class:`TaskReward`.
        seed: Of everything random.
    """
    learned = verifiable_tasks(tasks)
    answer = format_of_folder(find_folder(start))
    chat = answer is not None and answer.chat
    dealt = [task.prompts("train", chat=chat) for task in learned]
    most = max(len(own) for own in dealt)  # prompts of small tasks come more than once: all tasks have the same share
    prompts = [prompt for own in dealt for prompt in islice(cycle(own), most)]
    each = -(-config.eval_prompts // len(learned))
    held_out = [prompt for task in learned for prompt in task.prompts("validation", chat=chat)[:each]]
    # A part of each task, whatever `eval_prompts` is.
    config = replace(config, eval_prompts=max(len(held_out), 1))
    return ppo_on_prompts(run, prompts, held_out, config, policy_folder=start, reward=reward(learned), seed=seed)


def measure_stage(
    run: Run, models: Mapping[str, Path], tasks: Sequence[Task], config: EvaluationConfig, seed: int
) -> dict[str, Any]:
    """All models on the same held-out prompts; returns the means over tasks."""
    evaluation = evaluate_models(run, models, tasks, config, seed)
    if run.console is not None:
        run.console.print(answers_table(evaluation))
    return {
        model: {name: row[0] for name, row in found["mean"].items()} for model, found in evaluation["models"].items()
    }
