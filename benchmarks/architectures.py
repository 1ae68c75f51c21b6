"""Which transformers architectures are sampled from, scored and trained exactly: tiny random models of each.

    python benchmarks/architectures.py                            # all; exit status 1 unless each is exact or refused
    python benchmarks/architectures.py --only llama --only t5
    python benchmarks/architectures.py --write docs/models.md     # the page's tables, made anew

Each model answers prompts of different lengths in slots that are taken by the next prompt as they get free. Then the
log-probabilities of the sampler, of the learner (the answers side by side, right-padded) and of transformers (each
sequence alone, ``model(input_ids).logits``) are compared; one iteration of PPO is made; the policy is saved, read back
and compared. No model is downloaded: weights are drawn at random, with vectors that are neither ones nor zeros.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from agents.algorithms.ppo import PPO, PPOConfig
from agents.lm.models import train_tokenizer
from agents.policy import CausalLMPolicy
from agents.policy.forward import SequenceBatch
from textenv import TextGenerationVectorEnv
from textenv.errors import ConfigError
from textenv.sampling import SamplingParams
from textenv.sampling.models import start_token

EXACT = 1e-4
"""Largest difference of log-probabilities that counts as rounding, nats."""

MARK = "<!-- made by benchmarks/architectures.py: {} -->"

PROMPTS = ["the old film", "a", "the new film is very", "the long"]
TEXTS = [f"the {a} film is {b}" for a in ("old", "new", "long") for b in ("good", "bad", "fine", "very good")]
VOCABULARY = 280

# Sizes by the names that configurations have for them; each takes those that it knows.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    **dict.fromkeys(("hidden_size", "d_model", "lru_width"), 32),
    **dict.fromkeys(("intermediate_size", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "num_decoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), 4),
    "num_key_value_heads": 2,
    **dict.fromkeys(("head_dim", "d_kv"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "num_experts_per_tok": 2,
    **dict.fromkeys(("max_position_embeddings", "max_encoder_position_embeddings"), 64),
    "max_decoder_position_embeddings": 64,
    **dict.fromkeys(("sliding_window", "window_size", "attention_window"), 8),
    "rotary_dim": 4,
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state"), 8),
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

_MLA = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "head_dim": 4,
    "num_key_value_heads": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_MAMBA = {"mamba_chunk_size": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_ssm": 64, "mamba_expand": 2}
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_T5GEMMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "final_logit_softcapping": 0.5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 32,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "factor": 2.0,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


class Architecture(NamedTuple):
    """A row of the table.

    Attributes:
        kind: Transformers' ``model_type``.
        settings: Beside the sizes; None takes a size away.
    """

    kind: str
    settings: dict[str, Any] = {}  # noqa: RUF012  # never changed


ARCHITECTURES: dict[str, Architecture] = {
    "GPT": Architecture("openai-gpt"),
    "GPT-2": Architecture("gpt2"),
    "GPT-Neo": Architecture("gpt_neo", {"attention_types": [[["global", "local"], 1]]}),
    "GPT-J": Architecture("gptj"),
    "CodeGen": Architecture("codegen"),
    "GPT-NeoX (Pythia)": Architecture("gpt_neox"),
    "GPT-NeoX Japanese": Architecture("gpt_neox_japanese"),
    "GPTBigCode (StarCoder)": Architecture("gpt_bigcode"),
    "CTRL": Architecture("ctrl", {"n_embd": 32, "dff": 48}),
    "Llama": Architecture("llama"),
    "Llama 3 (scaled rotations)": Architecture("llama", {"rope_parameters": _LLAMA3}),
    "Llama with dynamic rotations": Architecture(
        "llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}}
    ),
    "Llama with YaRN": Architecture(
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 2.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "Llama 4": Architecture(
        "llama4_text",
        {
            "attention_chunk_size": 8,
            "intermediate_size_mlp": 48,
            "layer_types": ["chunked_attention", "full_attention"],
        },
    ),
    "CWM": Architecture("cwm"),
    "Mistral": Architecture("mistral", {"sliding_window": None}),
    "Mistral with a window": Architecture("mistral"),
    "Ministral": Architecture("ministral"),
    "Ministral 3": Architecture("ministral3"),
    "Mixtral": Architecture("mixtral"),
    "Qwen 2 and 2.5": Architecture("qwen2"),
    "Qwen 2 with a window": Architecture("qwen2", {"use_sliding_window": True, "max_window_layers": 1}),
    "Qwen 3": Architecture("qwen3"),
    "Qwen 2 MoE": Architecture("qwen2_moe"),
    "Qwen 3 MoE": Architecture("qwen3_moe"),
    "Qwen 3 Next": Architecture("qwen3_next", _LINEAR),
    "Qwen 3.5": Architecture("qwen3_5_text", _LINEAR),
    "Gemma": Architecture("gemma"),
    "Gemma 2": Architecture("gemma2", {"final_logit_softcapping": 0.5}),
    "Gemma 3": Architecture("gemma3_text", {"layer_types": ["sliding_attention", "full_attention"]}),
    "VaultGemma": Architecture("vaultgemma", {"final_logit_softcapping": 0.5}),
    "RecurrentGemma": Architecture("recurrent_gemma", {"attention_window_size": 8, "num_hidden_layers": 3}),
    "Phi 1 to 2": Architecture("phi"),
    "Phi 3 and 4": Architecture("phi3", {"sliding_window": None}),
    "Phi 3 with long rotations": Architecture(
        "phi3", {"sliding_window": None, "original_max_position_embeddings": 32, "rope_parameters": _LONG}
    ),
    "PhiMoE": Architecture("phimoe"),
    "OLMo": Architecture("olmo"),
    "OLMo 2": Architecture("olmo2"),
    "OLMo 3": Architecture("olmo3", {"layer_types": ["sliding_attention", "full_attention"]}),
    "OLMo Hybrid": Architecture("olmo_hybrid", {**_LINEAR, "num_key_value_heads": 4}),
    "OLMoE": Architecture("olmoe"),
    "FlexOlmo": Architecture("flex_olmo"),
    "SmolLM3": Architecture("smollm3"),
    "Granite": Architecture("granite", {"logits_scaling": 8.0}),
    "Granite MoE": Architecture("granitemoe", {"logits_scaling": 8.0}),
    "Granite MoE with shared experts": Architecture("granitemoeshared", {"logits_scaling": 8.0}),
    "Granite 4 (hybrid)": Architecture(
        "granitemoehybrid", {**_MAMBA, "layer_types": ["mamba", "attention"], "logits_scaling": 8.0}
    ),
    "StableLM": Architecture("stablelm"),
    "StarCoder2": Architecture("starcoder2"),
    "Cohere (Command R)": Architecture("cohere"),
    "Cohere 2 (Command A)": Architecture("cohere2", {"layer_types": ["sliding_attention", "full_attention"]}),
    "Nemotron": Architecture("nemotron"),
    "Falcon": Architecture("falcon", {"head_dim": None}),
    "Falcon with ALiBi": Architecture("falcon", {"head_dim": None, "alibi": True, "parallel_attn": False}),
    "Falcon, new form": Architecture("falcon", {"head_dim": None, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "Falcon-H1": Architecture("falcon_h1", {**_MAMBA, "lm_head_multiplier": 0.3}),
    "Falcon Mamba": Architecture("falcon_mamba"),
    "MPT": Architecture("mpt", {"max_seq_len": 64}),
    "OPT": Architecture("opt", {"ffn_dim": 48, "word_embed_proj_dim": 16}),
    "BLOOM": Architecture("bloom"),
    "XGLM": Architecture("xglm", {"ffn_dim": 48, "attention_heads": 4}),
    "BioGPT": Architecture("biogpt"),
    "Persimmon": Architecture("persimmon"),
    "DBRX": Architecture(
        "dbrx",
        {
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 64,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
        },
    ),
    "Jamba": Architecture(
        "jamba",
        {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False, "expert_layer_offset": 1},
    ),
    "Mamba": Architecture("mamba"),
    "Mamba 2": Architecture("mamba2", {"num_heads": 4, "head_dim": 16, "chunk_size": 8, "n_groups": 2}),
    "RWKV": Architecture("rwkv", {"context_length": 64}),
    "xLSTM": Architecture("xlstm", {"chunk_size": 8, "head_dim": None, "v_head_dim": None}),
    "Bamba": Architecture("bamba", {**_MAMBA, "attn_layer_indices": [1]}),
    "Zamba": Architecture(
        "zamba",
        {
            "num_hidden_layers": 4,
            "layers_block_type": ["mamba", "hybrid"] * 2,
            "attention_hidden_size": 64,
            "attention_head_dim": 16,
        },
    ),
    "Zamba 2": Architecture(
        "zamba2",
        {
            "num_hidden_layers": 4,
            "layers_block_type": ["mamba", "hybrid"] * 2,
            "n_mamba_heads": 4,
            "mamba_headdim": 16,
            "chunk_size": 8,
            "attention_head_dim": 16,
            "attention_hidden_size": 64,
        },
    ),
    "Nemotron-H": Architecture(
        "nemotron_h",
        {
            "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
            "num_hidden_layers": None,
            "mamba_num_heads": 4,
            "mamba_head_dim": 16,
            "chunk_size": 8,
            "n_groups": 2,
        },
    ),
    "JetMoE": Architecture("jetmoe", {"kv_channels": 8}),
    "DeepSeek V2": Architecture("deepseek_v2", _MLA),
    "DeepSeek V3": Architecture("deepseek_v3", _MLA),
    "DiffLlama": Architecture("diffllama"),
    "GLM": Architecture("glm"),
    "GLM 4": Architecture("glm4"),
    "GLM 4 MoE": Architecture("glm4_moe", {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}),
    "Ernie 4.5": Architecture("ernie4_5"),
    "Ernie 4.5 MoE": Architecture("ernie4_5_moe", {"moe_num_experts": 4, "moe_k": 2}),
    "Helium": Architecture("helium"),
    "GPT-OSS": Architecture("gpt_oss", {"layer_types": ["sliding_attention", "full_attention"]}),
    "MiniMax": Architecture("minimax", {"layer_types": ["linear_attention", "full_attention"], "block_size": 8}),
    "MiniMax M2": Architecture("minimax_m2"),
    "Exaone 4": Architecture("exaone4", {"layer_types": ["sliding_attention", "full_attention"]}),
    "Seed-OSS": Architecture("seed_oss"),
    "Dots 1": Architecture("dots1", {"n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}),
    "HunYuan": Architecture("hunyuan_v1_dense"),
    "HunYuan MoE": Architecture("hunyuan_v1_moe"),
    "LFM 2": Architecture("lfm2", {"layer_types": ["conv", "full_attention"]}),
    "BitNet": Architecture("bitnet"),
    "Doge": Architecture("doge"),
    "Arcee": Architecture("arcee"),
    "AFMoE": Architecture("afmoe", {"layer_types": ["sliding_attention", "full_attention"]}),
    "Apertus": Architecture("apertus"),
    "NanoChat": Architecture("nanochat"),
    "MiMo V2 Flash": Architecture("mimo_v2_flash"),
    "ModernBERT decoder": Architecture("modernbert-decoder"),
    "BERT as a decoder": Architecture("bert", {"is_decoder": True}),
    "BERT": Architecture("bert"),
    "RoBERTa as a decoder": Architecture("roberta", {"is_decoder": True}),
    "XLNet": Architecture("xlnet", {"max_position_embeddings": None, "d_inner": 48, "n_layer": 2, "n_head": 4}),
    "T5": Architecture("t5"),
    "T5 1.1 (Flan)": Architecture("t5", {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}),
    "mT5": Architecture("mt5"),
    "UMT5": Architecture("umt5"),
    "LongT5": Architecture("longt5", {"local_radius": 4}),
    "Switch Transformers": Architecture("switch_transformers", {"expert_capacity": 2}),
    "BART": Architecture("bart"),
    "mBART": Architecture("mbart"),
    "PLBart": Architecture("plbart"),
    "MVP": Architecture("mvp"),
    "Pegasus": Architecture("pegasus"),
    "Pegasus-X": Architecture("pegasus_x", {"block_size": 8, "num_global_tokens": 2}),
    "BigBird-Pegasus": Architecture("bigbird_pegasus", {"block_size": 4}),
    "LED": Architecture("led"),
    "M2M-100 (NLLB)": Architecture("m2m_100"),
    "NLLB MoE": Architecture("nllb-moe", {"expert_capacity": 2}),
    "Marian": Architecture("marian", {"decoder_vocab_size": VOCABULARY}),
    "Blenderbot": Architecture("blenderbot"),
    "Blenderbot small": Architecture("blenderbot-small"),
    "T5Gemma": Architecture("t5gemma", {part: _T5GEMMA for part in ("encoder", "decoder")}),
    "ProphetNet": Architecture("prophetnet", {"num_hidden_layers": None}),
    "FSMT": Architecture("fsmt", {"src_vocab_size": VOCABULARY, "tgt_vocab_size": VOCABULARY, "langs": ["en", "de"]}),
}


class Row(NamedTuple):
    """What was found out about an architecture.

    Attributes:
        name: In the table.
        model: Transformers' class.
        verdict: ``exact``, ``exact, slow``, ``refused``, or ``WRONG``.
        sampler: Largest difference of the sampler's log-probabilities from transformers' own, nats.
        learner: The same of the learner's.
        note: How it decodes, or why it is refused.
    """

    name: str
    model: str
    verdict: str
    sampler: float = 0.0
    learner: float = 0.0
    note: str = ""


def build(architecture: Architecture, seed: int = 0) -> Any:
    """A tiny random model, in evaluation mode."""
    kind: Any = CONFIG_MAPPING[architecture.kind]
    default = kind()
    wanted = SIZES | architecture.settings
    sizes = {name: size for name, size in wanted.items() if name in architecture.settings or _has(default, name)}
    config = kind(**{name: size for name, size in sizes.items() if size is not None or name == "sliding_window"})
    if config.is_encoder_decoder:
        start = getattr(config, "decoder_start_token_id", None)
        config.decoder_start_token_id = start if start is not None and start < VOCABULARY else SIZES["pad_token_id"]
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.from_config(config)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            if parameter.ndim < 2:  # ones and zeros would hide a mistake
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            else:  # as would states that hardly differ
                parameter.mul_(3)
    return model.eval()


def _has(config: Any, name: str) -> bool:
    windows = ("sliding_window", "window_size", "attention_window")  # models without one have them as None
    return hasattr(config, name) and not (name in windows and getattr(config, name) is None)


def transformers_logprobs(model: Any, prompt: list[int], answer: list[int], vocabulary: int) -> torch.Tensor:
    """Log-probabilities of an answer as transformers gives them for this sequence alone, nats, shape ``(T,)``."""
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            fed = torch.tensor([[start_token(model), *answer[:-1]]])
            logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=fed).logits[0]
        else:
            logits = model(input_ids=torch.tensor([[*prompt, *answer[:-1]]])).logits[0, len(prompt) - 1 :]
    picked = torch.tensor(answer)[:, None]
    return logits[:, :vocabulary].float().log_softmax(-1).gather(1, picked).squeeze(1)


def variety(prompts: list[str], responses: list[str]) -> list[float]:
    """A reward that an untrained policy gets, and that differs from answer to answer."""
    return [len(set(response)) + 0.1 * len(response) for response in responses]


def check(name: str, model: Any, tokenizer: Any) -> Row:
    """Sample, score, train, save and read back; `WRONG` is what none of our errors explains."""
    kind = type(model).__name__
    try:
        policy = CausalLMPolicy(model, tokenizer)
        answers = policy.generate(PROMPTS, SamplingParams(max_new_tokens=10), max_batch=3)
    except ConfigError as error:
        return Row(name, kind, "refused", note=" ".join(str(error).split()))
    except Exception as error:  # noqa: BLE001  # what is looked for
        return Row(name, kind, "WRONG", note=f"{type(error).__name__}: {error}")
    try:
        row = _compared(name, policy, answers)
        return row if row.verdict == "WRONG" else row._replace(**_trained(policy, tokenizer))
    except Exception as error:  # noqa: BLE001  # what is looked for
        return Row(name, kind, "WRONG", note=f"{type(error).__name__}: {error}")


def _compared(name: str, policy: CausalLMPolicy, answers: list[Any]) -> Row:
    prompts, tokens = [a.prompt_ids.tolist() for a in answers], [a.token_ids.tolist() for a in answers]
    learner = policy.logprobs(prompts, tokens)
    sampled = scored = 0.0
    for answer, prompt, ids, ours in zip(answers, prompts, tokens, learner, strict=True):
        theirs = transformers_logprobs(policy.causal_lm, prompt, ids, policy.vocab_size).numpy()
        sampled = max(sampled, float(abs(answer.logprobs - theirs).max()))
        scored = max(scored, float(abs(ours - theirs).max()))
    way = policy.slot_engine(1, 24).decoding
    verdict = "WRONG" if not max(sampled, scored) < EXACT else "exact, slow" if way == "anew" else "exact"
    return Row(name, type(policy.causal_lm).__name__, verdict, sampled, scored, way)


def _trained(policy: CausalLMPolicy, tokenizer: Any) -> dict[str, Any]:
    """What a PPO iteration, and saving and reading back, change in a row that was right so far."""
    envs = TextGenerationVectorEnv(4, tokenizer, PROMPTS, variety, max_new_tokens=6, prompt_dealing="shared")
    config = PPOConfig(learning_rate=1e-3, epochs=1, num_minibatches=1, kl_coef=0.1)
    metrics = PPO(policy, envs, config=config).iterate(1e-3)
    if not abs(metrics["policy/ratio_first"] - 1) < 1e-3:
        return {"verdict": "WRONG", "note": f"PPO's first ratio is {metrics['policy/ratio_first']}, not 1"}
    batch = SequenceBatch.from_ids([[1, 5, 6], [1, 7]], [[12, 13, 2], [14]])
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        policy.save_pretrained(folder)
        again = CausalLMPolicy.from_pretrained(folder)
        texts = [again.tokenizer.decode(again.tokenizer.encode(prompt)) for prompt in PROMPTS]
        if texts != [tokenizer.decode(tokenizer.encode(prompt)) for prompt in PROMPTS]:
            return {"verdict": "WRONG", "note": f"prompts are {texts} after saving and loading the tokenizer"}
        difference = (again.evaluate(batch).logprobs - policy.evaluate(batch).logprobs).abs().max()
    if not float(difference) < 1e-5:
        return {"verdict": "WRONG", "note": f"log-probs differ by {float(difference):.2g} after saving and loading"}
    return {}


def row_of(name: str, tokenizer: Any) -> Row:
    """Build an architecture and check it."""
    return check(name, build(ARCHITECTURES[name]), tokenizer)


def cells(row: Row) -> list[str]:
    """What the table shows of a row."""
    numbers = ["", ""] if row.verdict == "refused" else [f"{row.sampler:.0e}", f"{row.learner:.0e}"]
    return [row.name, f"`{row.model}`", row.verdict, *numbers, row.note]


# --- tokenizers -------------------------------------------------------------------------------------------------------


def _tokenizer(kind: str) -> Any:
    """A trained tokenizer of a kind."""
    specials = ["<pad>", "<s>", "</s>", "<unk>"]
    if kind == "BPE, byte level (GPT-2)":
        return train_tokenizer(TEXTS, VOCABULARY)
    settings: dict[str, Any] = {"special_tokens": specials, "show_progress": False}
    blanks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    if kind == "WordPiece (BERT)":
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=120, **settings)
    elif kind == "Unigram, Metaspace (T5)":
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", **settings)
    else:
        made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback="byte fallback" in kind))
        trainer = trainers.BpeTrainer(vocab_size=120, **settings)
        if kind == "BPE, Metaspace":
            made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        else:  # as Llama 2's tokenizer.json has it
            settings["special_tokens"] = [*specials, *(f"<0x{byte:02X}>" for byte in range(256))]
            trainer = trainers.BpeTrainer(vocab_size=380, **settings)
            made.normalizer = normalizers.Sequence(blanks)
            back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
            made.decoder = decoders.Sequence(back)
    made.train_from_iterator(TEXTS, trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


TOKENIZERS = (
    "BPE, byte level (GPT-2)",
    "BPE, Metaspace",
    "BPE, Prepend and byte fallback (Llama 2)",
    "Unigram, Metaspace (T5)",
    "WordPiece (BERT)",
)


def tokenizer_row(kind: str) -> list[str]:
    """Cells of the second table: what a Llama and a GPT-2 with this tokenizer are found to be."""
    tokenizer, found = _tokenizer(kind), []
    for name in ("Llama", "GPT-2"):
        architecture = ARCHITECTURES[name]
        sized = architecture._replace(settings=architecture.settings | {"vocab_size": len(tokenizer)})
        row = check(name, build(sized), tokenizer)
        found.append(row.verdict if row.verdict != "WRONG" else f"WRONG: {row.note}")
    return [kind, *found]


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [" | ".join(line).join(("| ", " |")) for line in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def written(page: str, part: str, text: str) -> str:
    """The page with what stands between a part's marks replaced."""
    start, end = MARK.format(part), MARK.format(f"end of {part}")
    if start not in page or end not in page:
        raise SystemExit(f"the page has no marks for {part!r}: {start} … {end}")
    return page[: page.index(start) + len(start)] + f"\n{text}\n" + page[page.index(end) :]


