"""The configuration of each command: what a YAML recipe may hold and what flags override."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from agents.algorithms.ppo import PPOConfig
from agents.finetuning import SFTConfig
from agents.language_modeling import LMConfig
from agents.pretraining import PretrainConfig
from reward_models.training import RewardModelConfig
from textenv.datasets.records import check_domains
from textenv.errors import ConfigError
from textenv.tasks import TaskSource


@dataclass(frozen=True)
class RewardStageConfig:
    """The reward-model stage.

    Attributes:
        trunk: ``minilm`` (22 M parameters, fetched), ``smollm2`` (135 M, fetched), ``policy`` (the pre-trained language
            model, as in InstructGPT), or ``auto``: MiniLM for human labels, the policy's trunk for built-in data.
        template: How prompt and response become one text, with ``{prompt}`` and ``{response}``; ``chat`` for the
            tokenizer's chat template; nothing: as the trunk's own answers are.
        max_tokens: Longest text; the end is kept. 0 means 128, or what the trunk allows if that is less.
        domains: Domains whose ratings are trained on.
        normalization_samples: Answers of the SFT policy that fix mean 0 and standard deviation 1.
        training: Epochs, rates, batch size.
    """

    trunk: Literal["auto", "minilm", "smollm2", "policy"] = "auto"
    template: str | None = None
    max_tokens: int = 0
    domains: list[str] = field(default_factory=lambda: ["movies"])
    normalization_samples: int = 512
    training: RewardModelConfig = field(default_factory=RewardModelConfig)

    def __post_init__(self) -> None:
        check_domains(self.domains)
        if self.normalization_samples < 2:
            raise ConfigError(f"`normalization_samples` must be ≥ 2, got {self.normalization_samples}")


@dataclass(frozen=True)
class PPOStageConfig:
    """The PPO stage.

    Attributes:
        domain: Whose prompts the policy is trained and tested on.
        total_episodes: Answers to train on, in all.
        num_envs: Answers per iteration, side by side.
        max_new_tokens: Length limit of an answer, here and in all evaluations.
        eval_every: Iterations between evaluations on validation prompts.
        eval_prompts: How many validation prompts.
        dtype: ``bfloat16`` computes with a bfloat16 copy of the weights; ``auto`` does so where that is fast.
        lora_rank: Rank of an adapter on every linear layer, which alone is trained; 0 trains all weights.
        training: Settings of the algorithm.
    """

    domain: str = "movies"
    total_episodes: int = 12_800
    num_envs: int = 128
    max_new_tokens: int = 32
    eval_every: int = 20
    eval_prompts: int = 128
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    lora_rank: int = 0
    training: PPOConfig = field(default_factory=PPOConfig)

    def __post_init__(self) -> None:
        if self.lora_rank < 0:
            raise ConfigError(f"`lora_rank` must be ≥ 0, got {self.lora_rank}; 0 trains all weights")
        for name in ("total_episodes", "num_envs", "max_new_tokens", "eval_every", "eval_prompts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be ≥ 1, got {getattr(self, name)}")
        check_domains([self.domain])
        if self.num_envs < self.training.num_minibatches:
            raise ConfigError(f"`num_envs` ({self.num_envs}) must be at least `num_minibatches`")


@dataclass(frozen=True)
class RunConfig:
    """What every command has.

    Attributes:
        name: Folder of the run inside ``runs_dir``; a number is appended where it exists already.
        runs_dir: Where runs stand.
        data: ``human`` (ratings by people, fetched once) or ``builtin`` (generated, no network).
        builtin_texts: How many texts the generator makes.
        seed: Of everything random; overrides the seeds of the stages.
        threads: CPU threads for torch; 0 leaves them as they are.
    """

    name: str = "run"
    runs_dir: str = "runs"
    data: Literal["human", "builtin"] = "human"
    builtin_texts: int = 12_000
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise ConfigError(
                f"`name` must be the name of a folder, got {self.name!r}; `runs_dir` says where it stands"
            )
        if self.builtin_texts < 400 or self.seed < 0 or self.threads < 0:
            raise ConfigError(
                f"need `builtin_texts` ≥ 400, `seed` ≥ 0 and `threads` ≥ 0, got {self.builtin_texts}, {self.seed} and "
                f"{self.threads}"
            )


@dataclass(frozen=True)
class PretrainCommand(RunConfig):
    """``textenv pretrain``: a tokenizer and a language model from scratch, or on from one, on a mixture of tasks.

    Attributes:
        tasks: What to read, packed and mixed as ``pretrain.mixture`` says; empty takes the four domains of `data`.
        model: Folder of a language model to go on from, with its tokenizer; empty makes new ones.
        pretrain: The stage.
    """

    name: str = "pretrain"
    tasks: list[TaskSource] = field(default_factory=list)
    model: str = ""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)


@dataclass(frozen=True)
class SFTCommand(RunConfig):
    """``textenv sft``: fine-tune a language model on demonstrations, cross-entropy on the answer.

    Attributes:
        model: Folder of the language model.
        tasks: Questions with answers to learn from; with `conversations` empty too, the demonstrations of `data`.
        conversations: Files of conversations (``messages``, or ``prompt`` and ``response``; JSONL, CSV, Parquet).
        chat: Ask the questions of `tasks` as chat messages, by the tokenizer's template, instead of as the tasks'
            prompts; conversations always are.
        sft: The stage.
    """

    name: str = "sft"
    model: str = ""
    tasks: list[TaskSource] = field(default_factory=list)
    conversations: list[str] = field(default_factory=list)
    chat: bool = False
    sft: SFTConfig = field(default_factory=lambda: SFTConfig(samples=4))


@dataclass(frozen=True)
class RewardCommand(RunConfig):
    """``textenv reward``: train a reward model on what people rated, or on a file of labels.

    Attributes:
        labels: A ``.jsonl`` or ``.parquet`` file of labels (comparisons, rankings, best of K, ratings, steps, mixed as
            they come); empty: the rated texts of `data`.
        validation_labels: Held-out labels for early stopping and the card's figures; empty cuts `labels` 80 : 10 : 10.
        model: Folder of the language model whose trunk is used with ``--reward.trunk policy``.
        policy: Folder of the policy whose answers fix the normalisation; empty leaves the scores raw.
        temperature: Of those answers.
        max_new_tokens: Length limit of those answers.
        reward: The stage.
    """

    name: str = "reward"
    labels: str = ""
    validation_labels: str = ""
    model: str = ""
    policy: str = ""
    temperature: float = 0.8
    max_new_tokens: int = 32
    reward: RewardStageConfig = field(default_factory=RewardStageConfig)


@dataclass(frozen=True)
class PPOCommand(RunConfig):
    """``textenv ppo``: optimise a policy against a reward, KL-regularised against where it started.

    Attributes:
        policy: Folder of the policy to start from; it is also the reference.
        reward_model: Folder of a reward model, or ``lexicon``.
        tasks: Tasks whose verifiers are the reward, and whose prompts are trained on; empty takes `data`.
        verifier_weight: Of the verifiers, where a reward model is mixed in.
        reward_weight: Of the reward model there.
        evaluation_prompts: Held-out prompts for the figures before and after.
        ppo: The stage.
    """

    name: str = "ppo"
    policy: str = ""
    reward_model: str = ""
    tasks: list[TaskSource] = field(default_factory=list)
    verifier_weight: float = 1.0
    reward_weight: float = 1.0
    evaluation_prompts: int = 512
    ppo: PPOStageConfig = field(default_factory=PPOStageConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count("evaluation_prompts", self.evaluation_prompts)


def _rlhf_ppo() -> PPOStageConfig:
    return PPOStageConfig(
        total_episodes=5120,
        num_envs=64,
        max_new_tokens=24,
        eval_prompts=64,
        lora_rank=16,
        training=PPOConfig(learning_rate=3e-4, warmup_steps=3, epochs=2, num_minibatches=2, temperature=0.7),
    )


@dataclass(frozen=True)
class RLHFCommand(RunConfig):
    """``textenv rlhf``: reward model and PPO for a language model that is there already, with a report.

    Attributes:
        model: Folder of a causal language model, or ``smollm2``: SmolLM2-135M-Instruct, fetched.
        evaluation_prompts: Held-out test prompts that all policy figures are measured on.
        reward: The reward model's stage.
        ppo: The policy's stage.
    """

    name: str = "rlhf"
    model: str = "smollm2"
    evaluation_prompts: int = 256
    reward: RewardStageConfig = field(default_factory=RewardStageConfig)
    ppo: PPOStageConfig = field(default_factory=_rlhf_ppo)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count("evaluation_prompts", self.evaluation_prompts)


def _quickstart_pretrain() -> PretrainConfig:
    return PretrainConfig(training=LMConfig(steps=600, batch_size=64, learning_rate=3e-3, eval_every=100))


def _quickstart_ppo() -> PPOStageConfig:
    return PPOStageConfig(
        total_episodes=6400,
        training=PPOConfig(
            learning_rate=2e-4,
            warmup_steps=3,
            epochs=2,
            num_minibatches=2,
            kl_coef=0.2,
            temperature=0.8,
        ),
    )


@dataclass(frozen=True)
class QuickstartCommand(RunConfig):
    """``textenv quickstart``: all four stages on rated texts, with a report at the end.

    Attributes:
        evaluation_prompts: Held-out test prompts that all policy figures are measured on.
        pretrain: Stage one.
        sft: Stage two.
        reward: Stage three.
        ppo: Stage four.
    """

    name: str = "quickstart"
    evaluation_prompts: int = 512
    pretrain: PretrainConfig = field(default_factory=_quickstart_pretrain)
    sft: SFTConfig = field(default_factory=SFTConfig)
    reward: RewardStageConfig = field(default_factory=RewardStageConfig)
    ppo: PPOStageConfig = field(default_factory=_quickstart_ppo)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count("evaluation_prompts", self.evaluation_prompts)
        if self.ppo.max_new_tokens >= self.pretrain.model.context:
            raise ConfigError(
                f"`ppo.max_new_tokens` ({self.ppo.max_new_tokens}) leaves no room for a prompt in the model's context "
                f"of {self.pretrain.model.context} tokens"
            )


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"`{name}` must be ≥ 1, got {value}")
