"""What sampling and scoring have to know of a transformers model: its output head, its context, its start token.

Whether it was known rightly is found out by trying: engines and policies compare what they compute with the model's own
logits before they are used, and refuse a model that they would get wrong.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from textenv.errors import ConfigError, TextEnvError

_logger = logging.getLogger(__name__)

_tried: dict[Any, bool] = {}  # by structure and engine: whether cached decoding works
_on_trial: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()  # whether the engine on trial has a cache

_FACTORS = ("logit_scale", "lm_head_multiplier")  # Cohere, Falcon-H1
_DIVISORS = ("logits_scaling",)  # Granite
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")  # Gemma, RecurrentGemma, xLSTM


@dataclass(frozen=True)
class OutputHead:
    """From last hidden states ``(·, D)`` to a model's logits ``(·, V)``.

    Attributes:
        embedding: The output embedding.
        scale: Hidden states are multiplied by it.
        cap: Logits are soft-capped to lie between −cap and cap; None leaves them.
        bias: Added to the logits, shape ``(V,)`` or ``(1, V)``; None adds nothing.
    """

    embedding: Any
    scale: float = 1.0
    cap: float | None = None
    bias: torch.Tensor | None = None

    def scaled(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the output embedding reads."""
        return hidden if self.scale == 1.0 else hidden * self.scale

    def finished(self, logits: torch.Tensor) -> torch.Tensor:
        """What becomes of the output embedding's product."""
        if self.bias is not None:
            logits = logits + self.bias
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """The logits."""
        return self.finished(self.embedding(self.scaled(hidden)))


