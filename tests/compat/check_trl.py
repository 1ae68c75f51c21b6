"""TRL 1.12.0's PPO beside ours on the same rollouts: tiny Llama, float32, every number of an iteration.

Our learner plays the episodes; TRL's trainer is handed the same tokens in place of what it would generate, and trains
on them with its own code. Log-probs, values, rewards, advantages, returns, losses and the weights after the update must
agree to 1e-5, or differ exactly as ``docs/ppo-vs-trl.md`` says.
"""

# The client is not installed where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import copy
import math
import sys
import tempfile
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import agents
import textenv  # noqa: F401  (registers the environments)
from agents.algorithms.ppo import gae_advantages
from agents.learning.experience import Advantages, Experience
from tests.compat.trl_ppo import make_trainer, ppo_trainer_module

TOLERANCE = 1e-5
EPISODES, ANSWER_TOKENS, WIDTH = 16, 12, 32
PAD, EOS = 0, 1
WORDS = ["<pad>", "<eos>", *(f"w{i}" for i in range(30))]


@dataclass(frozen=True)
class Case:
    """One setting under which both learners run.

    Attributes:
        name: In the output.
        ends: Whether an end-of-text token ends an answer; else all have the full length.
        epochs: Optimiser steps.
        learning_rate: Of the update.
        temperature: Of the policy.
        gae_lambda: Trace decay.
        penalty: For answers without end-of-text, subtracted.
        vf_coef: Weight of the value loss.
        whiten_rewards: Whether rewards are scaled.
    """

    name: str
    ends: bool = False
    epochs: int = 1
    learning_rate: float = 1e-3
    temperature: float = 0.7
    gae_lambda: float = 0.95
    penalty: float = 0.0
    vf_coef: float = 0.1
    whiten_rewards: bool = False


CASES = (
    Case("fixed length, k1"),
    Case("fixed length, temperature 1", temperature=1.0),
    Case("fixed length, four steps, clipping", epochs=4, learning_rate=3e-3),
    Case("fixed length, whitened rewards", whiten_rewards=True),
    Case("with ends, lambda 1, critic apart", ends=True, gae_lambda=1.0, vf_coef=0.0, epochs=4, learning_rate=3e-3),
    Case("with ends, missing-end penalty", ends=True, penalty=1.0),
)


def count_words(prompts: list[str], responses: list[str]) -> list[float]:
    """A reward with some variance: the mean number of the words, less the answer's length."""
    found = []
    for response in responses:
        numbers = [int(word[1:]) for word in response.split() if word.startswith("w")]
        found.append(sum(numbers) / (10 * max(len(numbers), 1)) - len(numbers) / 10)
    return found


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One id per word."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="w0")


def make_model(seed: int) -> Any:
    """A tiny Llama whose output bias forbids pad (TRL would take a sampled pad for padding) and favours the end."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=PAD,
        eos_token_id=EOS,
        tie_word_embeddings=False,
        initializer_range=0.15,
    )
    model = LlamaForCausalLM(config).eval()
    model.lm_head = nn.Linear(WIDTH, len(WORDS))
    with torch.no_grad():
        model.lm_head.weight.normal_(0.0, 0.2)
        model.lm_head.bias.zero_()
        model.lm_head.bias[PAD], model.lm_head.bias[EOS] = -50.0, 1.0
    return model


def make_prompts() -> list[list[int]]:
    """Different prompts of 3 to 9 tokens, so that left and right padding both matter."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(2, len(WORDS), (3 + i % 7,), generator=generator).tolist() for i in range(EPISODES)]


