"""Policies on disk: folders that plain transformers loads, with the critic beside the model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from safetensors.torch import save_file

from agents.policy.critic import Critic
from agents.policy.lora import (
    add_adapter,
    base_folder,
    base_model,
    load_adapter,
    load_adapter_config,
    merged,
    save_adapter,
)
from textenv.answers import AnswerFormat, format_of_folder, save_format
from textenv.answers.chat import with_system
from textenv.errors import CheckpointError, ConfigError
from textenv.mixed_precision import LOW_PRECISION, fast_bf16
from textenv.pretrained import find_folder, is_adapter, load_model, load_tensors, load_tokenizer
from textenv.settings import Dtype

_VALUE_HEAD_FILE = "value_head.safetensors"
_CRITIC_FOLDER = "critic"
_DTYPES = {name: getattr(torch, name) for name in get_args(Dtype) if name != "auto"}


class PolicyParts(NamedTuple):
    """What a policy is made of.

    Attributes:
        model: Transformers or peft model.
        tokenizer: Its tokenizer.
        critic: With a trunk of its own, or None.
        value_head: Weights of the head on the policy's trunk, or None.
        answer: What is stored about its answers, or None.
        compute_dtype: Of the compute copy, or None.
    """

    model: Any
    tokenizer: Any
    critic: Critic | None
    value_head: dict[str, torch.Tensor] | None
    answer: AnswerFormat | None
    compute_dtype: torch.dtype | None = None

    @property
    def has_adapter(self) -> bool:
        """True where a LoRA adapter sits on frozen weights."""
        return hasattr(self.model, "disable_adapter")


def load(path: str | Path, *, dtype: str, lora: Any, critic: Any, device: str | torch.device) -> PolicyParts:
    """Load the parts of a policy; see :meth:`agents.CausalLMPolicy.from_pretrained`.

    Raises:
        ConfigError: If the dtype is unknown, or pieces do not fit together.
        CheckpointError: If the folder cannot be loaded.
        MissingDependencyError: If there is an adapter and peft is not installed.
    """
    if dtype != "auto" and dtype not in _DTYPES:
        raise ConfigError(f"`dtype` must be one of 'auto', {', '.join(map(repr, _DTYPES))}; got {dtype!r}")
    wanted = _DTYPES.get(dtype) or (torch.bfloat16 if fast_bf16(torch.device(device)) else torch.float32)
    compute = wanted if wanted in LOW_PRECISION else None
    try:
        folder = find_folder(path)
        config = load_adapter_config(folder) if is_adapter(folder) else None
        if config is not None and lora is not None:
            raise ConfigError(
                f"`{path}` is an adapter, which goes on being trained: leave `lora` out, or save it merged first, with "
                "`CausalLMPolicy.from_pretrained(folder).save_pretrained(other_folder)`"
            )
        base = folder if config is None else base_folder(folder, config)
        weights = torch.float32 if compute is not None and lora is None and config is None else wanted
        model = load_model(base, dtype=weights, device=device).model
        has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
        tokenizer = load_tokenizer(folder if has_tokenizer else base)
    except CheckpointError as error:
        raise CheckpointError(f"cannot load a language model from `{path}`: {error}") from error
    separate = _critic(base, critic, model, tokenizer, compute, device)
    if config is not None:
        model = add_adapter(model, config)
        load_adapter(model, folder)
    elif lora is not None:
        model = add_adapter(model, lora)
    file = base / _VALUE_HEAD_FILE
    head = load_tensors(file, device) if separate is None and file.is_file() else None
    answer = format_of_folder(folder) or format_of_folder(base)
    return PolicyParts(model, tokenizer, separate, head, answer, compute)


def _critic(
    folder: Path, wanted: Any, model: Any, tokenizer: Any, dtype: torch.dtype | None, device: str | torch.device
) -> Critic | None:
    if (folder / _CRITIC_FOLDER).is_dir():
        return Critic.from_pretrained(folder / _CRITIC_FOLDER, compute_dtype=dtype, device=device)
    if wanted == "shared":
        return None
    if wanted == "separate":
        return Critic.from_language_model(model, compute_dtype=dtype)
    if isinstance(wanted, str):
        raise ConfigError(f"`critic` must be 'shared', 'separate' or a reward model, got {wanted!r}")
    return Critic.from_reward_model(wanted, tokenizer, compute_dtype=dtype).to(device)


def save(parts: PolicyParts, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write model (adapter merged), tokenizer and critic.

    Args:
        parts: What to write.
        folder: Made where it is missing.
        weights: The language model's, where processes share them (see :func:`gathered`); the critic, which only
            training needs, is then left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = merged(parts.model) if parts.has_adapter and weights is None else parts.model
    model.save_pretrained(folder, state_dict=weights)
    save_tokenizer(parts, folder, getattr(model, "generation_config", None))
    if weights is None:
        save_critic(parts, folder)


def save_tokenizer(parts: PolicyParts, folder: Path, generation_config: Any) -> None:
    """Write tokenizer and answer format, in transformers' files too as far as those can say it."""
    tokenizer, answer = parts.tokenizer, parts.answer
    assert answer is not None
    template = getattr(tokenizer, "chat_template", None)
    if answer.chat and answer.system and isinstance(template, str):
        tokenizer.chat_template = with_system(template, answer.system)
    try:
        tokenizer.save_pretrained(folder)
    finally:
        if template is not None:
            tokenizer.chat_template = template
    save_format(answer, folder)
    if generation_config is not None and answer.eos_token_ids:
        ends = answer.eos_token_ids
        told = copy.deepcopy(generation_config)
        told.eos_token_id = ends[0] if len(ends) == 1 else list(ends)
        told.save_pretrained(folder)


