"""What ``evaluation.json`` holds, read tolerantly: models, tasks, and figures with their intervals."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from textenv.pages.numbers import Figure, fixed, percent
from textenv.report.run_folder import lookup, number

TITLES = {"base": "Base", "sft": "SFT", "rl": "RL", "ppo": "PPO"}
"""Names of models to the words used for them; others keep their names."""

_COLORS = {"base": "base", "sft": "sft", "rl": "ppo", "ppo": "ppo"}
_SPARE_COLORS = ("task1", "task2", "task3", "task4")


class Measure(NamedTuple):
    """One figure of the tables.

    Attributes:
        key: Its name in the file.
        title: Its name on the page.
        digits: Decimals; None shows a percentage.
    """

    key: str
    title: str
    digits: int | None

    def shown(self, value: float | None) -> str:
        """A value of it."""
        return percent(value, 1) if self.digits is None else fixed(value, self.digits)


MEASURED = (
    Measure("answered", "In the asked form", None),
    Measure("accuracy", "Accuracy", None),
    Measure("greedy_accuracy", "Accuracy, greedy", None),
    Measure("goes_on", "Goes on with the prompt", None),
    Measure("eos", "Ends by itself", None),
    Measure("tokens", "Tokens", 1),
    Measure("reference_logprob", "Log-likelihood of the reference, nats per token", 2),
    Measure("kl", "KL, nats per answer", 2),
)
"""What the tables show, in their order."""


def model_title(model: str) -> str:
    """What a model is called on the page."""
    return TITLES.get(model, model)


def model_color(model: str, place: int) -> str:
    """CSS variable of a model."""
    return _COLORS.get(model, _SPARE_COLORS[place % len(_SPARE_COLORS)])


def model_names(evaluation: Mapping[str, Any]) -> list[str]:
    """Names of the models that were measured, in their order."""
    models = lookup(evaluation, "models")
    return [str(name) for name in models] if isinstance(models, Mapping) else []


def figure(evaluation: Mapping[str, Any], model: str, task: str, measure: str) -> Figure | None:
    """Value and 95% interval of a measure, its ends None where they are not known; None without a value."""
    ends = lookup(evaluation, "models", model, task, measure)
    if not isinstance(ends, list | tuple) or len(ends) != 3:
        return None
    numbers = [number({"v": value}, "v") for value in ends]
    return None if numbers[0] is None else dict(zip(("value", "low", "high"), numbers, strict=True))


def task_names(evaluation: Mapping[str, Any], key: str = "tasks") -> list[str]:
    """Names of the tasks, or with ``verifiable`` of those whose answers can be checked."""
    found = lookup(evaluation, key)
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
