"""Modules under the names that they had in the version before."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


class _FormerPlace(ModuleType):
    """A module under a former name; what stands behind it is loaded when something is asked of it."""

    def __init__(self, name: str, place: str) -> None:
        super().__init__(name)
        self._place = place

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what looks through all modules wants nothing loaded
            raise AttributeError(name)
        return getattr(import_module(self._place), name)


def keep_former_places(places: Mapping[str, str]) -> None:
    """Let imports by former names, and pickles that hold them, go on working; the next version drops the table.

    Args:
        places: Present name of each module by its former one, the package of the former one being there still.
    """
    for former, place in places.items():
        package, _, name = former.rpartition(".")
        sys.modules[former] = module = _FormerPlace(former, place)
        if package in sys.modules:  # for `import a.b` followed by `a.b.c`
            setattr(sys.modules[package], name, module)
