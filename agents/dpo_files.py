"""A DPO learner on disk: checkpoints, and folders that :meth:`agents.dpo.DPO.load` goes on from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from agents import policy_files
from agents.dpo_objective import DPOConfig
from agents.policy import CausalLMPolicy
from agents.preference_pairs import fingerprint
from textenv.checkpoints import load_optimizer_tensors, load_state, optimizer_tensors, save_state
from textenv.errors import CheckpointError

if TYPE_CHECKING:
    from agents.dpo import DPO


def write(agent: DPO, folder: Path) -> None:
    """Write all that decides how training goes on, the reference's log-probs included."""
    tensors = {f"policy/{name}": p for name, p in agent.policy.model.named_parameters() if p.requires_grad}
    meta = {
        "iteration": agent.iteration,
        "checks": agent.checks,
        "comparisons": fingerprint(agent.pairs),
        "batch_size": agent.config.batch_size,
    }
    save_state(folder, {**tensors, "ref_logprobs": agent.prepare(), **optimizer_tensors(agent.optimizer)}, meta)


@torch.no_grad()
def read(agent: DPO, folder: Path) -> None:
    """Put back what :func:`write` wrote.

    Raises:
        CheckpointError: If the folder is damaged, does not fit the model, or belongs to other comparisons or batches.
    """
    tensors, meta = load_state(folder)
    if meta["comparisons"] != fingerprint(agent.pairs):
        raise CheckpointError(f"`{folder}` was trained on other comparisons; resume it with the same ones")
    batch_size = meta.get("batch_size", agent.config.batch_size)
    if batch_size != agent.config.batch_size:  # what has been read is counted in batches
        raise CheckpointError(f"`{folder}` was trained with `batch_size` {batch_size}; resume it with the same one")
    for name, p in agent.policy.model.named_parameters():
        if p.requires_grad:
            saved = tensors.get(f"policy/{name}")
            if saved is None or saved.shape != p.shape:
                raise CheckpointError(f"`{folder}` does not fit this model (weight `{name}`)")
            p.copy_(saved)
    agent.policy.push_weights()
    load_optimizer_tensors(agent.optimizer, tensors)
    agent.ref_logprobs = tensors["ref_logprobs"].to(agent.policy.device)
    agent.iteration, agent.checks = meta["iteration"], meta["checks"]


def save(agent: DPO, folder: Path) -> None:
    """Write policy, learner and configuration."""
    meta = {"config": asdict(agent.config), "stage": agent.stage}
    meta |= policy_files.save_for_learner(agent.policy, folder)
    write(agent, folder / "learner")
    save_state(folder, {}, meta)


def load(folder: Path, device: str | torch.device) -> tuple[CausalLMPolicy, dict[str, Any]]:
    """The policy of a folder that :func:`save` wrote, and the learner's other arguments.

    Raises:
        CheckpointError: If the folder is not complete.
    """
    _, meta = load_state(folder)
    policy = policy_files.load_for_learner(folder, meta, device)
    return policy, {"config": DPOConfig(**meta["config"]), "stage": meta["stage"]}
