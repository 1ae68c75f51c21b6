"""A learner on disk: checkpoints of a run, and folders that :meth:`Learner.load` goes on from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from gymnasium.vector import VectorEnv

from agents import policy_files
from agents.learning.sharding import full, place_like, place_state
from agents.policy import CausalLMPolicy
from agents.rollouts import layers
from textenv.checkpoints import (
    Checkpoints,
    load_optimizer_tensors,
    load_state,
    optimizer_tensors,
    save_state,
    write_atomic,
)
from textenv.errors import CheckpointError, ConfigError
from textenv.runs import Run

if TYPE_CHECKING:
    from agents.learning.learner import Learner

L = TypeVar("L", bound="Learner[Any]")


def checkpoints(agent: Learner[Any], run: Run) -> Checkpoints:
    """The numbered checkpoints of an agent's run."""
    return run.checkpoints(agent.stage, keep=agent.config.keep_checkpoints)


class Snapshot(NamedTuple):
    """All that decides how training goes on.

    Attributes:
        tensors: Weights and optimiser state by name.
        meta: Everything else, JSON-able.
    """

    tensors: dict[str, torch.Tensor]
    meta: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write it into a folder."""
        save_state(folder, self.tensors, self.meta)


def snapshot(agent: Learner[Any]) -> Snapshot:
    """An agent's state; all processes take part, each gets all of it."""
    tensors = {f"policy/{name}": p for name, p in agent.policy.named_parameters() if p.requires_grad}
    if agent.reference.moves and agent.reference.model is not None:
        tensors |= {f"reference/{name}": p for name, p in agent.reference.model.named_parameters()}
    own = layer_states(agent.envs)
    meta = {
        "iteration": agent.iteration,
        "episodes": agent.episodes,
        "tokens": agent.tokens,
        "updates": agent.updates,
        "kl": agent.kl.get_state(),
        "reference": agent.reference.origin,
        "prompts": agent.prompts.get_state(),
        "checks": agent.checks,
        "best": agent.best,
        "environment": agent.world.gather_objects(own),
        "callbacks": [part.get_state() for part in _stateful(agent.callbacks)],
    }
    tensors |= optimizer_tensors(agent.optimizer)
    return Snapshot({name: full(tensor.detach()) for name, tensor in tensors.items()}, meta)


def save_checkpoint(agent: Learner[Any], run: Run) -> None:
    """Write the checkpoint of an iteration."""
    found = snapshot(agent)
    if agent.world.is_main:
        checkpoints(agent, run).save(agent.iteration, found.write)
    agent.world.barrier()


def read(agent: Learner[Any], folder: Path) -> None:
    """Put back what :meth:`Snapshot.write` wrote.

    Raises:
        CheckpointError: If the folder is damaged or does not fit the agent.
    """
    tensors, meta = load_state(folder)
    if not math.isclose(meta["reference"], agent.reference.origin, rel_tol=1e-6):
        raise CheckpointError(
            f"`{folder}` was trained against another reference model; resume it with the one that it started from"
        )
    _restore(agent.policy, "policy", tensors, folder)
    if agent.reference.moves and agent.reference.model is not None:
        _restore(agent.reference.model, "reference", tensors, folder, frozen=True)
    load_optimizer_tensors(agent.optimizer, place_state(agent.optimizer, tensors))
    agent.iteration, agent.episodes, agent.tokens = meta["iteration"], meta["episodes"], meta["tokens"]
    agent.updates = meta["updates"]
    agent.kl.set_state(meta["kl"])
    agent.checks = meta["checks"]
    agent.prompts.set_state(meta["prompts"])
    agent.best = meta["best"]
    rank, processes = agent.world.rank, meta["environment"]
    own = processes[rank] if len(processes) == agent.world.size else processes[0]
    wrappers = stateful_layers(agent.envs)
    if wrappers and len(processes) != agent.world.size:
        raise CheckpointError(
            f"`{folder}` holds the wrappers' states of {len(processes)} process(es), there are {agent.world.size} now; "
            "resume with as many"
        )
    _set_states(wrappers, own, "environment", folder)
    _set_states(_stateful(agent.callbacks), meta["callbacks"], "callbacks", folder)


def _set_states(parts: list[Any], saved: list[Any], name: str, folder: Path) -> None:
    if len(parts) != len(saved):
        raise CheckpointError(
            f"`{folder}` holds the state of {len(saved)} {name} part(s), this agent has {len(parts)}; give it the "
            "wrappers and callbacks that it had"
        )
    for part, state in zip(parts, saved, strict=True):
        part.set_state(state)


