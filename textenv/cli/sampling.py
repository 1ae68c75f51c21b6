"""``textenv sample``: prompts in, trajectories out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from annotated_types import MinLen
from rich.console import Console

from textenv.cli.base import ModelCommand
from textenv.errors import ConfigError, DataError
from textenv.pretrained import find_folder, is_hub_name
from textenv.progress import StageProgress
from textenv.prompts import Prompt, read_prompts
from textenv.rewards import call_reward
from textenv.sampling.params import SamplingParams, settle
from textenv.settings import Dtype, NonNegativeInt, PositiveInt
from textenv.trajectories import Trajectory, TrajectoryStore

BUILTIN = "builtin"
SUFFIXES = (".txt", ".jsonl", ".json", ".ndjson", ".parquet")


@dataclass(frozen=True)
class SampleConfig(ModelCommand):
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
        backend: What decodes: ``textenv``; ``vllm`` (needs a GPU and pip install "textenv[vllm]"), whose draws are
            others; or ``auto``, which takes vLLM where both are there.
        dtype: ``bfloat16`` and ``float16`` compute with such a copy of the weights; ``auto`` takes bfloat16 where that
            is fast.
        device: Where to compute; ``auto`` takes a GPU where there is one.
    """

    policy: str = ""
    prompts: Annotated[list[str] | str, MinLen(1), "give a text, a file, or `builtin`"] = BUILTIN
    limit: NonNegativeInt = 0
    n: PositiveInt = 1
    seed: NonNegativeInt = 0
    sampling: SamplingParams = field(default_factory=SamplingParams)
    reward_model: str = ""
    reference: str = ""
    annotate: bool = True
    store: str = "trajectories"
    batch_size: PositiveInt = 256
    backend: Literal["textenv", "vllm", "auto"] = "textenv"
    dtype: Dtype = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.policy:
            raise ConfigError("`--policy` is needed: the folder of a model, such as runs/quickstart/sft")
        if self.backend == "vllm" and self.dtype == "float64":
            raise ConfigError("`dtype` float64 is nothing that vLLM computes in; take another, or `--backend textenv`")
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
        total: Answers that were asked for; more than were written and held where Ctrl-C stopped it.
        held: Answers that the store held already: the same policy, settings, seed and prompt.
    """

    written: int
    total: int
    held: int = 0

    @property
    def complete(self) -> bool:
        """Whether all that was asked for is in the store."""
        return self.written + self.held == self.total


class Draws(NamedTuple):
    """What decides an answer, besides its prompt and number: the same draws are made once.

    Attributes:
        policy: Folder or hub name.
        policy_hash: Hash of the folder's weights; None of a hub name.
        sampling: The settings.
        seed: Of the draws.
    """

    policy: str
    policy_hash: str | None
    sampling: dict[str, Any]
    seed: int

    @property
    def name(self) -> str:
        """16 hexadecimal digits that stand for all of it."""
        described = json.dumps([self.policy_hash or self.policy, self.sampling, self.seed], sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()[:16]

    def held(self, store: TrajectoryStore) -> set[tuple[str | None, str, int]]:
        """Prompt's place, prompt and sample index of the answers that a store has of these draws."""
        found = store.where({"seed": self.seed, "source": "policy"}).columns(
            ["policy", "policy_hash", "sampling", "prompt_id", "prompt", "sample_index"]
        )
        settings = {text: json.loads(text) for text in set(found.array("sampling"))}
        ours = json.loads(json.dumps(self.sampling))  # tuples read back as lists
        rows = zip(*(found.array(name) for name in found), strict=True)
        return {
            (place, prompt, int(index))
            for policy, weights, sampling, place, prompt, index in rows
            if settings[sampling] == ours
            and (weights == self.policy_hash if weights and self.policy_hash else policy == self.policy)
            and not np.isnan(index)
        }


