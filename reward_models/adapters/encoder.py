"""A sentence encoder such as MiniLM as a reward model, without training: how near a response is to something.

For a trained one put a head on the encoder: ``SequenceRewardModel.from_trunk(minilm_path())``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from reward_models.adapters.common import checked_scores
from reward_models.base import paired
from reward_models.reading import JOINED
from reward_models.text_model import TextModel
from textenv.errors import CheckpointError
from textenv.pretrained import find_folder, load_model, load_tokenizer


class MeanPooled(nn.Module):
    """An encoder whose output is the mean of the real tokens' hidden states, of length 1.

    Source: Reimers & Gurevych 2019, arXiv:1908.10084, mean pooling.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder, self.config = encoder, encoder.config

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SequenceClassifierOutput:
        """Embeddings ``(B, D)`` of padded rows ``(B, L)``, under the name of logits."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[:, :, None].to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return SequenceClassifierOutput(logits=nn.functional.normalize(mean, dim=1))  # type: ignore[arg-type]


class EncoderSimilarity(TextModel):
    """Cosine similarity between the embedding of a response and that of its prompt, or of given examples.

    With examples the score is the mean similarity to the `liked` ones minus that to the `disliked` ones, and prompts
    are not read. Without, it is the similarity of prompt and response: how much the response is about the prompt.

    Args:
        encoder: A transformers encoder, for instance MiniLM; used as it is.
        tokenizer: Its tokenizer.
        liked: Texts that a response should resemble.
        disliked: Texts that it should not resemble.
        max_tokens: Longest text in tokens, as in `TextModel`; longer ones lose their end, as the encoder was trained.

    Raises:
        ConfigError: As `TextModel`.
    """

    def __init__(
        self,
        encoder: Any,
        tokenizer: Any,
        *,
        liked: Sequence[str] = (),
        disliked: Sequence[str] = (),
        max_tokens: int | None = None,
    ) -> None:
        super().__init__(
            MeanPooled(encoder), tokenizer, template=JOINED, max_tokens=max_tokens, truncation_side="right"
        )
        self.liked, self.disliked = tuple(liked), tuple(disliked)
        self._direction: NDArray[np.float64] | None = None
        if liked or disliked:
            self._direction = self._mean(self.liked) - self._mean(self.disliked)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        liked: Sequence[str] = (),
        disliked: Sequence[str] = (),
        max_tokens: int | None = None,
        device: str | torch.device = "cpu",
    ) -> EncoderSimilarity:
        """Load an encoder's folder, e.g. ``textenv.datasets.minilm_path()``.

        Raises:
            CheckpointError: If it cannot be read.
        """
        try:
            folder = find_folder(path)
            encoder = load_model(folder, "trunk", device=device, may_lack=r"\bpooler\.").model  # which is not used
            tokenizer = load_tokenizer(folder)
        except CheckpointError as error:
            raise CheckpointError(f"cannot read the encoder in `{path}`: {error}") from error
        return cls(encoder, tokenizer, liked=liked, disliked=disliked, max_tokens=max_tokens)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings of length 1, shape ``(n, D)``."""
        return self.logits([""] * len(texts), texts)

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """Similarities in [−1, 1] (differences of two with `disliked`: in [−2, 2]), shape ``(n,)``.

        Raises:
            ShapeError: If there are not as many prompts as responses.
            RewardError: If a score is not finite.
        """
        if not (pairs := paired(prompts, responses)):
            return np.zeros(0, np.float32)
        prompts, responses = [prompt for prompt, _ in pairs], [response for _, response in pairs]
        answers = self.embed(responses).astype(np.float64)
        if self._direction is not None:
            scores = answers @ self._direction
        else:
            scores = (answers * self.embed(prompts)).sum(axis=1)
        return checked_scores(scores, prompts, responses, source="the encoder")

    def _mean(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Mean embedding, zeros for no texts; similarity to it is the mean similarity to the texts."""
        return self.embed(texts).astype(np.float64).mean(axis=0) if texts else np.zeros(self.model.config.hidden_size)
