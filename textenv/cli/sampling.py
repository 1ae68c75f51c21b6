"""``textenv sample``: prompts in, trajectories out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from rich.console import Console

from textenv.errors import ConfigError, DataError
from textenv.progress import StageProgress
from textenv.prompts import Prompt, read_prompts
from textenv.rewards import call_reward, resolve_reward
from textenv.sampling.params import SamplingParams
from textenv.trajectories import Trajectory, TrajectoryStore

BUILTIN = "builtin"


@dataclass(frozen=True)
class SampleConfig:
    """What ``textenv sample`` does.

    Attributes:
        policy: Folder or hub name of the language model that answers.
        prompts: A text, a list of texts, the path of a file (.txt with one prompt per line, .jsonl or .parquet), or
            ``builtin``: openings of generated sentences.
        limit: Use only the first so many prompts; 0 uses all (of the built-in ones 64).
        n: Answers per prompt.
        seed: Decides all draws.
        sampling: How tokens are drawn.
        reward_model: Folder of a reward model, ``lexicon``, a registered reward or ``package.module:attribute``; none
            leaves the scores unknown.
        reference: Folder or hub name of a reference model, for log-ratios and KL; none leaves them out.
        annotate: Also store the entropy before each token, and values where the policy has a trained critic; costs a
            forward pass over each answer.
        store: Folder of the trajectory store; answers are appended to what it holds.
        batch_size: Answers that are decoded side by side and committed together.
        dtype: ``bfloat16`` computes with a bfloat16 copy of the weights; ``auto`` does so where that is fast.
        device: Where to compute; ``auto`` takes a GPU where there is one.
        threads: CPU threads for torch; 0 leaves them as they are.
    """

    policy: str = ""
    prompts: list[str] | str = BUILTIN
    limit: int = 0
    n: int = 1
    seed: int = 0
    sampling: SamplingParams = field(default_factory=SamplingParams)
    reward_model: str = ""
    reference: str = ""
    annotate: bool = True
    store: str = "trajectories"
    batch_size: int = 256
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("batch_size", 1), ("limit", 0), ("seed", 0), ("threads", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"`{name}` must be ≥ {least}, got {getattr(self, name)}")
        if not self.policy:
            raise ConfigError("`--policy` is needed: the folder of a model, such as runs/quickstart/sft")
        if not self.prompts:
            raise ConfigError("`prompts` is empty; give a text, a file, or `builtin`")
        for name in ("policy", "reference"):
            _check_source(name, getattr(self, name))


def _check_source(argument: str, source: str) -> None:
    """Tell a missing folder from a hub name (``name`` or ``owner/name``) before anything is looked up."""
    is_path = source.startswith((".", "/", "~")) or source.count("/") > 1
    if is_path and not Path(source).is_dir():
        raise ConfigError(f"`--{argument} {source}`: there is no such folder")


class Sampled(NamedTuple):
    """What came of a call.

    Attributes:
        written: Answers that are in the store because of it.
        total: Answers that were asked for; more than were written where Ctrl-C stopped it.
    """

    written: int
    total: int


def load_prompts(config: SampleConfig) -> list[Prompt]:
    """The prompts that a configuration stands for.

    Raises:
        DataError: If a file is missing or malformed, or holds no prompt.
        ConfigError: If a prompt consists of chat messages, which need an environment's chat template.
    """
    given = config.prompts
    if given == BUILTIN:
        from textenv.datasets import builtin_ratings, demonstrations

        made = demonstrations(builtin_ratings(2000, seed=0))
        prompts = [Prompt(text=text) for text in dict.fromkeys(shown.prompt for shown in made)]
        prompts = prompts[: config.limit or 64]
    elif isinstance(given, str) and Path(given).suffix in (".txt", ".jsonl", ".json", ".ndjson", ".parquet"):
        prompts = _read_lines(Path(given)) if given.endswith(".txt") else read_prompts(Path(given))
    else:
        prompts = [Prompt(text=text) for text in ([given] if isinstance(given, str) else given)]
    for number, prompt in enumerate(prompts):
        if prompt.messages is not None and len(prompt.messages) > 1:
            raise ConfigError(f"prompt {number} is a conversation; `textenv sample` takes texts and token ids")
    return prompts[: config.limit or None]


def _read_lines(path: Path) -> list[Prompt]:
    if not path.is_file():
        raise DataError(f"{path}: no such prompt file")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error}") from error
    found = [Prompt(text=line) for line in lines if line.strip()]
    if not found:
        raise DataError(f"{path}: the file holds no prompts; write one per line")
    return found


def load_reward(name: str) -> Any:
    """The reward that a configuration names, None for none.

    Raises:
        ConfigError: If there is no such reward.
        CheckpointError: If a folder holds no reward model.
    """
    if not name:
        return None
    if name == "lexicon":
        from reward_models.lexicon import Lexicon

        return Lexicon()
    if Path(name).is_dir():
        from reward_models.sequence import SequenceRewardModel

        return SequenceRewardModel.from_pretrained(name)
    if "/" in name:
        raise ConfigError(f"`--reward_model {name}`: there is no such folder")
    return resolve_reward(name)


def sample(config: SampleConfig, console: Console | None = None) -> Sampled:
    """Answer prompts and append the answers to a store, batch by batch.

    Args:
        config: What to do.
        console: For progress; None shows nothing.

    Returns:
        How many answers were written and asked for.

    Raises:
        TextEnvError: If something is missing or unusable; nothing that was committed is lost.
    """
    import torch

    from agents.policy import CausalLMPolicy
    from agents.scoring import annotate

    if config.threads:
        torch.set_num_threads(config.threads)
    prompts, reward = load_prompts(config), load_reward(config.reward_model)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    policy = CausalLMPolicy.from_pretrained(config.policy, dtype=config.dtype, device=device)
    reference = None
    if config.reference:
        reference = CausalLMPolicy.from_pretrained(config.reference, dtype=config.dtype, device=device)
    store = TrajectoryStore(config.store)
    written, tokens, scores = 0, 0, []
    total = len(prompts) * config.n
    try:
        with StageProgress("sample", total, console) as progress:
            for first, chunk in _chunks(prompts, max(1, config.batch_size // config.n)):
                answers = _answer(policy, chunk, first, config)
                if config.annotate or reference is not None:
                    annotate(answers, policy, reference=reference, sampling=config.sampling)
                if reward is not None:
                    _score(answers, reward, config.reward_model)
                    scores += [t.score for t in answers if t.score is not None]
                store.append(answers)
                written += len(answers)
                tokens += sum(len(t) for t in answers)
                progress.update(written, {"score": float(np.mean(scores))} if scores else None, tokens=tokens)
    except KeyboardInterrupt:
        if console is not None:
            console.print(f"interrupted: {written} of {total} answers are in {config.store}", highlight=False)
        return Sampled(written, total)
    if console is not None:
        console.print(f"{written} answers, {tokens:,} tokens → {config.store}", highlight=False)
        console.print(f"look at them: textenv trajectories show {config.store}", highlight=False)
    return Sampled(written, total)


def _chunks(prompts: Sequence[Prompt], size: int) -> Iterator[tuple[int, Sequence[Prompt]]]:
    for first in range(0, len(prompts), size):
        yield first, prompts[first : first + size]


def _answer(policy: Any, prompts: Sequence[Prompt], first: int, config: SampleConfig) -> list[Trajectory]:
    """Answers to prompts number ``first`` and on; the draws depend on the seed and the prompts' place alone."""
    asked = [list(p.ids) if p.ids is not None else policy.encode_prompt(p.text or "") for p in prompts]
    answers = policy.generate(
        asked, config.sampling, n=config.n, seed=config.seed, first_prompt=first, max_batch=config.batch_size
    )
    for number, answer in enumerate(answers):
        place, prompt = first + number // config.n, prompts[number // config.n]
        answer.prompt = prompt.text if prompt.text is not None else answer.prompt
        answer.prompt_id = str(place)
        answer.group_id = f"{answer.prompt_hash}-{config.seed}"
        answer.sample_index = number % config.n
        answer.policy = config.policy
        answer.provenance = {"command": "sample", "seed": config.seed, "dtype": config.dtype}
        answer.sampling = asdict(config.sampling)
        if prompt.task is not None:
            answer.extra = {**answer.extra, "task": prompt.task}
    return answers


def _score(answers: Sequence[Trajectory], reward: Any, name: str) -> None:
    scores = call_reward(reward, [t.prompt for t in answers], [t.response for t in answers])
    for answer, score in zip(answers, scores.tolist(), strict=True):
        answer.score, answer.reward_model = score, name
