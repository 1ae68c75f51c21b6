"""What each sub-command does with its configuration."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from textenv.cli import stages
from textenv.cli.answering import AnsweringCommand, answer_stages, ppo_on_tasks
from textenv.cli.configs import (
    PPOCommand,
    PretrainCommand,
    QuickstartCommand,
    RewardCommand,
    RLHFCommand,
    RunConfig,
    SFTCommand,
)
from textenv.cli.data import RatedData
from textenv.cli.label_stage import label_stage, load_labels
from textenv.cli.task_stages import pretrain_tasks_stage, sft_tasks_stage
from textenv.datasets import smollm2_path
from textenv.envs.tokenizers import read_tokenizer
from textenv.report import summary_table, write_report
from textenv.runs import Run
from textenv.sampling.params import SamplingParams


def open_run(config: RunConfig, console: Console, *, resume: bool) -> Run:
    """A new run folder, or the newest of this name."""
    if config.threads:
        import torch

        torch.set_num_threads(config.threads)
    parent = Path(config.runs_dir)
    path = Run.newest(parent, config.name) if resume else Run.next_free(parent, config.name)
    # Where a run stands and how many threads it has decide no numbers, so they may change on the way.
    settings = {name: value for name, value in asdict(config).items() if name not in ("name", "runs_dir", "threads")}
    run = Run(path, config=settings, console=console)
    run.say(f"{'resuming' if resume else 'run'} {path}")
    return run


def pretrain(config: PretrainCommand, run: Run, data: RatedData) -> None:
    """``textenv pretrain``."""
    start = stages.check_folder("model", config.model) if config.model else None

    def work() -> dict[str, Any]:
        if data.tasks:
            return pretrain_tasks_stage(run, data.tasks, config.pretrain, config.seed, start)
        return stages.pretrain_stage(run, data, config.pretrain, config.seed)

    summary = stages.once(run, "pretrain", work)
    finish(run, config, data, {"pretrain": summary})


def sft(config: SFTCommand, run: Run, data: RatedData) -> None:
    """``textenv sft``."""
    model = stages.check_folder("model", config.model)

    def work() -> dict[str, Any]:
        if data.tasks or data.conversations:
            return sft_tasks_stage(
                run, data.tasks, config.sft, model, config.seed, conversations=data.conversations, chat=config.chat
            )
        return stages.sft_stage(run, data, config.sft, model, config.seed)

    summary = stages.once(run, "sft", work)
    finish(run, config, data, {"sft": summary})


def reward(config: RewardCommand, run: Run, data: RatedData) -> None:
    """``textenv reward``."""
    trunk = stages.check_folder("model", config.model) if config.model else None
    policy = stages.check_folder("policy", config.policy) if config.policy else None
    sampling = SamplingParams(config.temperature, max_new_tokens=config.max_new_tokens)

    def work() -> dict[str, Any]:
        if config.labels:
            return label_stage(
                run,
                load_labels(config.labels, config.validation_labels),
                config.reward,
                labels_file=config.labels,
                trunk_folder=trunk,
                policy_folder=policy,
                sampling=sampling,
                seed=config.seed,
            )
        return stages.reward_stage(
            run,
            data,
            config.reward,
            trunk_folder=trunk,
            policy_folder=policy,
            domain=config.reward.domains[0],
            sampling=sampling,
            seed=config.seed,
        )

    summary = stages.once(run, "reward", work)
    finish(run, config, data, {"reward": summary})


def ppo(config: PPOCommand, run: Run, data: RatedData) -> None:
    """``textenv ppo``."""
    start = stages.check_folder("policy", config.policy)
    if data.tasks:
        finish(run, config, data, ppo_on_tasks(config, run, data.tasks, start))
        return
    scorer = stages.load_reward(config.reward_model)
    finish(run, config, data, optimise(config, run, data, start, scorer))


def answering(config: AnsweringCommand, run: Run, data: RatedData) -> None:
    """``textenv answering``: pre-training, fine-tuning, PPO with verifiers, evaluation and report."""
    finish(run, config, data, answer_stages(config, run, data.tasks))


def rlhf(config: RLHFCommand, run: Run, data: RatedData) -> None:
    """``textenv rlhf``: reward model, PPO, evaluation and report for a language model that is there already."""
    start = smollm2_path() if config.model == "smollm2" else stages.check_folder("model", config.model)
    reward_summary = stages.once(
        run,
        "reward",
        lambda: stages.reward_stage(
            run,
            data,
            config.reward,
            trunk_folder=start,
            policy_folder=start,
            domain=config.ppo.domain,
            sampling=SamplingParams(config.ppo.training.temperature, max_new_tokens=config.ppo.max_new_tokens),
            seed=config.seed,
        ),
    )
    scorer = stages.load_reward(run.stage("reward"))
    finish(run, config, data, {"reward": reward_summary, **optimise(config, run, data, start, scorer)})


def optimise(
    config: PPOCommand | RLHFCommand, run: Run, data: RatedData, start: Path, scorer: Any
) -> dict[str, dict[str, Any]]:
    """PPO from a folder, then both policies on held-out prompts: the summaries of the two stages."""
    summary = stages.once(
        run,
        "ppo",
        lambda: stages.ppo_stage(run, data, config.ppo, policy_folder=start, reward=scorer, seed=config.seed),
    )
    evaluated = stages.once(
        run,
        "evaluate",
        lambda: stages.evaluate_stage(
            run,
            data,
            policies={"sft": start, "ppo": run.stage("ppo")},
            reference="sft",
            reward=scorer,
            domain=config.ppo.domain,
            count=config.evaluation_prompts,
            sampling=SamplingParams(config.ppo.training.temperature, max_new_tokens=config.ppo.max_new_tokens),
            seed=config.seed + 1,
        ),
    )
    return {"ppo": summary, "evaluate": evaluated}


def quickstart(config: QuickstartCommand, run: Run, data: RatedData) -> None:
    """``textenv quickstart``: the four stages, the evaluation and the report."""
    sampling = SamplingParams(config.ppo.training.temperature, max_new_tokens=config.ppo.max_new_tokens)
    base, tuned = run.stage("pretrain"), run.stage("sft")
    first = stages.once(run, "pretrain", lambda: stages.pretrain_stage(run, data, config.pretrain, config.seed))
    stages.check_prompt_lengths(
        data,
        config.ppo.domain,
        read_tokenizer(base),
        max_new_tokens=config.ppo.max_new_tokens,
        context=config.pretrain.model.context,
    )
    done = {
        "pretrain": first,
        "sft": stages.once(run, "sft", lambda: stages.sft_stage(run, data, config.sft, base, config.seed)),
        "reward": stages.once(
            run,
            "reward",
            lambda: stages.reward_stage(
                run,
                data,
                config.reward,
                trunk_folder=base,
                policy_folder=tuned,
                domain=config.ppo.domain,
                sampling=sampling,
                seed=config.seed,
            ),
        ),
    }
    scorer = stages.load_reward(run.stage("reward"))
    done["ppo"] = stages.once(
        run,
        "ppo",
        lambda: stages.ppo_stage(run, data, config.ppo, policy_folder=tuned, reward=scorer, seed=config.seed),
    )
    done["evaluate"] = stages.once(
        run,
        "evaluate",
        lambda: stages.evaluate_stage(
            run,
            data,
            policies={"base": base, "sft": tuned, "ppo": run.stage("ppo")},
            reference="sft",
            reward=scorer,
            domain=config.ppo.domain,
            count=config.evaluation_prompts,
            sampling=sampling,
            seed=config.seed + 1,
        ),
    )
    finish(run, config, data, done)


def finish(run: Run, config: RunConfig, data: RatedData, done: dict[str, dict[str, Any]]) -> None:
    """Write ``summary.json`` and ``report.html``, show the summary table."""
    seconds = {"data": round(data.seconds, 1)} | {name: stage["seconds"] for name, stage in done.items()}
    seconds["total"] = round(sum(seconds.values()), 1)
    labels = getattr(config, "labels", "")
    summary: dict[str, Any] = {
        "name": run.path.name,
        "seed": config.seed,
        "data": f"labels of {Path(labels).name}" if labels else data.name,
        "versions": stages.versions(),
    }
    for stage in ("pretrain", "sft"):
        if stage in done:
            summary[stage] = {name: value for name, value in done[stage].items() if name != "seconds"}
    if "reward" in done:
        reward = done["reward"]
        summary["reward_model"] = {"trunk": reward["trunk"], **reward["reward_model"]}
        summary |= {name: reward[name] for name in ("human_rater", "lexicon", "tfidf") if name in reward}
    if "evaluate" in done:
        figures = {name: value for name, value in done["evaluate"].items() if name != "seconds"}
        summary["evaluation" if data.tasks else "policy"] = figures
    if "ppo" in done:
        summary["ppo"] = {name: done["ppo"][name] for name in ("episodes", "tokens", "kl_coef")}
        summary["checks"] = done["ppo"]["checks"]
    summary["seconds"] = seconds
    run.write_json("summary.json", summary)
    run.close()
    report = write_report(run.path)
    if run.console is not None:
        run.console.print(summary_table(summary))
    run.say(f"report: {report}")
