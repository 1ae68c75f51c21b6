"""Settings that check themselves: a dataclass on :class:`Settings` refuses values outside what its annotations say.

Ranges are written as `annotated_types <https://github.com/annotated-types/annotated-types>`_ has them, a text among
them is the remedy that the message ends with, and choices are a ``Literal``:

    @dataclass(frozen=True)
    class SamplingParams(Settings):
        temperature: Annotated[float, Ge(0), "0 is greedy"] = 1.0
        top_p: Annotated[float, Interval(gt=0, le=1)] = 1.0
        max_new_tokens: PositiveInt | None = None
        order: Literal["best", "worst"] = "best"

    SamplingParams(temperature=-1)  # ConfigError: `temperature` must be ≥ 0, got -1; 0 is greedy

Rules between fields stand in a class's own ``__post_init__``, which calls ``super().__post_init__()`` first.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import operator
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Ge, GroupedMetadata, Gt, Interval, Le, Lt, MinLen, Predicate

from textenv.errors import ConfigError

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
UnitFloat = Annotated[float, Interval(ge=0, le=1)]

Dtype = Literal["auto", "float32", "bfloat16", "float16", "float64"]
"""What a model computes in; ``auto`` takes bfloat16 where the hardware is fast at it."""


def folder_name(name: str) -> bool:
    """The name of a folder."""  # a predicate's docstring is what the message asks for
    return bool(name) and not set(name) & set("/\\") and name not in (".", "..")


FolderName = Annotated[str, Predicate(folder_name)]


class OldName(NamedTuple):
    """What a field's former name stands for.

    Attributes:
        new: The field's name now.
        value: Makes the field's value of the old one; given the old value and all fields by name.
    """

    new: str
    value: Callable[[Any, Mapping[str, Any]], Any] = lambda value, fields: value


def with_new_names(kind: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a class of settings under the names that they have now; warns of those that have another.

    Raises:
        ConfigError: If a field is given under both names.
    """
    old_names: Mapping[str, OldName] = getattr(kind, "old_names", {})
    renamed = dict(fields)
    for name in [name for name in fields if name in old_names]:
        new, value = old_names[name]
        if new in fields:
            raise ConfigError(f"`{name}` is the old name of `{new}`: give one of them")
        warnings.warn(f"`{name}` of {kind.__name__} is now called `{new}`", FutureWarning, stacklevel=4)
        renamed[new] = value(renamed.pop(name), fields)
    return renamed


