"""Best-of-n: the answer with the highest score among n."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textenv.protocols import GenerativePolicy
from textenv.sampling.generation import generate
from textenv.sampling.methods.base import (
    Cost,
    MethodResult,
    Prompts,
    score_answers,
    start_sampling,
)
from textenv.sampling.params import SamplingParams
from textenv.settings import PositiveInt, Settings
from textenv.trajectory import Trajectory


class BestOfNDetail(NamedTuple):
    """What best-of-n knows about a prompt.

    Attributes:
        trajectories: All n answers.
        scores: Their scores, shape ``(n,)``.
        chosen: Index of the best one, the first of equals.
    """

    trajectories: list[Trajectory]
    scores: NDArray[np.float64]
    chosen: int


@dataclass(frozen=True)
class BestOfN(Settings):
    """Draw n answers to each prompt and keep the one with the highest score.

    Attributes:
        n: Answers per prompt.
        max_batch: Answers that are decoded side by side.

    Raises:
        ConfigError: If a setting is out of range.
    Source: Stiennon et al. 2020, arXiv:2009.01325; Nakano et al. 2021, arXiv:2112.09332.
    """

    n: PositiveInt = 4
    max_batch: PositiveInt = 256

    def sample(
        self,
        policy: GenerativePolicy,
        prompts: Prompts,
        score: Any = None,
        *,
        seed: int = 0,
        params: SamplingParams | None = None,
    ) -> MethodResult[BestOfNDetail]:
        """One answer per prompt; see :class:`textenv.sampling.methods.SamplingMethod`.

        Raises:
            ConfigError: If ``score`` is missing.
            DataError: If a prompt is empty or too long.
            RewardError: If the reward function fails.
        """
        params, encoded = start_sampling(policy, prompts, params)
        cost = Cost()
        drawn = generate(policy, prompts, params, n=self.n, seed=seed, max_batch=self.max_batch)
        scores = score_answers(score, drawn, cost, "best-of-n").reshape(-1, self.n)
        cost.generated_tokens = sum(len(t) for t in drawn)
        # The last token of an answer is never read; a prompt is read once for its n answers.
        cost.fed_tokens = sum(map(len, encoded.ids)) + sum(max(len(t) - 1, 0) for t in drawn)
        details = []
        for i, row in enumerate(scores):
            answers = drawn[i * self.n : (i + 1) * self.n]
            for index, trajectory in enumerate(answers):
                trajectory.source, trajectory.sample_index = "best_of_n", index
            details.append(BestOfNDetail(answers, row, int(row.argmax())))
        chosen = [detail.trajectories[detail.chosen] for detail in details]
        return MethodResult(chosen, np.arange(len(chosen)), details, cost)
