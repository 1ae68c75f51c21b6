"""What models say about stored answers: entropies, values, reference log-probs and the exact KL at every step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from agents.policy.forward import SequenceBatch, response_hidden, response_tokens
from agents.policy.model import CausalLMPolicy
from textenv.errors import ConfigError
from textenv.sampling.models import output_head
from textenv.sampling.params import SamplingParams
from textenv.sampling.slots import absent_index, without_absent
from textenv.trajectories import Trajectory

_CHUNK_ELEMENTS = 16_000_000  # logits of one model held at once: 64 MB in float32


@torch.no_grad()
def annotate(
    trajectories: Sequence[Trajectory],
    policy: CausalLMPolicy,
    *,
    reference: CausalLMPolicy | None = None,
    sampling: SamplingParams | None = None,
    batch_size: int = 64,
) -> None:
    """Fill in ``entropy``, ``values`` where the critic has been trained, and with a reference ``ref_logprobs`` and KL.

    ``exact_kl`` is the KL of the distribution that was drawn from to the reference's at each prefix; it is left out
    where the sampler did more than divide by a temperature.

    Args:
        trajectories: Answers of the policy; changed in place. Empty answers stay as they are.
        policy: The one that answered.
        reference: The one to compare with.
        sampling: The settings that drew the answers; None means temperature 1.
        batch_size: Sequences per forward pass.

    Raises:
        ConfigError: If policy and reference have different vocabularies.
    """
    sampling = sampling or SamplingParams()
    if reference is not None and reference.vocab_size != policy.vocab_size:
        raise ConfigError(
            f"the reference knows {reference.vocab_size} tokens, the policy {policy.vocab_size}; a KL needs one "
            "vocabulary: give a reference with the policy's tokenizer"
        )
    lengths = [len(t.prompt_ids) + len(t) for t in trajectories]
    order = [int(i) for i in np.argsort(lengths, kind="stable") if len(trajectories[i])]
    for start in range(0, len(order), batch_size):
        rows = [trajectories[i] for i in order[start : start + batch_size]]
        batch = SequenceBatch.from_ids(
            [t.prompt_ids.tolist() for t in rows], [t.token_ids.tolist() for t in rows], device=policy.device
        )
        _own(rows, policy, batch)
        if reference is not None:
            _against(rows, policy, reference, batch, sampling)


def _own(rows: Sequence[Trajectory], policy: CausalLMPolicy, batch: SequenceBatch) -> None:
    head = policy.value_head
    trained = head is None or bool((head.weight != 0).any())
    scores = policy.evaluate(batch, entropy=True, values=trained)
    entropy = scores.entropy.float().cpu().numpy()
    values, last = scores.values.float().cpu().numpy(), scores.last_values.float().cpu().numpy()
    for row, trajectory in enumerate(rows):
        trajectory.entropy = entropy[row, : len(trajectory)].copy()
        if trained:
            trajectory.values = values[row, : len(trajectory)].copy()
            trajectory.last_value = float(last[row])


def _against(
    rows: Sequence[Trajectory],
    policy: CausalLMPolicy,
    reference: CausalLMPolicy,
    batch: SequenceBatch,
    sampling: SamplingParams,
) -> None:
    ours, theirs = (_hidden(model, batch) for model in (policy, reference))
    targets, temperature = response_tokens(batch), sampling.temperature
    ref_logprobs, exact_kl = [], []
    size = max(1, _CHUNK_ELEMENTS // policy.vocab_size)
    for start in range(0, len(targets), size):
        log_q = _logits(reference, theirs[start : start + size]).log_softmax(-1)
        ref_logprobs.append(log_q.gather(1, targets[start : start + size, None]).squeeze(1))
        if sampling.tempered_only:
            log_p = (_logits(policy, ours[start : start + size]) / temperature).log_softmax(-1)
            kl = torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q), 0.0).sum(-1)
            exact_kl.append(kl.clamp_(min=0))  # rounding may end just below 0
    ends = np.cumsum([len(trajectory) for trajectory in rows])[:-1]
    for trajectory, of_tokens in zip(rows, np.split(torch.cat(ref_logprobs).cpu().numpy(), ends), strict=True):
        trajectory.ref_logprobs = of_tokens
    if exact_kl:
        for trajectory, of_tokens in zip(rows, np.split(torch.cat(exact_kl).cpu().numpy(), ends), strict=True):
            trajectory.exact_kl = of_tokens


def _hidden(policy: CausalLMPolicy, batch: SequenceBatch) -> torch.Tensor:
    return response_hidden(policy.compute.model, batch)[0]


def _logits(policy: CausalLMPolicy, hidden: torch.Tensor) -> torch.Tensor:
    logits = output_head(policy.compute.model)(hidden)[:, : policy.vocab_size].float()
    return without_absent(logits, absent_index(policy.vocabulary.absent, policy.compute.model))
