"""Training state on disk: tensors in safetensors, everything else in JSON, written so that a kill never leaves half.

A checkpoint is a folder ``step-00000120/`` that appears by one rename when it is complete; anything half-written has
another name and is ignored. Nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textenv.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_STEP_PREFIX = "step-"


def write_atomic(path: Path, text: str) -> None:
    """Replace a text file in one step: a reader sees the old or the new content, never a part.

    Args:
        path: File to write; its folder must exist.
        text: New content, written as UTF-8.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def save_state(folder: Path, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
    """Write ``state.safetensors`` and ``state.json`` into a folder, which is made where it is missing.

    Args:
        folder: Where to write. For atomicity call it inside :meth:`Checkpoints.save`.
        tensors: Named tensors of any dtype; copied to contiguous CPU memory.
        meta: What JSON can hold: counters, generator states of numpy, controller values.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, folder / "state.safetensors"
    )
    write_atomic(folder / "state.json", json.dumps(dict(meta)))


def load_state(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what :func:`save_state` wrote.

    Raises:
        CheckpointError: If a file is missing or damaged; the message names it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        # Each in aligned memory of its own: where the file is mapped, some kernels round otherwise.
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / "state.safetensors").items()}
        meta = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot read the checkpoint `{folder}`: {error}; delete it to use an older one"
        ) from error
    return tensors, meta


class Checkpoints:
    """The numbered checkpoints of one stage; the newest ``keep`` stay.

    Args:
        folder: Where the ``step-…`` folders stand.
        keep: How many complete checkpoints to keep, at least 1.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder = Path(folder)
        self.keep = keep

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """Let ``write`` fill a temporary folder, then give it its name in one rename.

        Args:
            step: Number of the checkpoint; an older one of the same number is replaced.
            write: Gets the temporary folder's path and puts files there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"{_STEP_PREFIX}{step:08d}"
        temporary = self.folder / f".tmp-{step:08d}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        write(temporary)
        if target.exists():
            self._remove(target)
        os.rename(temporary, target)
        for old in self._complete()[: -self.keep]:
            self._remove(old)
        return target

    def latest(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        complete = self._complete()
        return complete[-1] if complete else None

    def clear(self, *, keep: int = 0) -> None:
        """Remove all checkpoints of this stage (it is finished, or starts anew) but the newest ``keep``."""
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        for old in self._complete()[:-keep]:
            self._remove(old)

    def _remove(self, checkpoint: Path) -> None:
        """Remove a checkpoint; a kill in the middle leaves none that looks complete."""
        doomed = checkpoint.with_name(f".old-{checkpoint.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(checkpoint, doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def _complete(self) -> list[Path]:
        return sorted(self.folder.glob(f"{_STEP_PREFIX}*")) if self.folder.is_dir() else []


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str = "optimizer") -> dict[str, torch.Tensor]:
    """An optimizer's state as named tensors: ``optimizer/<parameter index>/<name>``.

    Learning rates and other settings are not saved: they follow from the configuration and the step.
    """
    import torch

    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}/{i}/{name}": torch.as_tensor(value) for i, slots in state.items() for name, value in slots.items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], prefix: str = "optimizer"
) -> None:
    """Put back what :func:`optimizer_tensors` saved.

    Raises:
        CheckpointError: If a saved state does not fit the optimizer's parameters.
    """
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(f"{prefix}/"):
            _, index, slot = name.rsplit("/", 2)
            state.setdefault(int(index), {})[slot] = tensor
    full = optimizer.state_dict()
    try:
        optimizer.load_state_dict({"state": state, "param_groups": full["param_groups"]})
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"the saved optimizer state does not fit this model: {error}") from error
