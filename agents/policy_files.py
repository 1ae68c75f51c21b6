"""Policies on disk: folders that plain transformers loads, with the critic beside the model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from agents.critic import Critic
from textenv.envs.tokenizers import read_tokenizer
from textenv.errors import CheckpointError, ConfigError, MissingDependencyError
from textenv.mixed_precision import fast_bf16

if TYPE_CHECKING:
    from agents.policy import CausalLMPolicy

_VALUE_HEAD_FILE = "value_head.safetensors"
_CRITIC_FOLDER = "critic"


class PolicyParts(NamedTuple):
    """What a policy is made of.

    Attributes:
        model: Transformers or peft model.
        tokenizer: Its tokenizer.
        critic: With a trunk of its own, or None.
        value_head: Weights of a saved head on the policy's trunk, or None.
        compute_dtype: Of the compute copy, or None.
    """

    model: Any
    tokenizer: Any
    critic: Critic | None
    value_head: dict[str, torch.Tensor] | None
    compute_dtype: torch.dtype | None


def load(path: str | Path, *, dtype: str, lora: Any, critic: Any, device: str | torch.device) -> PolicyParts:
    """Load the parts of a policy; see :meth:`agents.CausalLMPolicy.from_pretrained`.

    Raises:
        ConfigError: If the dtype is unknown, or a reward model cannot become the critic.
        CheckpointError: If the folder cannot be loaded.
        MissingDependencyError: If ``lora`` is given and peft is not installed.
    """
    if dtype not in ("auto", "float32", "bfloat16"):
        raise ConfigError(f"`dtype` must be 'auto', 'float32' or 'bfloat16', got {dtype!r}")
    low = dtype == "bfloat16" or (dtype == "auto" and fast_bf16(torch.device(device)))
    compute = torch.bfloat16 if low else None
    weights = torch.bfloat16 if low and lora is not None else torch.float32
    try:
        model = _load_language_model(path, weights).to(device)
        tokenizer = read_tokenizer(path)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"cannot load a language model from `{path}`: {error}") from error
    own = _critic(Path(path), critic, model, tokenizer, compute, device)
    if lora is not None:
        try:
            from peft import get_peft_model
        except ImportError as error:
            raise MissingDependencyError('LoRA needs peft: pip install "textenv[lora]"') from error
        model = get_peft_model(model, lora)
    head = _saved_head(Path(path) / _VALUE_HEAD_FILE, device) if own is None else None
    return PolicyParts(model, tokenizer, own, head, compute)


def _load_language_model(path: str | Path, dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    encodes = AutoConfig.from_pretrained(path).is_encoder_decoder
    kind = AutoModelForSeq2SeqLM if encodes else AutoModelForCausalLM
    return kind.from_pretrained(path, dtype=dtype, use_safetensors=True)


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


def _saved_head(file: Path, device: str | torch.device) -> dict[str, torch.Tensor] | None:
    if not file.exists():
        return None
    try:
        return load_file(file, device=str(device))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"cannot load the value head `{file}`: {error}") from error


def save(policy: CausalLMPolicy, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write model (adapter merged), tokenizer and critic.

    Args:
        policy: What to write.
        folder: Made where it is missing.
        weights: The language model's, where processes share them (see :func:`gathered`); the critic, which only
            training needs, is then left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = policy.model
    if policy.has_adapter and weights is None:
        model = copy.deepcopy(model).float().merge_and_unload()  # bfloat16 would round small adapters away
    model.save_pretrained(folder, state_dict=weights)
    policy.tokenizer.save_pretrained(folder)
    if weights is None:
        save_critic(policy, folder)


def gathered(policy: CausalLMPolicy) -> dict[str, torch.Tensor]:
    """The language model's weights, gathered from all processes; all call it together.

    Raises:
        ConfigError: If the policy has an adapter, which cannot be merged while its base is divided.
    """
    if policy.has_adapter:
        raise ConfigError("the best policy cannot be kept where FSDP divides a LoRA policy; leave out `held_out`")
    state = policy.model.state_dict()
    return {name: p.full_tensor() if hasattr(p, "full_tensor") else p for name, p in state.items()}


def save_critic(policy: CausalLMPolicy, folder: Path) -> None:
    """Write the critic of a policy into the policy's folder."""
    if policy.critic is not None:
        policy.critic.save_pretrained(folder / _CRITIC_FOLDER)
    elif policy.value_head is not None:
        head = {k: v.detach().contiguous() for k, v in policy.value_head.state_dict().items()}
        save_file(head, folder / _VALUE_HEAD_FILE)


def save_apart(policy: CausalLMPolicy, folder: Path) -> None:
    """Write a LoRA policy as ``base/`` (the frozen model, once) and ``adapter/`` (in peft's own form)."""
    frozen = policy.causal_lm
    weights = {name.replace(".base_layer.", "."): p for name, p in frozen.state_dict().items() if ".lora_" not in name}
    frozen.save_pretrained(folder / "base", state_dict=weights)
    policy.tokenizer.save_pretrained(folder / "base")
    save_critic(policy, folder / "base")
    policy.model.save_pretrained(folder / "adapter")


def load_adapter_config(folder: Path) -> Any:
    """The ``peft`` configuration that :func:`save_apart` wrote.

    Raises:
        MissingDependencyError: If peft is not installed.
    """
    try:
        from peft import PeftConfig
    except ImportError as error:
        raise MissingDependencyError('LoRA needs peft: pip install "textenv[lora]"') from error
    config = PeftConfig.from_pretrained(str(folder / "adapter"))
    config.inference_mode = False
    config.base_model_name_or_path = str(folder / "base")
    return config