def weights_hash(folder: Path) -> str | None:
    """SHA-256 of a model folder's weights and settings, first 16 digits; None where it is no folder.

    The critic, the tokenizer and notes of the training do not count: they decide no draw.
    """
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        weights = path.suffix in (".safetensors", ".bin") and not path.name.startswith("value_head")
        if weights or path.name in ("config.json", "adapter_config.json"):
            with open(path, "rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def load_prompts(config: SampleConfig) -> list[Prompt]:
    """The prompts that a configuration stands for.

    Raises:
        DataError: If a file is missing or malformed, or holds no prompt, or a word looks like the name of a file.
    """
    given = config.prompts
    if given == BUILTIN:
        from textenv.datasets import builtin_ratings, demonstrations

        made = demonstrations(builtin_ratings(2000, seed=0))
        prompts = [Prompt(text=text) for text in dict.fromkeys(shown.prompt for shown in made)]
        prompts = prompts[: config.limit or 64]
    elif isinstance(given, str) and Path(given).suffix in SUFFIXES:
        prompts = _read_lines(Path(given)) if given.endswith(".txt") else read_prompts(Path(given))
    else:
        if isinstance(given, str):
            _check_text_is_meant(given)
        prompts = [Prompt(text=text) for text in ([given] if isinstance(given, str) else given)]
    return prompts[: config.limit or None]


def _check_text_is_meant(given: str) -> None:
    """Tell a prompt from the name of a file.

    Raises:
        DataError: If a word is, or looks like, the name of a file.
    """
    if any(character.isspace() for character in given):
        return
    remedy = f"""to answer the word itself, write --prompts '["{given}"]'"""
    if Path(given).exists():
        what = "a folder; name a file in it" if Path(given).is_dir() else "a file, but of no known kind"
        raise DataError(f"`--prompts {given}` is {what} ({', '.join(SUFFIXES)}); {remedy}")
    near = [given + suffix for suffix in SUFFIXES if Path(given + suffix).is_file()]
    if near or "/" in given or "." in given.strip("."):  # dots at the end are a sentence's
        meant = f"did you mean {near[0]}? Or, " if near else ""
        raise DataError(f"`--prompts {given}`: there is no such prompt file; {meant}{remedy}")


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
    """The reward model that a configuration names, see `reward_models.load_reward_model`; None for none.

    Raises:
        ConfigError: If there is no such reward.
        CheckpointError: If a folder holds no reward model.
    """
    if not name:
        return None
    from reward_models.loading import load_reward_model

    described = "://" in name or name.lstrip().startswith("{")
    if "/" in name and not described and not Path(name).exists() and not is_hub_name(name):
        raise ConfigError(f"`--reward_model {name}`: there is no such folder")
    return load_reward_model(name)


def run(config: SampleConfig, console: Console) -> int:
    """``textenv sample``: answer prompts; the exit status of a call that was interrupted tells so."""
    return 0 if sample(config, console).complete else 130


def sample(config: SampleConfig, console: Console | None = None) -> Sampled:
    """Answer prompts and append the answers to a store, batch by batch.

    Args:
        config: What to do.
        console: For progress; None shows nothing.

    Answers of the same policy, settings, seed and prompts that the store holds already are skipped: once more they
    would count as independent and be none.

    Returns:
        How many answers were written, asked for and there already.

    Raises:
        TextEnvError: If something is missing or unusable; nothing that was committed is lost.
    """
    import torch

    from agents.policy import CausalLMPolicy
    from agents.policy.annotation import annotate

    prompts, reward = load_prompts(config), load_reward(config.reward_model)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    folder = find_folder(config.policy)
    policy = CausalLMPolicy.from_pretrained(folder, dtype=config.dtype, device=device)
    reference = None
    if config.reference:
        reference = CausalLMPolicy.from_pretrained(config.reference, dtype=config.dtype, device=device)
    store, vllm = TrajectoryStore(config.store), _vllm(config, folder)
    sampling, _ = settle(policy, config.sampling)
    draws = Draws(config.policy, weights_hash(folder), vars(sampling).copy(), config.seed)
    missing = _missing(prompts, policy, store, draws, config.n)
    total = len(prompts) * config.n
    skipped = total - len(missing)
    if skipped and console is not None:
        console.print(
            f"{skipped} of {total} answers are in {config.store} already (same policy, settings, seed and prompts) and "
            "are skipped; for other answers give another --seed, for other scores or a reference another --store",
            highlight=False,
        )
    written, tokens, scores = 0, 0, []
    places = sorted({place for place, _ in missing})
    try:
        with StageProgress("sample", len(missing), console) as progress:
            for first, last in _chunks(places, max(1, config.batch_size // config.n)):
                answers = _answer(policy, prompts[first:last], first, config, draws, vllm)
                answers = [t for t in answers if (int(t.prompt_id or 0), t.sample_index) in missing]
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
            console.print(f"interrupted: {written + skipped} of {total} answers are in {config.store}", highlight=False)
        return Sampled(written, total, skipped)
    if console is not None:
        console.print(f"{written} answers, {tokens:,} tokens → {config.store}", highlight=False)
        console.print(f"look at them: textenv trajectories show {config.store}", highlight=False)
    return Sampled(written, total, skipped)


def _missing(
    prompts: Sequence[Prompt], policy: Any, store: TrajectoryStore, draws: Draws, n: int
) -> set[tuple[int, int]]:
    """Prompts' places and sample indices that a store does not hold yet."""
    held = draws.held(store)
    every = ((place, index) for place in range(len(prompts)) for index in range(n))
    return {(place, i) for place, i in every if (str(place), _text(prompts[place], policy), i) not in held}


def _chunks(places: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """Runs of neighbouring prompts, at most ``size`` of them: first and one past the last."""
    first = 0
    for end in range(1, len(places) + 1):
        if end == len(places) or places[end] != places[end - 1] + 1 or end - first == size:
            yield places[first], places[end - 1] + 1
            first = end


def _text(prompt: Prompt, policy: Any) -> str:
    """A prompt as its trajectories name it."""
    return prompt.text if prompt.text is not None else policy.tokenizer.decode(list(prompt.ids or ()))


def _vllm(config: SampleConfig, folder: Path) -> Any:
    """The policy as vLLM decodes it, or None where textenv does."""
    if config.backend == "textenv":
        return None
    from textenv.sampling.vllm import VLLMGenerator, vllm_available

    if config.backend == "auto" and not vllm_available():
        return None
    # The policy itself stays on the same GPU: it scores the answers.
    return VLLMGenerator(str(folder), dtype=config.dtype, gpu_memory_utilization=0.5)


def _answer(
    policy: Any, prompts: Sequence[Prompt], first: int, config: SampleConfig, draws: Draws, vllm: Any = None
) -> list[Trajectory]:
    """Answers to prompts number ``first`` and on; the draws depend on the seed and the prompts' place alone."""
    settings: dict[str, Any] = {"n": config.n, "seed": config.seed, "first_prompt": first}
    if vllm is not None:
        own = config.sampling.tempered_only and config.sampling.temperature == 1
        answers = vllm.generate(prompts, config.sampling, logprobs=None if own else policy.logprobs, **settings)
    else:
        answers = policy.generate(prompts, config.sampling, max_batch=config.batch_size, **settings)
    for number, answer in enumerate(answers):
        place, prompt = first + number // config.n, prompts[number // config.n]
        answer.prompt = _text(prompt, policy)
        answer.prompt_id = str(place)
        answer.group_id = f"{answer.prompt_hash}-{draws.name}"
        answer.sample_index = number % config.n
        answer.policy, answer.policy_hash = draws.policy, draws.policy_hash
        answer.provenance = {"command": "sample", "seed": config.seed, "dtype": config.dtype}
        if vllm is not None:
            answer.provenance["backend"] = "vllm"
        answer.sampling = draws.sampling.copy()
        if prompt.task is not None:
            answer.extra = {**answer.extra, "task": prompt.task}
    return answers


def _score(answers: Sequence[Trajectory], reward: Any, name: str) -> None:
    scores = call_reward(reward, [t.prompt for t in answers], [t.response for t in answers])
    for answer, score in zip(answers, scores.tolist(), strict=True):
        answer.score, answer.reward_model = score, name
