"""The Python blocks of docs/sampling.md run, one after the other, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "sampling.md"


def test_blocks_of_the_sampling_page_run(capsys: pytest.CaptureFixture[str]):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 8
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    assert "Cost(generated_tokens=" in capsys.readouterr().out
