"""The Python blocks of ``docs/bring-your-algorithm.md`` run one after the other, as a reader would type them."""

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[3] / "docs" / "bring-your-algorithm.md"


def test_blocks_of_the_page_run():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    scope: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), scope)
    assert len(blocks) == 3
    assert scope["model"].num_timesteps == 256
    assert len(scope["report"].checks) == 7
