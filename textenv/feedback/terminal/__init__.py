"""Labelling in a terminal, for people on ssh: the same four tasks, keys and blind order as on the page.

The session (:mod:`~textenv.feedback.terminal.session`) reads keys and draws frames through an object with three
methods, so that it can be tested without a terminal; :mod:`~textenv.feedback.terminal.tty` is the real one.
"""

from textenv.feedback.terminal.session import Session
from textenv.feedback.terminal.sources import LabelSource, ServerSource, SourceError, StoreSource

__all__ = ["LabelSource", "ServerSource", "Session", "SourceError", "StoreSource"]
