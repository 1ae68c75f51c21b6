"""LoRA policies: which of peft's configurations are kept exactly, their base and merged models, and adapters on disk.

What is saved must be the policy that was trained, and a policy without its adapter must be the model that it started
from. Modules that an adapter replaces (``modules_to_save``), rows of the vocabulary (``trainable_token_indices``) and
adapters on tied embeddings are handled here; what breaks one of the two is refused at the start.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from textenv.errors import CheckpointError, ConfigError, MissingDependencyError
from textenv.pretrained import ADAPTER_CONFIG, find_folder, load_tensors

_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # initialisations that change the frozen weights


def add_adapter(model: Any, config: Any) -> Any:
    """A peft model with a fresh adapter around a transformers model.

    Raises:
        ConfigError: If the configuration is one that is not kept exactly, or does not fit the model.
        MissingDependencyError: If peft is not installed.
    """
    try:
        from peft import get_peft_model
    except ImportError as error:
        raise MissingDependencyError('LoRA needs peft: pip install "textenv[lora]"') from error
    check_config(config)
    config = copy.deepcopy(config)
    config.base_model_name_or_path = None  # the model's own name is put there
    try:
        with warnings.catch_warnings():  # of adapters on tied embeddings, which `merged` unties
            warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
            return get_peft_model(model, config)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"the adapter does not fit {type(model).__name__}: {error}") from error


def check_config(config: Any) -> None:
    """Refuse configurations of peft whose policy or reference would not be kept exactly.

    Raises:
        ConfigError: Naming the field and the remedy.
    """
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind != "LORA":
        raise ConfigError(f"only LoRA adapters are supported, got {kind}; give a `peft.LoraConfig`")
    if config.bias != "none":
        raise ConfigError(
            f"`bias={config.bias!r}` trains biases of the frozen model: without its adapter the policy would not "
            "be the reference; use bias='none'"
        )
    init = config.init_lora_weights
    if isinstance(init, str) and init.startswith(_OTHER_BASE):
        raise ConfigError(
            f"`init_lora_weights={init!r}` changes the frozen weights: the policy without its adapter would not be the "
            "reference; use init_lora_weights=True"
        )
    for field in (
        "lora_bias",
        "layer_replication",
        "alora_invocation_tokens",
        "arrow_config",
        "use_bdlora",
        "target_parameters",
    ):
        if getattr(config, field, None):
            raise ConfigError(f"`{field}` of LoRA adapters is not supported; leave it out")


def check_adapter(model: Any) -> None:
    """Refuse a peft model that would not be kept exactly; raises as :func:`check_config`."""
    if len(model.peft_config) != 1:
        names = ", ".join(model.peft_config)
        raise ConfigError(f"the model has several adapters ({names}); keep one, with `model.delete_adapter(name)`")
    config = next(iter(model.peft_config.values()))
    check_config(config)
    if getattr(config, "ensure_weight_tying", False) and hasattr(model.get_input_embeddings(), "lora_embedding_A"):
        raise ConfigError(
            "adapters on embeddings with `ensure_weight_tying=True` share matrices, which cannot be copied; leave it "
            "out (the two embeddings become two weights), or train them whole with `modules_to_save`"
        )


@contextmanager
def switched_off(model: Any) -> Iterator[None]:
    """Inside this context the adapter layers of a model (a compute copy, without peft's own face) pass through."""
    layers = [layer for layer in model.modules() if _is_adapter_layer(layer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def _is_adapter_layer(module: Any) -> bool:
    return hasattr(type(module), "adapter_layer_names")


@torch.no_grad()
def is_fresh(model: Any) -> bool:
    """Whether a peft model's adapter changes nothing yet, so that the model without it is the policy as it stands."""
    for module in model.modules():
        if hasattr(module, "original_module") and hasattr(module, "modules_to_save"):
            pairs = zip(module.original_module.parameters(), module.modules_to_save.parameters(), strict=True)
            if not all(torch.equal(old, new.to(old.dtype)) for old, new in pairs):
                return False
        elif hasattr(type(module), "get_merged_weights"):
            base = module.get_base_layer().weight
            rows = ((module.token_indices[name], delta) for name, delta in module.trainable_tokens_delta.items())
            if not all(torch.equal(base[indices], delta.to(base.dtype)) for indices, delta in rows):
                return False
        elif hasattr(module, "lora_A"):
            downs = {**module.lora_A, **module.lora_embedding_A}
            ups = {**module.lora_B, **module.lora_embedding_B}
            if any(_sum(downs[name]) and _sum(ups[name]) for name in downs):
                return False
    return True


def _sum(part: Any) -> float:
    """Sum of magnitudes of a weight or of a module's."""
    return sum(float(p.abs().sum()) for p in ([part] if isinstance(part, torch.Tensor) else part.parameters()))


def base_model(model: Any) -> Any:
    """A copy of the model that an adapter was put on, without it."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if hasattr(module, "original_module") and hasattr(module, "modules_to_save"):
            for name in list(module.modules_to_save):  # what `unload` puts in place
                module.modules_to_save[name] = module.original_module
    return twin.unload()


def merged(model: Any) -> Any:
    """A copy of a peft model with its adapter in the weights, which are at least float32: less would round it away.

    Where input and output embedding are one weight and the adapter sits on one of them, they become two.
    """
    twin = copy.deepcopy(model)
    for p in twin.parameters():
        if p.dtype in (torch.bfloat16, torch.float16):
            p.data = p.data.float()
    for buffer in twin.buffers():
        if buffer.dtype in (torch.bfloat16, torch.float16):
            buffer.data = buffer.data.float()
    inner = twin.get_base_model()
    ends = [inner.get_input_embeddings(), inner.get_output_embeddings()]
    under = [_under_adapter(end) for end in ends]
    if all(end is not None for end in ends) and under[0].weight is under[1].weight and under != ends:
        under[1].weight = torch.nn.Parameter(under[1].weight.detach().clone(), requires_grad=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie.*")
        plain = twin.merge_and_unload()
    ends = [plain.get_input_embeddings(), plain.get_output_embeddings()]
    if ends[1] is not None and plain.config.tie_word_embeddings and ends[0].weight is not ends[1].weight:
        if torch.equal(ends[0].weight, ends[1].weight):
            ends[1].weight = ends[0].weight
        else:
            untie(plain)
    return plain


def _under_adapter(module: Any) -> Any:
    """The module that holds the frozen weight."""
    for name in ("original_module", "base_layer"):
        if hasattr(module, name):
            return _under_adapter(getattr(module, name))
    return module


def untie(model: Any) -> None:
    """Let transformers save and load input and output embedding as two weights."""
    model.config.tie_word_embeddings = False
    for module in model.modules():
        if hasattr(module, "all_tied_weights_keys"):
            module.all_tied_weights_keys = {}


# --- on disk ----------------------------------------------------------------------------------------------------------


def save_adapter(model: Any, folder: Path) -> None:
    """Write an adapter in peft's own form; its base, which stands beside it, is not written again."""
    model.save_pretrained(folder, save_embedding_layers=False)


def load_adapter_config(folder: Path) -> Any:
    """The ``peft.LoraConfig`` of an adapter's folder, made trainable.

    Raises:
        CheckpointError: If it cannot be read.
        MissingDependencyError: If peft is not installed.
    """
    try:
        from peft import PeftConfig
    except ImportError as error:
        raise MissingDependencyError('LoRA needs peft: pip install "textenv[lora]"') from error
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"cannot read `{folder / ADAPTER_CONFIG}`: {error}") from error
    config.inference_mode = False
    return config


def base_folder(folder: Path, config: Any) -> Path:
    """Where the base model of an adapter's folder stands.

    Args:
        folder: Of the adapter.
        config: What :func:`load_adapter_config` says.

    Raises:
        CheckpointError: If the configuration names none, or it is not found.
    """
    beside = folder.parent / "base"
    if folder.name == "adapter" and (beside / "config.json").is_file():
        return beside
    named = config.base_model_name_or_path
    if not named:
        raise CheckpointError(f"`{folder / ADAPTER_CONFIG}` names no base model: set its `base_model_name_or_path`")
    try:
        return find_folder(folder / named if (folder / named).is_dir() else named)
    except CheckpointError as error:
        raise CheckpointError(f"the base model of the adapter in `{folder}` is not found: {error}") from error


def load_adapter(model: Any, folder: Path) -> None:
    """Read a folder's adapter weights into a peft model made with its configuration.

    Raises:
        CheckpointError: If weights are missing, too many, of another shape or not finite.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    file = folder / _ADAPTER_WEIGHTS
    if not file.is_file():
        pickled = ", ".join(file_of.name for file_of in sorted(folder.glob("*.bin")))
        what = f"only the pickled {pickled}, which is not read" if pickled else "no weights"
        raise CheckpointError(f"`{folder}` has {what}; an adapter's weights stand in {_ADAPTER_WEIGHTS}")
    saved = load_tensors(file)
    needed = get_peft_model_state_dict(model, save_embedding_layers=False)
    for what, names in (
        ("lacks", needed.keys() - saved.keys()),
        ("has more than the adapter:", saved.keys() - needed.keys()),
    ):
        if names:
            shown = ", ".join(sorted(names)[:4])
            raise CheckpointError(f"`{file}` {what} {shown}{' …' if len(names) > 4 else ''}")
    try:
        set_peft_model_state_dict(model, saved)
    except RuntimeError as error:
        raise CheckpointError(f"`{file}` does not fit its base model: {' '.join(str(error).split())[:300]}") from error
