"""Small random models of the kinds that the engine is tested with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCAB, CONTEXT = 60, 40


def _llama_kind(config: Any, model: Any, **settings: Any) -> Any:
    made = model(
        config(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=CONTEXT,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            **settings,
        )
    ).eval()
    for name, parameter in made.named_parameters():
        if "norm" in name or name.endswith("bias"):  # ones and zeros would hide a mistake
            parameter.data.normal_(1.0 if "norm" in name and config is not GemmaConfig else 0.0, 0.2)
    return made


def _gpt2() -> Any:
    config = GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=2, n_positions=CONTEXT, bos_token_id=1, eos_token_id=2
    )
    return GPT2LMHeadModel(config).eval()


MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: _llama_kind(LlamaConfig, LlamaForCausalLM),
    "llama3-rope": lambda: _llama_kind(
        LlamaConfig,
        LlamaForCausalLM,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 100.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
    "mistral": lambda: _llama_kind(MistralConfig, MistralForCausalLM, sliding_window=None),
    "qwen2": lambda: _llama_kind(Qwen2Config, Qwen2ForCausalLM),
    "qwen3": lambda: _llama_kind(Qwen3Config, Qwen3ForCausalLM),
    "gemma": lambda: _llama_kind(GemmaConfig, GemmaForCausalLM, hidden_activation="gelu_pytorch_tanh"),
    "gpt2": _gpt2,
    "mistral with a window": lambda: _llama_kind(MistralConfig, MistralForCausalLM, sliding_window=8),
    "phi3 with a window": lambda: _llama_kind(Phi3Config, Phi3ForCausalLM, sliding_window=8),
    "qwen2 with a window": lambda: _llama_kind(
        Qwen2Config, Qwen2ForCausalLM, use_sliding_window=True, sliding_window=8, max_window_layers=1
    ),
    "gemma3": lambda: _llama_kind(
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
        hidden_activation="gelu_pytorch_tanh",
    ),
}
PACKED = ["llama", "llama3-rope", "mistral", "qwen2", "qwen3", "gemma"]


def soft_capping_model() -> Any:
    """A model that changes its logits after the output embedding."""
    return _llama_kind(Gemma2Config, Gemma2ForCausalLM, final_logit_softcapping=0.1)
