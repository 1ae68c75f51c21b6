"""Answers that somebody has begun to write: kept over a lost connection, and changed with their own editor."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import platformdirs


class Drafts:
    """Unfinished answers, one file per rater and item, readable by their owner alone.

    Args:
        folder: Where; None takes the user's folder for such things.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(platformdirs.user_state_dir("textenv")) / "drafts"

    def read(self, rater: str, item: str) -> str:
        """What was written so far; nothing where there is nothing."""
        with suppress(OSError, ValueError):
            return self._file(rater, item).read_text("utf-8")
        return ""

    def keep(self, rater: str, item: str, text: str) -> bool:
        """Keep a text, or drop it where it is empty; whether that worked."""
        file = self._file(rater, item)
        try:
            if not text.strip():
                file.unlink(missing_ok=True)
                return True
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
                stream.write(text)
        except (OSError, UnicodeError):
            return False
        return True

    def _file(self, rater: str, item: str) -> Path:
        name = hashlib.sha256(f"{rater}\x1f{item}".encode()).hexdigest()[:32]
        return self._folder / f"{name}.txt"


def editor() -> list[str]:
    """The command of the person's editor; empty where there is none."""
    named = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if named:
        return shlex.split(named)
    found = next(filter(None, map(shutil.which, ("sensible-editor", "nano", "vi"))), None)
    return [] if found is None else [found]


def edited(text: str) -> str | None:
    """A text as it is after the person's editor; None where there is no editor.

    Raises:
        OSError: If the editor or its file cannot be opened.
        subprocess.CalledProcessError: If the editor failed.
        ValueError: If its command or what it wrote cannot be read.
    """
    command = editor()
    if not command:
        return None
    with tempfile.TemporaryDirectory(prefix="textenv-") as folder:
        file = Path(folder) / "answer.txt"
        file.write_text(text, "utf-8")
        subprocess.run([*command, str(file)], check=True)
        return file.read_text("utf-8").removesuffix("\n")
