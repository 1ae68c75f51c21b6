"""What the rooms of the project expect of each other: protocols, so any object with the right method works.

Nothing here imports torch, transformers or gymnasium.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


@runtime_checkable
class RewardFunction(Protocol):
    """Scores responses; a plain function of two lists of texts is one."""

    def __call__(self, prompts: list[str], responses: list[str], /) -> Sequence[float] | Sequence[Sequence[float]]:
        """One finite score per response, or one array of per-token rewards per response."""
        ...


@runtime_checkable
class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that the environment uses."""

    @property
    def eos_token_id(self) -> int | None:
        """Id that ends a response, or None."""
        ...

    @property
    def pad_token_id(self) -> int | None:
        """Id that fills up fixed-size observations, or None."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text."""
        ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of token ids."""
        ...

    def __len__(self) -> int:
        """Number of ids, added tokens included."""
        ...


@runtime_checkable
class PromptSource(Protocol):
    """Deals prompts: seeded, without replacement inside an epoch unless it says otherwise."""

    def __len__(self) -> int:
        """Number of distinct prompts."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """The prompt with this index."""
        ...

    def sample(self, rng: np.random.Generator) -> int:
        """Index of the next prompt, drawn with the caller's generator."""
        ...


@runtime_checkable
class LogprobFn(Protocol):
    """Log-probabilities in nats of response tokens given prompt tokens, e.g. of a reference policy."""

    def __call__(self, prompt_ids: list[list[int]], response_ids: list[list[int]], /) -> list[NDArray[np.float32]]:
        """One array per response, one entry per response token."""
        ...


@runtime_checkable
class TokenModel(Protocol):
    """Next-token logits of many growing rows of tokens; whatever is cached is the model's own business.

    A caller hands over whole rows and may change, replace, rewind or skip them at will: the answer is that of a full
    forward pass. :class:`textenv.sampling.SlotEngine` is one.
    """

    def logits(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], rows: NDArray[np.int64], /) -> torch.Tensor:
        """Logits ``(B, ≥ V)`` of the token after each right-padded row ``(B, L)`` of ``(B,)`` real tokens.

        ``rows`` names the slot of each row, without repetition.
        """
        ...

    def fork(self, sources: NDArray[np.int64], targets: NDArray[np.int64], /) -> None:
        """What slot ``sources[i]`` holds goes into slot ``targets[i]`` too: saves time, changes no result."""
        ...


@runtime_checkable
class GenerativePolicy(Protocol):
    """What the samplers and sampling methods need of a policy.

    One that has ``answers`` (:class:`textenv.answers.Answers`) says with it what its answers are; of others the
    tokenizer decides.
    """

    @property
    def tokenizer(self) -> Any:
        """Decodes answers; has ``eos_token_id``."""
        ...

    @property
    def vocab_size(self) -> int:
        """Ids that can be chosen; logits beyond them are cut."""
        ...

    @property
    def context_length(self) -> int | None:
        """Longest sequence in tokens, prompt included; None where there is no limit."""
        ...

    def encode_prompt(self, prompt: str, /) -> list[int]:
        """Token ids of a prompt."""
        ...

    def slot_engine(self, num_slots: int, max_length: int, /) -> TokenModel:
        """A model with room for ``num_slots`` rows of ``max_length`` tokens, prompt included."""
        ...
