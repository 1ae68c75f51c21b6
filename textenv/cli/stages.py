"""The stages of a run, each a function: reads what stands before it, writes its folder, returns its summary.

A stage that is complete is not done again; one that was interrupted goes on from its newest checkpoint.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from agents.algorithms.ppo import PPO
from agents.evaluation import Evaluation, evaluate_policy
from agents.learning.held_out import HeldOut
from agents.lm.chat import default_chat_template, taught_format
from agents.lm.finetuning import SFTConfig, sft
from agents.lm.pretraining import PretrainConfig, pretrain, pretrain_on_tasks
from agents.policy import CausalLMPolicy
from agents.policy import files as policy_files
from agents.policy.lora import merged
from reward_models import (
    Lexicon,
    SequenceRewardModel,
    TfidfRidge,
    degenerate_ratings,
    load_reward_model,
    ratings_from_texts,
    train,
)
from reward_models.base import CHAT
from reward_models.card import write_card
from reward_models.labels import Label, LabelSplits
from reward_models.lexicon import positive_share
from reward_models.metrics import human_rater_accuracy, pair_accuracy
from reward_models.training import RewardModelConfig, measure
from textenv.answers import Answers, Chat, message_text
from textenv.cli.configs import PPOStageConfig, RewardStageConfig
from textenv.cli.data import RatedData
from textenv.datasets import minilm_path, smollm2_path
from textenv.datasets.rated_texts import Split, split_of
from textenv.envs import TextGenerationVectorEnv
from textenv.errors import CheckpointError, ConfigError, DataError, MissingDependencyError
from textenv.mixed_precision import fast_bf16
from textenv.pretrained import find_folder, is_adapter, load_tokenizer
from textenv.runs import Run
from textenv.sampling.params import SamplingParams
from textenv.statistics import Interval
from textenv.tasks import Conversation, Demonstrated, Task
from textenv.trajectories import Trajectory

_EVALUATIONS = 10  # of the held-out loss in training on labels that does not say how many


def once(run: Run, stage: str, work: Callable[..., dict[str, Any]], *arguments: Any, **named: Any) -> dict[str, Any]:
    """A stage's summary, from disk where the stage is complete; its wall-clock seconds are in ``seconds``.

    Args:
        run: Holds the stage.
        stage: Its name.
        work: The stage; called with the run and the other arguments.
        arguments: What it takes.
        named: What it takes by name.
    """
    done = run.finished(stage)
    if done is not None:
        run.tidy(stage)
        run.say(f"{stage:<12} done before ({done['seconds']:.0f} s)")
        return done
    latest = run.checkpoints(stage).latest()
    earlier = run.seconds(stage, int(latest.name.removeprefix("step-"))) if latest is not None else 0.0
    began = time.monotonic()
    summary = work(run, *arguments, **named)
    summary["seconds"] = round(time.monotonic() - began + earlier, 1)
    run.finish(stage, summary)
    return summary


def pretrain_stage(
    run: Run, data: RatedData, config: PretrainConfig, seed: int, *, start: Path | None = None
) -> dict[str, Any]:
    """Stage one: writes ``pretrain/``, a language model with its tokenizer; of tasks also ``corpus/``, token files.

    Args:
        run: The run.
        data: Tasks to read, or else rated texts.
        config: Settings.
        seed: Of everything random; overrides the configuration's.
        start: Folder of a model and its tokenizer to go on with on tasks; None makes new ones.
    """
    config = replace(config, training=replace(config.training, seed=seed))
    if data.tasks:
        model, tokenizer, summary = pretrain_on_tasks(
            data.tasks, config, run.path / "corpus", start=_loaded(start) if start else None, run=run
        )
    else:
        model, tokenizer, summary = pretrain(data.by_domain("train"), data.by_domain("validation"), config, run=run)
    save_lm(model, tokenizer, run.stage("pretrain"))
    return summary


def _loaded(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a folder, an adapter being merged."""
    parts = policy_files.load(folder, dtype="float32", lora=None, critic="shared", device="cpu")
    model = merged(parts.model) if parts.has_adapter else parts.model
    return model.requires_grad_(True), parts.tokenizer


