"""Whatever transformers loads: models and tokenizers from folders and hub names, whole or not at all.

Only safetensors and JSON are read and no remote code runs. A folder that lacks weights, holds more of them than the
model, or holds NaN is refused by name, where transformers would fill up, leave out or go on. Weights get aligned memory
of their own: those that safetensors maps stand wherever the file's header ends, where some kernels round otherwise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from textenv.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import torch

ADAPTER_CONFIG = "adapter_config.json"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_REWARD_FILES = ("reward_model.json", "reward_spec.json")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
# Masks, positions and frequencies that older versions of transformers saved; models make them anew.
_NO_WEIGHTS = re.compile(r"\.(attn|attention)\.(masked_)?bias$|\.causal_mask$|\binv_freq$|(^|\.)position_ids$")

Kind = Literal["language_model", "trunk", "classifier", "token_classifier"]


class Loaded(NamedTuple):
    """A model from a folder.

    Attributes:
        model: The transformers model, in evaluation mode.
        fresh: Names of weights that the folder does not have and was allowed to lack.
    """

    model: Any
    fresh: frozenset[str]


# --- where a model stands ---------------------------------------------------------------------------------------------


def find_folder(source: str | Path, *, kind: Literal["policy", "reward"] = "policy") -> Path:
    """The folder that a model stands in.

    Args:
        source: The folder itself; a run's or a saved agent's, which stands for the one model of this kind inside; or a
            hub name, whose snapshot is fetched once.
        kind: What of a run is meant.

    Raises:
        CheckpointError: If there is neither such a folder nor such a name, or the hub cannot be reached.
        ConfigError: If a run has several models of this kind.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _inside(path, kind)
    if path.exists():
        raise CheckpointError(f"`{source}` is a file; name the folder of the model")
    if not is_hub_name(str(source)):
        raise CheckpointError(f"`{source}`: there is no such folder")
    return _snapshot(str(source))


def is_hub_name(source: str) -> bool:
    """Whether a text looks like ``name`` or ``owner/name``."""
    return _HUB_NAME.fullmatch(source) is not None


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter.

    Raises:
        CheckpointError: If it holds a whole model too, so that what is meant stays open.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        return False
    if any((folder / name).is_file() for name in (_WEIGHTS, _INDEX)):
        raise CheckpointError(f"`{folder}` holds a whole model and an adapter; move one of them into another folder")
    return True


def _inside(folder: Path, kind: str) -> Path:
    """A folder, or the only model of this kind in a run's or a saved agent's."""
    if any((folder / name).is_file() for name in ("config.json", "tokenizer.json", ADAPTER_CONFIG, *_REWARD_FILES)):
        return folder
    if kind == "policy" and (folder / "learner").is_dir():
        return _inside(folder / "policy", kind)
    if kind == "policy" and (folder / "adapter" / ADAPTER_CONFIG).is_file():
        return folder / "adapter"
    found = [stage for stage in sorted(folder.iterdir()) if stage.is_dir() and _kind(stage) == kind]
    if len(found) > 1:
        names = ", ".join(stage.name for stage in found)
        raise ConfigError(f"`{folder}` is a run with several models ({names}); name one, such as {found[-1]}")
    return found[0] if found else folder


def _kind(stage: Path) -> str | None:
    """What a stage's folder holds: a policy, a reward model, or None of them."""
    if any((stage / name).is_file() for name in _REWARD_FILES):
        return "reward"
    if (stage / ADAPTER_CONFIG).is_file():
        return "policy"
    if not (stage / "config.json").is_file():
        return None
    classes = _json(stage / "config.json").get("architectures") or []
    kinds = ("ForSequenceClassification", "ForTokenClassification")
    return "reward" if any(name.endswith(kinds) for name in classes) else "policy"


