"""A language model as a policy: a transformers language model with a critic.

Inside: log-probabilities, values and entropy of whole sequences, and generation. Folders are read and written by
:mod:`agents.policy.files`; the update rules stand in the modules of the algorithms.
"""

from __future__ import annotations

import dataclasses
import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from agents.policy import files
from agents.policy import lora as adapters
from agents.policy.critic import Critic
from agents.policy.forward import SequenceBatch, check_exact, response_hidden, response_tokens
from agents.policy.token_logprobs import token_logprobs
from agents.policy.trunks import checkpointed_layers, freeze_lower_layers, recomputing
from textenv.answers import AnswerFormat, Answers, Vocabulary, declare_format, vocabulary
from textenv.answers.answers import PromptLike
from textenv.errors import ConfigError
from textenv.mixed_precision import ComputeCopy, float32_masters, placed, refuse_low_precision
from textenv.pretrained import check_finite, own_memory
from textenv.sampling.encoder_decoder import EncoderDecoderEngine
from textenv.sampling.generation import Prompts, generate
from textenv.sampling.models import context_length, output_head
from textenv.sampling.params import SamplingParams
from textenv.sampling.slots import SlotEngine
from textenv.trajectories import Trajectory

if TYPE_CHECKING:
    from reward_models import SequenceRewardModel

_log = logging.getLogger(__name__)
_said: weakref.WeakSet[Any] = weakref.WeakSet()  # tokenizers without a padding token
_ADDED_TOKENS = 8  # that people add to a tokenizer without a row in the model, such as one for padding


