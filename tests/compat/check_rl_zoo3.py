"""rl_zoo3: its unmodified command line trains on our id."""

# The client is not installed where types are checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

CONFIG = """textenv/Toy-v0:
  n_timesteps: 512
  policy: MlpPolicy
  n_steps: 64
  batch_size: 64
  n_envs: 2
"""


def main() -> None:
    """Trains for 512 steps."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "ppo.yml"
        config.write_text(CONFIG, encoding="utf-8")
        arguments = ["--algo", "ppo", "--env", "textenv/Toy-v0", "--gym-packages", "textenv", "-conf", str(config)]
        command = [sys.executable, "-m", "rl_zoo3.train", *arguments, "-f", folder, "--device", "cpu", "--seed", "1"]
        subprocess.run(command, check=True)
        assert list(Path(folder).rglob("*.zip")), "rl_zoo3 saved no model"


if __name__ == "__main__":
    main()
