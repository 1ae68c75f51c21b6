"""Decoding at the speed of the matrix products: a transformer's weights fused and laid out for small batches.

A decode step of a small model on a CPU spends most of its time outside the products: in casts, many small kernels and
weights that are laid out anew at every call. Here q, k and v are one product, activations and residuals are fused into
the products (oneDNN), the weights are reordered once per update, and blocks of different shapes (one token of each
running sequence, whole prompts of new ones) share their products.

Covers decoders of the Llama kind (Llama, Mistral, SmolLM, Qwen 2 and 3, Gemma), LoRA adapters included. Whether a model
is one of them is found out by trying: its own hidden states must come out. All others take transformers' own path.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn

from textenv.errors import ConfigError
from textenv.kernels import MAX_HEAD_DIM, MAX_HEADS, Kernels, kernels
from textenv.sampling.cache import Block, SlotCache
from textenv.sampling.models import agrees, text_config, trunk_of

_logger = logging.getLogger(__name__)

_ACTIVATIONS = {"silu": ("swish", ""), "gelu_pytorch_tanh": ("gelu", "tanh"), "gelu": ("gelu", "none")}
_KINDS = ("llama", "mistral", "qwen2", "qwen3", "gemma")
_SAMPLED = 64


def _fingerprint(parameters: Sequence[torch.Tensor | None]) -> tuple[Any, ...]:
    """Addresses, versions and a sample of the values: changes when weights do, those written through ``.data`` too."""
    marks: list[Any] = []
    for p in parameters:
        if p is not None:
            flat = p.detach().reshape(-1)
            marks += [p.data_ptr(), p._version, flat[:: max(1, len(flat) // _SAMPLED)].double().sum().item()]
    return tuple(marks)


def _uses_onednn(weight: torch.Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if weight.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32


@cache
def _product() -> Any:
    """The matrix product of oneDNN with an activation after it; an overload is called faster than its name."""
    return torch.ops.mkldnn._linear_pointwise.default


@cache
def _product_with() -> Any:
    """The same with another tensor added or multiplied after it."""
    return torch.ops.mkldnn._linear_pointwise.binary


class _Adapter(NamedTuple):
    """The LoRA matrices of fused linear layers: ``x @ down.T @ up.T`` is what they add."""

    down: torch.Tensor
    up: torch.Tensor


class PackedLinear:
    """Linear layers with a common input, as one product.

    Args:
        modules: ``nn.Linear`` layers or peft's LoRA layers around them.

    Raises:
        TypeError: If a module is none of these.
    """

    def __init__(self, modules: Sequence[Any]) -> None:
        self._modules = modules
        self._layers: list[nn.Linear] = [getattr(module, "base_layer", module) for module in modules]
        for layer in self._layers:
            if type(layer) is not nn.Linear:
                raise TypeError(f"{type(layer).__name__} is not a linear layer")
        self._onednn = _uses_onednn(self._layers[0].weight)
        self._seen: tuple[Any, ...] = ()
        self._weight = torch.zeros(0)
        self._bias: torch.Tensor | None = None
        self._adapter: _Adapter | None = None
        self.refresh()

    def refresh(self) -> None:
        """Take over the layers' present weights."""
        self._adapter = _renewed(self._adapter, _fused_adapter(self._modules, self._layers))
        seen = _fingerprint([p for layer in self._layers for p in (layer.weight, layer.bias)])
        if seen == self._seen:
            return
        self._seen = seen
        weights = [layer.weight.detach() for layer in self._layers]
        weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        if self._onednn:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        else:  # a lone layer's weight is looked at where it stands
            self._weight = weight if len(weights) == 1 else _in_place(self._weight, weight)
        if any(layer.bias is not None for layer in self._layers):
            parts = [
                layer.bias.detach() if layer.bias is not None else layer.weight.new_zeros(layer.out_features)
                for layer in self._layers
            ]
            self._bias = _in_place(self._bias, torch.cat(parts))

    def addresses(self) -> list[int]:
        """Where the tensors stand that a recorded step would read."""
        tensors = (self._weight, self._bias, *(self._adapter or ()))
        return [] if self._onednn else [tensor.data_ptr() for tensor in tensors if tensor is not None]

    def __call__(self, x: torch.Tensor, activation: str | None = None) -> torch.Tensor:
        """``(N, in)`` to ``(N, out)``, with one of the named activations after it."""
        if self._onednn and (activation is None or self._adapter is None):
            name, algorithm = ("none", "") if activation is None else _ACTIVATIONS[activation]
            return self._adapt(_product()(x, self._weight, self._bias, name, [], algorithm), x)
        out = self(x) if self._onednn else self._adapt(nn.functional.linear(x, self._weight, self._bias), x)
        if activation == "silu":
            return nn.functional.silu(out)
        if activation is not None:
            return nn.functional.gelu(out, approximate="tanh" if activation == "gelu_pytorch_tanh" else "none")
        return out

    def times(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """The product with ``x``, times ``other`` elementwise."""
        if self._onednn and self._adapter is None:
            return _product_with()(x, other, self._weight, self._bias, "mul")
        return self(x) * other

    def plus(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """The product with ``x``, plus ``other``."""
        if self._onednn:
            out = _product_with()(x, other, self._weight, self._bias, "add")
            return self._adapt(out, x)
        return self(x) + other

    def _adapt(self, out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return out if self._adapter is None else out.add_((x @ self._adapter.down) @ self._adapter.up)


def _in_place(old: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
    """The new values, in the old tensor where they fit: a step that was recorded on a GPU goes on reading it."""
    if old is None or old.shape != new.shape or old.dtype != new.dtype or old.device != new.device:
        return new
    return old.copy_(new)


def _renewed(old: _Adapter | None, new: _Adapter | None) -> _Adapter | None:
    if old is None or new is None:
        return new
    return _Adapter(_in_place(old.down, new.down), _in_place(old.up, new.up))


def _fused_adapter(modules: Sequence[Any], layers: Sequence[nn.Linear]) -> _Adapter | None:
    """Active LoRA adapters of the layers as one pair of matrices ``(in, r)`` and ``(r, out)``, scaling included."""
    downs, ups, sizes = [], [], [layer.out_features for layer in layers]
    for number, module in enumerate(modules):
        if not hasattr(module, "base_layer") or module.disable_adapters or module.merged:
            continue
        if any(getattr(module, "use_dora", {}).values()) or getattr(module, "lora_bias", {}).get("default", False):
            raise TypeError("DoRA and adapters with a bias are not packed")
        for name in module.active_adapters:
            if name not in module.lora_A:
                continue
            dtype = layers[0].weight.dtype
            down, up = module.lora_A[name].weight.detach(), module.lora_B[name].weight.detach() * module.scaling[name]
            downs.append(down.T.to(dtype))
            before, after = sum(sizes[:number]), sum(sizes[number + 1 :])
            ups.append(nn.functional.pad(up.T, (before, after)).to(dtype))
    return _Adapter(torch.cat(downs, 1), torch.cat(ups, 0)) if downs else None


class _Norm:
    """A root-mean-square norm of the Llama or the Gemma kind (whose weight is centred on zero)."""

    def __init__(self, module: Any, eps: float, zero_centred: bool, compiled: Kernels | None) -> None:
        self._module, self._eps, self._zero_centred, self._compiled = module, eps, zero_centred, compiled
        self._weight = torch.zeros(0)
        self.refresh()

    def refresh(self) -> None:
        weight = self._module.weight.detach()
        self._weight = _in_place(self._weight, weight + 1) if self._zero_centred else weight

    def addresses(self) -> list[int]:
        return [self._weight.data_ptr()]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._compiled is not None and x.dim() == 2 and x.is_contiguous():
            return self._compiled.rms_norm(x, self._weight, self._eps)
        return nn.functional.rms_norm(x, self._weight.shape, self._weight, self._eps)


class _Layer:
    """The packed parts of one transformer layer."""

    def __init__(self, layer: Any, eps: float, zero_centred: bool, compiled: Kernels | None) -> None:
        attention, mlp = layer.self_attn, layer.mlp

        def norm(module: Any) -> _Norm:
            return _Norm(module, eps, zero_centred, compiled)

        self.before_attention = norm(layer.input_layernorm)
        self.qkv = PackedLinear([attention.q_proj, attention.k_proj, attention.v_proj])
        self.output = PackedLinear([attention.o_proj])
        self.before_mlp = norm(layer.post_attention_layernorm)
        self.gate = PackedLinear([mlp.gate_proj])
        self.up = PackedLinear([mlp.up_proj])
        self.down = PackedLinear([mlp.down_proj])
        self.of_heads = (norm(attention.q_norm), norm(attention.k_norm)) if hasattr(attention, "q_norm") else None

    def parts(self) -> list[_Norm | PackedLinear]:
        parts = [self.before_attention, self.qkv, self.output, self.before_mlp, self.gate, self.up, self.down]
        return [*parts, *(self.of_heads or ())]


class PackedDecoder:
    """A decoder of the Llama kind, packed.

    Args:
        model: Transformers causal LM.

    Raises:
        TypeError: If its parts are not those of a known kind.
        AttributeError: Likewise.
    """

    def __init__(self, model: Any) -> None:
        config, base = model.config, trunk_of(model)
        layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
        sliding = config.model_type == "mistral" and config.sliding_window is not None
        if config.model_type not in _KINDS or layer_types != {"full_attention"} or sliding:
            raise TypeError(f"{config.model_type} is not packed, or not with these layers")
        if base.rotary_emb.rope_type not in ("default", "linear", "llama3"):
            raise TypeError(f"rotary embeddings of type {base.rotary_emb.rope_type} change with the length")
        self._activation: str = getattr(config, "hidden_activation", None) or config.hidden_act
        if self._activation not in _ACTIVATIONS:
            raise TypeError(f"the activation {self._activation} is not packed")
        attention = base.layers[0].self_attn
        self._embedding, self._rotary = base.embed_tokens, base.rotary_emb
        self._head_dim: int = attention.head_dim
        self._kv_heads: int = attention.k_proj.out_features // self._head_dim
        self._heads: int = attention.q_proj.out_features // self._head_dim
        self._scaling: float = attention.scaling
        weight = attention.q_proj.weight
        fits = self._head_dim <= MAX_HEAD_DIM and self._heads <= MAX_HEADS
        plain = weight.device.type == "cpu" and weight.dtype in (torch.bfloat16, torch.float32)
        self._compiled = kernels() if fits and plain else None
        zero_centred = config.model_type == "gemma"
        if zero_centred and weight.dtype in (torch.bfloat16, torch.float16):
            raise TypeError("norms of the Gemma kind add 1 in float32")
        self._dtype = weight.dtype
        self._layers = [_Layer(layer, config.rms_norm_eps, zero_centred, self._compiled) for layer in base.layers]
        self._norm = _Norm(base.norm, config.rms_norm_eps, zero_centred, self._compiled)
        self.head = PackedLinear([model.get_output_embeddings()])

    def refresh(self) -> None:
        """Take over the model's present weights; costs about nothing where they have not changed."""
        for part in self._parts():
            part.refresh()

    def addresses(self) -> list[int]:
        """Where the weights stand that a recorded step would read."""
        return [address for part in self._parts() for address in part.addresses()]

    def _parts(self) -> list[_Norm | PackedLinear]:
        return [*(part for layer in self._layers for part in layer.parts()), self._norm, self.head]

    def hidden(self, blocks: Sequence[Block], cache: SlotCache) -> list[torch.Tensor]:
        """Last hidden states ``(b, s, D)`` of each block; their products are computed together."""
        if self._embedding.weight.dtype != self._dtype:
            raise ConfigError(f"the model's data type has become {self._embedding.weight.dtype}; call `drop()` first")
        sizes = [block.tokens.numel() for block in blocks]
        x = self._embedding(torch.cat([block.tokens.reshape(-1) for block in blocks]))
        attend = [self._attention(block, cache, x) for block in blocks]
        for number, layer in enumerate(self._layers):
            qkv = layer.qkv(layer.before_attention(x)).view(len(x), -1, self._head_dim)
            if layer.of_heads is not None:
                norm_q, norm_k = layer.of_heads
                q, k, v = qkv.split([self._heads, self._kv_heads, self._kv_heads], 1)
                qkv = torch.cat([norm_q(q), norm_k(k), v], 1)
            if len(attend) == 1:
                seen = attend[0](number, qkv)
            else:
                seen = torch.cat([one(number, part) for one, part in zip(attend, qkv.split(sizes), strict=True)])
            x = layer.output.plus(seen, x)
            normed = layer.before_mlp(x)
            x = layer.down.plus(layer.up.times(normed, layer.gate(normed, self._activation)), x)
        parts = self._norm(x).split(sizes)
        return [part.view(*block.tokens.shape, -1) for part, block in zip(parts, blocks, strict=True)]

    def _attention(
        self, block: Block, cache: SlotCache, x: torch.Tensor
    ) -> Callable[[int, torch.Tensor], torch.Tensor]:
        """The attention of a block as a function of a layer's number and its ``qkv`` ``(b · s, heads, head_dim)``."""
        cos, sin = (part[0] for part in self._rotary(x, block.positions.reshape(1, -1)))
        if self._compiled is not None and block.tokens.shape[1] == 1 and not block.fresh:
            return self._compiled_attention(self._compiled, block, cache, cos.float(), sin.float())
        half, heads = self._head_dim // 2, self._heads + self._kv_heads
        # Rotating by half a head and changing the sign of one half is one roll and a signed sine.
        cos, sin = cos[:, None], torch.cat([-sin[:, :half], sin[:, half:]], -1)[:, None]
        mask = self._additive(block, x.dtype)

        def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
            turned = torch.addcmul(qkv[:, :heads] * cos, qkv[:, :heads].roll(half, -1), sin)
            return self._attend(layer, block, cache, turned, qkv[:, heads:], mask)

        return attend

    def _compiled_attention(
        self, compiled: Kernels, block: Block, cache: SlotCache, cos: torch.Tensor, sin: torch.Tensor
    ) -> Callable[[int, torch.Tensor], torch.Tensor]:
        places = torch.arange(len(block.tokens)) if block.places is None else block.places
        targets, lengths = block.targets.reshape(-1), block.positions.reshape(-1) + 1

        def attend(layer: int, qkv: torch.Tensor) -> torch.Tensor:
            keys, values = cache.tensors(layer, qkv, self._kv_heads)
            return compiled.decode_attention(
                qkv, cos, sin, keys, values, places, targets, lengths, heads=self._heads, scale=self._scaling
            )

        return attend

    def _additive(self, block: Block, dtype: torch.dtype) -> torch.Tensor:
        """What attention adds to its scores, ``(b, 1, groups · s, K)``: query heads that share keys stand as rows."""
        mask = torch.zeros(block.visible.shape, dtype=dtype, device=block.visible.device)
        mask.masked_fill_(~block.visible, torch.finfo(dtype).min)
        groups = self._heads // self._kv_heads
        return mask if block.tokens.shape[1] == 1 else mask.repeat(1, 1, groups, 1)

    def _attend(
        self, layer: int, block: Block, cache: SlotCache, turned: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Attention of one block, ``(b · s, heads · head_dim)``."""
        rows, width = block.tokens.shape
        groups = self._heads // self._kv_heads
        queries, keys = turned[:, : self._heads], turned[:, self._heads :]
        shape = (rows, width, self._kv_heads, self._head_dim)
        all_keys, all_values = cache.exchange(layer, keys.reshape(shape), values.reshape(shape), block)
        queries = queries.reshape(rows, width, self._kv_heads, groups, self._head_dim).permute(0, 2, 3, 1, 4)
        out = nn.functional.scaled_dot_product_attention(
            queries.reshape(rows, self._kv_heads, groups * width, self._head_dim),
            all_keys.transpose(1, 2),
            all_values.transpose(1, 2),
            attn_mask=mask,
            scale=self._scaling,
        )
        out = out.view(rows, self._kv_heads, groups, width, self._head_dim).permute(0, 3, 1, 2, 4)
        return out.reshape(rows * width, self._heads * self._head_dim)


class _Known(NamedTuple):
    """What was found out about a model, and the modules, type and place that it had then."""

    decoder: PackedDecoder | None
    structure: tuple[Any, ...]


_packed: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()


def _structure(model: Any) -> tuple[Any, ...]:
    heads = (model.get_input_embeddings(), model.get_output_embeddings())
    weights = [head.weight for head in heads if head is not None]
    return tuple(id(module) for module in model.modules()), *((w.dtype, w.device, w.shape) for w in weights)


def packed_decoder(model: Any) -> PackedDecoder | None:
    """The packed form of a model, with its present weights; None where it has none.

    It is kept as long as the model lives, and made anew where the model has got other modules (adapters, another
    vocabulary), another data type or another device.
    """
    structure = _structure(model)
    known = _packed.get(model)
    if known is None or known.structure != structure:
        known = _packed[model] = _Known(_build(model), structure)
    elif known.decoder is not None:
        known.decoder.refresh()
    return known.decoder


@torch.no_grad()
def _build(model: Any) -> PackedDecoder | None:
    try:
        decoder = PackedDecoder(model)
        expected, packed = _probe(model, decoder)
    except Exception as error:  # noqa: BLE001  # whatever an unknown model raises here, its usual path is to be taken
        _logger.debug("decoding %s with transformers' own path: %r", type(model).__name__, error)
        return None
    if agrees(packed, expected, model.dtype) is not False:
        return decoder
    _logger.warning("decoding %s with transformers' own, slower path: its packed form differs", type(model).__name__)
    return None


def _probe(model: Any, decoder: PackedDecoder) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states of a few tokens as the model computes them, and as its packed form does: a prompt, then a step."""
    device, length = model.get_input_embeddings().weight.device, 6
    ids = (torch.arange(length, device=device) * 7 % text_config(model.config).vocab_size)[None]
    expected = trunk_of(model)(input_ids=ids, use_cache=False).last_hidden_state[0]
    cache, places = SlotCache(1, length), torch.arange(length, device=device)[None]
    visible = (places[..., None] >= places[:, None])[:, None]
    prompt = Block(ids[:, :-1], places[:, :-1], None, places[:, :-1], visible[..., :-1, :-1], fresh=True)
    step = Block(ids[:, -1:], places[:, -1:], None, places[:, -1:], visible[..., -1:, :], fresh=False)
    packed = [decoder.hidden([block], cache)[0][0] for block in (prompt, step)]
    return expected, torch.cat(packed)