def sft_stage(
    run: Run, data: RatedData, config: SFTConfig, model_folder: Path, seed: int, *, chat: bool = False
) -> dict[str, Any]:
    """Stage two: writes ``sft/``, the same model, taught to answer.

    Args:
        run: The run.
        data: Tasks and conversations, or else rated texts.
        config: Settings.
        model_folder: The model and its tokenizer.
        seed: Of everything random; overrides the configuration's.
        chat: Ask the tasks' questions as chat messages.

    Raises:
        DataError: If there is nothing to learn from or to validate on.
    """
    grouped = bool(data.tasks or data.conversations)
    splits: tuple[Split, ...] = ("train", "validation")
    shown = {
        split: task_demonstrations(data.tasks, data.conversations, split, chat=chat)
        if grouped
        else data.demonstrations(split)
        for split in splits
    }
    empty = [split for split in splits if not shown[split]]
    if empty:
        raise DataError(f"no demonstrations in the {empty[0]} split; give more tasks or conversations")
    return fine_tune(run, shown["train"], shown["validation"], config, model_folder, seed, by_task=grouped)


def task_demonstrations(
    tasks: Sequence[Task], conversations: Sequence[Conversation], split: Split, *, chat: bool = False
) -> list[Demonstrated | Conversation]:
    """What there is to imitate in a split; what the first message of the user says decides a conversation's.

    Args:
        tasks: Questions with answers.
        conversations: Conversations.
        split: Which.
        chat: Ask the tasks' questions as chat messages.

    Raises:
        ConfigError: If a conversation file has the name of a task.
    """
    both = {task.name for task in tasks} & {conversation.task for conversation in conversations}
    if both:
        raise ConfigError(f"a task and a file of conversations are both called {sorted(both)[0]!r}; rename one")
    shown: list[Demonstrated | Conversation] = []
    for task in tasks:
        shown += task.conversations(split) if chat else task.demonstrations(split)
    return shown + [each for each in conversations if split_of(_first_of_user(each)) == split]


def _first_of_user(conversation: Conversation) -> str:
    """What tells conversations apart: a system prompt may stand before all of them."""
    first = next((each for each in conversation.messages if each["role"] == "user"), conversation.messages[0])
    return message_text(first.get("content"))


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
    """Stage three: writes ``reward/``, normalised on the policy's answers, with its card and its accuracies.

    Args:
        run: The run.
        data: Labels, or else rated texts; these are also compared with baselines.
        config: Settings.
        trunk_folder: The language model whose trunk is asked for, if it is.
        policy_folder: The policy whose answers fix mean 0 and standard deviation 1; None leaves scores raw.
        domain: Whose rated texts are held out.
        sampling: How the policy answers.
        seed: Of everything random; overrides the configuration's.
    """
    auto = "policy" if data.labels is None and data.kind == "builtin" else "minilm"
    chats = data.labels is not None and any(isinstance(label.prompt, Chat) for label in data.labels.train)
    trunk, rm = start_reward_model(config, trunk_folder, auto=auto, seed=seed, chats=chats)
    training = replace(config.training, seed=seed)
    if data.labels is None:
        ratings = ratings_from_texts(data.rated("train", config.domains))
        labels: list[Label] = [*ratings, *degenerate_ratings(ratings, np.random.default_rng(seed))]
        validation: Sequence[Label] = ratings_from_texts(data.rated("validation", [domain]))
        prompts = [d.prompt for d in data.demonstrations("validation", domain)] if policy_folder else []
    else:
        labels, validation = list(data.labels.train), data.labels.validation
        training = _with_evaluations(training, len(labels))
        prompts = list(dict.fromkeys(label.prompt for label in validation))
        for note in data.notes:
            run.say(f"{'labels':<12} {note}")
        run.say(f"{'reward':<12} {_described(labels)} from {data.file}; held out: {len(validation)}")
    trained = train(rm, labels, training, validation=validation, run=run, stage="reward")
    if data.labels is None:
        run.log("reward", int(trained["steps"]), {"eval/accuracy": trained["accuracy"]})
    if policy_folder is not None:
        _normalize(rm, policy_folder, prompts, config.normalization_samples, sampling, seed)
    rm.save_pretrained(run.stage("reward"))
    card: dict[str, Any]
    if data.labels is None:
        by_model = compare_with_baselines(rm, data, domain)
        figures = {name: _accuracy_figures(by_gap) for name, by_gap in by_model.items()}
        card = {
            "training_data": f"{len(labels)} ratings ({data.kind} data, {', '.join(config.domains)}), train split.",
            "accuracies": {
                f"{name}, gap > {gap:g}": x for name, by_gap in by_model.items() for gap, x in by_gap.items()
            },
            "evaluation_data": f"the test split of {domain} ({data.kind} data)",
        }
    else:
        accuracies = measure(rm, data.labels.test, np.random.default_rng(seed))
        figures = {"reward_model": _figures(accuracies)}
        card = {
            "training_data": {"labels": _described(labels), "file": data.file},
            "accuracies": accuracies,
            "evaluation_data": f"{_described(data.labels.test)}, held out",
        }
    write_card(run.stage("reward"), settings={"trunk": trunk, **asdict(training)}, **card)
    return {"trunk": trunk, "training": trained, **figures}


