"""What every reward model on a transformers classifier shares: text in, logits out, batched by length.

Rows are sorted by length and grouped so that a batch holds a bounded number of tokens: mixed lengths cost almost no
padding, and the memory of a forward pass does not depend on how many texts are scored.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray

from reward_models.base import CHAT, PairTemplate, Template, make_template
from reward_models.reading import Truncation, find_padding, find_template, longest_input, positions, reads_token_types
from textenv.errors import ConfigError
from textenv.mixed_precision import round_up
from textenv.sampling.models import agrees, structure, text_config, trial

_checked: set[Any] = set()  # structures of models that score texts one by one and side by side alike
# Measured on two CPU cores with MiniLM: 1,024 to 4,096 tokens are equally fast, 8,192 a third slower.
_BATCH_TOKENS_CPU = 2048
_BATCH_TOKENS_GPU = 65_536

TruncationSide = Literal["left", "right"]


class Row(list[int]):
    """Token ids of a text.

    Attributes:
        types: Token types, as many, where the text is a pair and the model tells its two texts apart; else None.
        length: Tokens of the whole text; more than are there where it was cut.
    """

    types: list[int] | None = None
    length: int = 0


class TextModel:
    """A transformers classifier with its tokenizer and its way of reading prompt and response.

    Args:
        model: Called with ``input_ids`` and ``attention_mask``, returns ``.logits`` of shape ``(B, K)``; put into
            evaluation mode.
        tokenizer: Its tokenizer.
        template: How prompt and response are joined: a text with ``{prompt}`` and ``{response}``; ``"chat"`` for the
            tokenizer's own chat template; ``"pair"`` for its pair of texts; None finds out (`find_template`).
        max_tokens: Longest input in tokens, special tokens included; None: what trunk and tokenizer are made for.
        truncation_side: Which end of a longer text is lost.
        add_special_tokens: Whether the tokenizer puts its special tokens around a text; None: unless it is a chat,
            whose template writes them itself.
        autocast: Compute in bfloat16.

    Attributes:
        truncation: How many texts were cut so far.
        reading: In one line how texts are read, and where that is known from.

    Raises:
        ConfigError: If no id can fill up rows, the template is unusable, `max_tokens` does not fit, or the model's
            scores depend on the texts beside a text.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        template: str | None = None,
        max_tokens: int | None = None,
        truncation_side: TruncationSide = "left",
        add_special_tokens: bool | None = None,
        autocast: bool = False,
    ) -> None:
        longest = positions(model)
        if max_tokens is not None and not 4 <= max_tokens <= (longest or max_tokens):
            raise ConfigError(f"`max_tokens` must be between 4 and the model's {longest} positions, got {max_tokens}.")
        if truncation_side not in ("left", "right"):
            raise ConfigError(f'`truncation_side` must be "left" or "right", got {truncation_side!r}.')
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.pad_token_id, whose_padding = find_padding(model.config, tokenizer)
        # A causal classifier finds a row's last token by the id that its configuration calls padding.
        for config in (model.config, text_config(model.config)):
            config.pad_token_id = self.pad_token_id
        found, why = find_template(model, tokenizer) if template is None else (template, f"template {template!r}")
        self.template: Template = make_template(found, tokenizer)
        limit, whose_limit = longest_input(model, tokenizer) if max_tokens is None else (max_tokens, "as set")
        self.max_tokens = limit
        self.truncation_side: TruncationSide = truncation_side
        self.add_special_tokens = found != CHAT if add_special_tokens is None else add_special_tokens
        self.autocast = autocast
        self.truncation = Truncation()
        self._types = isinstance(self.template, PairTemplate) and reads_token_types(model, tokenizer)
        length = "texts of any length" if limit is None else f"up to {limit} tokens ({whose_limit})"
        self.reading = (
            f"reads {why}{' with token types' if self._types else ''}, {length}, cut on the {truncation_side}; padding "
            f"is {self.pad_token_id} ({whose_padding})"
        )
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
            rows = self.encode(["a", "a b c", "c b a d e f"], ["b", "d", "a"], counted=False)
            found = self.model(**self.inputs(rows)).logits
            expected = torch.cat([self.model(**self.inputs([row])).logits for row in rows])
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

    def encode(self, prompts: Sequence[Any], responses: Sequence[Any], *, counted: bool = True) -> list[Row]:
        """Token ids of each text, special tokens included, cut to `max_tokens`.

        Where the template and the tokenizer both put a begin-of-text token first, one of them stays.

        Args:
            prompts: Texts, or lists of messages.
            responses: As many.
            counted: Count in `truncation` what is cut; whoever says it otherwise does not.

        Raises:
            ShapeError: If there are not as many prompts as responses.
            DataError: If something is neither a text nor a list of messages, or the chat template refuses it.
        """
        texts = self.template.join(prompts, responses)
        if not texts:
            return []
        limit = self.max_tokens
        with self._tokenizer_lock:
            rows = self._tokenized(texts)
            long = [index for index, row in enumerate(rows) if limit is not None and len(row) > limit]
            if long:
                self.tokenizer.truncation_side = self.truncation_side
                again = self._tokenized([texts[index] for index in long], truncation=True, max_length=limit)
                for index, row in zip(long, again, strict=True):
                    rows[index], row.length = row, rows[index].length
        if counted:
            self.truncation.add([row.length for row in rows], limit, self.truncation_side)
        return rows

    def _tokenized(self, texts: Sequence[Any], **options: Any) -> list[Row]:
        """Rows of texts, or of pairs of texts."""
        pairs = isinstance(self.template, PairTemplate)
        given = [list(column) for column in zip(*texts, strict=True)] if pairs else [texts]
        special = self.add_special_tokens
        encoded = self.tokenizer(
            *given, add_special_tokens=special, return_token_type_ids=self._types, verbose=False, **options
        )
        begin, rows = self.tokenizer.bos_token_id, []
        for index, ids in enumerate(cast(list[list[int]], encoded["input_ids"])):
            doubled = int(begin is not None and ids[:2] == [begin, begin])
            # A causal model has no special tokens to fall back on, and an empty row has no score.
            row = Row(ids[doubled:] or [self.pad_token_id])
            row.length = len(row)
            row.types = list(encoded["token_type_ids"][index])[doubled:] if self._types else None
            rows.append(row)
        return rows

    def inputs(self, rows: Sequence[Row], *, multiple: int = 1) -> dict[str, torch.Tensor]:
        """What the model is called with: ids, attention mask and, of pairs, token types, each ``(B, L)`` int64.

        Args:
            rows: Of `encode`; padded on the right.
            multiple: L is one of this number.
        """
        ids, mask = pad_right(rows, self.pad_token_id, multiple=multiple)
        found = {"input_ids": ids, "attention_mask": mask}
        if self._types:
            types = [row.types or [0] * len(row) for row in rows]
            found["token_type_ids"] = pad_right(types, 0, multiple=multiple)[0]
        return {name: tensor.to(self.device) for name, tensor in found.items()}

    def batches(self, rows: Sequence[Row]) -> Iterator[NDArray[np.int64]]:
        """Indices of rows that pass through the model together, see `batches_by_length`."""
        limit = _BATCH_TOKENS_CPU if self.device.type == "cpu" else _BATCH_TOKENS_GPU
        return batches_by_length([len(row) for row in rows], batch_tokens=limit)

    def logits(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """The model's output for each text, shape ``(n, K)``.

        Raises:
            ShapeError: If there are not as many prompts as responses.
        """
        rows = self.encode(prompts, responses)
        found = np.zeros((len(rows), 1), dtype=np.float32)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            for chosen in self.batches(rows):
                logits = self.model(**self.inputs([rows[index] for index in chosen])).logits
                if logits.shape[1] != found.shape[1]:
                    found = np.zeros((len(rows), logits.shape[1]), dtype=np.float32)
                found[chosen] = logits.float().cpu().numpy()
        return found


def pad_right(rows: Sequence[Sequence[int]], padding: int, *, multiple: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, each ``(B, L)`` int64; L is the next multiple of `multiple`."""
    longest = round_up(max(len(row) for row in rows), multiple)
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