def _stateful(parts: Iterable[Any]) -> list[Any]:
    """Those that can save their state."""
    return [part for part in parts if hasattr(part, "get_state") and hasattr(part, "set_state")]


def stateful_layers(envs: VectorEnv) -> list[Any]:
    """What of an environment's wrappers has a state beyond the running episode: statistics and KL controllers."""
    hooks = [layer.hook for layer in layers(envs) if hasattr(layer, "hook")]
    return _stateful([getattr(hook, "controller", hook) for hook in hooks])


def layer_states(envs: VectorEnv) -> list[Any]:
    """The states of :func:`stateful_layers`, JSON-able."""
    return [part.get_state() for part in stateful_layers(envs)]


def keep_best(agent: Learner[Any], run: Run) -> None:
    """Keep the policy as the best so far, in ``<stage>/best/step-…``, in place of the one before.

    All processes take part, the first writes.
    """
    weights = policy_files.gathered(agent.policy) if agent.world.sharded else None

    def fill(folder: Path) -> None:
        policy_files.save(agent.policy, folder, weights)
        write_atomic(folder / "score.json", json.dumps({"iteration": agent.iteration, "eval/reward": agent.best}))

    if agent.world.is_main:
        Checkpoints(run.stage(agent.stage) / "best", keep=1).save(agent.iteration, fill)
    agent.world.barrier()


@torch.no_grad()
def _restore(
    policy: CausalLMPolicy, prefix: str, tensors: dict[str, torch.Tensor], folder: Path, *, frozen: bool = False
) -> None:
    """Copy saved weights into those of a policy that train, or into all of them."""
    for name, p in policy.named_parameters():
        if p.requires_grad or frozen:
            saved = tensors.get(f"{prefix}/{name}")
            if saved is None or saved.shape != p.shape:
                raise CheckpointError(f"`{folder}` does not fit this model (weight `{name}`)")
            p.copy_(place_like(p, saved))
    policy.push_weights()


def resume(agent: Learner[Any], run: Run) -> None:
    """Go on from a run's newest checkpoint, where there is one and the agent is new."""
    if agent.iteration:
        return
    agent.world.barrier()
    latest = checkpoints(agent, run).latest()
    if latest is not None:
        read(agent, latest)
    if agent.world.is_main:
        run.rewind(agent.stage, agent.iteration)
    agent.world.barrier()


def save_agent(agent: Learner[Any], folder: Path) -> None:
    """Write policy, reference, learner and configuration; all processes take part, the first writes."""
    if agent.world.sharded:
        raise ConfigError(
            "an agent divided by FSDP is not saved as a folder; give it a `run`, whose checkpoints resume"
        )
    found = snapshot(agent)
    if agent.world.is_main:
        _write_agent(agent, found, folder)
    agent.world.barrier()


def _write_agent(agent: Learner[Any], found: Snapshot, folder: Path) -> None:
    meta = {"config": asdict(agent.config), "stage": agent.stage, "own_reference": agent.reference.model is not None}
    meta |= policy_files.save_for_learner(agent.policy, folder)
    if agent.reference.model is not None:
        agent.reference.model.save_pretrained(folder / "reference")
        meta["reference_dtype"] = policy_files.dtype_name(agent.reference.model)
    found.write(folder / "learner")
    save_state(folder, {}, meta)


class Hooks(NamedTuple):
    """What of an agent no folder holds; each as in :class:`agents.learning.learner.Learner`."""

    advantage_estimator: Any = None
    loss: Any = None
    ptx: Any = None
    held_out: Any = None
    callbacks: Sequence[Any] = ()
    run: Run | None = None


def load_agent(kind: type[L], folder: Path, envs: VectorEnv, hooks: Hooks, device: str | torch.device) -> L:
    """An agent as :func:`save_agent` left it.

    Args:
        kind: Its class.
        folder: What was written.
        envs: To play in.
        hooks: What was not written.
        device: Where policy and reference go.

    Raises:
        CheckpointError: If the folder is not complete.
    """
    _, meta = load_state(folder)
    policy = policy_files.load_for_learner(folder, meta, device)
    reference = None
    if meta["own_reference"]:
        dtype = meta.get("reference_dtype", meta["dtype"])
        reference = CausalLMPolicy.from_pretrained(folder / "reference", dtype=dtype, device=device)
    config = kind.config_type(**meta["config"])
    agent = kind(policy, envs, reference=reference, config=config, stage=meta["stage"], **hooks._asdict())
    read(agent, folder / "learner")
    return agent
