"""Dense rewards out of a model of whole responses: how much each step adds.

The difference of potentials, ``r_t = R(x_≤t) − R(x_<t)``, pays every step what it changed in the score. Its sum
telescopes to ``R(x) − R(empty response)``: what the response is worth beyond saying nothing (Ng, Harada & Russell
1999). The environment takes the result as it is: `score_episodes` returns one reward per token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reward_models.adapters.common import checked_scores
from reward_models.base import RewardModel, paired
from textenv.episode import Episode
from textenv.errors import ConfigError
from textenv.rewards import Scores

Steps = Literal["token", "word", "sentence", "line"]
Form = Literal["difference", "level"]
_ENDS: dict[str, re.Pattern[str]] = {
    "word": re.compile(r"\S+"),
    "sentence": re.compile(r"[^.!?…]*[.!?…]+(?=\s|$)"),
    "line": re.compile(r"[^\n]*\n"),
}


class ProcessReward:
    """A reward per step from a reward model of texts.

    Args:
        model: Scores the response so far.
        tokenizer: The policy's tokenizer, which turns token ids into the text so far; needed by `score_episodes`.
        steps: What a step is. A reward stands on the step's last token, the other tokens get 0; the response's end
            always ends a step. Fewer steps are fewer texts to score.
        form: ``"difference"``: what the step changed; ``"level"``: the score after the step, as a model that was
            trained on steps gives it.
        keep_level: With differences, the first step also gets ``R(empty response)``, so that the rewards sum to the
            score of the whole response.

    Raises:
        ConfigError: If a setting is unknown.
    """

    def __init__(
        self,
        model: RewardModel,
        tokenizer: Any = None,
        *,
        steps: Steps = "token",
        form: Form = "difference",
        keep_level: bool = False,
    ) -> None:
        if steps not in ("token", *_ENDS):
            raise ConfigError(f"`steps` must be one of token, {', '.join(_ENDS)}; got {steps!r}.")
        if form not in ("difference", "level"):
            raise ConfigError(f'`form` must be "difference" or "level", got {form!r}.')
        self.model, self.tokenizer = model, tokenizer
        self.steps: Steps = steps
        self.form: Form = form
        self.keep_level = keep_level

    def score_episodes(self, episodes: Sequence[Episode]) -> Scores:
        """One reward per response token; the scores are their sums.

        Raises:
            ConfigError: If there is no tokenizer.
            RewardError: If the model's scores are not finite.
        """
        if self.tokenizer is None:
            raise ConfigError("`ProcessReward` needs the policy's `tokenizer` to reward tokens.")
        prompts = [episode.prompt for episode in episodes]
        prefixes, places = [], []
        for episode in episodes:
            texts, ends = self._token_prefixes(episode)
            prefixes.append(texts)
            places.append(ends)
        rewards = []
        for episode, ends, values in zip(episodes, places, self._values(prompts, prefixes), strict=True):
            row = np.zeros(len(episode.response_ids))
            row[ends] = values
            rewards.append(row)
        return Scores(np.array([row.sum() for row in rewards]), rewards)

    def step_rewards(self, prompts: Sequence[Any], responses: Sequence[Any]) -> list[NDArray[np.float64]]:
        """One reward per step of each text; not for steps of one token.

        Raises:
            ConfigError: If a step is a token: texts have none.
            ShapeError: If there are not as many prompts as responses.
            RewardError: If the model's scores are not finite.
        """
        if self.steps == "token":
            raise ConfigError("texts have no tokens; use other `steps`, or `score_episodes`.")
        pairs = paired(prompts, responses)
        return self._values(
            [prompt for prompt, _ in pairs], [[text[:end] for end in step_ends(text, self.steps)] for _, text in pairs]
        )

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """Scores of whole responses by the model itself, shape ``(n,)``; raises as the model does."""
        return self.model.score(prompts, responses)

    def _token_prefixes(self, episode: Episode) -> tuple[list[str], list[int]]:
        """The response after each step, and the index of the token that ends the step.

        The last text is the episode's own response: what the environment cut or skipped there is not scored either.
        """
        ids = list(episode.response_ids)
        if not ids:
            return [], []
        texts = [self.tokenizer.decode(ids[: end + 1], skip_special_tokens=True) for end in range(len(ids))]
        texts[-1] = episode.response
        if self.steps == "token":
            return texts, list(range(len(ids)))
        counts = [len(step_ends(text, self.steps)) if text.strip() else 0 for text in texts]
        # A step is over where the next token begins another one.
        ends = [end for end in range(len(ids) - 1) if 0 < counts[end] < counts[end + 1]]
        ends.append(len(ids) - 1)
        return [texts[end] for end in ends], ends

    def _values(self, prompts: Sequence[str], prefixes: Sequence[Sequence[str]]) -> list[NDArray[np.float64]]:
        """Rewards of the steps; every different text is scored once, all in one call."""
        wanted: dict[tuple[str, str], int] = {}
        for prompt, texts in zip(prompts, prefixes, strict=True):
            for text in ("", *texts) if self.form == "difference" else texts:
                wanted.setdefault((prompt, text), len(wanted))
        asked = [prompt for prompt, _ in wanted], [text for _, text in wanted]
        scores = checked_scores(self.model.score(*asked), *asked, source="the reward model").astype(np.float64)
        values = []
        for prompt, texts in zip(prompts, prefixes, strict=True):
            levels = np.array([scores[wanted[prompt, text]] for text in texts])
            if self.form == "difference" and len(levels):
                start = scores[wanted[prompt, ""]]
                levels = np.diff(levels, prepend=start)
                levels[0] += start if self.keep_level else 0.0
            values.append(levels)
        return values


def step_ends(text: str, steps: str) -> list[int]:
    """Where the steps of a text end, as numbers of characters; the last is the text's length, at least one."""
    ends = [match.end() for match in _ENDS[steps].finditer(text)]
    if not ends or text[ends[-1] :].strip():
        return [*ends, len(text)]
    return [*ends[:-1], len(text)]
