"""Branching trees: answers that share beginnings, within a budget of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textenv.errors import ConfigError
from textenv.protocols import GenerativePolicy
from textenv.sampling.methods.base import (
    Cost,
    MethodResult,
    Prompts,
    prompt_groups,
    score_answers,
    start_sampling,
    stream_seed,
)
from textenv.sampling.methods.rows import Rows
from textenv.sampling.params import SamplingParams
from textenv.sampling.sampler import trajectory_uniforms
from textenv.settings import PositiveInt, Settings
from textenv.trajectory import Trajectory


class TreeDetail(NamedTuple):
    """The tree of one prompt; node 0 is the empty answer, and parents come before their children.

    Attributes:
        parents: Node that each one continues, −1 for the root, shape ``(M,)``.
        depths: Answer tokens up to and including each node's segment, shape ``(M,)``.
        segments: Tokens that each node adds to its parent; none for the root.
        values: Mean of the children's values, at leaves the score: unbiased for the value of the node's prefix under
            the sampling distribution, shape ``(M,)``.
        leaves: Nodes that are complete answers, in the order of the prompt's trajectories.
        generated_tokens: What the tree cost.
    """

    parents: NDArray[np.int64]
    depths: NDArray[np.int64]
    segments: list[NDArray[np.int64]]
    values: NDArray[np.float64]
    leaves: NDArray[np.int64]
    generated_tokens: int


@dataclass(frozen=True)
class BranchingTree(Settings):
    """Let every unfinished prefix branch after each segment of tokens, for as long as the budget lasts.

    Before a segment, each prompt's tree branches as widely (up to ``width``) as leaves enough for all its branches to
    run to the length limit; so the budget is never exceeded and every branch becomes an answer. The width depends on
    what was sampled before and never on what comes after, which keeps the values unbiased.

    Attributes:
        budget_tokens: Tokens that may be generated per prompt, at least ``max_new_tokens``.
        segment_tokens: Tokens between two branchings.
        width: Branches at most.
        max_batch: Branches that are decoded side by side; one tree's always are.

    Raises:
        ConfigError: If a setting is out of range.
    """

    budget_tokens: PositiveInt = 256
    segment_tokens: PositiveInt = 8
    width: PositiveInt = 2
    max_batch: PositiveInt = 256

    def sample(
        self,
        policy: GenerativePolicy,
        prompts: Prompts,
        score: Any = None,
        *,
        seed: int = 0,
        params: SamplingParams | None = None,
    ) -> MethodResult[TreeDetail]:
        """All leaves of one tree per prompt; see :class:`textenv.sampling.methods.SamplingMethod`.

        Raises:
            ConfigError: If ``score`` is missing, or the budget does not hold one answer.
            DataError: If a prompt is empty or too long.
            RewardError: If the reward function fails.
        """
        params, encoded = start_sampling(policy, prompts, params)
        if self.budget_tokens < params.max_new_tokens:
            raise ConfigError(
                f"`budget_tokens` = {self.budget_tokens} is less than one answer of `max_new_tokens` = "
                f"{params.max_new_tokens}; raise it or lower `max_new_tokens`"
            )
        cost = Cost()
        # Branches that live together have at least the last segment before them, and the budget holds it for all.
        last = params.max_new_tokens % self.segment_tokens or min(self.segment_tokens, params.max_new_tokens)
        levels = -(-params.max_new_tokens // self.segment_tokens)
        most = min(self.width**levels, self.budget_tokens // last)
        trees: list[_Tree] = []
        for group in prompt_groups(len(encoded.ids), most, self.max_batch):
            rows = Rows(policy, encoded, np.repeat(group, most), params, cost, seed)
            trees += self._grow([_Tree(int(i), place * most, most) for place, i in enumerate(group)], rows)
        trajectories = [leaf for tree in trees for leaf in tree.leaves]
        score_answers(score, trajectories, cost, "a branching tree")
        indices = np.repeat(np.arange(len(trees)), [len(tree.leaves) for tree in trees])
        return MethodResult(trajectories, indices, [tree.detail() for tree in trees], cost)

    def _grow(self, trees: list[_Tree], rows: Rows) -> list[_Tree]:
        """Let the trees of some prompts grow level by level, all branches side by side."""
        steps = rows.params.max_new_tokens
        for level, depth in enumerate(range(0, steps, self.segment_tokens)):
            left = steps - depth
            segment = min(self.segment_tokens, left)
            living = [tree for tree in trees if len(tree.places)]
            for tree in living:
                affordable = (self.budget_tokens - tree.spent) // (len(tree.places) * left)
                sources, targets = tree.branch(min(self.width, affordable))
                rows.copy(sources, targets)
            if not living:
                break
            places = np.concatenate([tree.places for tree in living])
            uniforms = np.concatenate(
                [
                    trajectory_uniforms(
                        stream_seed(rows.seed, tree.prompt, level), np.arange(len(tree.places)), segment
                    )
                    for tree in living
                ]
            )
            for step in range(segment):
                running = ~rows.finished[places]
                if not running.any():
                    break
                rows.draw(places[running], uniforms[running, step])
            for tree in living:
                tree.take(rows, depth)
        return trees


class _Tree:
    """A prompt's tree as it grows.

    Args:
        prompt: The prompt's number.
        first: First of its rows.
        room: How many rows it may use.
    """

    def __init__(self, prompt: int, first: int, room: int) -> None:
        self.prompt = prompt
        self.parents, self.depths = [-1], [0]
        self.segments: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        self.spent = 0
        self.leaves: list[Trajectory] = []
        self.rows = np.arange(first, first + room)
        # Rows of the living branches, and the node that each has reached.
        self.places, self.nodes = self.rows[:1], np.zeros(1, np.int64)

    def branch(self, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Let each living branch become several; returns the rows to copy from and to."""
        sources = np.repeat(self.places, width - 1)
        fresh = np.setdiff1d(self.rows, self.places)[: len(sources)]
        self.places = np.concatenate([self.places, fresh])
        self.nodes = np.concatenate([self.nodes, np.repeat(self.nodes, width - 1)])
        return sources, fresh

    def take(self, rows: Rows, depth: int) -> None:
        """Make nodes of what the branches have added since this depth; finished ones become leaves."""
        finished = rows.finished
        living: list[tuple[int, int]] = []
        for row, parent in zip(self.places.tolist(), self.nodes.tolist(), strict=True):
            segment = rows.answer(row)[depth:]
            node = len(self.parents)
            self.parents.append(parent)
            self.depths.append(self.depths[parent] + len(segment))
            self.segments.append(segment)
            self.spent += len(segment)
            if finished[row]:
                leaf = rows.trajectory(row, source="tree", sample_index=len(self.leaves))
                leaf.extra = {"node": node}
                self.leaves.append(leaf)
            else:
                living.append((row, node))
        self.places = np.array([row for row, _ in living], np.int64)
        self.nodes = np.array([node for _, node in living], np.int64)

    def detail(self) -> TreeDetail:
        """The tree with values, now that its leaves have scores."""
        parents = np.array(self.parents)
        sums, children = np.zeros((2, len(parents)))
        at = np.array([leaf.extra["node"] for leaf in self.leaves])
        sums[at] = [leaf.score for leaf in self.leaves]
        children[at] = 1
        values = np.zeros(len(parents))
        for node in reversed(range(len(parents))):
            values[node] = sums[node] / children[node]
            if node:
                sums[parents[node]] += values[node]
                children[parents[node]] += 1
        return TreeDetail(parents, np.array(self.depths), self.segments, values, at, self.spent)
