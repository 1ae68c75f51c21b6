"""The four stages of a run, each a function: reads what stands before it, writes its folder, returns its summary.

A stage that is complete is not done again; one that was interrupted goes on from its newest checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from agents.algorithms.ppo import PPO
from agents.evaluation import Evaluation, evaluate_policy
from agents.finetuning import SFTConfig, sft
from agents.learning.held_out import HeldOut
from agents.lm.chat import default_chat_template, taught_format
from agents.lora import merged
from agents.policy import CausalLMPolicy
from agents.pretraining import PretrainConfig, pretrain
from reward_models import (
    Lexicon,
    SequenceRewardModel,
    TfidfRidge,
    degenerate_ratings,
    load_reward_model,
    ratings_from_texts,
    train,
)
from reward_models.card import write_card
from reward_models.lexicon import positive_share
from reward_models.metrics import human_rater_accuracy, pair_accuracy
from textenv.answers import Answers
from textenv.cli.configs import PPOStageConfig, RewardStageConfig
from textenv.cli.data import RatedData
from textenv.datasets import minilm_path, smollm2_path
from textenv.envs import TextGenerationVectorEnv
from textenv.errors import CheckpointError, ConfigError, DataError, MissingDependencyError
from textenv.mixed_precision import fast_bf16
from textenv.pretrained import find_folder, is_adapter
from textenv.runs import Run
from textenv.sampling.params import SamplingParams
from textenv.statistics import Interval
from textenv.trajectories import Trajectory


def once(run: Run, stage: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A stage's summary, from disk where the stage is complete; its wall-clock seconds are in ``seconds``."""
    done = run.finished(stage)
    if done is not None:
        run.tidy(stage)
        run.say(f"{stage:<12} done before ({done['seconds']:.0f} s)")
        return done
    latest = run.checkpoints(stage).latest()
    earlier = run.seconds(stage, int(latest.name.removeprefix("step-"))) if latest is not None else 0.0
    began = time.monotonic()
    summary = work()
    summary["seconds"] = round(time.monotonic() - began + earlier, 1)
    run.finish(stage, summary)
    return summary


def pretrain_stage(run: Run, data: RatedData, config: PretrainConfig, seed: int) -> dict[str, Any]:
    """Stage one: writes ``pretrain/``, a language model with its tokenizer."""
    config = replace(config, training=replace(config.training, seed=seed))
    model, tokenizer, summary = pretrain(data.by_domain("train"), data.by_domain("validation"), config, run=run)
    save_lm(model, tokenizer, run.stage("pretrain"))
    return summary


def sft_stage(run: Run, data: RatedData, config: SFTConfig, model_folder: Path, seed: int) -> dict[str, Any]:
    """Stage two: writes ``sft/``, the same model, taught to answer."""
    return fine_tune(
        run, data.demonstrations("train"), data.demonstrations("validation"), config, model_folder, seed, by_task=False
    )


def fine_tune(
    run: Run,
    demonstrations: Sequence[Any],
    validation: Sequence[Any],
    config: SFTConfig,
    model_folder: Path,
    seed: int,
    *,
    by_task: bool,
) -> dict[str, Any]:
    """Fine-tune a model on demonstrations or conversations; writes ``sft/``, an adapter being merged."""
    config = replace(config, training=replace(config.training, seed=seed))
    adapter = None
    if config.lora_rank:
        torch.manual_seed(seed)  # peft draws an adapter's first weights from the global generator
        adapter = lora_config(config.lora_rank)
    policy = CausalLMPolicy.from_pretrained(model_folder, lora=adapter)
    conversations = sum(hasattr(shown, "messages") for shown in demonstrations)
    if conversations and policy.tokenizer.chat_template is None:
        policy.tokenizer.chat_template = default_chat_template(policy.tokenizer)
    answer = taught_format(policy.tokenizer, policy.answer, conversations, len(demonstrations) - conversations)
    summary = sft(
        policy.causal_lm, policy.tokenizer, demonstrations, validation, config, by_task=by_task, run=run, answer=answer
    )
    policy.answer = answer
    policy.value_head = None  # nothing has trained it
    policy.save_pretrained(run.stage("sft"))
    return summary


