"""The configuration of each command that trains: what a YAML recipe may hold and what flags override."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, MinLen

from agents.algorithms.ppo import PPOConfig
from agents.evaluation.tasks import EvaluationConfig
from agents.lm.finetuning import SFTConfig
from agents.lm.in_memory import LMConfig
from agents.lm.models import ModelConfig
from agents.lm.pretraining import PretrainConfig
from reward_models.labels import LabelColumns
from reward_models.training import RewardModelConfig
from textenv.cli.base import DataCommand, RunCommand, RunName
from textenv.datasets.rated_texts import Domain, check_domains
from textenv.errors import ConfigError
from textenv.settings import Dtype, NonNegativeInt, PositiveFloat, PositiveInt, Settings, refuse_unused
from textenv.tasks import TaskSource

_NO_TASKS = "without `tasks`: name some, or leave it out"


@dataclass(frozen=True)
class RewardStageConfig(Settings):
    """The reward-model stage.

    Attributes:
        trunk: ``minilm`` (22 M parameters, fetched), ``smollm2`` (135 M, fetched), ``policy`` (the pre-trained language
            model, as in InstructGPT), or ``auto``: MiniLM for human labels, the policy's trunk for built-in data.
        template: How prompt and response become one text, with ``{prompt}`` and ``{response}``; ``chat`` for the
            tokenizer's chat template, ``pair`` for its pair of texts; nothing: ``chat`` where the trunk's own answers
            are chats, or the labels are conversations and the trunk has a chat template; one text otherwise.
        max_tokens: Longest text in tokens; the end is kept. 0 means what the trunk can read.
        domains: Domains whose ratings are trained on.
        normalization_samples: Answers of the SFT policy that fix mean 0 and standard deviation 1.
        training: Epochs, rates, batch size.
    """

    trunk: Literal["auto", "minilm", "smollm2", "policy"] = "auto"
    template: str | None = None
    max_tokens: NonNegativeInt = 0
    domains: list[str] = field(default_factory=lambda: ["movies"])
    normalization_samples: Annotated[int, Ge(2)] = 512
    training: RewardModelConfig = field(default_factory=RewardModelConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_domains(self.domains)


@dataclass(frozen=True)
class PPOStageConfig(Settings):
    """The PPO stage.

    Attributes:
        domain: Whose prompts the policy is trained and tested on.
        total_episodes: Answers to train on, in all.
        num_envs: Answers per iteration, side by side.
        max_new_tokens: Length limit of an answer, here and in all evaluations.
        eval_every: Iterations between evaluations on validation prompts.
        eval_prompts: How many validation prompts.
        dtype: ``bfloat16`` and ``float16`` compute with such a copy of the weights; ``auto`` takes bfloat16 where that
            is fast.
        lora_rank: Rank of an adapter on every linear layer, which alone is trained; 0 trains all weights.
        training: Settings of the algorithm.
    """

    domain: Domain = "movies"
    total_episodes: PositiveInt = 12_800
    num_envs: PositiveInt = 128
    max_new_tokens: PositiveInt = 32
    eval_every: PositiveInt = 20
    eval_prompts: PositiveInt = 128
    dtype: Dtype = "auto"
    lora_rank: Annotated[int, Ge(0), "0 trains all weights"] = 0
    training: PPOConfig = field(default_factory=PPOConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_envs < self.training.num_minibatches:
            raise ConfigError(f"`num_envs` ({self.num_envs}) must be at least `num_minibatches`")
        refuse_unused(self, "in a stage: set the stage's own `eval_every`", "training.eval_every")
        refuse_unused(self, "here: texts for it are given in Python, `PPO(…, ptx=…)`", "training.ptx_coef")


@dataclass(frozen=True)
class PretrainCommand(DataCommand):
    """``textenv pretrain``: a tokenizer and a language model from scratch, or on from one, on a mixture of tasks.

    Attributes:
        tasks: What to read, packed and mixed as ``pretrain.mixture`` says; empty takes the four domains of `data`.
        model: Folder of a language model to go on from on `tasks`, with its tokenizer; empty makes new ones.
        pretrain: The stage.
    """

    name: RunName = "pretrain"
    tasks: list[TaskSource] = field(default_factory=list)
    model: str = ""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)

    other_data: ClassVar = ("tasks",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tasks:
            refuse_unused(self, _NO_TASKS, "model", "pretrain.mixture", "pretrain.block_length")
        if self.model:  # the context still says how long blocks are
            sizes = (f"pretrain.model.{name}" for name in ModelConfig.__dataclass_fields__ if name != "context")
            refuse_unused(self, "where `model` is gone on from: leave it out", *sizes)


@dataclass(frozen=True)
class SFTCommand(DataCommand):
    """``textenv sft``: fine-tune a language model on demonstrations, cross-entropy on the answer.

    Attributes:
        model: Folder of the language model.
        tasks: Questions with answers to learn from; with `conversations` empty too, the demonstrations of `data`.
        conversations: Files of conversations (``messages``, ``prompt`` and ``response``, or ``chosen``; JSONL, JSON,
            CSV, Parquet).
        chat: Ask the questions of `tasks` as chat messages, by the tokenizer's template, instead of as the tasks'
            prompts; conversations always are.
        sft: The stage.
    """

    name: RunName = "sft"
    model: str = ""
    tasks: list[TaskSource] = field(default_factory=list)
    conversations: list[str] = field(default_factory=list)
    chat: bool = False
    sft: SFTConfig = field(default_factory=lambda: SFTConfig(samples=4))

    other_data: ClassVar = ("tasks", "conversations")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tasks:
            refuse_unused(self, _NO_TASKS, "chat")
        check_sft(self, grouped=bool(self.tasks or self.conversations))


def check_sft(command: RunCommand, *, grouped: bool) -> None:
    """Refuse what fine-tuning does not look at.

    Args:
        command: With a stage ``sft``.
        grouped: Whether it keeps tasks apart.
    """
    if not grouped:
        refuse_unused(command, _NO_TASKS, "sft.weights", "sft.temperature")
    if not command.sft.samples:  # pyright: ignore[reportAttributeAccessIssue]
        refuse_unused(command, "where `sft.samples` is 0: set that too, or leave it out", "sft.max_new_tokens")


@dataclass(frozen=True)
class RewardCommand(DataCommand):
    """``textenv reward``: train a reward model on what people rated, or on a file of labels.

    Attributes:
        labels: A file of labels (comparisons, rankings, best of K, ratings, steps, mixed as they come): JSONL, JSON,
            CSV, Parquet, or a saved dataset's folder; empty: the rated texts of `data`.
        validation_labels: Held-out labels for early stopping and the card's figures; empty cuts `labels` 80 : 10 : 10.
        format: Form of the files, such as ``hh_rlhf`` (docs/reward-models.md lists them); empty finds it out.
        attribute: Which of several ratings per answer is learned: a name, ``mean``, or weights by name; empty takes the
            form's usual one.
        columns: What the columns of the files mean, in place of a form.
        strict: Refuse rows that cannot be used, such as two answers that are the same; else they are counted and
            passed over.
        split_by: What stays together when `labels` are cut: ``dialogue`` (a beginning and its near duplicates),
            ``prompt``, ``answers``, or a column of the file.
        model: Folder of the language model whose trunk is used with ``--reward.trunk policy``.
        policy: Folder of the policy whose answers fix the normalisation; empty leaves the scores raw.
        temperature: Of those answers.
        max_new_tokens: Length limit of those answers.
        reward: The stage.
    """

    name: RunName = "reward"
    labels: str = ""
    validation_labels: str = ""
    format: str = ""
    attribute: dict[str, float] | str = ""
    columns: LabelColumns = field(default_factory=LabelColumns)
    strict: bool = False
    split_by: str = "dialogue"
    model: str = ""
    policy: str = ""
    temperature: PositiveFloat = 0.8
    max_new_tokens: PositiveInt = 32
    reward: RewardStageConfig = field(default_factory=RewardStageConfig)

    other_data: ClassVar = ("labels",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels:
            refuse_unused(self, "with `labels`, which are all trained on: leave it out", "reward.domains")
        else:
            reading = ("format", "attribute", "columns", "strict", "split_by")
            refuse_unused(self, "without `labels`: give those too", "validation_labels", *reading)
        if self.validation_labels:
            refuse_unused(self, "with `validation_labels`, as nothing is cut: leave it out", "split_by")
        if not self.policy:
            asked = ("temperature", "max_new_tokens", "reward.normalization_samples")
            refuse_unused(self, "without `policy`, which answers for the normalisation: give it", *asked)
        on_policy = self.reward.trunk == "policy" or (
            self.reward.trunk == "auto" and self.data == "builtin" and not self.labels
        )
        if not on_policy:
            refuse_unused(self, "on this trunk: give `--reward.trunk policy`, or leave it out", "model")


@dataclass(frozen=True)
class PPOCommand(DataCommand):
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

    name: RunName = "ppo"
    policy: str = ""
    reward_model: str = ""
    tasks: list[TaskSource] = field(default_factory=list)
    verifier_weight: float = 1.0
    reward_weight: float = 1.0
    evaluation_prompts: PositiveInt = 512
    ppo: PPOStageConfig = field(default_factory=PPOStageConfig)

    other_data: ClassVar = ("tasks",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tasks:
            refuse_unused(self, "with `tasks`, whose prompts are trained on: leave it out", "ppo.domain")
        if not (self.tasks and self.reward_model):
            why = "unless `tasks` and `reward_model` are both given, to be mixed"
            refuse_unused(self, why, "verifier_weight", "reward_weight")


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
class RLHFCommand(DataCommand):
    """``textenv rlhf``: reward model and PPO for a language model that is there already, with a report.

    Attributes:
        model: Folder of a causal language model, or ``smollm2``: SmolLM2-135M-Instruct, fetched.
        evaluation_prompts: Held-out test prompts that all policy figures are measured on.
        reward: The reward model's stage.
        ppo: The policy's stage.
    """

    name: RunName = "rlhf"
    model: str = "smollm2"
    evaluation_prompts: PositiveInt = 256
    reward: RewardStageConfig = field(default_factory=RewardStageConfig)
    ppo: PPOStageConfig = field(default_factory=_rlhf_ppo)


def _quickstart_pretrain() -> PretrainConfig:
    return PretrainConfig(training=LMConfig(steps=600, batch_size=64, learning_rate=3e-3, eval_every=100))


def _quickstart_ppo() -> PPOStageConfig:
    training = PPOConfig(learning_rate=2e-4, warmup_steps=3, epochs=2, num_minibatches=2, kl_coef=0.2, temperature=0.8)
    return PPOStageConfig(total_episodes=6400, training=training)


@dataclass(frozen=True)
class QuickstartCommand(DataCommand):
    """``textenv quickstart``: all four stages on rated texts, with a report at the end.

    Attributes:
        evaluation_prompts: Held-out test prompts that all policy figures are measured on.
        pretrain: Stage one.
        sft: Stage two.
        reward: Stage three.
        ppo: Stage four.
    """

    name: RunName = "quickstart"
    evaluation_prompts: PositiveInt = 512
    pretrain: PretrainConfig = field(default_factory=_quickstart_pretrain)
    sft: SFTConfig = field(default_factory=SFTConfig)
    reward: RewardStageConfig = field(default_factory=RewardStageConfig)
    ppo: PPOStageConfig = field(default_factory=_quickstart_ppo)

    def __post_init__(self) -> None:
        super().__post_init__()
        rated = "on rated texts; `textenv pretrain --tasks …` takes it"
        refuse_unused(self, rated, "pretrain.mixture", "pretrain.block_length")
        check_sft(self, grouped=False)
        if self.ppo.max_new_tokens >= self.pretrain.model.context:
            raise ConfigError(
                f"`ppo.max_new_tokens` ({self.ppo.max_new_tokens}) leaves no room for a prompt in the model's context "
                f"of {self.pretrain.model.context} tokens"
            )


@dataclass(frozen=True)
class AnsweringCommand(RunCommand):
    """``textenv answering``: pre-training, fine-tuning, PPO with verifiers and the evaluation of all three on tasks.

    Attributes:
        tasks: What is read, demonstrated, rewarded and asked; at least one has a verifier.
        demonstrations: Demonstrations of each task in fine-tuning, the first ones, and as many held-out ones; 0: all.
        pretrain: Stage one.
        sft: Stage two.
        ppo: Stage three, on the tasks with verifiers.
        evaluation: How the three models are measured at the end.
    """

    name: RunName = "answering"
    tasks: Annotated[
        list[TaskSource], MinLen(1), "name them in the recipe, such as `tasks: [{name: text}, {name: addition}]`"
    ] = field(default_factory=list)
    demonstrations: Annotated[int, Ge(0), "0 takes all"] = 0
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    ppo: PPOStageConfig = field(default_factory=PPOStageConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unused(self, "on tasks, whose prompts are trained on: leave it out", "ppo.domain")
        check_sft(self, grouped=True)