def _snapshot(name: str) -> Path:
    """The files of a hub name; from the cache where the hub is out of reach."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES, ignore_patterns=["*/*", "consolidated*"]))
    except Exception as error:  # whatever client library is underneath
        raise CheckpointError(
            f"`{name}`: there is no such folder, and the hub gives no model of this name: {_one_line(error)}"
        ) from error


# --- models -----------------------------------------------------------------------------------------------------------


def load_config(folder: Path) -> Any:
    """A model's configuration.

    Raises:
        CheckpointError: If there is none, or transformers does not know such a model.
    """
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        what = "holds an adapter; save it merged into its model first" if is_adapter(folder) else "has no config.json"
        raise CheckpointError(f"`{folder}` is not a model folder: it {what}")
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a foreign file makes transformers raise anything
        if "auto_map" in _json(folder / "config.json"):
            raise CheckpointError(
                f"`{folder}` needs code of its own (`auto_map`), which is not run; only models that transformers knows "
                "are loaded"
            ) from error
        raise CheckpointError(f"cannot read `{folder / 'config.json'}`: {_one_line(error)}") from error


def load_model(
    source: str | Path,
    kind: Kind = "language_model",
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    num_labels: int | None = None,
    may_lack: str = "",
) -> Loaded:
    """A model with all its weights, each in memory of its own.

    Args:
        source: As of :func:`find_folder`.
        kind: A language model (an encoder-decoder's too); a trunk without head, or a classifier of sequences or tokens,
            all of which may be read from the folder of a language model, whose head is left out then.
        dtype: Of the weights; None is float32.
        device: Where it goes.
        num_labels: Of a classifier; None takes the folder's.
        may_lack: Regular expression of weights that the folder need not have: a head that is to be trained.

    Raises:
        CheckpointError: If weights are missing, too many, of another shape, not finite or not in safetensors, or the
            folder cannot be read; the message names them.
    """
    import torch
    import transformers

    folder = find_folder(source, kind="reward" if kind.endswith("classifier") else "policy")
    config = load_config(folder)
    _check_files(folder, config)
    if num_labels is not None:
        config.num_labels = num_labels
    if kind == "language_model" and config.is_encoder_decoder:
        auto: Any = transformers.AutoModelForSeq2SeqLM
    else:
        auto = {
            "language_model": transformers.AutoModelForCausalLM,
            "trunk": transformers.AutoModel,
            "classifier": transformers.AutoModelForSequenceClassification,
            "token_classifier": transformers.AutoModelForTokenClassification,
        }[kind]
    try:
        with quiet():
            model, info = auto.from_pretrained(
                folder,
                config=config,
                dtype=dtype or torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                output_loading_info=True,
            )
    except Exception as error:  # a foreign file makes transformers raise anything
        raise CheckpointError(f"cannot read the model in `{folder}`: {_one_line(error)}") from error
    _check_names(folder, model, info, kind, may_lack)
    check_finite(model, f"`{folder}`", fresh=info["missing_keys"])
    if torch.device(device).type == "cpu":
        own_memory(model)
    return Loaded(model.to(device).eval(), frozenset(info["missing_keys"]))


def load_tensors(file: Path, device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, each in memory of its own.

    Raises:
        CheckpointError: If it cannot be read, or a tensor is not finite.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = {name: tensor.clone() for name, tensor in load_file(file, device=str(device)).items()}
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"cannot read `{file}`: {_one_line(error)}") from error
    broken = [n for n, tensor in tensors.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(_not_finite(f"`{file}`", broken))
    return tensors


def own_memory(model: torch.nn.Module, *, all_of_it: bool = True) -> None:
    """Give each weight and buffer of a model on a CPU memory of its own, which torch aligns.

    Args:
        model: Changed in place; tied weights stay tied.
        all_of_it: Also what stands at an aligned address already (in a mapped file).
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and (all_of_it or tensor.data_ptr() % 64):
            tensor.data = tensor.data.clone()


def check_finite(model: torch.nn.Module, where: str, *, fresh: Sequence[str] = ()) -> None:
    """Refuse NaN and infinite weights.

    Args:
        model: Its parameters are looked at.
        where: What to call it.
        fresh: Weights that are still to be drawn.

    Raises:
        CheckpointError: Naming them.
    """
    import torch

    broken = [
        name
        for name, p in model.named_parameters()
        if p.is_floating_point() and p.device.type != "meta" and name not in fresh and not torch.isfinite(p).all()
    ]
    if broken:
        raise CheckpointError(_not_finite(where, broken))


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and its table of new weights: what is wrong is said in one line instead."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _check_files(folder: Path, config: Any) -> None:
    """Refuse weights that are not in safetensors, before anything is read."""
    index = folder / _INDEX
    if index.is_file():
        files = _json(index).get("weight_map")
        if not isinstance(files, dict) or not files:
            raise CheckpointError(f"`{index}` names no weights")
        wrong = sorted({str(name) for name in files.values() if Path(str(name)).suffix != ".safetensors"})
        outside = sorted({str(name) for name in files.values() if Path(str(name)).name != str(name)})
        if wrong or outside:
            raise CheckpointError(
                f"`{index}` names {_named(wrong or outside)}; only safetensors files beside it are read"
            )
    elif not (folder / _WEIGHTS).is_file():
        pickled = [file.name for file in sorted(folder.glob("*.bin"))]
        if not pickled:
            raise CheckpointError(f"`{folder}` has no weights: neither {_WEIGHTS} nor {_INDEX}")
        name = (getattr(config, "architectures", None) or ["AutoModelForCausalLM"])[0]
        code = f"import transformers as t; t.{name}.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        raise CheckpointError(
            f"`{folder}` has pickled weights only ({_named(pickled)}), which are not read; if you trust them, convert "
            f'them once: python -c "{code}"'
        )


