"""The one checker of settings."""

from __future__ import annotations

import inspect
import math
import pickle
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import jsonargparse
import numpy as np
import pytest
from annotated_types import Ge, Interval, Le, MinLen

from textenv.errors import ConfigError
from textenv.settings import (
    FolderName,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Settings,
    UnitFloat,
    rules,
)


@dataclass(frozen=True)
class Basic(Settings):
    """Settings of every kind.

    Attributes:
        steps: Steps.
        rate: Rate.
    """

    steps: PositiveInt = 1
    seed: NonNegativeInt = 0
    rate: PositiveFloat = 0.5
    gamma: UnitFloat = 1.0
    top_p: Annotated[float, Interval(gt=0, le=1), "1 keeps every token"] = 1.0
    heat: Annotated[float, Ge(0)] = 1.0
    clip: Annotated[float, Ge(0), Le(math.inf)] = 1.0
    target: PositiveFloat | None = None
    limit: Annotated[int | None, Ge(2)] = None
    bias: float = 0.0
    order: Literal["best", "worst"] = "best"
    mode: Literal["a", "b", "c"] | None = None
    name: FolderName = "run"
    tasks: Annotated[tuple[str, ...], MinLen(1), "name them"] = ("text",)
    either: int | str = 0
    anything: Any = None


@dataclass(frozen=True)
class Derived(Basic):
    """A field with another range, and a rule between fields."""

    steps: Annotated[int, Ge(4)] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed > self.steps:
            raise ConfigError("`seed` must not exceed `steps`")


@dataclass(frozen=True, slots=True)
class Slotted(Settings):
    """Slots leave no dictionary."""

    steps: PositiveInt = 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("steps", 0, "`steps` must be ≥ 1, got 0"),
        ("steps", 2.0, "`steps` must be a whole number, got 2.0"),
        ("steps", "2", "`steps` must be a whole number, got '2'"),
        ("steps", True, "`steps` must be a whole number, got True"),
        ("steps", None, "`steps` must be a whole number, got None"),
        ("steps", np.bool_(True), "`steps` must be a whole number, got np.True_"),
        ("steps", np.int64(0), "`steps` must be ≥ 1, got 0"),
        ("rate", 0, "`rate` must be positive, got 0"),
        ("rate", math.nan, "`rate` must be a finite number, got nan"),
        ("rate", math.inf, "`rate` must be a finite number, got inf"),
        ("rate", False, "`rate` must be a number, got False"),
        ("gamma", 1.5, "`gamma` must lie in [0, 1], got 1.5"),
        ("gamma", np.float32(-0.5), "`gamma` must lie in [0, 1], got -0.5"),
        ("top_p", 0, "`top_p` must lie in (0, 1], got 0; 1 keeps every token"),
        ("heat", -1, "`heat` must be ≥ 0, got -1"),
        ("clip", math.nan, "`clip` must be a finite number, got nan"),
        ("clip", -math.inf, "`clip` must be a finite number, got -inf"),
        ("target", 0, "`target` must be positive, or None, got 0"),
        ("limit", 1, "`limit` must be ≥ 2, or None, got 1"),
        ("bias", math.nan, "`bias` must be a finite number, got nan"),
        ("order", "first", "`order` must be 'best' or 'worst', got 'first'"),
        ("order", None, "`order` must be 'best' or 'worst', got None"),
        ("mode", "d", "`mode` must be one of 'a', 'b', 'c', or None, got 'd'"),
        ("name", "a/b", "`name` must be the name of a folder, got 'a/b'"),
        ("tasks", (), "`tasks` must be non-empty, got (); name them"),
    ],
)
def test_a_value_outside_its_range_is_refused_in_one_line(field: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Basic(**{field: value})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", np.int32(3)),
        ("rate", 1),
        ("rate", np.float32(0.5)),
        ("gamma", 0),
        ("clip", math.inf),
        ("target", None),
        ("limit", None),
        ("limit", 2),
        ("mode", None),
        ("either", "text"),
        ("anything", math.nan),
    ],
)
def test_a_value_inside_its_range_stays_as_it_is(field: str, value: Any) -> None:
    assert getattr(Basic(**{field: value}), field) is value


def test_a_derived_class_may_change_a_range_and_add_rules_between_fields() -> None:
    with pytest.raises(ConfigError, match="`steps` must be ≥ 4, got 1"):
        Derived(steps=1)
    with pytest.raises(ConfigError, match="`seed` must not exceed"):
        Derived(seed=5)
    with pytest.raises(ConfigError, match="`gamma` must lie in"):
        replace(Derived(), gamma=2.0)


def test_settings_with_slots_are_checked_and_have_no_dictionary() -> None:
    with pytest.raises(ConfigError, match="`steps` must be ≥ 1, got 0"):
        Slotted(steps=0)
    assert not hasattr(Slotted(), "__dict__")


def test_settings_survive_pickling_and_are_checked_then_too() -> None:
    settings = Derived(steps=9, target=0.25)
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_the_signature_is_that_of_the_fields() -> None:
    assert list(inspect.signature(Slotted).parameters) == ["steps"]
    assert "seed" in inspect.signature(Derived).parameters


def test_annotations_are_read_once_per_class() -> None:
    assert rules(Basic) is rules(Basic)
    assert "anything" not in rules(Basic)
    assert rules(Basic)["top_p"].requirement == "in (0, 1]"


def test_an_unknown_limit_is_a_mistake_of_the_class() -> None:
    @dataclass(frozen=True)
    class Odd(Settings):
        steps: Annotated[int, object()] = 1

    with pytest.raises(TypeError, match="no limit"):
        Odd()


def test_the_command_line_sees_the_plain_types(capsys: pytest.CaptureFixture[str]) -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Basic, as_group=False)
    help_text = " ".join(parser.format_help().split())
    assert "Steps. (type: int, default: 1)" in help_text
    assert "Annotated" not in help_text
    parsed = parser.parse_args(["--steps", "3", "--target", "0.5", "--limit=null"])
    assert Basic(**vars(parser.instantiate(parsed))) == Basic(steps=3, target=0.5)