def member_stage(
    run: Run, splits: LabelSplits, config: RewardStageConfig, *, count: int, trunk_folder: Path | None, seed: int
) -> dict[str, Any]:
    """Writes ``members/1``, ``members/2``, …: further reward models, each on resampled labels and from its own start.

    With the one in ``reward/`` they are an ensemble whose disagreement says what to ask people next.
    """
    folders = []
    for number in range(1, count + 1):
        own_seed = seed + 1000 * number
        drawn = np.random.default_rng(own_seed).integers(len(splits.train), size=len(splits.train))
        chats = any(isinstance(label.prompt, Chat) for label in splits.train)
        _, rm = start_reward_model(config, trunk_folder, auto="minilm", seed=own_seed, chats=chats)
        run.say(f"{'members':<12} {number} of {count}")
        training = _with_evaluations(replace(config.training, seed=own_seed), len(splits.train))
        train(rm, [splits.train[place] for place in drawn], training, validation=splits.validation)
        folder = run.stage("members") / str(number)
        rm.save_pretrained(folder)
        folders.append(str(folder.resolve()))
    return {"folders": folders}


def _with_evaluations(training: RewardModelConfig, labels: int) -> RewardModelConfig:
    """The training's settings, with measurements of the held-out loss where it says nothing of them."""
    steps = labels * training.epochs / training.batch_size
    return training if training.eval_every else replace(training, eval_every=max(1, int(steps / _EVALUATIONS)))