class SharedCritic(nn.Module):
    """A value model in TRL's form on the policy's own trunk, as our value head is."""

    base_model_prefix = "model"

    def __init__(self, trunk: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.model, self.score = trunk, head


def value_head(policy: agents.CausalLMPolicy) -> nn.Linear:
    """The policy's critic on its own trunk."""
    head = policy.value_head
    if not isinstance(head, nn.Linear):
        raise TypeError(f"a policy without a value head cannot be compared, got {head!r}")
    return head


def run_ours(case: Case, start: agents.CausalLMPolicy, reference: agents.CausalLMPolicy) -> dict[str, Any]:
    """Our learner's numbers; it plays the episodes."""
    policy = copy.deepcopy(start)
    seen: dict[str, Any] = {}

    def record(experience: Experience, config: Any) -> Advantages:
        found = gae_advantages(experience, config)
        raw = gae_advantages(experience, replace(config, whiten_advantages=False))
        seen.update(experience=experience, advantages=found.advantages, raw=raw.advantages, returns=raw.returns)
        # TRL divides by n − 1: a factor on all advantages, so that the weights can be compared.
        return Advantages(found.advantages * bessel(experience.action_mask), found.returns)

    stops: dict[str, Any] = {} if case.ends else {"eos_token_id": []}
    envs = gymnasium.make_vec(
        "textenv/TextGeneration-v0",
        num_envs=EPISODES,
        vectorization_mode="vector_entry_point",
        tokenizer=policy.tokenizer,
        prompts=make_prompts(),
        reward=count_words,
        max_new_tokens=ANSWER_TOKENS,
        **stops,
    )
    config = agents.PPOConfig(
        learning_rate=case.learning_rate,
        epochs=case.epochs,
        micro_batch_size=EPISODES,
        gae_lambda=case.gae_lambda,
        vf_coef=case.vf_coef,
        kl_coef=0.1,
        missing_eos_penalty=case.penalty,
        temperature=case.temperature,
        whiten_rewards=case.whiten_rewards,
        max_grad_norm=1e9,
        seed=1,
    )
    agent = agents.PPO(policy, envs, reference=reference, config=config, advantage_estimator=record)
    agent.learn(EPISODES, callback=lambda agent, metrics: seen.update(metrics=metrics))
    return seen | {"policy": policy}


def run_theirs(
    case: Case, start: agents.CausalLMPolicy, reference: agents.CausalLMPolicy, experience: Experience
) -> dict[str, Any]:
    """TRL's numbers on the same episodes; rows in our order."""
    policy = copy.deepcopy(start)
    rollout, module = experience.rollout, ppo_trainer_module()
    seen: dict[str, Any] = {}
    rows = {tuple(e.prompt_ids): row for row, e in enumerate(rollout.episodes)}
    generation, whitening = module.batch_generation, module.masked_whiten

    def given_answers(model: Any, queries: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        order = [rows[tuple(query[query != PAD].tolist())] for query in queries]
        answers = torch.full((len(order), ANSWER_TOKENS), PAD)
        for place, row in enumerate(order):
            ids = torch.tensor(rollout.episodes[row].response_ids)
            answers[place, : len(ids)] = ids
        whole = torch.cat([queries, answers], 1)
        logits = module.forward(model, whole, PAD).logits[:, queries.shape[1] - 1 : -1]
        seen["order"] = torch.tensor(order)
        return whole, logits / (case.temperature + 1e-7)

    def spied_whitening(values: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
        caller = sys._getframe(1).f_locals
        if shift_mean:
            names = ("logprobs", "ref_logprobs", "values", "rewards", "returns", "scores", "padding_mask_p1")
            back = seen["order"].argsort()
            seen.update({name: caller[name].clone()[back] for name in names}, raw=values.clone()[back])
            seen["advantages"] = whitening(values, mask)[back]
        return whitening(values, mask, shift_mean)

    settings = {
        "output_dir": tempfile.mkdtemp(),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": EPISODES,
        "num_ppo_epochs": case.epochs,
        "total_episodes": EPISODES,
        "response_length": ANSWER_TOKENS,
        "stop_token": "eos" if case.ends else None,
        "temperature": case.temperature,
        "learning_rate": case.learning_rate,
        "adam_epsilon": 1e-5,
        "lam": case.gae_lambda,
        "vf_coef": case.vf_coef,
        "kl_coef": 0.1,
        "kl_estimator": "k1",
        "missing_eos_penalty": case.penalty or None,
        "whiten_rewards": case.whiten_rewards,
    }
    lm = policy.causal_lm
    module.batch_generation, module.masked_whiten = given_answers, spied_whitening
    try:
        trainer, metrics = make_trainer(
            lm,
            SharedCritic(lm.model, value_head(policy)),
            count_words,
            make_prompts(),
            policy.tokenizer,
            settings,
            reference=reference.causal_lm,
        )
        trainer.train()
    finally:
        module.batch_generation, module.masked_whiten = generation, whitening
    return seen | {"metrics": metrics[0], "policy": policy}


def bessel(mask: torch.Tensor) -> float:
    """What TRL's whitened advantages are of ours: it divides by n − 1, we by n."""
    return math.sqrt((int(mask.sum()) - 1) / int(mask.sum()))


def compare(case: Case, ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """Largest absolute difference of every quantity, after the documented decisions are taken into account."""
    experience: Experience = ours["experience"]
    mask = experience.action_mask
    width, last = mask.shape[1], mask.sum(1) - 1
    ended = last + 1 < ANSWER_TOKENS
    pad_slot = (last + 1).clamp(max=ANSWER_TOKENS - 1)[:, None]

    def apart(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b[:, :width])[mask].abs().max())

    found = {
        "log-probs": apart(experience.logprobs, theirs["logprobs"]),
        "reference log-probs": apart(experience.ref_logprobs, theirs["ref_logprobs"]),
        "values": apart(experience.values, theirs["values"]),
    }
    # Decision 1: TRL pays the score in the slot after the end token; we pay it on the token.
    paid = theirs["rewards"].clone()
    paid[ended, last[ended]] += theirs["scores"][ended]
    raw, returns, rewards = ours["raw"], ours["returns"], experience.rewards
    if case.whiten_rewards:
        # Decision 2, of rewards: we divide the variance by n, TRL by n − 1.
        rewards = whiten_like_trl(rewards, mask)
        config = agents.PPOConfig(gae_lambda=case.gae_lambda, whiten_advantages=False)
        raw = gae_advantages(replace(experience, rewards=rewards), config).advantages
        returns = raw + experience.values
    # Decision 1 again: TRL's further step costs a factor of lambda and mixes in the value of the padding slot.
    steps = (last[:, None] - torch.arange(width)).clamp(min=0)
    gap = (1 - case.gae_lambda) * (theirs["scores"] - theirs["values"].gather(1, pad_slot)[:, 0])
    lag = torch.where(ended, gap, 0.0)[:, None] * case.gae_lambda**steps
    found["rewards"] = apart(rewards, paid)
    found["advantages before whitening"] = apart(raw - lag, theirs["raw"])
    found["returns"] = apart(returns - lag, theirs["returns"])
    if not case.whiten_rewards and not bool(lag.any()):
        # Decision 2, of advantages.
        found["advantages"] = apart(ours["advantages"] * bessel(mask), theirs["advantages"])
        found |= compare_updates(case, ours, theirs, value_loss=not bool(ended.any()))
    return found


def compare_updates(case: Case, ours: dict[str, Any], theirs: dict[str, Any], *, value_loss: bool) -> dict[str, float]:
    """Differences of what the update measured and did; they are comparable where the advantages are.

    Args:
        case: The setting.
        ours: Our numbers.
        theirs: TRL's.
        value_loss: Whether TRL's value loss counts the tokens that ours counts (decision 3).
    """
    our_metrics, their_metrics = ours["metrics"], theirs["metrics"]
    pairs = {"policy loss": ("loss/policy", "loss/policy_avg")}
    if case.epochs == 1:  # later steps of TRL's mean ratio count padding too
        pairs["first ratio"] = ("policy/ratio_first", "val/ratio")
    if value_loss:
        pairs["value loss"] = ("loss/value", "loss/value_avg")
    pairs["KL per answer"] = ("objective/kl", "objective/kl")
    found = {name: abs(float(our_metrics[our]) - their_metrics[their]) for name, (our, their) in pairs.items()}
    our_weights, their_weights = (nn.utils.parameters_to_vector(side["policy"].parameters()) for side in (ours, theirs))
    found["weights after the update"] = float((our_weights - their_weights).detach().abs().max())
    if case.epochs > 1 and not our_metrics["policy/clip_fraction"] > 0.01:
        raise AssertionError(f"{case.name}: nothing was clipped, so clipping was not compared")
    return found


def whiten_like_trl(rewards: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Rewards with variance 1 by TRL's convention, n − 1; their mean stays."""
    mean = rewards[mask].mean()
    return torch.where(mask, (rewards - mean) / torch.sqrt(rewards[mask].var() + 1e-8) + mean, 0.0)


def main() -> int:
    """Runs every case, prints every difference; 1 if one is larger than allowed."""
    tokenizer = make_tokenizer()
    start = agents.CausalLMPolicy(make_model(0), tokenizer)
    head = value_head(start)
    with torch.no_grad():
        head.weight.normal_(0.0, 0.2, generator=torch.Generator().manual_seed(5))
        head.bias.fill_(0.3)
    reference = agents.CausalLMPolicy(make_model(1), tokenizer)
    worst = 0.0
    for case in CASES:
        ours = run_ours(case, start, reference)
        theirs = run_theirs(case, start, reference, ours["experience"])
        lengths = ours["experience"].action_mask.sum(1)
        sys.stdout.write(f"{case.name}: {int((lengths < ANSWER_TOKENS).sum())} of {EPISODES} answers end early\n")
        for name, difference in compare(case, ours, theirs).items():
            sys.stdout.write(f"  {name:<36} {difference:.1e}{'' if difference <= TOLERANCE else '  TOO LARGE'}\n")
            worst = max(worst, difference) if math.isfinite(difference) else math.inf
    return int(not worst <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
