"""Reports of a run: the self-contained HTML page, the README's figure and the terminal's summary table.

Everything here reads only the files of a run folder (or a summary already in memory); nothing trains, scores or loads a
model. The names load lazily because matplotlib and rich are heavy.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textenv.report.answers_terminal import answers_table
    from textenv.report.figure import write_figure
    from textenv.report.glossary import GLOSSARY
    from textenv.report.page import write_report
    from textenv.report.terminal import summary_table

__all__ = ["GLOSSARY", "answers_table", "summary_table", "write_figure", "write_report"]

_MODULES = {
    "GLOSSARY": "textenv.report.glossary",
    "answers_table": "textenv.report.answers_terminal",
    "summary_table": "textenv.report.terminal",
    "write_figure": "textenv.report.figure",
    "write_report": "textenv.report.page",
}


def __getattr__(name: str) -> Any:
    """Import the module that holds ``name`` at its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULES[name]), name)
