"""The exceptions that textenv raises on purpose.

Each message says what was wrong, where, and what to do. Two mistakes that Gymnasium already names keep its types:
``gymnasium.error.ResetNeeded`` and ``gymnasium.error.InvalidAction``.
"""


class TextEnvError(Exception):
    """Base of every error that textenv raises on purpose."""


class ConfigError(TextEnvError, ValueError):
    """An argument or a configuration field has an unusable value, or is unknown."""


class ShapeError(TextEnvError, ValueError):
    """Arrays that belong together disagree in shape."""


class DataError(TextEnvError, ValueError):
    """A data file is missing, damaged or malformed; the message names path and line where there is one."""


class UnusableRow(DataError):
    """A row that is as it should be and says nothing that could be used, such as two answers that are the same.

    Args:
        where: File and line.
        reason: Why; rows are counted by it.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where, self.reason = where, reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.where, self.reason)


class RewardError(TextEnvError, RuntimeError):
    """A reward function raised, or returned something that is not one finite number per response."""


class CheckpointError(TextEnvError, RuntimeError):
    """A checkpoint or run folder cannot be read or does not belong to this run."""


class RunCheckError(TextEnvError, RuntimeError):
    """A run's check of itself failed: going on would train on wrong numbers."""


class MissingDependencyError(TextEnvError, ImportError):
    """An optional package is not installed; the message holds the command that installs it."""
