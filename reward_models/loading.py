"""Any reward model from a string or a JSON description, and back into a folder.

A description is a mapping with a ``kind`` and that kind's options; models inside models are descriptions too::

    {"kind": "weighted_sum", "weights": [1.0, 0.2],
     "models": [{"kind": "sequence", "path": "runs/quickstart/reward"}, {"kind": "length", "target": 30}]}
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from reward_models.base import RewardModel
from reward_models.normalization import Normalization
from reward_models.shapes import kind_of_folder
from textenv.checkpoints import write_atomic
from textenv.errors import CheckpointError, ConfigError
from textenv.pretrained import find_folder, is_hub_name
from textenv.rewards import resolve_reward

SPEC_FILE = "reward_spec.json"
_URLS = {"http://": "textenv", "https://": "textenv", "openrlhf+http://": "openrlhf", "openrlhf+https://": "openrlhf"}

# kind → where its factory is found, as module:attribute; imported when first used.
_KINDS = {
    "sequence": "reward_models.sequence:SequenceRewardModel.from_pretrained",
    "classifier": "reward_models.adapters.classifier:ClassifierRewardModel.from_pretrained",
    "uncertain": "reward_models.uncertain:UncertainRewardModel.from_pretrained",
    "scalar_head": "reward_models.adapters.scalar_head:ScalarHeadRewardModel.from_pretrained",
    "token_process": "reward_models.adapters.token_process:TokenProcessRewardModel.from_pretrained",
    "encoder": "reward_models.adapters.encoder:EncoderSimilarity.from_pretrained",
    "dpo": "reward_models.adapters.dpo:load_dpo",
    "rating_judge": "reward_models.adapters.judge:load_rating_judge",
    "text_judge": "reward_models.adapters.judge:load_text_judge",
    "http": "reward_models.adapters.http:HttpReward",
    "lexicon": "reward_models.lexicon:Lexicon",
    "regex": "reward_models.adapters.rules:RegexRule",
    "length": "reward_models.adapters.rules:LengthRule",
    "format": "reward_models.adapters.rules:FormatRule",
    "keywords": "reward_models.adapters.rules:KeywordRule",
    "function": "reward_models.loading:_function",
    "ensemble": "reward_models.ensembles:Ensemble",
    "weighted_sum": "reward_models.ensembles:WeightedSum",
    "clip": "reward_models.ensembles:Clipped",
    "zscore": "reward_models.loading:_z_scored",
}
KINDS = tuple(_KINDS)
"""The kinds that a description may name."""

_PATHS = ("path", "head", "policy", "reference")


def load_reward_model(spec: str | Path | Mapping[str, Any]) -> RewardModel:
    """The reward model that a string or a description stands for.

    Args:
        spec: One of

            - a folder: a sequence classifier, a language model with a value head, a token classifier of steps, or what
              `save_reward_model` wrote; or the folder of a run with one reward model; or a hub name, ``owner/name``;
            - a ``.json`` file with a description, whose relative paths start at the file's folder;
            - ``lexicon``, or a name that ``textenv.register_reward`` knows;
            - ``http://…`` or ``https://…``, with ``openrlhf+`` before it for OpenRLHF's format;
            - ``module:function``, or ``module:object`` with a ``score`` method;
            - a description as a mapping, or as JSON text.

    Raises:
        ConfigError: If it stands for nothing, or an option is unknown or unusable.
        CheckpointError: If a folder cannot be read.
    """
    if isinstance(spec, Mapping):
        return _build(spec, Path())
    text = str(spec)
    if text.lstrip().startswith("{"):
        return _build(_parsed(text, "the description"), Path())
    for start, payload in _URLS.items():
        if text.startswith(start):
            return _build({"kind": "http", "url": text.removeprefix("openrlhf+"), "payload": payload}, Path())
    path = Path(text)
    if text and path.is_dir():
        path = find_folder(path, kind="reward")
        described = path / SPEC_FILE
        if described.is_file():
            return _from_file(described)
        return _build({"kind": kind_of_folder(path), "path": str(path)}, Path())
    if path.suffix == ".json" and path.is_file():
        return _from_file(path)
    if text == "lexicon":
        return _build({"kind": "lexicon"}, Path())
    if "/" in text and is_hub_name(text):
        return _from_hub(text)
    if not text or (":" not in text and ("/" in text or "\\" in text or path.suffix)):
        raise ConfigError(f"no reward model {text!r}: there is no such folder or file.")
    return _function(text)


def _from_hub(name: str) -> RewardModel:
    try:
        folder = find_folder(name, kind="reward")
    except CheckpointError as error:
        raise ConfigError(f"no reward model: {error}") from error
    return load_reward_model(folder)


def save_reward_model(model: Any, folder: str | Path) -> None:
    """Write a reward model, or a combination of several, so that `load_reward_model` reads it from the folder.

    Models with weights go into sub-folders, everything else into ``reward_spec.json``. What holds a secret (the headers
    of an HTTP endpoint) is not written.

    Raises:
        ConfigError: If a part cannot be described, such as a function without its name.
    """
    path = Path(folder)
    if not hasattr(model, "to_spec") and hasattr(model, "save_pretrained"):
        model.save_pretrained(path)
        return
    path.mkdir(parents=True, exist_ok=True)
    saved: list[Any] = []
    spec = _described(model, path, saved)
    write_atomic(path / SPEC_FILE, json.dumps(spec, indent=2, ensure_ascii=False) + "\n")


def _described(model: Any, folder: Path, saved: list[Any]) -> dict[str, Any]:
    """The description of a model; its parts with weights are written on the way."""
    if not hasattr(model, "to_spec"):
        if not hasattr(model, "save_pretrained"):
            raise ConfigError(
                f"a {type(model).__name__} cannot be saved: it has neither `to_spec` nor `save_pretrained`."
            )
        name = f"model-{len(saved)}"
        saved.append(model)
        model.save_pretrained(folder / name)
        return {"kind": kind_of_folder(folder / name), "path": name}
    spec = dict(model.to_spec())
    if "model" in spec:
        spec["model"] = _described(spec["model"], folder, saved)
    inner = spec.get("models")
    if isinstance(inner, Mapping):
        spec["models"] = {name: _described(part, folder, saved) for name, part in inner.items()}
    elif inner is not None:
        spec["models"] = [_described(part, folder, saved) for part in inner]
    return spec


def _from_file(path: Path) -> RewardModel:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read `{path}`: {error}.") from error
    return _build(_parsed(text, f"`{path}`"), path.parent)


def _parsed(text: str, where: str) -> Mapping[str, Any]:
    try:
        spec = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where} is not JSON: {error}.") from error
    if not isinstance(spec, dict):
        raise ConfigError(f'{where} must be an object with a "kind", got {type(spec).__name__}.')
    return spec


def _build(spec: Mapping[str, Any], folder: Path) -> RewardModel:
    """The model of a description; relative paths start at the folder."""
    options = dict(spec)
    kind = options.pop("kind", None)
    if kind not in _KINDS:
        raise ConfigError(f"a reward model's `kind` must be one of {', '.join(_KINDS)}; got {kind!r}.")
    for name in _PATHS:
        if isinstance(options.get(name), str):
            beside = folder / options[name]
            options[name] = options[name] if is_hub_name(options[name]) and not beside.exists() else str(beside)
    if "model" in options:
        options["model"] = _part(options["model"], folder)
    inner = options.get("models")
    if isinstance(inner, Mapping):
        options["models"] = {name: _part(part, folder) for name, part in inner.items()}
    elif inner is not None:
        options["models"] = [_part(part, folder) for part in inner]
    factory = _factory(_KINDS[kind])
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        known = ", ".join(inspect.signature(factory).parameters)
        raise ConfigError(f'the options of the kind "{kind}" do not fit: {error}; it has {known}.') from error
    return factory(**options)


def _part(spec: Any, folder: Path) -> RewardModel:
    """A model inside a description: a description or a string."""
    if isinstance(spec, Mapping):
        return _build(spec, folder)
    if isinstance(spec, str):
        return load_reward_model(folder / spec if (folder / spec).exists() else spec)
    raise ConfigError(f"a model inside a description must be a description or a string, got {spec!r}.")


def _factory(place: str) -> Callable[..., RewardModel]:
    module, _, path = place.partition(":")
    found: Any = import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found


def _function(function: str, each: bool = False) -> RewardModel:
    """A function, or an object that is a reward model already, by name."""
    from reward_models.adapters.function import FunctionReward

    found = resolve_reward(function)
    if isinstance(found, RewardModel) and not isinstance(found, type):
        return found
    return FunctionReward(found, each=each, reference=function)


def _z_scored(model: RewardModel, normalization: Mapping[str, Any] | None = None) -> RewardModel:
    """A model with the gain and bias that were found earlier."""
    from reward_models.ensembles import ZScored

    fitted = None if normalization is None else Normalization.from_json(dict(normalization), where="zscore")
    return ZScored(model, fitted)