def save_lm(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a language model that plain transformers loads."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def reward_stage(
    run: Run,
    data: RatedData,
    config: RewardStageConfig,
    *,
    trunk_folder: Path | None,
    policy_folder: Path | None,
    domain: str,
    sampling: SamplingParams,
    seed: int,
) -> dict[str, Any]:
    """Stage three: writes ``reward/``, normalised on the policy's answers, with accuracies beside baselines."""
    trunk, rm = start_reward_model(config, trunk_folder, auto="minilm" if data.kind == "human" else "policy", seed=seed)
    labels = ratings_from_texts(data.rated("train", config.domains))
    validation = ratings_from_texts(data.rated("validation", [domain]))
    labels += degenerate_ratings(labels, np.random.default_rng(seed))
    training = replace(config.training, seed=seed)
    trained = train(rm, labels, training, validation=validation, run=run, stage="reward")
    run.log("reward", int(trained["steps"]), {"eval/accuracy": trained["accuracy"]})
    if policy_folder is not None:
        policy = CausalLMPolicy.from_pretrained(policy_folder)
        prompts = [d.prompt for d in data.demonstrations("validation", domain)][: config.normalization_samples]
        repeats = -(-config.normalization_samples // len(prompts))
        samples = policy.generate(prompts, sampling, n=repeats, seed=seed)
        rm.normalize([t.prompt for t in samples], [t.response for t in samples], policy=str(policy_folder.name))
    rm.save_pretrained(run.stage("reward"))
    found = compare_with_baselines(rm, data, domain)
    write_card(
        run.stage("reward"),
        training_data=f"{len(labels)} ratings ({data.kind} data, {', '.join(config.domains)}), train split.",
        settings={"trunk": trunk, **asdict(training)},
        accuracies={f"{name}, gap > {gap:g}": x for name, by_gap in found.items() for gap, x in by_gap.items()},
        evaluation_data=f"the test split of {domain} ({data.kind} data)",
    )
    return {"trunk": trunk, "training": trained, **{name: _accuracy_figures(x) for name, x in found.items()}}


def start_reward_model(
    config: RewardStageConfig, trunk_folder: Path | None, *, auto: str, seed: int
) -> tuple[str, SequenceRewardModel]:
    """The trunk's name and an untrained reward model on it.

    Raises:
        ConfigError: If the policy's trunk is asked for and there is none.
    """
    trunk = auto if config.trunk == "auto" else config.trunk
    if trunk == "policy" and trunk_folder is None:
        raise ConfigError("`--reward.trunk policy` needs the language model's folder: give `--model`")
    source = {"minilm": minilm_path, "smollm2": smollm2_path}.get(trunk, lambda: trunk_folder)()
    assert source is not None
    limit = config.max_tokens or None
    tokenizer = None
    if is_adapter(source):
        policy = CausalLMPolicy.from_pretrained(source)
        source, tokenizer = merged(policy.model), policy.tokenizer
    return trunk, SequenceRewardModel.from_trunk(
        source, tokenizer, seed=seed, template=config.template, max_tokens=limit
    )


def compare_with_baselines(rm: SequenceRewardModel, data: RatedData, domain: str) -> dict[str, dict[float, Interval]]:
    """Accuracy on held-out pairs of the reward model, one human rater, the VADER lexicon, and TF-IDF with ridge."""
    test = data.rated("test", [domain])
    labels = ratings_from_texts(test)
    prompts, responses = [label.prompt for label in labels], [label.response for label in labels]
    means = [label.score for label in labels]
    texts, empty = [rated.text for rated in test], [""] * len(test)
    everything = [rated for rated in data.texts if rated.split == "train"]
    tfidf = TfidfRidge().fit([r.text for r in everything], [r.mean for r in everything])
    scored = {
        "reward_model": rm.score(prompts, responses),
        "lexicon": Lexicon().score(empty, texts),
        "tfidf": tfidf.score(empty, texts),
    }
    found = {name: pair_accuracy(scores, means, np.random.default_rng(0)) for name, scores in scored.items()}
    found["human_rater"] = human_rater_accuracy([rated.ratings for rated in test], np.random.default_rng(0))
    return found


def _accuracy_figures(accuracies: dict[float, Interval]) -> dict[str, Any]:
    names = {gap: "accuracy" if gap == 0 else "accuracy_gap_" + f"{gap:g}".replace(".", "_") for gap in accuracies}
    return {
        **{names[gap]: found.value for gap, found in accuracies.items()},
        "intervals": {names[gap]: [found.low, found.high] for gap, found in accuracies.items()},
        "pairs": {names[gap]: found.n for gap, found in accuracies.items()},
    }


def load_reward(name: str | Path) -> Any:
    """The reward model that a name stands for, see `reward_models.load_reward_model`: a folder, ``lexicon``, ….

    Raises:
        ConfigError: If no name is given, or it stands for nothing.
        CheckpointError: If a folder holds no reward model.
    """
    if not str(name):
        raise ConfigError("no reward: give `--reward_model DIR`, or `--reward_model lexicon`")
    return load_reward_model(name)


def lora_config(rank: int) -> Any:
    """An adapter on every linear layer, scaled by 2 as is usual.

    Raises:
        MissingDependencyError: If peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingDependencyError('LoRA needs peft: pip install "textenv[lora]"') from error
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")


def ppo_stage(
    run: Run, data: RatedData, config: PPOStageConfig, *, policy_folder: Path, reward: Any, seed: int
) -> dict[str, Any]:
    """Stage four on demonstrations' prompts: writes ``ppo/``, the optimised policy with its value head."""
    return ppo_on_prompts(
        run,
        [d.prompt for d in data.demonstrations("train", config.domain)],
        [d.prompt for d in data.demonstrations("validation", config.domain)],
        config,
        policy_folder=policy_folder,
        reward=reward,
        seed=seed,
    )


def ppo_on_prompts(
    run: Run,
    prompts: Any,
    held_out: Sequence[Any],
    config: PPOStageConfig,
    *,
    policy_folder: Path,
    reward: Any,
    seed: int,
) -> dict[str, Any]:
    """Stage four on any prompts: writes ``ppo/``, the optimised policy with its value head.

    Args:
        run: Gets the stage.
        prompts: Prompts, or a source of prompts.
        held_out: Prompts that the policy is measured on while it trains; the first ``eval_prompts`` are taken.
        config: The stage.
        policy_folder: Where the policy starts; also the reference.
        reward: Reward function or model.
        seed: Of everything random.
    """
    torch.manual_seed(seed)  # peft draws an adapter's first weights from the global generator
    adapter = lora_config(config.lora_rank) if config.lora_rank else None
    policy = CausalLMPolicy.from_pretrained(policy_folder, dtype=config.dtype, lora=adapter)
    envs = TextGenerationVectorEnv(
        config.num_envs,
        policy,
        prompts,
        reward,
        max_new_tokens=config.max_new_tokens,
        autoreset_mode=AutoresetMode.DISABLED,
        prompt_dealing="shared",
    )
    if isinstance(reward, SequenceRewardModel):
        reward.autocast = fast_bf16(reward.device)  # off by 0.02 at most, in a third of the time
    training = replace(config.training, seed=seed, eval_every=config.eval_every)
    measured = HeldOut(list(held_out)[: config.eval_prompts], reward, seed=seed)
    agent = PPO(policy, envs, config=training, run=run, held_out=measured)
    agent.learn(config.total_episodes)
    policy.save_pretrained(run.stage("ppo"))
    if isinstance(reward, SequenceRewardModel):
        reward.autocast = False
    return {"episodes": agent.episodes, "tokens": agent.tokens, "checks": agent.checks, "kl_coef": agent.kl.coef}


def vader_positive(prompts: list[str], responses: list[str]) -> float:
    """Share of answers that the VADER lexicon calls positive (compound > 0.05): a judge no policy is trained on."""
    return positive_share(Lexicon(include_prompt=False).score(prompts, responses))


def evaluate_stage(
    run: Run,
    data: RatedData,
    *,
    policies: dict[str, Path],
    reference: str,
    reward: Any,
    domain: str,
    count: int,
    sampling: SamplingParams,
    seed: int,
) -> dict[str, Any]:
    """All policies on the same held-out test prompts with the same settings; writes ``samples.jsonl``."""
    held_out = data.demonstrations("test", domain)[:count]
    prompts = [d.prompt for d in held_out]
    anchor = CausalLMPolicy.from_pretrained(policies[reference])
    found: dict[str, Evaluation] = {}
    for name, folder in policies.items():
        run.say(f"{'evaluate':<12} {name}: {len(prompts)} held-out prompts")
        found[name] = evaluate_policy(
            CausalLMPolicy.from_pretrained(folder),
            prompts,
            reward,
            reference=anchor if name != "base" else None,
            sampling=sampling,
            judges={"vader_positive": vader_positive},
            seed=seed,
        )
    lines = []
    for i, shown in enumerate(held_out):
        record: dict[str, Any] = {"prompt": shown.prompt, "human": shown.response}
        for name, evaluation in found.items():
            record[name] = sample_record(evaluation.trajectories[i])
            if name not in ("base", reference):
                record[name]["kl"] = round(float(evaluation.kl[i]), 4)
        lines.append(json.dumps(record, ensure_ascii=False))
    (run.path / "samples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    summary = {name: evaluation.summary for name, evaluation in found.items()}
    summary[reference]["kl"] = float(found[reference].kl.mean())
    return summary


def sample_record(trajectory: Trajectory) -> dict[str, Any]:
    """An answer as ``samples.jsonl`` holds it."""
    return {
        "response": trajectory.response,
        "reward": round(trajectory.score or 0.0, 4),
        "finish": trajectory.finish_reason,
        "tokens": len(trajectory),
    }


def check_prompt_lengths(data: RatedData, domain: str, tokenizer: Any, *, max_new_tokens: int, context: int) -> None:
    """Make sure that every prompt leaves room for an answer, before hours are spent.

    Raises:
        DataError: Naming the first prompt that does not.
    """
    answers = Answers(tokenizer)
    for split in ("train", "validation", "test"):
        for shown in data.demonstrations(split, domain):
            length = len(answers.encode_prompt(shown.prompt).ids)
            if length + max_new_tokens > context:
                raise DataError(
                    f"the {split} prompt {shown.prompt[:60]!r} has {length} tokens; with `--ppo.max_new_tokens` "
                    f"{max_new_tokens} it exceeds the model's context of {context}; lower one or raise "
                    "`--pretrain.model.context`"
                )


def check_folder(argument: str, folder: str) -> Path:
    """The folder of a model that a command was given: itself, the stage of a run's folder, or a hub name's snapshot.

    Raises:
        ConfigError: If it was left out or does not exist.
    """
    if not folder:
        raise ConfigError(f"`--{argument}` is needed: the folder of a model, such as runs/quickstart/sft")
    try:
        return find_folder(folder)
    except CheckpointError as error:
        raise ConfigError(f"`--{argument} {folder}`: {str(error).removeprefix(f'`{folder}`: ')}") from error


def versions(names: Sequence[str] = ("textenv", "torch", "transformers", "gymnasium", "numpy")) -> dict[str, str]:
    """Installed versions of the packages that decide the numbers."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
