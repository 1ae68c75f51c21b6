"""How far log-probs in bfloat16 are off float32, here and in transformers, near the end of ever longer texts.

``python benchmarks/precision.py`` makes a random Llama of two layers (rotary embeddings, 4,096 positions) and prints,
for each length, the mean distance from float32 of the log-probs of the last 16 tokens, in nats per token: of
transformers' own bfloat16 model, of a policy's one pass over whole sequences, and of its cached decoding. ``--model``
takes any folder.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from agents import CausalLMPolicy
from agents.lm.pretraining import train_tokenizer

_LAST = 16


def random_model(folder: Path, seed: int) -> None:
    """Write a small random model whose answers depend on positions far apart."""
    tokenizer = train_tokenizer(["the old film is good, the new one is bad"] * 4, 300)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.15,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def decoded(policy: CausalLMPolicy, ids: list[int]) -> np.ndarray:
    """Log-probs of the last tokens as cached decoding gives them, nats."""
    engine = policy.slot_engine(1, len(ids))
    start, row = len(ids) - _LAST, np.zeros(1, np.int64)
    logits = [engine.logits(np.array([ids]), np.array([start]), row)]
    logits += [engine.logits(np.array([ids]), np.array([start + i]), row) for i in range(1, _LAST)]
    scores = torch.cat(logits).float().log_softmax(-1)
    return scores.gather(1, torch.tensor(ids[start:])[:, None])[:, 0].numpy()


def main() -> None:
    """Print a row for each length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="folder of a causal language model; empty makes a random one")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 1024, 4000], help="tokens")
    parser.add_argument("--texts", type=int, default=4, help="random texts of each length")
    parser.add_argument("--seed", type=int, default=0, help="of model and texts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(options.model or made)
        if not options.model:
            random_model(folder, options.seed)
        exact, low = (CausalLMPolicy.from_pretrained(folder, dtype=dtype) for dtype in ("float32", "bfloat16"))
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, trust_remote_code=False).eval()
    print(f"{'tokens':>7} {'transformers':>13} {'one pass':>9} {'decoding':>9}   nats per token off float32")
    for length in options.lengths:
        rows = []
        for text in range(options.texts):
            ids = np.random.default_rng([options.seed, length, text]).integers(3, low.vocab_size, length).tolist()
            split = [ids[:-_LAST]], [ids[-_LAST:]]
            true = exact.logprobs(*split)[0]
            with torch.no_grad():
                logits = theirs(torch.tensor([ids])).logits[0, -_LAST - 1 : -1].float().log_softmax(-1)
            other = logits.gather(1, torch.tensor(ids[-_LAST:])[:, None])[:, 0].numpy()
            rows.append([abs(found - true).mean() for found in (other, low.logprobs(*split)[0], decoded(low, ids))])
        other, whole, cached = np.mean(rows, axis=0)
        print(f"{length:>7} {other:>13.3f} {whole:>9.3f} {cached:>9.3f}")


if __name__ == "__main__":
    main()