def _check_names(folder: Path, model: Any, info: dict[str, Any], kind: Kind, may_lack: str) -> None:
    """Refuse weights that are missing, of another shape or more than the model's."""
    mismatched = [f"{name} {tuple(found)} for {tuple(own)}" for name, found, own in info["mismatched_keys"]]
    if mismatched:
        raise CheckpointError(f"`{folder}` has weights of other shapes than its config.json says: {_named(mismatched)}")
    missing = [name for name in info["missing_keys"] if not (may_lack and re.search(may_lack, name))]
    if missing:
        raise CheckpointError(f"`{folder}` lacks the weights {_named(missing)} of a {type(model).__name__}")
    prefix = f"{model.base_model_prefix}."

    def is_head(name: str) -> bool:
        """Of another task than the one that is loaded, and outside the trunk."""
        return kind != "language_model" and not (name.startswith(prefix) or hasattr(model, name.split(".")[0]))

    more = [name for name in info["unexpected_keys"] if not (_NO_WEIGHTS.search(name) or is_head(name))]
    if more:
        raise CheckpointError(f"`{folder}` has more weights than a {type(model).__name__}: {_named(more)}")


# --- tokenizers -------------------------------------------------------------------------------------------------------


def load_tokenizer(source: str | Path) -> Any:
    """A tokenizer with its vocabulary and its special tokens.

    Args:
        source: As of :func:`find_folder`.

    Raises:
        CheckpointError: If files are missing, or transformers cannot read them; the message names them.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    folder = find_folder(source)
    try:
        with quiet():
            # AutoTokenizer goes by the model beside it: a Qwen 2 with another tokenizer would get Qwen's class for it,
            # with an end token that the model does not have, and other kinds their rules for blanks.
            declared = get_tokenizer_config(folder)
            general = declared.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")
            kind: Any = PreTrainedTokenizerFast if general and "auto_map" not in declared else AutoTokenizer
            tokenizer: Any = kind.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a foreign file makes transformers raise anything
        raise CheckpointError(
            f"cannot load the tokenizer in `{folder}`{_without_tokenizer(folder)}: {_one_line(error)}"
        ) from error
    files = getattr(type(tokenizer), "vocab_files_names", None) or {}
    needed = [files[name] for name in ("vocab_file", "merges_file") if name in files]
    lacking = [name for name in needed if not (folder / name).is_file()]
    if lacking and not (folder / "tokenizer.json").is_file():
        raise CheckpointError(f"`{folder}` lacks the tokenizer's tokenizer.json (or {', '.join(lacking)})")
    if not tokenizer.all_special_tokens and not (folder / "tokenizer_config.json").is_file():
        raise CheckpointError(
            f"`{folder}` lacks tokenizer_config.json: nobody knows which token of its tokenizer ends a text"
        )
    return tokenizer


def _without_tokenizer(folder: Path) -> str:
    lacking = [name for name in ("tokenizer.json", "tokenizer_config.json") if not (folder / name).is_file()]
    return f", which lacks {' and '.join(lacking)}" if lacking else ""


# --- messages ---------------------------------------------------------------------------------------------------------


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read `{file}`: {error}") from error
    return found if isinstance(found, dict) else {}


def _named(names: Sequence[str]) -> str:
    """The first few of some names, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _not_finite(where: str, names: Sequence[str]) -> str:
    return f"{where} has weights that are NaN or infinite: {_named(names)}; take an earlier copy of the model"


def _one_line(error: BaseException, length: int = 300) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= length else text[: length - 1] + "…"
