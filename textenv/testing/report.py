"""What a conformance run found, readable."""

from __future__ import annotations

from dataclasses import dataclass

from textenv.errors import RunCheckError


@dataclass(frozen=True)
class Check:
    """One thing that was measured.

    Attributes:
        name: What.
        found: The figure.
        wanted: The bound, in words.
        passed: Whether it holds.
        detail: More figures, or where to look if it failed.
    """

    name: str
    found: float
    wanted: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class AgentReport:
    """All checks of an agent; ``print`` shows them as a table.

    Attributes:
        checks: In the order in which they were made.
    """

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether all checks hold."""
        return all(check.passed for check in self.checks)

    def __getitem__(self, name: str) -> Check:
        """The check of this name.

        Raises:
            KeyError: If there is none.
        """
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    def __str__(self) -> str:
        rows = [(c.name, f"{c.found:.4g}", c.wanted, "ok" if c.passed else "FAILED") for c in self.checks]
        rows.insert(0, ("check", "found", "wanted", ""))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = []
        for row, detail in zip(rows, ["", *(c.detail for c in self.checks)], strict=True):
            cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
            lines.append("  ".join([*cells, detail]).rstrip())
        return "\n".join(lines)

    def raise_if_failed(self) -> None:
        """Raise where a check failed.

        Raises:
            RunCheckError: With the table.
        """
        if not self.passed:
            raise RunCheckError(f"the agent failed {sum(not c.passed for c in self.checks)} checks\n{self}")
