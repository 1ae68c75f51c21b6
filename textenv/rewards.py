"""Reward functions: how they are called and checked, found by name, and combined.

A reward function takes the prompts and the responses of all episodes that ended in one step and returns one finite
number for each. It may be a plain function, an object with ``.score(prompts, responses)`` (a reward model), or an
object with ``.score_episodes(episodes)`` that wants token ids or tasks. One array per response instead of one number
makes the reward dense: one entry per response token.

Left out on purpose: penalties that depend on log-probabilities (``textenv.wrappers``) and trained reward models.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textenv.episode import Episode, FinishReason
from textenv.errors import ConfigError, RewardError
from textenv.protocols import RewardFunction

_SHOWN_CHARACTERS = 60


class Scores(NamedTuple):
    """Checked result of one reward call.

    Attributes:
        scores: One score per response, shape ``(n,)`` float64; the sum over tokens where the reward is dense.
        token_rewards: One float64 array per response where the reward is dense, else None.
        parts: What the scores are made of, by name, each of shape ``(n,)``; None where the reward does not say.
    """

    scores: NDArray[np.float64]
    token_rewards: list[NDArray[np.float64]] | None = None
    parts: dict[str, NDArray[np.float64]] | None = None


def call_reward(reward: Any, prompts: list[str], responses: list[str]) -> NDArray[np.float64]:
    """Scores of responses, one finite float64 each, shape ``(n,)``.

    Args:
        reward: A function of prompts and responses, or an object with ``.score``.
        prompts: Texts of the prompts.
        responses: Texts of the answers, as many.

    Raises:
        RewardError: If the reward raises, or returns anything but one finite number (or one finite array) per
            response; the message names prompt, response and what came back.
    """
    if len(prompts) != len(responses):
        raise RewardError(f"there are {len(prompts)} prompts but {len(responses)} responses to score")
    if not prompts:
        return np.zeros(0)
    scorer = getattr(reward, "score", reward)
    return _checked(_call(scorer, (prompts, responses), prompts, responses), prompts, responses).scores


def score_episodes(reward: Any, episodes: Sequence[Episode]) -> Scores:
    """Scores of finished episodes in one reward call, per-token rewards included where the reward is dense.

    Args:
        reward: A function of prompts and responses, or an object with ``.score_episodes`` or ``.score``.
        episodes: Finished episodes, at least one; their own ``score`` is ignored.

    Raises:
        RewardError: As :func:`call_reward`, and if a dense reward's length is not the number of response tokens.
    """
    prompts, responses = [e.prompt for e in episodes], [e.response for e in episodes]
    by_episode = getattr(reward, "score_episodes", None)
    if by_episode is not None:
        returned = _call(by_episode, (list(episodes),), prompts, responses)
    else:
        returned = _call(getattr(reward, "score", reward), (prompts, responses), prompts, responses)
    checked = _checked(returned, prompts, responses)
    for episode, rewards in zip(episodes, checked.token_rewards or (), strict=False):
        if len(rewards) != len(episode.response_ids):
            raise RewardError(
                f"the reward function returned {len(rewards)} per-token rewards for a response of "
                f"{len(episode.response_ids)} tokens; {_naming(episode.prompt, episode.response)}"
            )
    return checked


def with_score(episode: Episode, given: Scores, index: int) -> Episode:
    """An episode with what the reward function said about it.

    Args:
        episode: The episode, with the token rewards already paid.
        given: Scores of all episodes that ended together.
        index: Which of them is this one's.
    """
    score, rewards = float(given.scores[index]), episode.rewards
    if given.token_rewards is not None:
        paid = np.zeros(len(episode.response_ids)) if rewards is None else np.array(rewards)
        rewards = tuple((paid + given.token_rewards[index]).tolist())
    elif rewards is not None:
        rewards = (*rewards[:-1], rewards[-1] + score)
    parts = None if given.parts is None else {name: float(values[index]) for name, values in given.parts.items()}
    return replace(episode, score=score, rewards=rewards, reward_parts=parts, scored=True)


def _call(function: Any, arguments: tuple[Any, ...], prompts: Sequence[str], responses: Sequence[str]) -> Any:
    """The function's result, with whatever it raises turned into a RewardError."""
    if not callable(function):
        raise RewardError(
            f"the reward must be a function of (prompts, responses) or have a .score method, got {type(function)}"
        )
    try:
        return function(*arguments)
    except RewardError:
        raise
    except Exception as error:
        where = _naming(prompts[0], responses[0])
        which = "" if len(prompts) == 1 else f"while scoring {len(prompts)} responses, the first of them: "
        raise RewardError(f"the reward function raised {type(error).__name__}: {error}; {which}{where}") from error


