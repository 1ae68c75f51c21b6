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
    EncodedPrompts,
    MethodResult,
    Prompts,
    check_at_least,
    encode_prompts,
    score_answers,
    stream_seed,
)
from textenv.sampling.methods.rows import Rows
from textenv.sampling.params import SamplingParams
from textenv.sampling.sampler import trajectory_uniforms
from textenv.trajectories.trajectory import Trajectory


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
class BranchingTree:
    """Let every unfinished prefix branch after each segment of tokens, for as long as the budget lasts.

    Before a segment, each prompt's tree branches as widely (up to ``width``) as leaves enough for all its branches to
    run to the length limit; so the budget is never exceeded and every branch becomes an answer. The width depends on
    what was sampled before and never on what comes after, which keeps the values unbiased.

    Attributes:
        budget_tokens: Tokens that may be generated per prompt, at least ``max_new_tokens``.
        segment_tokens: Tokens between two branchings.
        width: Branches at most.

    Raises:
        ConfigError: If a setting is out of range.
    """

    budget_tokens: int = 256
    segment_tokens: int = 8
    width: int = 2

    def __post_init__(self) -> None:
        check_at_least("segment_tokens", self.segment_tokens, 1)
        check_at_least("width", self.width, 1)
        check_at_least("budget_tokens", self.budget_tokens, 1)

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
        params = params or SamplingParams()
        if self.budget_tokens < params.max_new_tokens:
            raise ConfigError(
                f"`budget_tokens` = {self.budget_tokens} is less than one answer of `max_new_tokens` = "
                f"{params.max_new_tokens}; raise it or lower `max_new_tokens`"
            )
        encoded = encode_prompts(policy, prompts, params.max_new_tokens)
        cost = Cost()
        grown = [self._grow(policy, encoded, i, params, seed, cost) for i in range(len(encoded.ids))]
        trajectories = [leaf for _, leaves in grown for leaf in leaves]
        score_answers(score, trajectories, cost, "a branching tree")
        details = [tree.detail(leaves) for tree, leaves in grown]
        indices = np.repeat(np.arange(len(grown)), [len(leaves) for _, leaves in grown])
        return MethodResult(trajectories, indices, details, cost)

    def _grow(
        self,
        policy: GenerativePolicy,
        prompts: EncodedPrompts,
        prompt: int,
        params: SamplingParams,
        seed: int,
        cost: Cost,
    ) -> tuple[_Tree, list[Trajectory]]:
        """One prompt's tree, branches side by side."""
        # Branches that live together have at least the last segment before them, and the budget holds it for all.
        last = params.max_new_tokens % self.segment_tokens or min(self.segment_tokens, params.max_new_tokens)
        levels = -(-params.max_new_tokens // self.segment_tokens)
        most = min(self.width**levels, self.budget_tokens // last)
        rows = Rows(policy, prompts, np.full(most, prompt), params, cost, seed)
        tree = _Tree()
        nodes = np.zeros(1, np.int64)  # node of each living branch; branch k lives in row k
        places = np.zeros(1, np.int64)
        leaves: list[Trajectory] = []
        level = 0
        while len(places):
            depth = level * self.segment_tokens
            left = params.max_new_tokens - depth
            width = min(self.width, (self.budget_tokens - tree.spent) // (len(places) * left))
            fresh = np.setdiff1d(np.arange(most), places)[: len(places) * (width - 1)]
            rows.copy(np.repeat(places, width - 1), fresh)
            places, nodes = np.concatenate([places, fresh]), np.concatenate([nodes, np.repeat(nodes, width - 1)])
            segment = min(self.segment_tokens, left)
            uniforms = trajectory_uniforms(stream_seed(seed, prompt, level), np.arange(len(places)), segment)
            self._segment(rows, places, uniforms)
            children = [tree.add(int(node), rows.answer(row)[depth:]) for node, row in zip(nodes, places, strict=True)]
            done = rows.finished[places]
            for row, child in zip(places[done], np.array(children)[done], strict=True):
                leaf = rows.trajectory(int(row), source="tree", sample_index=len(leaves))
                leaf.extra = {"node": int(child)}
                leaves.append(leaf)
            places, nodes = places[~done], np.array(children, np.int64)[~done]
            level += 1
        return tree, leaves

    @staticmethod
    def _segment(rows: Rows, places: NDArray[np.int64], uniforms: NDArray[np.float64]) -> None:
        """Up to one segment more for each branch."""
        for step in range(uniforms.shape[1]):
            running = ~rows.finished[places]
            if not running.any():
                return
            rows.draw(places[running], uniforms[running, step])


class _Tree:
    """A tree that grows."""

    def __init__(self) -> None:
        self.parents, self.depths = [-1], [0]
        self.segments: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        self.spent = 0

    def add(self, parent: int, segment: NDArray[np.int64]) -> int:
        """A new node's number."""
        self.parents.append(parent)
        self.depths.append(self.depths[parent] + len(segment))
        self.segments.append(segment)
        self.spent += len(segment)
        return len(self.parents) - 1

    def detail(self, leaves: list[Trajectory]) -> TreeDetail:
        """The tree with values, now that its leaves have scores."""
        parents = np.array(self.parents)
        sums, children = np.zeros((2, len(parents)))
        at = np.array([leaf.extra["node"] for leaf in leaves])
        sums[at] = [leaf.score for leaf in leaves]
        children[at] = 1
        values = np.zeros(len(parents))
        for node in reversed(range(len(parents))):
            values[node] = sums[node] / children[node]
            if node:
                sums[parents[node]] += values[node]
                children[parents[node]] += 1
        return TreeDetail(parents, np.array(self.depths), self.segments, values, at, self.spent)