def text_config(config: Any) -> Any:
    """The part of a configuration that is about text, where a model has others too."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def trunk_of(model: Any) -> Any:
    """The model without its head: what gives the last hidden states."""
    base = model.base_model
    # Llama 4's text model, a part of a larger one, says that it is its own base.
    return getattr(model, "model", base) if base is model and model.get_output_embeddings() is not None else base


def output_head(model: Any, embedding: Any = None) -> OutputHead:
    """The head of a language model, as its configuration describes it.

    Args:
        model: Transformers language model.
        embedding: In the place of its output embedding.

    Raises:
        ConfigError: If it has none.
    """
    embedding = model.get_output_embeddings() if embedding is None else embedding
    if embedding is None:
        raise ConfigError(f"{type(model).__name__} has no output embedding: it is no language model")
    config = text_config(model.config)
    scaled = getattr(config, "scale_decoder_outputs", False)  # the T5 kind
    if getattr(config, "model_type", "") in ("umt5", "switch_transformers"):  # which say it otherwise
        scaled = config.tie_word_embeddings
    scale = float(config.d_model) ** -0.5 if scaled else 1.0
    for name in (*_FACTORS, *_DIVISORS):
        number = getattr(config, name, None)
        if isinstance(number, int | float):
            scale = scale * number if name in _FACTORS else scale / number
    cap = next((float(value) for name in _CAPS if (value := getattr(config, name, None))), None)
    bias = getattr(model, "final_logits_bias", None)  # BART and its kin
    return OutputHead(embedding, scale, cap, bias if isinstance(bias, torch.Tensor) and bool(bias.any()) else None)


def context_length(config: Any) -> int | None:
    """Longest sequence in tokens whose states do not depend on its company; None where there is no limit.

    Where rotary frequencies change once a batch holds a sequence beyond the original context (``longrope``), that is
    the limit. An encoder-decoder's holds prompt and answer together.
    """
    config = text_config(config)
    sizes = [getattr(config, "max_position_embeddings", None)]
    ropes: Any = getattr(config, "rope_parameters", None) or {}
    for rope in (ropes, *(each for each in ropes.values() if isinstance(each, dict))):
        if rope.get("rope_type") == "longrope":
            sizes.append(rope.get("original_max_position_embeddings"))
    sizes += [getattr(config, f"max_{part}_position_embeddings", None) for part in ("encoder", "decoder")]
    return min((size for size in sizes if size and size > 0), default=None)


def check_room(model: Any, max_length: int) -> None:
    """Refuse sequences that a model was not made for.

    Raises:
        ConfigError: If ``max_length`` exceeds its context.
    """
    context = context_length(model.config)
    if context is not None and max_length > context:
        raise ConfigError(
            f"prompt and answer need {max_length} tokens, the model's context holds {context}; lower "
            "`max_prompt_tokens` or `max_new_tokens`"
        )


def start_token(model: Any) -> int:
    """Id that an encoder-decoder's answers start from.

    Raises:
        ConfigError: If the model does not say.
    """
    places = (model.config, getattr(model, "generation_config", None))
    known = [token for place in places if (token := getattr(place, "decoder_start_token_id", None)) is not None]
    if not known:
        raise ConfigError(
            f"{type(model).__name__} has no `decoder_start_token_id`: set it in its config (often the pad token's id)"
        )
    return int(known[0])


def structure(model: Any) -> tuple[Hashable, ...]:
    """What decides how a model computes, its weights apart: models of equal structure need one trial."""
    where = next(model.parameters())
    kinds = tuple((type(module), module.training) for module in model.modules())
    attention = getattr(text_config(model.config), "_attn_implementation", None)
    forward = getattr(model.forward, "__func__", model.forward)
    return repr(model.config), attention, where.dtype, where.device.type, forward, kinds


def agrees(given: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool | None:
    """Whether a trial's numbers are the model's own up to rounding; None where its own are not finite.

    Args:
        given: As computed.
        expected: The model's own, same shape.
        dtype: What the model computes in.
    """
    given, expected = given.float(), expected.float()
    if not expected.isfinite().all():
        return None
    tolerance = 0.1 if dtype in (torch.bfloat16, torch.float16) else 1e-3
    return bool((given - expected).norm() <= tolerance * expected.norm())


@contextmanager
def trial(model: Any, what: str) -> Iterator[None]:
    """Whatever an unknown model raises inside becomes a refusal that says what was tried.

    Raises:
        ConfigError: In the place of anything but our own errors and a lack of memory.
    """
    try:
        yield
    except (TextEnvError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # any kind: models raise what they please
        lines = str(error).strip().splitlines() or [""]
        raise ConfigError(f"{type(model).__name__} {what}: {type(error).__name__}: {lines[0]}") from error


@torch.no_grad()
def decodes_with_cache(
    model: Any,
    engine: Hashable,
    gives_its_own: Callable[[], bool | None],
    *,
    ways: Sequence[bool] = (True, False),
    cause: str = "",
) -> bool:
    """Whether cached decoding gives the model's own numbers; where not, computing anew must. Tried once a structure.

    Args:
        model: Transformers language model.
        engine: What the answer depends on beside the model's structure.
        gives_its_own: Makes an engine, which is told here whether it caches, and compares it with the model; None
            where the model's own numbers are not finite.
        ways: With a cache (True) or without one, in the order in which they are tried.
        cause: Why no cache is tried, where that is so.

    Raises:
        ConfigError: If neither way gives the model's own numbers.
    """
    if model in _on_trial:
        return _on_trial[model]
    known = (*structure(model), engine)
    if known in _tried:
        return _tried[known]
    reason, verdict = cause, None
    for cached in ways:
        _on_trial[model] = cached
        try:
            with trial(model, "cannot be decoded"):
                verdict = gives_its_own()
            if verdict is not False:
                break
            reason = reason or "its logits come out otherwise"
        except ConfigError as error:
            reason = reason or str(error)
        finally:
            del _on_trial[model]
    else:
        why = (
            "it is in training mode, where dropout is at work: call `model.eval()`"
            if model.training
            else f"it attends, or changes its logits, in a way that is not covered ({reason})"
        )
        raise ConfigError(f"decoding of {type(model).__name__} does not give the model's own logits: {why}")
    if verdict:
        _tried[known] = cached
    if not cached:
        _logger.warning(
            "%s is decoded without a cache, every step from the first token on, which is slow: %s",
            type(model).__name__,
            reason,
        )
    return cached