def renamed(kind: Any, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Settings inside settings, as YAML holds them, under the names that they have now.

    Raises:
        ConfigError: If a field is given under both names.
    """
    inner = _inner_settings(kind)
    return {
        name: renamed(inner[name], value) if name in inner and isinstance(value, Mapping) else value
        for name, value in with_new_names(kind, tree).items()
    }


def renamed_flag(kind: Any, path: Sequence[str], value: Any) -> tuple[list[str], Any]:
    """The path of a field inside settings, and its value, under the names that they have now."""
    name, *rest = path
    inner = _inner_settings(kind)
    if rest:
        deeper, value = renamed_flag(inner[name], rest, value) if name in inner else (rest, value)
        return [name, *deeper], value
    ((name, value),) = with_new_names(kind, {name: value}).items()
    return [name], value


def with_defaults(kind: Any, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Settings inside settings, as YAML holds them, with what is missing at its default."""
    inner, complete = _inner_settings(kind), dict(tree)
    for field in fields(kind):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if default is not MISSING:
            complete.setdefault(field.name, asdict(default) if field.name in inner else default)
        if field.name in inner and isinstance(complete.get(field.name), Mapping):
            complete[field.name] = with_defaults(inner[field.name], complete[field.name])
    return complete


@functools.cache
def _inner_settings(kind: type) -> dict[str, type]:
    """The fields of a class of settings that are settings themselves."""
    hints = get_type_hints(kind) if is_dataclass(kind) else {}
    return {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}


class Rule(NamedTuple):
    """What a field asks of its values."""

    number: Literal["int", "float", ""] = ""
    choices: tuple[Any, ...] = ()
    none: bool = False
    limits: tuple[Any, ...] = ()
    remedy: str = ""

    @property
    def requirement(self) -> str:
        """In words: ``≥ 1``, ``in (0, 1]``, ``one of 'a', 'b', 'c'``; empty where every value of the type will do."""
        words = []
        if self.choices:
            named = [*map(repr, self.choices)]
            words.append(" or ".join(named) if len(named) < 3 else f"one of {', '.join(named)}")
        low: Any = next((limit for limit in self.limits if isinstance(limit, (Gt, Ge))), None)
        high: Any = next(
            (limit for limit in self.limits if isinstance(limit, (Lt, Le)) and _bound(limit) != math.inf), None
        )
        if low and high:
            left, right = "(["[isinstance(low, Ge)], ")]"[isinstance(high, Le)]
            words.append(f"in {left}{_bound(low):g}, {_bound(high):g}{right}")
        else:
            signs = [f"{_SIGNS[type(limit)]} {_bound(limit):g}" for limit in (low, high) if limit]
            words += ["positive" if sign == "> 0" else sign for sign in signs]
        for limit in self.limits:
            if isinstance(limit, MinLen):
                words.append(f"at least {limit.min_length} long" if limit.min_length > 1 else "non-empty")
            elif isinstance(limit, Predicate):
                text = " ".join((limit.func.__doc__ or limit.func.__name__).split()).rstrip(".")
                words.append(text[:1].lower() + text[1:])
        return " and ".join(words)

    def broken_by(self, value: Any) -> str:
        """What a value (not None, where that is allowed) ought to be; empty if it will do."""
        kind = {"int": numbers.Integral, "float": numbers.Real}.get(self.number)
        if kind is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            wanted = "a whole number" if self.number == "int" else "a number"
        elif self.number == "float" and not math.isfinite(value) and not (value == math.inf and self._endless):
            wanted = "a finite number"
        elif (self.choices and value not in self.choices) or not all(_holds(limit, value) for limit in self.limits):
            wanted = self.requirement
        else:
            return ""
        return wanted + (", or None" if self.none else "")

    @property
    def _endless(self) -> bool:
        return any(isinstance(limit, Le) and _bound(limit) == math.inf for limit in self.limits)


_SIGNS = {Gt: ">", Ge: "≥", Lt: "<", Le: "≤"}


def _bound(limit: Any) -> float:
    return next(getattr(limit, name) for name in ("gt", "ge", "lt", "le") if hasattr(limit, name))


def _holds(limit: Any, value: Any) -> bool:
    if isinstance(limit, Gt):
        return value > limit.gt
    if isinstance(limit, Ge):
        return value >= limit.ge
    if isinstance(limit, Lt):
        return value < limit.lt
    if isinstance(limit, Le):
        return value <= limit.le
    if isinstance(limit, MinLen):
        return len(value) >= limit.min_length
    if isinstance(limit, Predicate):
        return limit.func(value)
    raise TypeError(f"{limit!r} is no limit that a setting can have")


class _TakesOldNames(type):
    """Lets a class of settings be called with the names that its fields had in the version before."""

    if not TYPE_CHECKING:  # type checkers are to see the constructor of the dataclass

        def __call__(cls, *values: Any, **given: Any) -> Any:
            return super().__call__(*values, **with_new_names(cls, given))

        @property
        def __signature__(cls) -> inspect.Signature:
            return inspect.signature(functools.partial(cls.__init__, None))  # of the dataclass, not of the call above


@dataclass(frozen=True)  # jsonargparse takes apart into flags what is a dataclass through and through
class Settings(metaclass=_TakesOldNames):
    """Base of dataclasses of settings: checks every field once, when an object is made.

    A field of whole numbers refuses bools and floats, one of numbers refuses bools, NaN and, unless ``Le(math.inf)``
    stands in its annotation, infinity; numpy's scalars count as the numbers that they are.

    Raises:
        ConfigError: If a value is not what its field's annotation asks for: names field, requirement, value and remedy.
    """

    __slots__ = ()
    old_names: ClassVar[Mapping[str, OldName]] = {}
    """Names of the version before: they are taken with a warning."""

    def __post_init__(self) -> None:
        for name, rule in rules(type(self)).items():
            value = getattr(self, name)
            wanted = "" if value is None and rule.none else rule.broken_by(value)
            if wanted:
                got = value if isinstance(value, numbers.Number) else repr(value)
                verb = "lie" if wanted.startswith("in ") else "be"
                raise ConfigError(f"`{name}` must {verb} {wanted}, got {got}{rule.remedy and '; ' + rule.remedy}")


def refuse_unused(settings: Settings, why: str, *names: str) -> None:
    """Refuse settings that were changed although nothing that runs would look at them.

    Args:
        settings: Any settings.
        why: Ends the message: why they have no effect here, and what to do instead.
        names: Fields, or ``field.inner.innermost`` of settings inside settings.

    Raises:
        ConfigError: If one has another value than its default.
    """
    for name in names:
        outer, _, inner = name.partition(".")
        (field,) = (each for each in fields(settings) if each.name == outer)  # pyright: ignore[reportArgumentType]
        usual = field.default if field.default_factory is MISSING else field.default_factory()
        if operator.attrgetter(name)(settings) != (operator.attrgetter(inner)(usual) if inner else usual):
            raise ConfigError(f"`{name}` has no effect {why}")


@functools.cache
def rules(kind: type) -> dict[str, Rule]:
    """What each field of a class of settings asks for, read from its annotations; only fields that ask something."""
    fields = getattr(kind, "__dataclass_fields__", {})
    hints = get_type_hints(kind, include_extras=True)
    field_rules = {name: _rule(hints[name]) for name in fields}
    return {name: rule for name, rule in field_rules.items() if rule.number or rule.choices or rule.limits}


def _rule(hint: Any) -> Rule:
    """The rule in an annotation: ``Annotated``, a union with None, ``Literal`` and plain numbers, in any order."""
    if get_origin(hint) is Annotated:
        base, *extras = get_args(hint)
        inner = _rule(base)
        remedies = [extra for extra in extras if isinstance(extra, str)]
        limits = tuple(_limits(extra for extra in extras if not isinstance(extra, str)))
        return inner._replace(limits=(*inner.limits, *limits), remedy=(remedies or [inner.remedy])[-1])
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        optional = len(kinds) < len(get_args(hint))
        return _rule(kinds[0])._replace(none=optional) if len(kinds) == 1 else Rule(none=optional)
    if get_origin(hint) is Literal:
        return Rule(choices=get_args(hint))
    return Rule(number="int") if hint is int else Rule(number="float") if hint is float else Rule()


def _limits(extras: Iterable[Any]) -> Iterator[Any]:
    for extra in extras:
        yield from extra if isinstance(extra, GroupedMetadata) else (extra,)


@functools.cache
def field_help(kind: type) -> dict[str, str]:
    """What the docstring of a class of settings, and of those that it extends, says of each field."""
    from docstring_parser import parse

    return {
        about.arg_name: " ".join((about.description or "").split())
        for each in reversed(kind.__mro__)
        if is_dataclass(each) and each.__doc__
        for about in parse(each.__doc__).params
    }
