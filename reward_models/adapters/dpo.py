"""The reward that a policy trained by DPO has inside: how much more probable it finds a response than its reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from reward_models.adapters.causal_policy import load_causal_lm
from reward_models.adapters.common import checked_scores
from reward_models.adapters.logprobs import CausalLogprobs
from reward_models.base import CHAT, paired
from textenv.answers import Answers, as_messages, render_chat
from textenv.errors import ConfigError, RewardError
from textenv.protocols import LogprobFn

Variant = Literal["sum", "average", "norm"]
VARIANTS: tuple[Variant, ...] = ("sum", "average", "norm")


class DPOReward:
    """``log π(response | prompt) − log π_ref(response | prompt)``, over the response's tokens.

    Args:
        policy: A transformers causal language model, or a function of token ids (`textenv.protocols.LogprobFn`).
        reference: Likewise; None: reference-free, the policy's log-probabilities alone.
        tokenizer: The policy's tokenizer, for both.
        variant: ``"sum"`` over the tokens, which is DPO's reward; ``"average"`` per token; ``"norm"``: minus the
            Euclidean norm of the tokens' values, which only makes sense without a reference.
        beta: Factor of all scores, DPO's β; 1 keeps the order and the unit (nats).
        template: ``"text"``: the prompt's tokens and then the response's; ``"chat"``: the conversation in the
            tokenizer's chat template.
        append_eos: Whether the end-of-text token counts as the response's last token; not with ``"chat"``, whose
            template ends turns itself.

    Raises:
        ConfigError: If a setting is unusable.

    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 5; variants as in the rewardbench package.
    """

    def __init__(
        self,
        policy: Any | LogprobFn,
        reference: Any | LogprobFn | None,
        tokenizer: Any,
        *,
        variant: Variant = "sum",
        beta: float = 1.0,
        template: Literal["text", "chat"] = "text",
        append_eos: bool = False,
    ) -> None:
        if variant not in VARIANTS:
            raise ConfigError(f"`variant` must be one of {', '.join(VARIANTS)}; got {variant!r}.")
        if variant == "norm" and reference is not None:
            raise ConfigError('the variant "norm" is for rewards without a reference; leave `reference` out.')
        if template not in ("text", CHAT):
            raise ConfigError(f'`template` must be "text" or "chat", got {template!r}.')
        if append_eos and (template == CHAT or tokenizer.eos_token_id is None):
            raise ConfigError("`append_eos` needs an end-of-text token, and a template that does not end turns itself.")
        if not 0 < beta < np.inf:
            raise ConfigError(f"`beta` must be positive and finite, got {beta}.")
        self.policy = _logprob_fn(policy)
        self.reference = None if reference is None else _logprob_fn(reference)
        self.tokenizer = tokenizer
        self._answers = Answers(tokenizer)
        self.variant: Variant = variant
        self.beta, self.template, self.append_eos = beta, template, append_eos

    def token_rewards(self, prompts: Sequence[Any], responses: Sequence[Any]) -> list[NDArray[np.float64]]:
        """``β (log π − log π_ref)`` of each response token: the dense form, whose sums are the scores.

        Raises:
            ShapeError: If there are not as many prompts as responses.
            RewardError: If a sequence is too long for the model.
        """
        ids = [self._encode(prompt, response) for prompt, response in paired(prompts, responses)]
        starts, answers = [list(start) for start, _ in ids], [list(answer) for _, answer in ids]
        values = [np.asarray(row, np.float64) for row in self.policy(starts, answers)]
        if self.reference is not None:
            values = [row - ref for row, ref in zip(values, self.reference(starts, answers), strict=True)]
        return [self.beta * row for row in values]

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """Scores, shape ``(n,)``; an empty response scores 0.

        Raises:
            ShapeError: If there are not as many prompts as responses.
            RewardError: If a sequence is too long for the model, or a log-probability not finite.
        """
        rows = self.token_rewards(prompts, responses)
        if self.variant == "sum":
            scores = [row.sum() for row in rows]
        elif self.variant == "average":
            scores = [row.mean() if len(row) else 0.0 for row in rows]
        else:
            scores = [-float(np.linalg.norm(row)) for row in rows]
        return checked_scores(scores, prompts, responses, source="the DPO reward")

    def _encode(self, prompt: str, response: str) -> tuple[list[int], list[int]]:
        """Token ids of prompt and response."""
        if self.template == CHAT:
            return self._encode_turns(prompt, response)
        start = self._answers.encode_text(prompt)
        begin = self.tokenizer.bos_token_id
        if not start.ids and begin is not None:
            start = start._replace(ids=[begin])
        return start.ids, self._answers.encode_response(start, response, end=self.append_eos)

    def _encode_turns(self, prompt: str, response: str) -> tuple[list[int], list[int]]:
        """The prompt's turns and what the template adds to them for the response's."""
        user = as_messages(prompt)
        both = user + as_messages(response, "assistant")
        system = self._answers.format.system
        head, whole = (
            render_chat(self.tokenizer, turns, system=system, answering=False, where=f"the prompt {prompt[:60]!r}")
            for turns in (user, both)
        )
        if not whole.startswith(head):
            raise RewardError("the chat template changes the user's turn once the assistant has answered; use text.")
        start = self.tokenizer.encode(head, add_special_tokens=False)
        answer = self.tokenizer.encode(whole[len(head) :], add_special_tokens=False)
        return start, answer


def load_dpo(
    policy: str,
    reference: str | None = None,
    variant: Variant = "sum",
    beta: float = 1.0,
    template: Literal["text", "chat"] = "text",
    append_eos: bool = False,
    device: str | torch.device = "cpu",
) -> DPOReward:
    """A DPO reward from the folders of policy and reference; raises as `DPOReward` and `load_causal_lm`."""
    model, tokenizer = load_causal_lm(policy, device=device)
    base = None if reference is None else load_causal_lm(reference, device=device)[0]
    return DPOReward(model, base, tokenizer, variant=variant, beta=beta, template=template, append_eos=append_eos)


def _logprob_fn(model: Any) -> LogprobFn:
    """A model or a function as a function."""
    return CausalLogprobs(model) if isinstance(model, torch.nn.Module) else model