def _checked(returned: Any, prompts: Sequence[str], responses: Sequence[str]) -> Scores:
    """What a reward returned, as finite float64."""
    count = len(responses)
    if isinstance(returned, Scores):
        return _checked_parts(returned, prompts, responses)
    if hasattr(returned, "detach"):  # a torch tensor, on whatever device and with whatever history
        returned = returned.detach().cpu()
        returned = returned.float() if returned.is_floating_point() else returned  # numpy knows no bfloat16
    countable = hasattr(returned, "__len__") and getattr(returned, "ndim", 1) > 0
    if returned is None or isinstance(returned, (str, bytes, dict)) or not countable:
        raise RewardError(
            f"the reward function returned {returned!r} of type {type(returned).__name__} instead of one number for "
            f"each of {count} responses; the first: {_naming(prompts[0], responses[0])}"
        )
    if len(returned) != count:
        raise RewardError(
            f"the reward function returned {len(returned)} scores for {count} responses; the first: "
            f"{_naming(prompts[0], responses[0])}"
        )
    rows = [_row(value, i, prompts, responses) for i, value in enumerate(returned)]
    dense = [row.ndim == 1 for row in rows]
    if any(dense) and not all(dense):
        raise RewardError(
            f"the reward function returned an array for response {dense.index(True)} but a number for response "
            f"{dense.index(False)}; return one kind for all"
        )
    if any(dense):
        return Scores(np.array([row.sum() for row in rows]), rows)
    return Scores(np.array([float(row) for row in rows]), None)


def _checked_parts(returned: Scores, prompts: Sequence[str], responses: Sequence[str]) -> Scores:
    """What a combinator returned, its per-token rewards and parts checked like its scores."""
    dense = returned.token_rewards
    for name, part in (("token_rewards", dense), *(returned.parts or {}).items()):
        if part is not None and len(part) != len(responses):
            raise RewardError(f"{name!r} has {len(part)} entries for {len(responses)} responses")
    tokens = None if dense is None else [_row(row, i, prompts, responses) for i, row in enumerate(dense)]
    return returned._replace(scores=_checked(returned.scores, prompts, responses).scores, token_rewards=tokens)


