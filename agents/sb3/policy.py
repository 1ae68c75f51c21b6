"""``TextPolicy``: a causal language model as a Stable-Baselines3 actor-critic policy.

Stock ``PPO``, ``A2C`` and sb3-contrib's ``TRPO`` train it, nothing of theirs replaced; :mod:`agents.sb3.maskable` has
the same for ``MaskablePPO``. Rollouts decode with a KV cache; updates score single observations, or whole episodes in
one pass where they come from a :class:`agents.sb3.SequenceRolloutBuffer`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel
from torch.nn.attention import SDPBackend, sdpa_kernel

from agents.policy import CausalLMPolicy
from agents.policy.forward import SequenceBatch, response_hidden, response_tokens
from agents.policy.token_logprobs import token_logprobs
from agents.sb3.decoding import Lane
from agents.sb3.rows import Observation, Rows, one_token_batch, read_rows
from textenv.errors import ConfigError
from textenv.sampling.models import output_head
from textenv.sampling.params import SamplingParams
from textenv.sampling.sampler import draw

_EXCLUDED = -1e8  # logit of the padding token: a probability of 0 without the infinities that gradients trip over


class _Sampled(NamedTuple):
    """The rows that were decoded last, and their processed logits."""

    rows: Rows
    logits: torch.Tensor


class LanguageModelPolicy(BaseModel):
    """What the SB3 policies around a language model share; use :class:`TextPolicy`.

    The padding token is never chosen: its probability is 0, in rollouts and in updates. Randomness comes from torch's
    global generator, which Stable-Baselines3's ``seed`` sets.

    The cache has two lanes: one for training rollouts (``forward``), one for evaluation (``predict``), so an evaluation
    in the middle of a rollout disturbs nothing. Both are dropped when weights change: after optimiser steps, after
    loading, and when training mode begins or ends.

    Attributes:
        lm: The language model.
        temperature: Divides the logits, in rollouts and in updates.
    """

    lm: CausalLMPolicy

    def _adopt(
        self, policy: CausalLMPolicy | str | Path | None, dtype: str, temperature: float, exact_entropy: bool
    ) -> None:
        """Take over the language model; called by constructors once the module exists."""
        if policy is None:
            raise ConfigError('give the language model: policy_kwargs={"policy": CausalLMPolicy or a folder}')
        if not temperature > 0:
            raise ConfigError(f"`temperature` must be positive, got {temperature}")
        lm = policy
        if not isinstance(lm, CausalLMPolicy):
            lm = CausalLMPolicy.from_pretrained(lm, dtype=dtype)
        if not isinstance(self.action_space, spaces.Discrete) or int(self.action_space.n) != lm.vocab_size:
            raise ConfigError(
                f"the environment's actions are {self.action_space}, the policy's are 0 … {lm.vocab_size - 1}; "
                "make the environment with the policy's tokenizer"
            )
        self._source, self._dtype = policy, dtype
        self.lm = lm
        self.temperature = temperature
        self.exact_entropy = exact_entropy
        self._pad = lm.pad_token_id
        self._params = SamplingParams(temperature=temperature)
        self._lanes: dict[str, Lane] = {}
        self._latest: _Sampled | None = None

    def _make_optimizer(self, learning_rate: float) -> None:
        """Make SB3's optimiser, and let gradients and weights of a low-precision copy flow through it."""
        trained = [p for p in self.parameters() if p.requires_grad]
        self.optimizer = self.optimizer_class(trained, lr=learning_rate, **self.optimizer_kwargs)  # type: ignore[call-arg]
        self.optimizer.register_step_post_hook(lambda *_: self._weights_changed())
        self.register_load_state_dict_post_hook(lambda *_: self._weights_changed())
        computes = [(self.lm.causal_lm, self.lm.compute.model)]
        if self.lm.critic is not None:
            computes.append((self.lm.critic.trunk, self.lm.critic.compute.model))
        for master_model, twin_model in computes:
            for master, twin in zip(master_model.parameters(), twin_model.parameters(), strict=True):
                if master is not twin and twin.requires_grad:
                    twin.register_post_accumulate_grad_hook(_passes_gradient_to(master))

    def _weights_changed(self) -> None:
        self.lm.push_weights()
        self.drop_cache()

    def drop_cache(self) -> None:
        """Forget what was decoded: call it after changing weights by hand."""
        for lane in self._lanes.values():
            lane.drop()
        self._latest = None

    def train(self, mode: bool = True) -> Any:
        """Switch between rollouts and updates; dropout stays off in both."""
        if mode and not self.training:
            self.drop_cache()
        elif self.training and not mode:  # whoever trained may have moved weights without the optimiser, as TRPO does
            self._weights_changed()
        return super().train(mode)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move to a device, low-precision copies included."""
        super().to(*args, **kwargs)
        self._lanes.clear()
        return self

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": _no_learning_rate,
            "policy": self._source,
            "dtype": self._dtype,
            "temperature": self.temperature,
            "exact_entropy": self.exact_entropy,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
        }

    # --- decoding -----------------------------------------------------------------------------------------------------

    def _read(self, observation: Any) -> Rows:
        return read_rows(observation, self._pad)

    def _lane(self, name: str, rows: Rows) -> Lane:
        """The cache of a kind of caller, made anew where it asks for more rows than before."""
        lane = self._lanes.get(name)
        if lane is None or lane.num_slots < len(rows.lengths):
            width = rows.tokens.shape[1]
            if self.lm.context_length == width - 1:
                width -= 1  # nothing follows the last token, so it need not be read
            lane = self._lanes[name] = Lane(self.lm, len(rows.lengths), width)
        return lane

    def _exclude_padding(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits, with the padding token's changed in place."""
        if self._pad < logits.shape[-1]:
            logits[..., self._pad] = _EXCLUDED
        if len(self.lm.vocabulary.absent):  # ids that are no tokens
            logits[..., torch.as_tensor(self.lm.vocabulary.absent, device=logits.device)] = _EXCLUDED
        return logits

    @torch.no_grad()
    def _next_logits(self, rows: Rows, lane: str) -> torch.Tensor:
        """Logits ``(B, V)`` of the next token, cached while nobody trains."""
        if self.training:
            return self._logits_now(one_token_batch(rows, None, device=self.lm.device), self.lm.compute.model)
        return self._exclude_padding(self._lane(lane, rows).logits(rows))

    def _draw(
        self, logits: torch.Tensor, deterministic: bool, masks: NDArray[np.bool_] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens ``(B,)`` and their log-probs ``(B,)`` under the tempered, masked policy."""
        allowed = None if masks is None else _as_mask(masks, logits)
        if deterministic:
            scores = logits.to(torch.promote_types(logits.dtype, torch.float32)) / self.temperature
            scores = scores if allowed is None else scores.masked_fill(~allowed, -torch.inf)
            tokens = scores.argmax(-1)
            return tokens, scores.log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)
        # The global generator: SB3 seeds it, and an algorithm's `seed` must decide everything.
        uniforms = torch.rand(len(logits), dtype=torch.float64)
        drawn = draw(logits, self._params, uniforms, allowed=allowed)
        return drawn.tokens, drawn.behaviour_logprobs.to(self.lm.logprobs_in)

    @torch.no_grad()
    def forward(
        self, obs: Any, deterministic: bool = False, action_masks: NDArray[np.bool_] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Next tokens ``(B,)``, values ``(B, 1)`` and log-probs ``(B,)`` of a training rollout.

        Row i is taken for environment i; a row that is something else than a continuation is computed anew.
        """
        rows = self._read(obs)
        logits = self._next_logits(rows, "rollout")
        tokens, logprobs = self._draw(logits, deterministic, action_masks)
        if self.training:
            values = self._values_now(one_token_batch(rows, None, device=self.lm.device))
        else:
            values = self._lane("rollout", rows).values(rows, after_logits=True)
        processed = logits if action_masks is None else logits.masked_fill(~_as_mask(action_masks, logits), _EXCLUDED)
        self._latest = _Sampled(rows, processed)
        return tokens, values[:, None], logprobs

    def _predict(
        self, observation: Any, deterministic: bool = False, action_masks: NDArray[np.bool_] | None = None
    ) -> torch.Tensor:
        return self._draw(self._next_logits(self._read(observation), "evaluation"), deterministic, action_masks)[0]

    def next_token_logprobs(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], /) -> NDArray[np.float64]:
        """Log-probs of every next token, for wrappers (``textenv.wrappers.NextTokenLogprobs``).

        Rows for which ``forward`` has just chosen tokens cost nothing.

        Args:
            tokens: Right-padded ids, shape ``(k, L)``.
            lengths: Real tokens of each row, shape ``(k,)``.

        Returns:
            Nats, float64, shape ``(k, V)``, under the policy that samples (temperature, masks).
        """
        rows = Rows(np.where(np.arange(tokens.shape[1]) < lengths[:, None], tokens, 0), lengths)
        known = None if self._latest is None else _find(self._latest.rows, rows)
        if known is not None and self._latest is not None:
            logits = self._latest.logits[known]
        else:
            logits = self._next_logits(rows, "wrappers")
        return torch.log_softmax(logits.double() / self.temperature, -1).cpu().numpy()

    # --- scoring ------------------------------------------------------------------------------------------------------

    def _head(self, model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        head = output_head(model)
        return lambda hidden: self._exclude_padding(head(hidden)[:, : self.lm.vocab_size])

    def _logits_now(self, batch: SequenceBatch, model: Any) -> torch.Tensor:
        """Logits ``(N, V)`` before each counted token from one full pass."""
        return self._head(model)(response_hidden(model, batch)[0])

    def _values_now(self, batch: SequenceBatch, hidden: torch.Tensor | None = None) -> torch.Tensor:
        """Values ``(N,)`` before each counted token."""
        if self.lm.critic is not None:
            return self.lm.critic(batch)[0]
        assert self.lm.value_head is not None
        hidden = response_hidden(self.lm.compute.model, batch)[0] if hidden is None else hidden
        return self.lm.value_head(hidden.to(self.lm.value_head.weight.dtype)).squeeze(-1)

    def _as_batch(self, obs: Any, actions: torch.Tensor | None) -> SequenceBatch:
        if isinstance(obs, SequenceBatch):
            return obs
        chosen = None if actions is None else actions.long().flatten().cpu().numpy()
        return one_token_batch(self._read(obs), chosen, device=self.lm.device)

    def evaluate_actions(
        self, obs: Any, actions: torch.Tensor, action_masks: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Values, log-probs and entropies of given tokens, with gradients.

        Args:
            obs: Single observations ``(N, …)``, each scored on its own; or a :class:`agents.SequenceBatch` with N
                counted tokens, scored in one pass over its sequences.
            actions: The tokens, shape ``(N,)``.
            action_masks: True on tokens that could be chosen, shape ``(N, V)``, or those masks bit-packed, uint8, shape
                ``(N, ceil(V / 8))``; None allows all.

        Returns:
            Values ``(N,)``, log-probs ``(N,)`` and entropies ``(N,)``, or None in the place of these with
            ``exact_entropy=False``: SB3 then estimates the entropy by the log-probs.
        """
        batch, model = self._as_batch(obs, actions), self.lm.compute.model
        hidden, _ = response_hidden(model, batch)
        scores = token_logprobs(
            self._head(model),
            hidden,
            response_tokens(batch),
            vocab_size=self.lm.vocab_size,
            temperature=self.temperature,
            allowed=None if action_masks is None else _packed_bits(action_masks),
            entropy=self.exact_entropy,
        )
        return self._values_now(batch, hidden), scores.logprobs, scores.entropy if self.exact_entropy else None

    def _distribution_logits(self, obs: Any) -> torch.Tensor:
        """Processed logits ``(N, V)``: cached in rollouts; in training from the weights that the optimiser holds.

        TRPO differentiates these twice and moves the weights behind everybody's back, so training takes neither a
        low-precision copy nor fused attention.
        """
        if not self.training and not torch.is_grad_enabled() and not isinstance(obs, SequenceBatch):
            logits = self._next_logits(self._read(obs), "evaluation")
        else:
            with sdpa_kernel(SDPBackend.MATH):
                logits = self._logits_now(self._as_batch(obs, None), self.lm.causal_lm)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)) / self.temperature

    def predict_values(self, obs: Any) -> torch.Tensor:
        """The critic's estimates, shape ``(N, 1)``; cached for the rows of a rollout, with gradients in training."""
        if self.training or isinstance(obs, SequenceBatch):
            return self._values_now(self._as_batch(obs, None))[:, None]
        rows, lane = self._read(obs), self._lanes.get("rollout")
        if lane is not None and lane.num_slots == len(rows.lengths):
            return lane.values(rows)[:, None]
        with torch.no_grad():
            return self._values_now(one_token_batch(rows, None, device=self.lm.device))[:, None]


class TextPolicy(LanguageModelPolicy, ActorCriticPolicy):
    """A language model for stock ``PPO``, ``A2C`` and ``TRPO``.

    ``PPO(TextPolicy, as_vec_env(envs), policy_kwargs={"policy": lm})``

    Args:
        observation_space: The environment's (``observation="tokens"`` or ``"dict"``).
        action_space: The environment's.
        lr_schedule: SB3's.
        use_sde: Must stay False.
        policy: A :class:`agents.CausalLMPolicy`, or a folder or hub name to load one from. SB3's zip files then hold
            the name instead of a second copy of the weights.
        dtype: As in :meth:`agents.CausalLMPolicy.from_pretrained`, where ``policy`` is a name.
        temperature: Divides the logits, in rollouts and in updates.
        exact_entropy: Whether updates compute entropies; False saves time where ``ent_coef`` is 0.
        optimizer_class: As in SB3.
        optimizer_kwargs: As in SB3.

    Raises:
        ConfigError: If the language model is missing, does not fit the action space, or an option is unusable.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Callable[[float], float],
        use_sde: bool = False,
        *,
        policy: CausalLMPolicy | str | Path | None = None,
        dtype: str = "float32",
        temperature: float = 1.0,
        exact_entropy: bool = True,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if use_sde:
            raise ConfigError("TextPolicy chooses tokens: leave use_sde at False")
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        self._adopt(policy, dtype, temperature, exact_entropy)
        self._make_optimizer(lr_schedule(1))

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        """SB3's own networks are not made."""

    def get_distribution(self, obs: Observation | SequenceBatch) -> CategoricalDistribution:
        """The distribution of the next token, SB3's form."""
        distribution = CategoricalDistribution(self.lm.vocab_size)
        return distribution.proba_distribution(action_logits=self._distribution_logits(obs))


def _passes_gradient_to(master: torch.nn.Parameter) -> Callable[[torch.Tensor], None]:
    """A hook that moves a copy's gradient to the weight it is a copy of, where clipping and optimiser look for it."""

    def move(twin: torch.Tensor) -> None:
        if twin.grad is None:
            return
        gradient = twin.grad.to(master.dtype)
        master.grad = gradient if master.grad is None else master.grad.add_(gradient)
        twin.grad = None

    return move


def _no_learning_rate(progress_remaining: float) -> float:
    del progress_remaining
    return 0.0


def _as_mask(masks: Any, logits: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(np.asarray(masks), device=logits.device).bool().reshape(logits.shape)


def _packed_bits(masks: Any) -> NDArray[np.uint8]:
    """Masks of tokens bit-packed, shape ``(N, ceil(V / 8))``."""
    if isinstance(masks, np.ndarray) and masks.dtype == np.uint8:
        return masks
    return np.packbits(torch.as_tensor(masks).bool().cpu().numpy(), axis=1)


def _find(known: Rows, wanted: Rows) -> torch.Tensor | None:
    """Where the wanted rows stand among the known ones, int64 ``(k,)``; None where one of them is missing."""
    width = min(known.tokens.shape[1], wanted.tokens.shape[1])
    if int(wanted.lengths.max()) > width:
        return None
    same = (known.tokens[None, :, :width] == wanted.tokens[:, None, :width]).all(2)
    same &= known.lengths == wanted.lengths[:, None]
    return torch.as_tensor(same.argmax(1)) if same.any(1).all() else None