class PolicyOutputs(NamedTuple):
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
    """A language model that acts, with a critic on the same trunk or on its own.

    The value head on the policy's trunk starts at zero, so the first advantages are the rewards themselves (Ziegler et
    al. 2019). Dropout stays off: the module is always in evaluation mode, and asking for training mode only passes
    gradients. Encoder-decoder models work too: the encoder reads the prompt, the decoder answers.

    Args:
        model: Transformers language model, or a peft model around one.
        tokenizer: Its tokenizer; it needs no padding token.
        critic: A value function with a trunk of its own; None puts a value head on the policy's trunk.
        compute_dtype: ``torch.bfloat16`` makes a bfloat16 copy of the weights that does all forward and backward passes
            (see :mod:`textenv.mixed_precision`); None computes with the weights themselves. A model that comes in
            bfloat16 or float16 is made float32, in place, and bfloat16 stays what computes.
        frozen_layers: Decoder layers, from the lowest, that are not trained, input embeddings included where there are
            any (and with them the output embedding, where the two are one).
        gradient_checkpointing: Keep no activations inside layers; backward passes compute them again.
        answer: What an answer of it is; None takes what tokenizer and model say: their end tokens, texts as they are.

    Raises:
        ConfigError: If the tokenizer is another model's, the model cannot be scored exactly, layers cannot be frozen or
            recomputed, or an adapter is of a kind that would not be kept exactly.
        CheckpointError: If weights are NaN or infinite.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        critic: Critic | None = None,
        compute_dtype: torch.dtype | None = None,
        frozen_layers: int = 0,
        gradient_checkpointing: bool = False,
        answer: AnswerFormat | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.frozen_layers = frozen_layers
        self.gradient_checkpointing = gradient_checkpointing
        lm = self.causal_lm
        if self.has_adapter:
            adapters.check_adapter(model)
        check_finite(lm, f"the {type(lm).__name__}")
        own_memory(lm, all_of_it=False)
        self.vocabulary = _shared_vocabulary(tokenizer, lm)
        if answer is None:
            stated = AnswerFormat.of_tokenizer(tokenizer, lm.config, getattr(lm, "generation_config", None))
            ends = tuple(i for i in stated.eos_token_ids if i < self.vocab_size)
            answer = dataclasses.replace(stated, eos_token_ids=ends)
        self.answer = answer
        declare_format(tokenizer, answer)
        self.critic = critic
        self.value_head: nn.Linear | None = None
        model.eval()
        width = check_exact(lm)
        if critic is None:
            self.value_head = nn.Linear(width, 1, device=self.device)
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
        self.eval()
        # After the trial: the weights that train may have another type than the others now.
        low_precision = float32_masters(lm)
        compute_dtype = compute_dtype or low_precision
        if frozen_layers:
            freeze_lower_layers(model, frozen_layers)
        self._copy_weights(compute_dtype)
        _say_padding(tokenizer, self.pad_token_id)

    def _copy_weights(self, dtype: torch.dtype | None) -> None:
        """Make what computes, from the weights as they stand and where they stand."""
        self.compute = ComputeCopy(self.causal_lm, dtype)
        trunks = [self.compute.model, *([self.critic.compute.model] if self.critic is not None else [])]
        self._layers = [checkpointed_layers(trunk) for trunk in trunks] if self.gradient_checkpointing else []

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> CausalLMPolicy:
        """Move everything that computes, too: before learners and engines are made of it."""
        refuse_low_precision(fn, self)
        before = placed(self.causal_lm)
        super()._apply(fn, recurse)
        if placed(self.causal_lm) != before:  # else what hangs on the copy's weights would be lost
            self._copy_weights(self.compute.dtype)
        return self

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        dtype: str = "float32",
        lora: Any = None,
        critic: Literal["shared", "separate"] | SequenceRewardModel = "shared",
        frozen_layers: int = 0,
        gradient_checkpointing: bool = False,
        device: str | torch.device = "cpu",
    ) -> CausalLMPolicy:
        """Load a policy from a folder or a hub name; a saved critic is loaded with it.

        Args:
            path: What :meth:`save_pretrained` or transformers wrote; an adapter's folder in peft's form, whose base
                model is loaded with it; or a run's folder with one language model.
            dtype: ``"float32"`` or ``"float64"``; or ``"bfloat16"``: the optimiser keeps float32 weights, a bfloat16
                copy computes (with LoRA the frozen weights are bfloat16 themselves, and only the adapter has a float32
                original), ``"float16"`` likewise; ``"auto"`` takes bfloat16 where the hardware is fast at it.
            lora: A ``peft.LoraConfig``: only the adapter is trained, and the reference is the model without it.
            critic: ``"shared"``: a value head on the policy's trunk; ``"separate"``: a copy of the trunk; or a causal
                reward model with the policy's tokenizer, to start from a copy of it. A critic that was saved in the
                folder comes first.
            frozen_layers: As in the class.
            gradient_checkpointing: As in the class.
            device: Where to put it.

        Raises:
            ConfigError: If the dtype is unknown, or the pieces do not fit together.
            CheckpointError: If the folder cannot be loaded.
            MissingDependencyError: If ``lora`` is given and peft is not installed.
        """
        parts = files.load(path, dtype=dtype, lora=lora, critic=critic, device=device)
        return cls._of_parts(parts, frozen_layers, gradient_checkpointing)

    @classmethod
    def _of_parts(cls, parts: files.PolicyParts, frozen_layers: int, gradient_checkpointing: bool) -> CausalLMPolicy:
        policy = cls(
            parts.model,
            parts.tokenizer,
            critic=parts.critic,
            compute_dtype=parts.compute_dtype,
            frozen_layers=frozen_layers,
            gradient_checkpointing=gradient_checkpointing,
            answer=parts.answer,
        )
        if parts.value_head is not None and policy.value_head is not None:
            policy.value_head.load_state_dict(parts.value_head)
        return policy

    @property
    def parts(self) -> files.PolicyParts:
        """What it is made of, for :mod:`agents.policy.files`."""
        head = None if self.value_head is None else self.value_head.state_dict()
        return files.PolicyParts(self.model, self.tokenizer, self.critic, head, self.answer)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model (adapter merged), tokenizer and critic; plain transformers loads the folder."""
        files.save(self.parts, Path(folder))

    def save_for_learner(self, folder: Path) -> dict[str, Any]:
        """Write it into ``policy/`` of a learner's folder; returns what :meth:`load_for_learner` needs to know."""
        files.save_for_learner(self.parts, folder)
        return {
            "dtype": self.dtype_name,
            "frozen_layers": self.frozen_layers,
            "gradient_checkpointing": self.gradient_checkpointing,
            "adapter": self.has_adapter,
        }

    @classmethod
    def load_for_learner(cls, folder: Path, meta: dict[str, Any], device: str | torch.device) -> CausalLMPolicy:
        """What :meth:`save_for_learner` wrote; an adapter is fresh, until the learner's own weights are read.

        Raises:
            CheckpointError: If the folder is not complete.
        """
        parts = files.load_for_learner(folder, dtype=meta["dtype"], adapter=meta["adapter"], device=device)
        return cls._of_parts(parts, meta["frozen_layers"], meta["gradient_checkpointing"])

    # --- what it is ---------------------------------------------------------------------------------------------------

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
    def computes_in(self) -> torch.dtype:
        """Data type of the forward and backward passes."""
        return self.compute.model.get_input_embeddings().weight.dtype

    @property
    def dtype_name(self) -> str:
        """What it computes in, as :meth:`from_pretrained` takes it."""
        return str(self.computes_in).removeprefix("torch.")

    @property
    def logprobs_in(self) -> torch.dtype:
        """Data type of log-probs and values: float32, or float64 for a float64 model."""
        return torch.promote_types(self.computes_in, torch.float32)

    @property
    def answer(self) -> AnswerFormat:
        """What an answer is: set by whoever trains the policy to answer, stored with it, used wherever it answers."""
        return self.answers.format

    @answer.setter
    def answer(self, answer: AnswerFormat) -> None:
        self.answers = Answers(self.tokenizer, answer)

    @property
    def pad_token_id(self) -> int:
        """Id that fills up rows and is never read: one beyond the tokenizer's, where it has none but its end token."""
        pad = self.tokenizer.pad_token_id
        return self.answers.vocabulary.size if pad is None or pad == self.tokenizer.eos_token_id else int(pad)

    @property
    def vocab_size(self) -> int:
        """Ids that the policy can choose lie below this: its tokenizer's, as far as the model has them."""
        return self.vocabulary.size

    @property
    def context_length(self) -> int | None:
        """Longest sequence in tokens that the model was made for; None where it has no limit."""
        return context_length(self.causal_lm.config)

    # --- training -----------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> CausalLMPolicy:
        """Keep dropout off: RLHF optimises the network that acts (``mode`` has no effect)."""
        return super().train(False)

    def critic_parameters(self) -> list[nn.Parameter]:
        """Weights that only the critic has."""
        part = self.critic if self.critic is not None else self.value_head
        return [] if part is None else list(part.parameters())

    def drop_actor_gradients(self) -> None:
        """Forget the gradients of everything but the critic: the next optimiser step leaves the policy as it is."""
        critic = {id(p) for p in self.critic_parameters()}
        for p in self.parameters():
            if id(p) not in critic:
                p.grad = None

    def pull_gradients(self) -> None:
        """Bring the gradients of compute copies to the weights: call it after each backward pass."""
        self.compute.pull_gradients()
        if self.critic is not None:
            self.critic.compute.pull_gradients()

    def push_weights(self) -> None:
        """Bring the weights to the compute copies: call it after each optimiser step and after loading."""
        self.compute.push_weights()
        if self.critic is not None:
            self.critic.compute.push_weights()

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Inside this context a LoRA policy is its own reference."""
        with self.model.disable_adapter(), adapters.switched_off(self.compute.model):
            yield

    def evaluate(
        self,
        batch: SequenceBatch,
        *,
        temperature: float = 1.0,
        entropy: bool = False,
        values: bool = True,
    ) -> PolicyOutputs:
        """Log-probs, values and entropy of whole sequences from one forward pass.

        Args:
            batch: Prompts with answers; with the token masks that held while sampling, where there were any.
            temperature: Divides the logits; must be the one that sampled.
            entropy: Also compute the entropy; zeros otherwise.
            values: Also ask the critic; zeros otherwise.
        """
        lm = self.compute.model
        with recomputing(self._layers):
            hidden, last_hidden = response_hidden(lm, batch)
            estimates, last_values = self._values(batch, hidden, last_hidden) if values else (None, None)
        scores = token_logprobs(
            output_head(lm),
            hidden,
            response_tokens(batch),
            vocab_size=self.vocab_size,
            temperature=temperature,
            allowed=self._allowed(batch),
            entropy=entropy,
        )
        if estimates is None or last_values is None:
            estimates, last_values = torch.zeros_like(scores.logprobs), scores.logprobs.new_zeros(len(batch.lengths))

        def spread(flat: torch.Tensor) -> torch.Tensor:
            padded = torch.zeros(batch.action_mask.shape, dtype=flat.dtype, device=flat.device)
            return padded.masked_scatter(batch.action_mask, flat)

        # FSDP's hooks want no views.
        return PolicyOutputs(spread(scores.logprobs), spread(estimates), last_values.clone(), spread(scores.entropy))

    def _allowed(self, batch: SequenceBatch) -> NDArray[np.uint8] | None:
        """Masks of the tokens that can be chosen: ids that are no tokens never are."""
        if batch.allowed is not None or not len(self.vocabulary.absent):
            return batch.allowed
        return np.tile(np.packbits(self.vocabulary.is_token), (int(batch.action_mask.sum()), 1))

    def _values(
        self, batch: SequenceBatch, hidden: torch.Tensor, last_hidden: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.critic is not None:
            return self.critic(batch)
        assert self.value_head is not None
        dtype = self.value_head.weight.dtype
        return self.value_head(hidden.to(dtype)).squeeze(-1), self.value_head(last_hidden.to(dtype)).squeeze(-1)

    # --- generation ---------------------------------------------------------------------------------------------------

    def encode_prompt(self, prompt: PromptLike) -> list[int]:
        """Token ids of a text or a conversation, as :attr:`answer` says that prompts are put."""
        return self.answers.encode_prompt(prompt).ids

    @torch.no_grad()
    def logprobs(
        self, prompt_ids: Sequence[Sequence[int]], response_ids: Sequence[Sequence[int]], *, temperature: float = 1.0
    ) -> list[NDArray[np.float32]]:
        """Log-probs of given answers in nats, one array each: this makes a policy a ``LogprobFn``.

        Args:
            prompt_ids: Token ids of the prompts, at least one each.
            response_ids: Token ids of the answers, at least one each; all go through the model at once.
            temperature: Divides the logits.

        Raises:
            ShapeError: If a prompt or an answer is empty, or their numbers differ.
        """
        batch = SequenceBatch.from_ids(prompt_ids, response_ids, device=self.device)
        padded = self.evaluate(batch, temperature=temperature, values=False).logprobs.float().cpu().numpy()
        return [row[: len(response)] for row, response in zip(padded, response_ids, strict=True)]

    def slot_engine(self, num_slots: int, max_length: int) -> SlotEngine | EncoderDecoderEngine:
        """A cached engine on this policy's weights; ``drop()`` it when they change."""
        kind = EncoderDecoderEngine if self.causal_lm.config.is_encoder_decoder else SlotEngine
        return kind(self.compute.model, num_slots, max_length, absent=self.vocabulary.absent)

    def generate(
        self,
        prompts: Prompts,
        params: SamplingParams | None = None,
        *,
        n: int = 1,
        seed: int = 0,
        limits: Sequence[int] | None = None,
        first_prompt: int = 0,
        max_batch: int = 256,
    ) -> list[Trajectory]:
        """Sample answers to prompts.

        Args:
            prompts: Texts, token ids, or conversations; a single one is a list of one.
            params: Sampling settings; None samples at temperature 1.
            n: Answers per prompt.
            seed: The answer number j to prompt number i depends on the seed, i and j alone.
            limits: Length limit of each prompt's answers, at most ``params.max_new_tokens``; None means that.
            first_prompt: Number of the first of these prompts, where they are part of a longer list.
            max_batch: Sequences that are decoded side by side.

        Returns:
            ``len(prompts) * n`` trajectories, the answers to one prompt next to each other.

        Raises:
            DataError: If a prompt is empty or leaves no room in the model's context; the message names it.
            ConfigError: If ``n``, ``max_batch`` or a limit is out of its range.
        """
        return generate(
            self,
            prompts,
            params,
            n=n,
            seed=seed,
            limits=limits,
            first_prompt=first_prompt,
            max_batch=max_batch,
        )


def _shared_vocabulary(tokenizer: Any, lm: Any) -> Vocabulary:
    """The tokens that tokenizer and model both have.

    Raises:
        ConfigError: If the model lacks so many that the tokenizer must be another model's.
    """
    known, rows = vocabulary(tokenizer), lm.get_output_embeddings().weight.shape[0]
    beyond = known.size - known.within(rows).size
    if beyond > _ADDED_TOKENS:
        raise ConfigError(
            f"the tokenizer has {known} ids, the model only {rows}: it is another model's, or the embeddings have to "
            "be resized (model.resize_token_embeddings(len(tokenizer)))"
        )
    if beyond:
        _log.warning("the model has %d of the tokenizer's %d ids; the last %d cannot be used", rows, known.size, beyond)
    return known.within(rows)


def _say_padding(tokenizer: Any, pad_token_id: int) -> None:
    if pad_token_id == vocabulary(tokenizer).size and tokenizer not in _said:
        _said.add(tokenizer)
        _log.warning("the tokenizer has no padding token of its own: the id %d fills up rows, unread", pad_token_id)