def _row(value: Any, index: int, prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float64]:
    """One response's reward as a float64 scalar array or vector."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    try:
        row = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise RewardError(
            f"the reward function returned {value!r} for response {index}, which is no number; "
            f"{_naming(prompts[index], responses[index])}"
        ) from error
    if row.ndim > 1 or not np.isfinite(row).all():
        raise RewardError(
            f"the reward function returned {value!r} for response {index}, expected a finite number (or one finite "
            f"number per token); {_naming(prompts[index], responses[index])}"
        )
    return row


def _naming(prompt: str, response: str) -> str:
    return f"prompt {_short(prompt)}, response {_short(response)}"


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…")


# --- found by name, so that an environment's spec survives JSON -------------------------------------------------------

_REGISTERED: dict[str, Callable[[], Any]] = {}


def register_reward(name: str, factory: Callable[[], Any]) -> None:
    """Makes a reward known under a name, e.g. ``gymnasium.make("textenv/TextGeneration-v0", reward="my-reward")``.

    Args:
        name: The name; registering it again replaces the earlier factory.
        factory: Makes the reward; called at the first score, so that building an environment loads no model.
    """
    _REGISTERED[name] = factory


def resolve_reward(reference: str) -> Any:
    """The reward that a name, ``"tasks:…"`` or ``"package.module:attribute"`` stands for.

    ``tasks:addition,compare`` are the verifiers of built-in tasks; see :func:`textenv.tasks.named_reward` for others.

    Raises:
        ConfigError: If there is no such reward.
    """
    if reference in _REGISTERED:
        return _REGISTERED[reference]()
    module_name, colon, attribute = reference.partition(":")
    if colon and module_name == "tasks":
        from textenv.tasks.loading import named_reward

        return named_reward(reference)
    if not colon:
        known = ", ".join(sorted(_REGISTERED)) or "none"
        raise ConfigError(
            f"no reward is registered as {reference!r} (known: {known}); use textenv.register_reward, "
            "or 'package.module:attribute'"
        )
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot load the reward {reference!r}: {error}") from error


class LazyReward:
    """A reward given as an object or by name; a name is resolved at the first score and not pickled with its model.

    Args:
        reward: A reward function, or the name of one.
    """

    def __init__(self, reward: Any) -> None:
        self.reference = reward
        self._resolved: Any = None if isinstance(reward, str) else reward

    def get(self) -> Any:
        """The reward itself.

        Raises:
            ConfigError: If it was given by a name that cannot be resolved.
        """
        if self._resolved is None:
            self._resolved = resolve_reward(self.reference)
        return self._resolved

    def __getstate__(self) -> dict[str, Any]:
        return {"reference": self.reference, "_resolved": None if isinstance(self.reference, str) else self._resolved}


# --- combinators: each is itself a reward function over episodes ------------------------------------------------------


def _scores(reward: Any, episodes: Sequence[Episode]) -> NDArray[np.float64]:
    return score_episodes(reward, episodes).scores if episodes else np.zeros(0)


def _as_episodes(prompts: Sequence[str], responses: Sequence[str]) -> list[Episode]:
    """Episodes for calls that know only texts; their token ids are empty and they count as ended by EOS."""
    return [Episode(p, -1, (), r, (), FinishReason.EOS, 0.0) for p, r in zip(prompts, responses, strict=True)]


class SumReward:
    """Weighted sum of rewards.

    Args:
        rewards: The rewards, as a list, or by name as a mapping.
        weights: One weight each; all 1 where not given.

    Raises:
        ConfigError: If the numbers of rewards and weights differ or there is no reward.
    """

    def __init__(
        self,
        rewards: Sequence[RewardFunction | Any] | Mapping[str, RewardFunction | Any],
        weights: Sequence[float] | None = None,
    ) -> None:
        named = isinstance(rewards, Mapping)
        self.rewards = dict(rewards) if named else {str(i): reward for i, reward in enumerate(rewards)}
        self.weights = [1.0] * len(self.rewards) if weights is None else [float(w) for w in weights]
        if not self.rewards or len(self.weights) != len(self.rewards):
            raise ConfigError(f"SumReward got {len(self.rewards)} rewards and {len(self.weights)} weights")

    def score_episodes(self, episodes: Sequence[Episode]) -> Scores:
        """Σ weight · score, with each reward's unweighted scores as the parts."""
        parts = {name: _scores(reward, episodes) for name, reward in self.rewards.items()}
        total = np.zeros(len(episodes))
        for values, weight in zip(parts.values(), self.weights, strict=True):
            total += weight * values
        return Scores(total, parts=parts)

    def score(self, prompts: list[str], responses: list[str]) -> NDArray[np.float64]:
        """Scores of texts, without token ids: lengths count as 0 and every answer as ended by EOS."""
        return self.score_episodes(_as_episodes(prompts, responses)).scores

    def __call__(self, prompts: list[str], responses: list[str]) -> NDArray[np.float64]:
        """As `score`: a function of texts."""
        return self.score(prompts, responses)


class LengthPenaltyReward(SumReward):
    """Another reward minus ``per_token`` for every policy token beyond ``free_tokens``.

    Args:
        reward: The other one.
        per_token: Taken off for each token.
        free_tokens: Tokens that cost nothing.
    """

    def __init__(self, reward: RewardFunction | Any, per_token: float, free_tokens: int = 0) -> None:
        super().__init__([reward])
        self.per_token, self.free_tokens = per_token, free_tokens

    def score_episodes(self, episodes: Sequence[Episode]) -> Scores:
        """Penalised scores, with the other reward's parts."""
        (reward,) = self.rewards.values()
        scores = score_episodes(reward, episodes) if episodes else Scores(np.zeros(0))
        excess = np.array([max(0, e.action_tokens - self.free_tokens) for e in episodes], dtype=np.float64)
        return Scores(scores.scores - self.per_token * excess, parts=scores.parts)