def _normalize(
    rm: SequenceRewardModel, policy_folder: Path, prompts: list[str], count: int, sampling: SamplingParams, seed: int
) -> None:
    """Mean 0 and standard deviation 1 on so many answers of a policy."""
    policy = CausalLMPolicy.from_pretrained(policy_folder)
    shown = prompts[:count]
    samples = policy.generate(shown, sampling, n=-(-count // len(shown)), seed=seed)
    rm.normalize([t.prompt for t in samples], [t.response for t in samples], policy=policy_folder.name)


def _described(labels: Sequence[Label]) -> str:
    """How many labels of which kind."""
    counts = Counter(type(label).__name__ for label in labels)
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _figures(accuracies: Mapping[str, Interval]) -> dict[str, Any]:
    """As the summary holds them; NaN has no place in JSON."""
    return {
        **{name: x.value for name, x in accuracies.items()},
        "intervals": {name: [x.low, x.high] for name, x in accuracies.items() if np.isfinite(x.low)},
        "pairs": {name: x.n for name, x in accuracies.items()},
    }


def start_reward_model(
    config: RewardStageConfig, trunk_folder: Path | None, *, auto: str, seed: int, chats: bool = False
) -> tuple[str, SequenceRewardModel]:
    """The trunk's name and an untrained reward model on it; of conversations in its chat template, if it has one.

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
    template = config.template
    if template is None and chats and getattr(tokenizer or load_tokenizer(source), "chat_template", None):
        template = CHAT
    return trunk, SequenceRewardModel.from_trunk(source, tokenizer, seed=seed, template=template, max_tokens=limit)


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
    together = np.array(prompts, object)

    def rng() -> np.random.Generator:
        return np.random.default_rng(0)

    accuracies = {name: pair_accuracy(scores, means, rng(), groups=together) for name, scores in scored.items()}
    ratings = [rated.ratings for rated in test]
    return accuracies | {"human_rater": human_rater_accuracy(ratings, rng(), groups=together)}


def _accuracy_figures(accuracies: dict[float, Interval]) -> dict[str, Any]:
    names = {gap: "accuracy" if gap == 0 else "accuracy_gap_" + f"{gap:g}".replace(".", "_") for gap in accuracies}
    return _figures({names[gap]: accuracy for gap, accuracy in accuracies.items()})


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
    train, held_out = ([d.prompt for d in data.demonstrations(x, config.domain)] for x in ("train", "validation"))
    return ppo_on_prompts(run, train, held_out, config, policy_folder=policy_folder, reward=reward, seed=seed)


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
    policies: Mapping[str, Path],
    reward: Any,
    domain: str,
    count: int,
    sampling: SamplingParams,
    seed: int,
) -> dict[str, Any]:
    """All policies on the same held-out test prompts with the same settings; writes ``samples.jsonl``."""
    held_out = data.demonstrations("test", domain)[:count]
    evaluations = evaluate_policies(
        run,
        policies,
        [d.prompt for d in held_out],
        reward,
        sampling=sampling,
        seed=seed,
        judges={"vader_positive": vader_positive},
        human=[d.response for d in held_out],
    )
    return {name: evaluation.summary for name, evaluation in evaluations.items()}


def evaluate_policies(
    run: Run,
    policies: Mapping[str, Path],
    prompts: Sequence[str],
    reward: Any,
    *,
    sampling: SamplingParams,
    seed: int,
    judges: Mapping[str, Any] | None = None,
    human: Sequence[str] = (),
) -> dict[str, Evaluation]:
    """Policies on the same prompts; writes ``samples.jsonl``, their answers side by side.

    Args:
        run: Gets the file.
        policies: Folders; the KL of all but ``base`` is measured against ``sft``.
        prompts: What is asked.
        reward: Scores the answers.
        sampling: How they are drawn.
        seed: Of the draws.
        judges: Other measures of the answers, by name.
        human: What a person answered to each prompt, for the file.
    """
    anchor = CausalLMPolicy.from_pretrained(policies["sft"])
    evaluations: dict[str, Evaluation] = {}
    for name, folder in policies.items():
        run.say(f"{'evaluate':<12} {name}: {len(prompts)} held-out prompts")
        evaluations[name] = evaluate_policy(
            CausalLMPolicy.from_pretrained(folder),
            prompts,
            reward,
            reference=anchor if name != "base" else None,
            sampling=sampling,
            judges=dict(judges or {}),
            seed=seed,
        )
    lines = []
    for i, prompt in enumerate(prompts):
        record: dict[str, Any] = {"prompt": prompt} | ({"human": human[i]} if human else {})
        for name, evaluation in evaluations.items():
            record[name] = sample_record(evaluation.trajectories[i])
            if name not in ("base", "sft"):
                record[name]["kl"] = round(float(evaluation.kl[i]), 4)
        lines.append(json.dumps(record, ensure_ascii=False))
    (run.path / "samples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    evaluations["sft"].summary["kl"] = float(evaluations["sft"].kl.mean())
    return evaluations


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

    installed = {}
    for name in names:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = "not installed"
    return installed
