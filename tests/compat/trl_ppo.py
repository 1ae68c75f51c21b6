"""TRL's PPO trainer on token ids and a reward function of texts: what the check and the benchmarks share.

TRL pays only what a reward *model* says that reads the policy's own tokens; :class:`TextReward` makes one of a
function of texts. Nothing of the trainer itself is changed.
"""

# The client is not installed where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

TextFunction = Callable[[list[str], list[str]], Sequence[float]]


class TextReward(nn.Module):
    """A reward function of texts, in the shape in which TRL reads a reward model: a trunk and a ``score`` head.

    Args:
        reward: ``(prompts, responses) -> scores``.
        tokenizer: The policy's.
        prompt_tokens: Width of the left-padded prompts.
    """

    base_model_prefix = "trunk"

    def __init__(self, reward: TextFunction, tokenizer: Any, prompt_tokens: int) -> None:
        super().__init__()
        self._reward, self._tokenizer, self._prompt_tokens = reward, tokenizer, prompt_tokens
        self.trunk = self._hidden_states
        self.score = nn.Identity()

    def _hidden_states(self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> Any:
        """The score of each row as its hidden state at every position, ``(B, L, 1)``."""
        texts: list[list[str]] = [[], []]
        parts = (slice(None, self._prompt_tokens), slice(self._prompt_tokens, None))
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            for found, part in zip(texts, parts, strict=True):
                found.append(self._tokenizer.decode(ids[part][mask[part]].tolist(), skip_special_tokens=True))
        scores = torch.as_tensor([float(score) for score in self._reward(*texts)], device=input_ids.device)
        return SimpleNamespace(hidden_states=(scores[:, None, None].expand(*input_ids.shape, 1),))


def left_padded(prompts: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
    """Prompts as TRL wants them, int64, shape ``(B, longest)``."""
    width = max(len(prompt) for prompt in prompts)
    return torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])


def ppo_trainer_module() -> Any:
    """The module with TRL's trainer and the functions that it calls."""
    from trl.experimental.ppo import ppo_trainer

    return ppo_trainer


def make_trainer(
    policy: Any,
    value_model: Any,
    reward: TextFunction,
    prompts: Sequence[Sequence[int]],
    tokenizer: Any,
    settings: dict[str, Any],
    *,
    reference: Any = None,
    lora: Any = None,
) -> tuple[Any, list[dict[str, float]]]:
    """TRL's trainer, and the list that its metrics will be appended to, one dictionary per iteration.

    Args:
        policy: Transformers causal language model.
        value_model: Transformers sequence classifier with one label.
        reward: Reward function of texts.
        prompts: Token ids.
        tokenizer: The policy's; pad must differ from end-of-text.
        settings: Fields of TRL's ``PPOConfig``.
        reference: Frozen policy; None lets TRL make a copy, or switch the adapter off.
        lora: A peft configuration for the policy.
    """
    from transformers import TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    class Collect(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            metrics.append(dict(logs))

    metrics: list[dict[str, float]] = []
    padded = left_padded(prompts, tokenizer.pad_token_id)
    fixed = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "num_sample_generations": 0}
    trainer = PPOTrainer(
        args=PPOConfig(**fixed, **settings),
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=TextReward(reward, tokenizer, padded.shape[1]),
        train_dataset=[{"input_ids": row} for row in padded],
        value_model=value_model,
        data_collator=lambda rows: {"input_ids": torch.stack([row["input_ids"] for row in rows])},
        callbacks=[Collect()],
        peft_config=lora,
    )
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ == "PrinterCallback":
            trainer.remove_callback(callback)
    return trainer, metrics
