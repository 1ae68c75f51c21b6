"""Token masks: which tokens a policy may choose in each slot.

Masks compose: each wrapper narrows what the one inside it allows, never to nothing. Actions outside the mask are
refused, so a policy must ask ``action_masks()`` (sb3-contrib's MaskablePPO does).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from gymnasium.error import InvalidAction
from numpy.typing import NDArray

from textenv.envs.slots import Slots
from textenv.errors import ConfigError
from textenv.wrappers.base import NextTokenLogprobs
from textenv.wrappers.kl import logprobs_before

Mask = NDArray[np.bool_]


def top_k_mask(logprobs: NDArray[np.float64], k: int) -> Mask:
    """True on the ``k`` most probable tokens of each row, shape ``(n, V)``; equals of the last one stay in too."""
    k = min(k, logprobs.shape[1])
    last = np.partition(logprobs, -k, axis=1)[:, -k, None]
    return (logprobs >= last) & (logprobs > -np.inf)


def top_p_mask(logprobs: NDArray[np.float64], p: float) -> Mask:
    """True on the fewest most probable tokens of each row whose probabilities reach ``p``, shape ``(n, V)``.

    Source: Holtzman et al. 2020, arXiv:1904.09751, section 3.1.
    """
    order = np.argsort(-logprobs, axis=1, kind="stable")
    probs = np.exp(np.take_along_axis(logprobs, order, axis=1))
    total = probs.sum(axis=1, keepdims=True)
    before = np.cumsum(probs, axis=1) - probs  # probability of the tokens above each one
    kept = (before < p * total) & (probs > 0)
    kept[:, 0] = True
    mask = np.zeros_like(kept)
    np.put_along_axis(mask, order, kept, axis=1)
    return mask


class MaskSource:
    """Narrows what is allowed.

    Attributes:
        evaluating: Whether held-out prompts are played, whose tokens do not count.
    """

    evaluating: bool = False

    def narrow(self, slots: Slots, allowed: Mask) -> Mask:
        """What stays allowed, shape ``(n, V)``; must not change ``allowed``."""
        raise NotImplementedError

    def taken(self, count: int) -> None:
        """Called after every step with the number of tokens taken."""


class ListedTokens(MaskSource):
    """An allow list or a deny list of token ids.

    Args:
        ids: The tokens.
        allow: Whether they are the only ones allowed, or denied.

    Raises:
        ConfigError: If there are none.
    """

    def __init__(self, ids: Sequence[int], *, allow: bool) -> None:
        self.ids = np.asarray(list(ids), dtype=np.int64)
        self.allow = allow
        if allow and not len(self.ids):
            raise ConfigError("a list of allowed tokens must not be empty")

    def narrow(self, slots: Slots, allowed: Mask) -> Mask:
        """What is allowed and on the list, or not on it.

        Raises:
            ConfigError: If the list does not fit the vocabulary, or leaves a slot nothing.
        """
        size = slots.task.vocab_size
        if len(self.ids) and not (0 <= self.ids.min() and self.ids.max() < size):
            raise ConfigError(f"token lists must hold ids in 0 … {size - 1}, got {self.ids.tolist()}")
        listed = np.zeros(size, dtype=np.bool_)
        listed[self.ids] = True
        mask = allowed & (listed if self.allow else ~listed)
        empty = np.flatnonzero(~mask.any(axis=1))
        if len(empty):
            raise ConfigError(f"the token lists leave slot {empty[0]} no token to choose; loosen one of them")
        return mask


class RankedTokens(MaskSource):
    """The likeliest tokens according to a policy.

    Args:
        logprobs: The policy.
        k: How many, or None.
        p: Up to which probability, or None.

    Raises:
        ConfigError: If k is below 1 or p is outside (0, 1].
    """

    def __init__(self, logprobs: NextTokenLogprobs | None, *, k: int | None = None, p: float | None = None) -> None:
        if k is not None and k < 1:
            raise ConfigError(f"k must be ≥ 1, got {k}")
        if p is not None and not 0 < p <= 1:
            raise ConfigError(f"p must lie in (0, 1], got {p}")
        self.logprobs = logprobs
        self.k, self.p = k, p

    def current(self) -> NextTokenLogprobs:
        """The policy that ranks the tokens now."""
        assert self.logprobs is not None
        return self.logprobs

    def narrow(self, slots: Slots, allowed: Mask) -> Mask:
        """The likeliest of the allowed tokens."""
        logprobs = logprobs_before(self.current(), slots, np.arange(slots.num_slots), "the mask's policy")
        ranked = np.full(allowed.shape, -np.inf)
        width = min(logprobs.shape[1], allowed.shape[1])
        ranked[:, :width] = logprobs[:, :width]
        ranked[~allowed] = -np.inf
        impossible = np.isneginf(ranked).all(axis=1)  # the policy gives every allowed token probability 0
        ranked[impossible] = np.where(allowed[impossible], 0.0, -np.inf)
        mask = top_k_mask(ranked, self.k) if self.k is not None else top_p_mask(ranked, self.p or 1.0)
        return mask & allowed


class LaggedTokens(RankedTokens):
    """The likeliest tokens according to an earlier copy of the policy, which is renewed from time to time.

    Args:
        snapshot: Makes a copy of the policy as it stands, e.g. of its weights.
        p: Up to which probability.
        refresh_every_tokens: Tokens taken between copies.

    Raises:
        ConfigError: If p or the interval is unusable.
    Source: NLPO, Ramamurthy et al. 2023, arXiv:2210.01241, algorithm 1 (whose released code never renews the copy).
    """

    def __init__(self, snapshot: Callable[[], NextTokenLogprobs], *, p: float, refresh_every_tokens: int) -> None:
        super().__init__(None, p=p)
        if refresh_every_tokens < 1:
            raise ConfigError(f"refresh_every_tokens must be ≥ 1, got {refresh_every_tokens}")
        self.snapshot = snapshot
        self.refresh_every_tokens = refresh_every_tokens
        self.refreshes = 0
        self._since = 0

    def refresh(self) -> None:
        """Takes a new copy now."""
        self.logprobs = self.snapshot()
        self.refreshes += 1
        self._since = 0

    def current(self) -> NextTokenLogprobs:
        """The copy, made at first use."""
        if self.logprobs is None:
            self.refresh()
        return super().current()

    def taken(self, count: int) -> None:
        """Counts tokens and takes a new copy when enough were taken."""
        if self.evaluating:
            return
        self._since += count
        if self._since >= self.refresh_every_tokens:
            self.refresh()


class MaskState:
    """A mask source with its latest mask, computed once per state of the slots.

    Args:
        source: The source.
        inner: Gives the masks of the wrapped environment, shape ``(n, V)``.
        slots: The slots.
    """

    def __init__(self, source: MaskSource, inner: Callable[[], Mask], slots: Slots) -> None:
        self.source = source
        self._inner = inner
        self._slots = slots
        self._version = -1
        self._mask = np.zeros((0, 0), dtype=np.bool_)

    def masks(self) -> Mask:
        """True for tokens that may be chosen, shape ``(n, V)``; not a copy."""
        if self._version != self._slots.version:
            self._mask = self.source.narrow(self._slots, self._inner())
            self._version = self._slots.version
        return self._mask

    def check(self, actions: NDArray[np.int64], rows: NDArray[np.int64], wrapper: str) -> None:
        """Refuses masked actions.

        Raises:
            gymnasium.error.InvalidAction: Naming slot and value.
        """
        bad = ~self.masks()[rows, actions[rows]]
        if bad.any():
            slot = int(rows[np.flatnonzero(bad)[0]])
            left = int(self.masks()[slot].sum())
            raise InvalidAction(
                f"action {int(actions[slot])} of slot {slot} is masked by {wrapper}, which allows {left} tokens there; "
                "choose among action_masks()"
            )
