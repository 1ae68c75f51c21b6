"""What every reward model on a transformers classifier shares: text in, logits out, batched by length.

Rows are sorted by length and grouped so that a batch holds a bounded number of tokens: mixed lengths cost almost no
padding, and the memory of a forward pass does not depend on how many texts are scored.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray

from reward_models.base import make_template
from textenv.errors import ConfigError
from textenv.sampling.models import agrees, structure, trial

_log = logging.getLogger(__name__)

DEFAULT_MAX_TOKENS = 128
# Measured on two CPU cores with MiniLM: 1,024 to 4,096 tokens are equally fast, 8,192 a third slower.
_checked: set[Any] = set()  # structures of models that score texts one by one and side by side alike
_BATCH_TOKENS_CPU = 2048
_BATCH_TOKENS_GPU = 65_536

TruncationSide = Literal["left", "right"]


class TextModel:
    """A transformers classifier with its tokenizer and its way of reading prompt and response.

    Args:
        model: Called with ``input_ids`` and ``attention_mask``, returns ``.logits`` of shape ``(B, K)``; put into
            evaluation mode.
        tokenizer: Its tokenizer.
        template: How prompt and response are joined; ``"chat"`` for the tokenizer's own chat template.
        max_tokens: Longest input in tokens, special tokens included.
        truncation_side: Which end of a longer text is lost.
        autocast: Compute in bfloat16.

    Raises:
        ConfigError: If no id can fill up rows, the template is unusable, `max_tokens` does not fit, or the model's
            scores depend on the texts beside a text.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        template: str = "{prompt}{response}",
        max_tokens: int = DEFAULT_MAX_TOKENS,
        truncation_side: TruncationSide = "left",
        autocast: bool = False,
    ) -> None:
        longest = getattr(model.config, "max_position_embeddings", None)
        if not 4 <= max_tokens <= (longest or max_tokens):
            raise ConfigError(f"`max_tokens` must be between 4 and the model's {longest} positions, got {max_tokens}.")
        if truncation_side not in ("left", "right"):
            raise ConfigError(f'`truncation_side` must be "left" or "right", got {truncation_side!r}.')
        self.model = model.eval()
        self.tokenizer = tokenizer
        # A causal classifier finds a row's last token by the id that its configuration calls padding.
        self.pad_token_id = model.config.pad_token_id = _padding(model.config, tokenizer)
        self.template = make_template(template, tokenizer)
        self.max_tokens = max_tokens
        self.truncation_side: TruncationSide = truncation_side
        self.autocast = autocast
        # A fast tokenizer keeps its truncation settings in itself, so only one caller may use it at a time.
        self._tokenizer_lock = threading.Lock()
        self._try_out()

    @torch.no_grad()
    def _try_out(self) -> None:
        """Make sure that a text's logits do not depend on the texts beside it.

        Raises:
            ConfigError: If they do, or the model cannot read what the tokenizer makes of a text.
        """
        with trial(self.model, "cannot score texts"):
            known = structure(self.model)
            if known in _checked:
                return
            rows = self.encode(["a", "a b c", "c b a d e f"], ["b", "d", "a"])
            ids, mask = self.pad(rows)
            found = self.model(input_ids=ids, attention_mask=mask).logits
            single = [self.pad([row]) for row in rows]
            expected = torch.cat([self.model(input_ids=one, attention_mask=own).logits for one, own in single])
        verdict = agrees(found, expected, next(self.model.parameters()).dtype)
        if verdict is False:
            raise ConfigError(f"{type(self.model).__name__} scores a text otherwise where a longer one is beside it.")
        if verdict:
            _checked.add(known)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def to(self, device: str | torch.device) -> Self:
        """Move the weights; returns itself."""
        self.model.to(device)
        return self

    def encode(self, prompts: Sequence[str], responses: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, cut to `max_tokens`.

        Where the template and the tokenizer both put a begin-of-text token first, one of them stays.

        Raises:
            ShapeError: If there are not as many prompts as responses.
        """
        texts = self.template.join(prompts, responses)
        if not texts:
            return []
        with self._tokenizer_lock:
            self.tokenizer.truncation_side = self.truncation_side
            encoded = self.tokenizer(texts, truncation=True, max_length=self.max_tokens, padding=False)
        rows = cast(list[list[int]], encoded["input_ids"])
        begin = self.tokenizer.bos_token_id
        if begin is not None:
            rows = [row[1:] if row[:2] == [begin, begin] else row for row in rows]
        # A causal model has no special tokens to fall back on, and an empty row has no score.
        return [row or [self.pad_token_id] for row in rows]

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask, padded on the right, each ``(B, L)`` int64 on the model's device."""
        ids, mask = pad_right(rows, self.pad_token_id)
        return ids.to(self.device), mask.to(self.device)

    def logits(self, prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float32]:
        """The model's output for each text, shape ``(n, K)``.

        Raises:
            ShapeError: If there are not as many prompts as responses.
        """
        rows = self.encode(prompts, responses)
        found = np.zeros((len(rows), 1), dtype=np.float32)
        limit = _BATCH_TOKENS_CPU if self.device.type == "cpu" else _BATCH_TOKENS_GPU
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            for chosen in batches_by_length([len(row) for row in rows], batch_tokens=limit):
                ids, mask = self.pad([rows[index] for index in chosen])
                logits = self.model(input_ids=ids, attention_mask=mask).logits
                if logits.shape[1] != found.shape[1]:
                    found = np.zeros((len(rows), logits.shape[1]), dtype=np.float32)
                found[chosen] = logits.float().cpu().numpy()
        return found


def _padding(config: Any, tokenizer: Any) -> int:
    """The id that fills up rows: the model's, the tokenizer's, or one that no text has.

    Raises:
        ConfigError: If there is none.
    """
    size = getattr(config, "vocab_size", None) or len(tokenizer)
    for own in (getattr(config, "pad_token_id", None), tokenizer.pad_token_id):
        if own is not None and 0 <= own < size:
            return own
    if len(tokenizer) < size:
        _log.warning("the tokenizer has no padding token: the id %d, which no text has, fills up rows", len(tokenizer))
        return len(tokenizer)
    if tokenizer.eos_token_id is None:
        raise ConfigError("the tokenizer has no padding token; set `tokenizer.pad_token` to an unused one.")
    _log.warning("the tokenizer has no padding token: the end-of-text token serves as one; a text is read up to it")
    return tokenizer.eos_token_id


def pad_right(rows: Sequence[Sequence[int]], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, each ``(B, L)`` int64."""
    longest = max(len(row) for row in rows)
    ids = np.full((len(rows), longest), padding, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def batches_by_length(lengths: Sequence[int], *, batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Indices in batches of similar length, so that little is padded.

    Args:
        lengths: Tokens of each row.
        batch_tokens: At most so many tokens in a batch, padding included; a longer row makes a batch of its own.

    Yields:
        Indices of one batch, the longest rows last.
    """
    order = np.argsort(lengths, kind="stable")
    batch: list[int] = []
    for index in order:
        # Rows come shortest first, so the newest one is the longest.
        if batch and (len(batch) + 1) * lengths[index] > batch_tokens:
            yield np.array(batch)
            batch = []
        batch.append(int(index))
    if batch:
        yield np.array(batch)