def gathered(parts: PolicyParts) -> dict[str, torch.Tensor]:
    """The language model's weights, gathered from all processes; all call it together.

    Raises:
        ConfigError: If the policy has an adapter, which cannot be merged while its base is divided.
    """
    if parts.has_adapter:
        raise ConfigError("the best policy cannot be kept where FSDP divides a LoRA policy; leave out `held_out`")
    state = parts.model.state_dict()
    return {name: p.full_tensor() if hasattr(p, "full_tensor") else p for name, p in state.items()}


def save_critic(parts: PolicyParts, folder: Path) -> None:
    """Write the critic of a policy into the policy's folder."""
    if parts.critic is not None:
        parts.critic.save_pretrained(folder / _CRITIC_FOLDER)
    elif parts.value_head is not None:
        head = {k: v.detach().contiguous() for k, v in parts.value_head.items()}
        save_file(head, folder / _VALUE_HEAD_FILE)


def save_for_learner(parts: PolicyParts, folder: Path) -> None:
    """Write a policy that goes on learning into ``policy/`` of a learner's folder.

    A LoRA policy is written as ``base/`` (the frozen model, once) and ``adapter/`` (in peft's own form).
    """
    folder = folder / "policy"
    if not parts.has_adapter:
        return save(parts, folder)
    base = base_model(parts.model)
    base.save_pretrained(folder / "base")
    save_tokenizer(parts, folder / "base", getattr(base, "generation_config", None))
    save_critic(parts, folder / "base")
    save_adapter(parts.model, folder / "adapter")


def load_for_learner(folder: Path, *, dtype: str, adapter: bool, device: str | torch.device) -> PolicyParts:
    """What :func:`save_for_learner` wrote; an adapter is fresh, until the learner's own weights are read.

    Args:
        folder: The learner's.
        dtype: As for :func:`load`.
        adapter: Whether the policy has one.
        device: Where to put it.

    Raises:
        CheckpointError: If the folder is not complete.
    """
    lora = load_adapter_config(folder / "policy" / "adapter") if adapter else None
    return load(folder / "policy" / ("base" if adapter else ""), dtype=dtype, lora=lora, critic="shared", device=device)
