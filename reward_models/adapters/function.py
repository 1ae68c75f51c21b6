"""A Python function as a reward model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_models.adapters.common import checked_scores, shown
from reward_models.base import paired
from textenv.episode import Episode
from textenv.errors import ConfigError, RewardError, TextEnvError
from textenv.rewards import Scores, call_reward, score_episodes


class FunctionReward:
    """A function of prompts and responses, its result checked.

    Args:
        function: Takes two lists of texts and returns one number (or one array, which is summed) per response; an
            object with ``.score`` will do.
        each: The function takes one prompt and one response and returns one number instead.
        reference: ``module:function``, where the function can be found again; needed only to save the model.

    Raises:
        ConfigError: If it cannot be called.
    """

    def __init__(self, function: Callable[..., Any] | Any, *, each: bool = False, reference: str | None = None) -> None:
        if not callable(getattr(function, "score", function)):
            raise ConfigError(f"a function reward needs a function, got {type(function).__name__}.")
        self.function = function
        self.each = each
        self.reference = reference

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """What the function says, shape ``(n,)``.

        Raises:
            ShapeError: If there are not as many prompts as responses.
            RewardError: If the function raises, or returns anything but one finite number per response.
        """
        pairs = paired(prompts, responses)
        if not self.each:
            scores = call_reward(self.function, [prompt for prompt, _ in pairs], [response for _, response in pairs])
        else:
            scores = [self._one(prompt, response) for prompt, response in pairs]
        return checked_scores(scores, prompts, responses, source="the reward function")

    def score_episodes(self, episodes: Sequence[Episode]) -> Scores:
        """What the function says of finished episodes, per token where it is dense: the environment asks for this.

        Raises:
            RewardError: If the function raises or returns rubbish.
        """
        if not self.each:
            return score_episodes(self.function, episodes)
        scores = self.score([episode.prompt for episode in episodes], [episode.response for episode in episodes])
        return Scores(scores.astype(np.float64))

    def to_spec(self) -> dict[str, Any]:
        """What `reward_models.load_reward_model` builds it from.

        Raises:
            ConfigError: If the function has no `reference`.
        """
        if self.reference is None:
            raise ConfigError("a function reward is saved as `module:function`; give it as `reference`.")
        return {"kind": "function", "function": self.reference, "each": self.each}

    def _one(self, prompt: str, response: str) -> float:
        try:
            return float(self.function(prompt, response))
        except TextEnvError:
            raise
        except Exception as error:
            raise RewardError(
                f"the reward function raised {type(error).__name__}: {error}; prompt {shown(prompt)}, response "
                f"{shown(response)}"
            ) from error
