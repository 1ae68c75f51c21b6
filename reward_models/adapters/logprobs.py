"""Log-probabilities of responses under a transformers causal language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reward_models.text_model import batches_by_length, pad_right
from textenv.errors import RewardError

_BATCH_LOGITS = 2**26
"""Logits in one batch: 256 MB in float32."""


class CausalLogprobs:
    """`textenv.protocols.LogprobFn` of a transformers causal language model: one forward pass, batched by length.

    Args:
        model: Anything that is called with ``input_ids`` and ``attention_mask`` and returns ``.logits`` ``(B, L, V)``;
            put into evaluation mode.
        context_length: Longest sequence in tokens; None takes the model's ``max_position_embeddings``, if it has any.
    """

    def __init__(self, model: Any, *, context_length: int | None = None) -> None:
        self.model = model.eval()
        longest = getattr(getattr(model, "config", None), "max_position_embeddings", None)
        self.context_length: int | None = longest if context_length is None else context_length

    def __call__(self, prompt_ids: list[list[int]], response_ids: list[list[int]], /) -> list[NDArray[np.float32]]:
        """Log-probability in nats of each response token, one array per response.

        Raises:
            RewardError: If a sequence exceeds the context, or a prompt with a response has no tokens.
        """
        rows = [[*prompt, *response] for prompt, response in zip(prompt_ids, response_ids, strict=True)]
        for prompt, response, row in zip(prompt_ids, response_ids, rows, strict=True):
            if response and not prompt:
                raise RewardError("a prompt has no tokens; the first response token then has no probability.")
            if self.context_length is not None and len(row) > self.context_length:
                raise RewardError(f"prompt and response have {len(row)} tokens; the model reads {self.context_length}.")
        found: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(rows)
        scored = [index for index, response in enumerate(response_ids) if response]
        width = int(getattr(getattr(self.model, "config", None), "vocab_size", 32_000))
        limit = max(1, _BATCH_LOGITS // width)
        for places in batches_by_length([len(rows[index]) for index in scored], batch_tokens=limit):
            chosen = [scored[place] for place in places]
            for index, values in zip(chosen, self._batch(rows, prompt_ids, chosen), strict=True):
                found[index] = values
        return found

    @torch.inference_mode()
    def _batch(
        self, rows: list[list[int]], prompts: list[list[int]], chosen: Sequence[int]
    ) -> list[NDArray[np.float32]]:
        device = next(self.model.parameters()).device
        # Whatever pads is behind the mask and behind the real tokens of a causal model.
        ids, mask = (x.to(device) for x in pad_right([rows[index] for index in chosen], 0))
        logits = self.model(input_ids=ids, attention_mask=mask).logits
        values = []
        for place, index in enumerate(chosen):
            first, last = len(prompts[index]), len(rows[index])
            own = logits[place, first - 1 : last - 1].float()
            picked = own.gather(1, ids[place, first:last, None])[:, 0] - own.logsumexp(1)
            values.append(picked.cpu().numpy())
        return values
