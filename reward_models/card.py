"""The model card in a reward model's folder: ``README.md`` with the front matter that the Hugging Face hub reads.

`write_card` turns figures that somebody measured into the card; it measures nothing itself. What was not measured is
called so, never left out silently.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from textenv.checkpoints import write_atomic
from textenv.errors import CheckpointError, DataError
from textenv.statistics import Interval

CARD_FILE = "README.md"
_TAGS = ("reward-model", "textenv")
_INTENDED_USE = (
    "Ranks responses to one prompt, and rewards a policy whose answers look like those that it was trained on. Scores "
    "are relative: only differences between responses to the same kind of prompt mean something. It is no judge of "
    "truth, of safety or of people."
)
_LIMITS = (
    "A policy optimised against it finds what it wrongly rewards: watch an independent judge and the KL beside it.",
    "It knows the texts, the language and the raters of its training data, and nothing else.",
)


def write_card(
    folder: str | Path,
    *,
    name: str | None = None,
    training_data: Mapping[str, Any] | str,
    settings: Mapping[str, Any],
    accuracies: Mapping[str, Interval],
    calibration: Mapping[str, float] | None = None,
    evaluation_data: str = "held-out pairs",
    base_model: str | None = None,
    datasets: Sequence[str] = (),
    license: str | None = None,
    language: str = "en",
    intended_use: str = _INTENDED_USE,
    limits: Sequence[str] = (),
) -> Path:
    """Write ``README.md`` into a reward model's folder; an older one is replaced.

    Template, longest input and normalisation are read from ``reward_model.json`` in the folder, if it is there.

    Args:
        folder: The model's folder, which exists.
        name: Title of the card and of the hub's results; the folder's name for None.
        training_data: What it learned from: a sentence, or names and figures (labels, raters, domains, …).
        settings: Settings of the training, e.g. ``dataclasses.asdict(config)``.
        accuracies: Pair accuracy by what was asked, e.g. ``{"all pairs": …, "gap > 0.5": …}``.
        calibration: Figures such as ``{"ECE": 0.02, "Brier": 0.17, "temperature": 1.1}``; None: not measured.
        evaluation_data: What the accuracies were measured on.
        base_model: The trunk as the hub calls it, if it has it.
        datasets: Names of the training data on the hub, if it has them.
        license: The hub's identifier, such as ``mit``; left out for None.
        language: ISO 639-1 code.
        intended_use: A paragraph.
        limits: Known limits beyond the general ones.

    Returns:
        The file.

    Raises:
        CheckpointError: If the folder does not exist or its ``reward_model.json`` cannot be read.
        DataError: If an accuracy is not a share, or a calibration figure not finite.
    """
    path = Path(folder)
    if not path.is_dir():
        raise CheckpointError(f"`{path}`: there is no such folder; save the model before its card.")
    title = name or path.resolve().name
    _check(accuracies, calibration or {})
    side = _side_file(path)
    front = _front_matter(title, accuracies, evaluation_data, base_model, datasets, license, language)
    sections = [
        f"# {title}",
        "A reward model: text of prompt and response in, one score out, higher is better.",
        _usage(side),
        "## Training data\n\n" + (training_data if isinstance(training_data, str) else _table(training_data)),
        "## Training settings\n\n" + _table(settings),
        f"## Accuracy\n\nOn {evaluation_data}; a tie counts one half.\n\n" + _accuracy_table(accuracies),
        "## Calibration\n\n" + (_table(calibration) if calibration else "Not measured."),
        "## Normalisation\n\n" + _normalization(side.get("normalization")),
        f"## Intended use\n\n{intended_use}",
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in (*_LIMITS, *limits)),
    ]
    write_atomic(path / CARD_FILE, f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n")
    return path / CARD_FILE


def _check(accuracies: Mapping[str, Interval], calibration: Mapping[str, float]) -> None:
    for name, found in accuracies.items():
        if not (math.isnan(found.value) or 0 <= found.value <= 1):
            raise DataError(f"accuracy {name!r} must be a share in [0, 1], got {found.value}.")
    for name, figure in calibration.items():
        if not math.isfinite(figure):
            raise DataError(f"calibration figure {name!r} must be finite, got {figure}; leave out what has no value.")


def _side_file(folder: Path) -> dict[str, Any]:
    path = folder / "reward_model.json"
    if not path.is_file():
        return {}
    try:
        side = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read `{path}`: {error}.") from error
    return side if isinstance(side, dict) else {}


def _front_matter(
    title: str,
    accuracies: Mapping[str, Interval],
    evaluation_data: str,
    base_model: str | None,
    datasets: Sequence[str],
    license: str | None,
    language: str,
) -> str:
    """YAML as the hub's model card specification has it; results only where a value was measured."""
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "language": language,
        "tags": list(_TAGS),
    }
    optional = {"license": license, "base_model": base_model, "datasets": list(datasets)}
    front |= {key: value for key, value in optional.items() if value}
    metrics = [
        {"type": "accuracy", "name": f"pair accuracy, {name}", "value": round(float(found.value), 4)}
        for name, found in accuracies.items()
        if math.isfinite(found.value)
    ]
    if metrics:
        task = {"type": "text-classification", "name": "Reward modelling"}
        result = {"task": task, "dataset": {"name": evaluation_data, "type": "pairs"}, "metrics": metrics}
        front["metrics"] = ["accuracy"]
        front["model-index"] = [{"name": title, "results": [result]}]
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000)


def _usage(side: Mapping[str, Any]) -> str:
    lines = [
        "```python",
        "from reward_models import SequenceRewardModel",
        "",
        'rm = SequenceRewardModel.from_pretrained("path/to/this/folder")',
        'rm.score(["Continue this review: The film"], [" is great."])',
        "```",
        "",
        "`AutoModelForSequenceClassification.from_pretrained` loads it as well and gives raw scores (without the "
        "normalisation).",
    ]
    if side:
        part = f"the last {limit} tokens of it" if (limit := side.get("max_tokens")) else "of any length"
        lines += ["", f"Input: `{side.get('template')}`, {part}."]
    return "\n".join(lines)


def _normalization(found: Mapping[str, Any] | None) -> str:
    if not found:
        return "None: scores are the head's output."
    return (
        f"`score = {found['gain']:.6g} · raw + {found['bias']:.6g}`, fitted on {found['samples']} samples of the "
        f"policy `{found['policy']}` (raw mean {found['mean_before']:.4g}, standard deviation "
        f"{found['std_before']:.4g}). It is stored in `reward_model.json`, not in the weights."
    )


def _accuracy_table(accuracies: Mapping[str, Interval]) -> str:
    if not accuracies:
        return "Not measured."
    lines = ["| pairs | accuracy | 95 % interval | number |", "| --- | --- | --- | --- |"]
    for name, found in accuracies.items():
        interval = f"{found.low:.3f} to {found.high:.3f}" if math.isfinite(found.low + found.high) else "not measured"
        value = f"{found.value:.3f}" if math.isfinite(found.value) else "no pairs"
        lines.append(f"| {_cell(name)} | {value} | {interval} | {found.n} |")
    return "\n".join(lines)


def _table(values: Mapping[str, Any]) -> str:
    if not values:
        return "None given."
    lines = ["| | |", "| --- | --- |"]
    return "\n".join(lines + [f"| {_cell(key)} | {_cell(value)} |" for key, value in values.items()])


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
