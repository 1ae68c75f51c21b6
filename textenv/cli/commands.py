"""What each command that trains in stages does with its configuration."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from rich.console import Console

from textenv.cli import stages
from textenv.cli.answering import answer_stages, ppo_on_tasks
from textenv.cli.base import RunCommand
from textenv.cli.configs import (
    AnsweringCommand,
    PPOCommand,
    PretrainCommand,
    QuickstartCommand,
    RewardCommand,
    RLHFCommand,
    SFTCommand,
)
from textenv.cli.data import RatedData, data_of
from textenv.cli.stages import check_folder, once
from textenv.datasets import smollm2_path
from textenv.pretrained import load_tokenizer
from textenv.report import summary_table, write_report
from textenv.runs import Run
from textenv.sampling.params import SamplingParams

Summaries = dict[str, dict[str, Any]]
"""What each stage returned."""


def _staged(work: Callable[[Any, Run, RatedData], Summaries]) -> Callable[..., None]:
    """A command out of its stages: data, a run's folder, the stages, summary and report."""

    @wraps(work)
    def command(config: RunCommand, console: Console, *, resume: bool = False) -> None:
        data = data_of(config)  # before the run's folder exists: without data there is no run
        run = config.open(console, resume=resume)
        try:
            finish(run, config, data, work(config, run, data))
        except Exception:
            run.discard()  # a start that fails leaves nothing behind
            raise
        finally:
            run.close()

    return command


@_staged
def pretrain(config: PretrainCommand, run: Run, data: RatedData) -> Summaries:
    """``textenv pretrain``."""
    start = check_folder("model", config.model) if config.model else None
    return {"pretrain": once(run, "pretrain", stages.pretrain_stage, data, config.pretrain, config.seed, start=start)}


@_staged
def sft(config: SFTCommand, run: Run, data: RatedData) -> Summaries:
    """``textenv sft``."""
    model = check_folder("model", config.model)
    return {"sft": once(run, "sft", stages.sft_stage, data, config.sft, model, config.seed, chat=config.chat)}


@_staged
def reward(config: RewardCommand, run: Run, data: RatedData) -> Summaries:
    """``textenv reward``."""
    trunk = check_folder("model", config.model) if config.model else None
    policy = check_folder("policy", config.policy) if config.policy else None
    sampling = SamplingParams(config.temperature, max_new_tokens=config.max_new_tokens)
    domain = config.reward.domains[0]
    return {"reward": _learn_reward(config, run, data, domain, sampling, trunk=trunk, policy=policy)}


@_staged
def ppo(config: PPOCommand, run: Run, data: RatedData) -> Summaries:
    """``textenv ppo``."""
    start = check_folder("policy", config.policy)
    if data.tasks:
        return ppo_on_tasks(config, run, data.tasks, start)
    return _optimise(config, run, data, {"sft": start}, stages.load_reward(config.reward_model))


@_staged
def answering(config: AnsweringCommand, run: Run, data: RatedData) -> Summaries:
    """``textenv answering``: pre-training, fine-tuning, PPO with verifiers, evaluation and report."""
    return answer_stages(config, run, data)


@_staged
def rlhf(config: RLHFCommand, run: Run, data: RatedData) -> Summaries:
    """``textenv rlhf``: reward model, PPO, evaluation and report for a language model that is there already."""
    start = smollm2_path() if config.model == "smollm2" else check_folder("model", config.model)
    learned = _learn_reward(config, run, data, config.ppo.domain, _sampling(config), trunk=start, policy=start)
    scorer = stages.load_reward(run.stage("reward"))
    return {"reward": learned, **_optimise(config, run, data, {"sft": start}, scorer)}


@_staged
def quickstart(config: QuickstartCommand, run: Run, data: RatedData) -> Summaries:
    """``textenv quickstart``: the four stages, the evaluation and the report."""
    base, tuned, domain = run.stage("pretrain"), run.stage("sft"), config.ppo.domain
    done = {"pretrain": once(run, "pretrain", stages.pretrain_stage, data, config.pretrain, config.seed)}
    limits = {"max_new_tokens": config.ppo.max_new_tokens, "context": config.pretrain.model.context}
    stages.check_prompt_lengths(data, domain, load_tokenizer(base), **limits)
    done["sft"] = once(run, "sft", stages.sft_stage, data, config.sft, base, config.seed)
    done["reward"] = _learn_reward(config, run, data, domain, _sampling(config), trunk=base, policy=tuned)
    scorer = stages.load_reward(run.stage("reward"))
    return done | _optimise(config, run, data, {"base": base, "sft": tuned}, scorer)


def _sampling(config: PPOCommand | RLHFCommand | QuickstartCommand) -> SamplingParams:
    return SamplingParams(config.ppo.training.temperature, max_new_tokens=config.ppo.max_new_tokens)


def _learn_reward(
    config: RewardCommand | RLHFCommand | QuickstartCommand,
    run: Run,
    data: RatedData,
    domain: str,
    sampling: SamplingParams,
    *,
    trunk: Path | None,
    policy: Path | None,
) -> dict[str, Any]:
    """The reward model's stage."""
    settings = {"trunk_folder": trunk, "policy_folder": policy, "domain": domain, "sampling": sampling}
    return once(run, "reward", stages.reward_stage, data, config.reward, **settings, seed=config.seed)


def _optimise(
    config: PPOCommand | RLHFCommand | QuickstartCommand,
    run: Run,
    data: RatedData,
    policies: dict[str, Path],
    scorer: Any,
) -> Summaries:
    """PPO from the policy ``sft``, then all policies on held-out prompts: the summaries of the two stages."""
    start = {"policy_folder": policies["sft"], "reward": scorer, "seed": config.seed}
    summary = once(run, "ppo", stages.ppo_stage, data, config.ppo, **start)
    evaluated = once(
        run,
        "evaluate",
        stages.evaluate_stage,
        data,
        policies=policies | {"ppo": run.stage("ppo")},
        reward=scorer,
        domain=config.ppo.domain,
        count=config.evaluation_prompts,
        sampling=_sampling(config),
        seed=config.seed + 1,
    )
    return {"ppo": summary, "evaluate": evaluated}


def finish(run: Run, config: RunCommand, data: RatedData, done: Summaries) -> None:
    """Write ``summary.json`` and ``report.html``, show the summary table."""
    seconds = {"data": round(data.seconds, 1)} | {name: stage["seconds"] for name, stage in done.items()}
    seconds["total"] = round(sum(seconds.values()), 1)
    summary: dict[str, Any] = {
        "name": run.path.name,
        "seed": config.seed,
        "data": data.name,
        "versions": stages.versions(),
    }
    for stage in ("pretrain", "sft"):
        if stage in done:
            summary[stage] = {name: value for name, value in done[stage].items() if name != "seconds"}
    if "reward" in done:
        learned = done["reward"]
        summary["reward_model"] = {"trunk": learned["trunk"], **learned["reward_model"]}
        summary |= {name: learned[name] for name in ("human_rater", "lexicon", "tfidf") if name in learned}
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
