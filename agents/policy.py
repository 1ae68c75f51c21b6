"""A language model as a policy: a transformers causal LM with a value head.

Inside: loading and saving, log-probabilities, values and entropy of whole sequences, and generation. The update rules
stand in the modules of the algorithms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn

from agents.forward import (
    SequenceBatch,
    check_output_head,
    response_hidden,
    response_tokens,
    score_tokens,
)
from textenv.errors import CheckpointError, ConfigError, MissingDependencyError
from textenv.mixed_precision import ComputeCopy, fast_bf16
from textenv.sampling.generation import generate
from textenv.sampling.params import SamplingParams
from textenv.sampling.slots import SlotEngine
from textenv.trajectories import Trajectory

_VALUE_HEAD_FILE = "value_head.safetensors"


class SequenceScores(NamedTuple):
    """What a policy says about sequences.

    Attributes:
        logprobs: Of the answer tokens, nats, shape ``(B, T)``, 0 where the mask is False.
        values: Critic's estimate before each answer token, shape ``(B, T)``, 0 where the mask is False.
        last_values: Estimate after the last token (for answers cut off from outside), shape ``(B,)``.
        entropy: Of the policy before each answer token, nats, shape ``(B, T)``, 0 where the mask is False.
    """

    logprobs: torch.Tensor
    values: torch.Tensor
    last_values: torch.Tensor
    entropy: torch.Tensor


class CausalLMPolicy(nn.Module):
    """A causal language model that acts, with a critic on the same trunk.

    The value head starts at zero, so the first advantages are the rewards themselves (Ziegler et al. 2019). Dropout
    stays off: the module is always in evaluation mode, and asking for training mode only passes gradients.

    Args:
        model: Transformers causal LM, or a peft model around one.
        tokenizer: Its tokenizer; pad and end-of-text ids must differ.
        compute_dtype: ``torch.bfloat16`` makes a bfloat16 copy of the weights that does all forward and backward passes
            (see :mod:`textenv.mixed_precision`); None computes with the weights themselves.

    Raises:
        ConfigError: If pad and end-of-text are the same token, the tokenizer has more ids than the model, or the model
            changes its logits after the output embedding.
    """

    def __init__(self, model: Any, tokenizer: Any, *, compute_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        lm = self.causal_lm
        if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
            raise ConfigError(
                f"pad token ({tokenizer.pad_token_id}) and end-of-text token ({tokenizer.eos_token_id}) must differ; "
                "add one with tokenizer.add_special_tokens({'pad_token': '<|pad|>'}) and resize the embeddings"
            )
        if len(tokenizer) > lm.config.vocab_size:
            raise ConfigError(f"the tokenizer has {len(tokenizer)} ids, the model only {lm.config.vocab_size}")
        width = lm.get_input_embeddings().weight.shape[1]
        self.value_head = nn.Linear(width, 1, device=self.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self.eval()
        check_output_head(lm)
        self.compute = ComputeCopy(lm, compute_dtype)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, dtype: str = "float32", lora: Any = None, device: str | torch.device = "cpu"
    ) -> CausalLMPolicy:
        """Load a policy from a folder or a hub name; a saved value head is loaded with it.

        Args:
            path: What :meth:`save_pretrained` or transformers wrote.
            dtype: ``"float32"``; or ``"bfloat16"``: the optimiser keeps float32 weights, a bfloat16 copy computes (with
                LoRA the frozen weights are bfloat16 themselves and the adapter is float32); ``"auto"`` takes
                bfloat16 where the hardware is fast at it.
            lora: A ``peft.LoraConfig``: only the adapter is trained, and the reference is the model without it.
            device: Where to put it.

        Raises:
            ConfigError: If the dtype is unknown, or the tokenizer does not fit.
            CheckpointError: If the folder cannot be loaded.
            MissingDependencyError: If ``lora`` is given and peft is not installed.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if dtype not in ("auto", "float32", "bfloat16"):
            raise ConfigError(f"`dtype` must be 'auto', 'float32' or 'bfloat16', got {dtype!r}")
        low = dtype == "bfloat16" or (dtype == "auto" and fast_bf16(torch.device(device)))
        compute = torch.bfloat16 if low else None
        weights = compute if compute is not None and lora is not None else torch.float32
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=weights, use_safetensors=True)
            tokenizer = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"cannot load a language model from `{path}`: {error}") from error
        if lora is not None:
            try:
                from peft import get_peft_model
            except ImportError as error:
                raise MissingDependencyError('LoRA needs peft: pip install "textenv[lora]"') from error
            model = get_peft_model(model, lora)
        policy = cls(model.to(device), tokenizer, compute_dtype=compute if lora is None else None)
        head = Path(path) / _VALUE_HEAD_FILE
        if head.exists():
            from safetensors.torch import load_file

            try:
                policy.value_head.load_state_dict(load_file(head, device=str(device)))
            except (OSError, RuntimeError, SafetensorError) as error:
                raise CheckpointError(f"cannot load the value head `{head}`: {error}") from error
        return policy

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model (adapter merged), tokenizer and value head; plain transformers loads the folder."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        model = self.model
        if self.has_adapter:
            import copy

            model = copy.deepcopy(model).merge_and_unload()
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        save_file({k: v.contiguous() for k, v in self.value_head.state_dict().items()}, folder / _VALUE_HEAD_FILE)

    @property
    def has_adapter(self) -> bool:
        """True where a LoRA adapter sits on frozen weights."""
        return hasattr(self.model, "disable_adapter")

    @property
    def causal_lm(self) -> Any:
        """The transformers model itself (inside a peft model, the one that carries the adapter)."""
        return self.model.get_base_model() if self.has_adapter else self.model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.causal_lm.get_input_embeddings().weight.device

    @property
    def vocab_size(self) -> int:
        """Ids that the policy can choose: those of its tokenizer."""
        return len(self.tokenizer)

    @property
    def context_length(self) -> int | None:
        """Longest sequence in tokens that the model was made for; None where it has no limit."""
        return getattr(self.causal_lm.config, "max_position_embeddings", None)

    def train(self, mode: bool = True) -> CausalLMPolicy:
        """Keep dropout off: RLHF optimises the network that acts (``mode`` has no effect)."""
        return super().train(False)

    def drop_actor_gradients(self) -> None:
        """Forget the gradients of everything but the critic: the next optimiser step leaves the policy as it is."""
        critic = {id(p) for p in self.critic_parameters()}
        for p in self.parameters():
            if id(p) not in critic:
                p.grad = None

    def critic_parameters(self) -> list[nn.Parameter]:
        """Weights that only the critic has."""
        return list(self.value_head.parameters())

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Inside this context a LoRA policy is its own reference."""
        with self.model.disable_adapter():
            yield

    def encode_prompt(self, prompt: str) -> list[int]:
        """Token ids of a prompt, with the special tokens that the tokenizer puts before a text."""
        return list(self.tokenizer.encode(prompt))

    def evaluate(
        self,
        batch: SequenceBatch,
        *,
        temperature: float = 1.0,
        entropy: bool = False,
        values: bool = True,
    ) -> SequenceScores:
        """Log-probs, values and entropy of whole sequences from one forward pass.

        Args:
            batch: Prompts with answers; with the token masks that held while sampling, where there were any.
            temperature: Divides the logits; must be the one that sampled.
            entropy: Also compute the entropy; zeros otherwise.
            values: Also ask the critic; zeros otherwise.
        """
        lm = self.compute.model
        hidden, last_hidden = response_hidden(lm, batch)
        scores = score_tokens(
            lm.get_output_embeddings(),
            hidden,
            response_tokens(batch),
            vocab_size=self.vocab_size,
            temperature=temperature,
            allowed=batch.allowed,
            entropy=entropy,
        )
        estimates, last_values = torch.zeros_like(scores.logprobs), torch.zeros(len(last_hidden), device=hidden.device)
        if values:
            head_dtype = self.value_head.weight.dtype
            estimates = self.value_head(hidden.to(head_dtype)).squeeze(-1)
            last_values = self.value_head(last_hidden.to(head_dtype)).squeeze(-1)

        def spread(flat: torch.Tensor) -> torch.Tensor:
            padded = torch.zeros(batch.response_mask.shape, dtype=flat.dtype, device=flat.device)
            return padded.masked_scatter(batch.response_mask, flat)

        return SequenceScores(spread(scores.logprobs), spread(estimates), last_values, spread(scores.entropy))

    def slot_engine(self, num_slots: int, max_length: int) -> SlotEngine:
        """A KV-cached engine on this policy's weights; :meth:`SlotEngine.drop` it when they change."""
        return SlotEngine(self.compute.model, num_slots, max_length)

    def generate(
        self,
        prompts: Sequence[str] | Sequence[Sequence[int]],
        params: SamplingParams | None = None,
        *,
        n: int = 1,
        seed: int = 0,
        max_batch: int = 256,
    ) -> list[Trajectory]:
        """Sample answers to prompts.

        Args:
            prompts: Texts, or token ids.
            params: Sampling settings; None samples at temperature 1.
            n: Answers per prompt.
            seed: The answer number j to prompt number i depends on the seed, i and j alone.
            max_batch: Sequences that are decoded side by side.

        Returns:
            ``len(prompts) * n`` trajectories, the answers to one prompt next to each other.

        Raises:
            DataError: If a prompt is empty or leaves no room in the model's context; the message names it.
        """
        return generate(self, prompts, params, n=n, seed=seed, max_batch=max_batch)
