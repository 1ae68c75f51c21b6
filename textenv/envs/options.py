"""What environments accept: actions, and the options of ``reset``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import InvalidAction
from numpy.typing import NDArray

from textenv.answers import EncodedText
from textenv.envs.slots import Slots
from textenv.envs.state import EnvState
from textenv.envs.task import EncodedPrompt, GenerationTask
from textenv.errors import ConfigError

IDLE = -1
"""Action of a slot that stands still, in ``AutoresetMode.DISABLED``."""

_SINGLE = ("prompt", "prompt_index", "prefix", "state")
_PER_SLOT = {"prompts": "prompt", "prompt_indices": "prompt_index", "prefixes": "prefix", "states": "state"}


def check_action(action: Any) -> int:
    """One action as an int.

    Raises:
        gymnasium.error.InvalidAction: If it is no integer.
    """
    value = np.asarray(action)
    if value.dtype.kind not in "iu" or value.ndim != 0:
        raise InvalidAction(f"the action of slot 0 must be one integer token id, got {action!r}")
    return int(value)


def check_actions(actions: Any, num_slots: int) -> NDArray[np.int64]:
    """Actions of all slots as int64, shape ``(num_slots,)``.

    Raises:
        gymnasium.error.InvalidAction: If they are not one integer per slot.
    """
    try:
        values = np.asarray(actions)
    except ValueError as error:
        raise InvalidAction(f"actions must be one token id per slot, got {actions!r}") from error
    if values.dtype.kind not in "iu":
        first = "" if values.size == 0 else f"; slot 0 has {values.flat[0]!r}"
        raise InvalidAction(f"actions must be integer token ids, got dtype {values.dtype}{first}")
    if values.shape != (num_slots,):
        raise InvalidAction(f"actions must have shape ({num_slots},), one token id per slot, got {values.shape}")
    return values.astype(np.int64, copy=False)


@dataclass(frozen=True, slots=True)
class Start:
    """How one slot begins: by dealing (nothing set), or with a given prompt, prefix or state."""

    prompt: Any = None
    prompt_index: int | None = None
    prefix: str | Sequence[int] | None = None
    state: EnvState | None = None

    def __post_init__(self) -> None:
        """Checks that the choices do not contradict each other."""
        given = [name for name in ("prompt", "prompt_index", "state") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"reset options {' and '.join(map(repr, given))} contradict each other; give one")
        if self.state is not None and self.prefix is not None:
            raise ConfigError("the reset option 'prefix' cannot be given with 'state', which holds its own tokens")
        if self.state is not None and not isinstance(self.state, EnvState):
            raise ConfigError(f"the reset option 'state' must be an EnvState, got {type(self.state).__name__}")

    @property
    def deals(self) -> bool:
        """Whether the prompt source decides the prompt."""
        return self.prompt is None and self.prompt_index is None and self.state is None


def read_options(options: Mapping[str, Any] | None, num_slots: int) -> list[Start]:
    """What ``reset(options=...)`` asks for, one :class:`Start` per slot.

    Args:
        options: ``prompt``, ``prompt_index``, ``prefix`` or ``state`` for every slot; or lists with one entry (or
            None) per slot as ``prompts``, ``prompt_indices``, ``prefixes`` or ``states``.
        num_slots: Number of slots.

    Raises:
        ConfigError: If an option is unknown, a list has the wrong length, or options contradict each other.
    """
    if not options:
        return [Start()] * num_slots
    unknown = [name for name in options if name not in _SINGLE and name not in _PER_SLOT]
    if unknown:
        raise ConfigError(
            f"unknown reset option {unknown[0]!r}; known: {', '.join((*_SINGLE, *_PER_SLOT))}, reset_mask"
        )
    common = {name: options[name] for name in _SINGLE if options.get(name) is not None}
    rows: list[dict[str, Any]] = [dict(common) for _ in range(num_slots)]
    for plural, name in _PER_SLOT.items():
        values = options.get(plural)
        if values is None:
            continue
        if not hasattr(values, "__len__") or isinstance(values, str):
            raise ConfigError(f"the reset option {plural!r} must be a list with one entry per slot, got {values!r}")
        if len(values) != num_slots:
            raise ConfigError(f"the reset option {plural!r} has {len(values)} entries for {num_slots} slots")
        for row, value in zip(rows, values, strict=True):
            if value is not None:
                row[name] = value
    return [Start(**row) for row in rows]


def begin_slot(slots: Slots, slot: int, start: Start, dealt: EncodedPrompt | None) -> None:
    """Starts a slot's episode as asked.

    Args:
        slots: The slots.
        slot: The slot.
        start: What was asked for.
        dealt: The prompt that was dealt, where ``start.deals``.

    Raises:
        ConfigError: If index, prefix or state are unusable.
        DataError: If the prompt is unusable or too long.
    """
    if start.state is not None:
        slots.set_state(slot, start.state)
        return
    prompt = dealt if dealt is not None else _given_prompt(slots.task, start)
    prefix = start.prefix if start.prefix is not None else ()
    if isinstance(prefix, str):
        prefix = slots.task.answers.encode_response(EncodedText(list(prompt.ids), None), prefix, end=False)
    if not hasattr(prefix, "__iter__"):
        raise ConfigError(f"the reset option 'prefix' must be a text or token ids, got {prefix!r}")
    slots.begin(slot, prompt, [int(i) for i in prefix])


def _given_prompt(task: GenerationTask, start: Start) -> EncodedPrompt:
    if start.prompt is not None:
        return task.encode_prompt(start.prompt)
    index = start.prompt_index
    if not isinstance(index, (int, np.integer)) or not 0 <= index < len(task.prompts):
        raise ConfigError(f"prompt_index must lie in 0 … {len(task.prompts) - 1}, got {index!r}")
    return task.prompt(int(index))


class SharedKwargs(dict[str, Any]):
    """Arguments of a spec whose deep copy shares the values: a reward model must not be copied with a spec."""

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedKwargs:
        return SharedKwargs(self)


def shared_spec() -> Any:
    """A ``spec`` attribute for environment classes: what is set there is never deep-copied with its values."""

    def read(env: Any) -> EnvSpec | None:
        return env.__dict__.get("_spec")

    def write(env: Any, value: EnvSpec | None) -> None:
        if value is not None:
            value.kwargs = SharedKwargs(value.kwargs)
        env.__dict__["_spec"] = value

    return property(read, write, doc="The environment's specification; copying it copies no model.")
