"""What a low-precision copy keeps, and what an optimiser gets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    XGLMConfig,
    XGLMForCausalLM,
)

from textenv.mixed_precision import ComputeCopy, float32_masters, lower

SMALL: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
MODELS: dict[str, tuple[Any, Any]] = {
    "Llama": (LlamaForCausalLM, LlamaConfig(**SMALL, num_hidden_layers=1, intermediate_size=16)),
    "Gemma 3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig(**SMALL, num_hidden_layers=2, intermediate_size=16, head_dim=8, pad_token_id=0),
    ),
    "GPT-J": (
        GPTJForCausalLM,
        GPTJConfig(
            vocab_size=40, n_embd=16, n_layer=1, n_head=2, rotary_dim=4, n_positions=16, bos_token_id=1, eos_token_id=2
        ),
    ),
    "XGLM": (
        XGLMForCausalLM,
        XGLMConfig(vocab_size=40, d_model=16, num_layers=1, attention_heads=2, ffn_dim=16, max_position_embeddings=16),
    ),
    "DeepSeek 3": (
        DeepseekV3ForCausalLM,
        DeepseekV3Config(
            **SMALL,
            num_hidden_layers=1,
            intermediate_size=16,
            moe_intermediate_size=8,
            n_routed_experts=4,
            n_group=2,
            topk_group=1,
            num_experts_per_tok=2,
            kv_lora_rank=8,
            q_lora_rank=8,
            qk_rope_head_dim=4,
            v_head_dim=8,
            qk_nope_head_dim=8,
            first_k_dense_replace=0,
        ),
    ),
    "T5": (T5ForConditionalGeneration, T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)),
}


def make(name: str) -> Any:
    kind, config = MODELS[name]
    torch.manual_seed(0)
    return kind(config).eval()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MODELS)
def test_copy_has_the_types_that_transformers_gives(name: str, dtype: torch.dtype, tmp_path: Any):
    model = make(name)
    copy = ComputeCopy(model, dtype).model
    model.save_pretrained(tmp_path)
    theirs = type(model).from_pretrained(tmp_path, dtype=dtype)
    ours = dict(copy.named_parameters())
    assert {n: p.dtype for n, p in theirs.named_parameters()} == {n: p.dtype for n, p in ours.items()}
    own = dict(model.named_buffers())
    found = dict(copy.named_buffers())
    for buffer_name, buffer in theirs.named_buffers():
        if buffer.dtype == torch.float32:
            assert torch.equal(found[buffer_name], own[buffer_name]), buffer_name
    ids = torch.arange(6)[None]
    inputs = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        exact, rounded = (m(input_ids=ids, use_cache=False, **inputs).logits.float() for m in (model, copy))
    assert float((exact - rounded).norm()) < 0.05 * float(exact.norm())


@pytest.mark.parametrize("name", ["Llama", "Gemma 3", "DeepSeek 3"])
def test_every_frequency_scale_and_bias_buffer_stays_float32(name: str):
    model = make(name)
    lower(model, torch.bfloat16)
    floats = {n: b.dtype for n, b in model.named_buffers() if b.is_floating_point()}
    assert set(floats.values()) == {torch.float32}


@pytest.mark.parametrize(("dtype", "computes"), [(torch.bfloat16, torch.bfloat16), (torch.float16, None)])
def test_masters_are_float32_with_their_buffers_as_made(dtype: torch.dtype, computes: torch.dtype | None):
    model = make("Llama")
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    model.to(dtype)
    assert float32_masters(model) == computes
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(torch.equal(b, buffers[n]) for n, b in model.named_buffers())


def test_masters_leave_alone_what_does_not_train(caplog: pytest.LogCaptureFixture):
    reference = make("Llama").to(torch.bfloat16).requires_grad_(False)
    assert float32_masters(reference) is None
    assert {p.dtype for p in reference.parameters()} == {torch.bfloat16}
    partly = make("Llama").to(torch.bfloat16)
    partly.requires_grad_(False)
    partly.lm_head.requires_grad_(True)
    assert float32_masters(partly) == torch.bfloat16
    assert {n for n, p in partly.named_parameters() if p.dtype == torch.float32} == {"lm_head.weight"}
    assert float32_masters(make("Llama")) is None
    assert caplog.text.count("the model came in bfloat16") == 1