def main(arguments: list[str] | None = None) -> int:
    """Exit status 1 where an architecture is neither exact nor refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(ARCHITECTURES), metavar="NAME", help="may be repeated")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replace the tables in this page")
    options = parser.parse_args(arguments)
    if options.write and options.only:
        parser.error("--write needs all architectures: leave out --only")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    tokenizer, rows = train_tokenizer(TEXTS, VOCABULARY), []
    for name in options.only or ARCHITECTURES:
        rows.append(row_of(name, tokenizer))
        print(*rows[-1], sep="  ", flush=True)
    wrong = [row.name for row in rows if row.verdict == "WRONG"]
    tokenizers = [] if options.only else [tokenizer_row(kind) for kind in TOKENIZERS]
    for row in tokenizers:
        print(*row, sep="  ", flush=True)
    wrong += [row[0] for row in tokenizers if row[1:] != ["exact", "exact"]]
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("exact", "exact, slow", "refused")}
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()), "| wrong:", ", ".join(wrong) or "none")
    if options.write and not wrong:
        head = ["architecture", "transformers' class", "verdict", "sampler", "learner", "decoding, or why not"]
        page = options.write.read_text("utf-8")
        page = written(page, "architectures", markdown(head, [cells(row) for row in rows]))
        page = written(page, "tokenizers", markdown(["tokenizer", "Llama", "GPT-2"], tokenizers))
        options.write.write_text(page, "utf-8")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
