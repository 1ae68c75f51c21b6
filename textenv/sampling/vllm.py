"""Generation through vLLM, behind the interface of :func:`textenv.sampling.generate`: for large models on GPUs.

vLLM is an extra (``pip install "textenv[vllm]"``) and needs a GPU. It decodes to the end only: whoever steps an
environment token by token uses the slot engine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from textenv.answers import Answers, format_of_model
from textenv.errors import ConfigError, MissingDependencyError
from textenv.protocols import LogprobFn
from textenv.sampling.generation import Prompts, as_prompts, encode_prompts, make_trajectory, prompt_limits
from textenv.sampling.params import SamplingParams, SettledParams, settle
from textenv.trajectory import Trajectory


def vllm_available() -> bool:
    """Whether vLLM is installed and there is a GPU for it."""
    import torch

    return torch.cuda.is_available() and find_spec("vllm") is not None


class VLLMGenerator:
    """A model folder, loaded by vLLM.

    Args:
        path: What ``save_pretrained`` wrote, or a hub name; vLLM keeps its own copy of the weights, so make a new
            generator when a policy has been trained further.
        dtype: ``"bfloat16"``, ``"float16"``, ``"float32"``, or ``"auto"`` for that of the file.
        gpu_memory_utilization: Share of the GPU's memory that vLLM takes.
        max_length: Longest sequence in tokens, prompt included; None takes the model's context.

    Raises:
        MissingDependencyError: If vLLM is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        dtype: str = "auto",
        gpu_memory_utilization: float = 0.9,
        max_length: int | None = None,
    ) -> None:
        try:
            vllm: Any = import_module("vllm")
        except ImportError as error:
            raise MissingDependencyError('vLLM is not installed: pip install "textenv[vllm]"') from error
        self._vllm = vllm
        self._llm = vllm.LLM(
            model=str(path),
            dtype=dtype,
            gpu_memory_utilization=gpu_memory_utilization,
            max_model_len=max_length,
            logprobs_mode="processed_logprobs",  # those of the distribution that is drawn from
            enable_prefix_caching=True,
        )
        self.tokenizer: Any = self._llm.get_tokenizer()
        self.answers = Answers(self.tokenizer, format_of_model(path, self.tokenizer))

    def generate(
        self,
        prompts: Prompts,
        params: SamplingParams | None = None,
        *,
        n: int = 1,
        seed: int = 0,
        limits: Sequence[int] | None = None,
        first_prompt: int = 0,
        logprobs: LogprobFn | None = None,
    ) -> list[Trajectory]:
        """Sample answers to prompts.

        Args:
            prompts: Texts, or token ids.
            params: Sampling settings; None samples at temperature 1.
            n: Answers per prompt.
            seed: The answer number j to prompt number i has a seed of its own, made of these three.
            limits: Length limit of each prompt's answers, at most ``params.max_new_tokens``; None means that.
            first_prompt: Number of the first of these prompts, where they are part of a longer list.
            logprobs: Scores the answers under the policy itself (``CausalLMPolicy.logprobs``); needed where the
                settings change the distribution, since vLLM reports one log-probability per token.

        Returns:
            ``len(prompts) * n`` trajectories, the answers to one prompt next to each other.

        Raises:
            ConfigError: If vLLM cannot sample that way, or the policy's log-probabilities need ``logprobs``.
            DataError: If a prompt is empty.
        """
        settled, answers_as = settle(self, params)
        _check(settled, logprobs)
        listed = as_prompts(prompts)
        most = prompt_limits(settled, limits, len(listed))
        texts, ids = encode_prompts(self, listed, most)
        jobs = [(i, j) for i in range(len(ids)) for j in range(n)]
        outputs = self._llm.generate(
            [{"prompt_token_ids": ids[i]} for i, _ in jobs],
            [self._settings(settled, most[i], _seed(seed, first_prompt + i, j)) for i, j in jobs],
            use_tqdm=False,
        )
        answers = [np.array(output.outputs[0].token_ids, np.int64) for output in outputs]
        behaviour = [
            np.array([step[int(t)].logprob for t, step in zip(answer, output.outputs[0].logprobs, strict=True)])
            for answer, output in zip(answers, outputs, strict=True)
        ]
        policy_logprobs = behaviour
        if logprobs is not None:
            policy_logprobs = logprobs([ids[i] for i, _ in jobs], [answer.tolist() for answer in answers])
        return [
            make_trajectory(
                answers_as,
                texts[i],
                np.array([*ids[i], *answer.tolist()], np.int64),
                len(ids[i]),
                np.asarray(drawn if settled.stochastic else np.zeros(len(answer)), np.float32),
                np.asarray(policy, np.float32),
                answers_as.finish(answer, ids[i]),
                settled,
                seed,
            )
            for (i, _), answer, drawn, policy in zip(jobs, answers, behaviour, policy_logprobs, strict=True)
        ]

    # --- a policy whose answers can be read ---------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """Ids that can be chosen."""
        return self.answers.vocabulary.size

    @property
    def context_length(self) -> int | None:
        """VLLM checks lengths itself."""
        return None

    def encode_prompt(self, prompt: str) -> list[int]:
        """Token ids of a prompt, in the form that the model's answers have."""
        return self.answers.encode_prompt(prompt).ids

    def _settings(self, params: SettledParams, limit: int, seed: int) -> Any:
        return self._vllm.SamplingParams(
            n=1,
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            repetition_penalty=params.repetition_penalty,
            allowed_token_ids=None if params.allow_tokens is None else list(params.allow_tokens),
            max_tokens=limit,
            min_tokens=params.min_new_tokens,
            stop=list(params.stop),
            stop_token_ids=list(params.eos_token_id),
            ignore_eos=self.tokenizer.eos_token_id not in params.eos_token_id,
            logprobs=0,  # of the drawn token alone
            seed=seed,
        )


def _check(params: SamplingParams, logprobs: LogprobFn | None) -> None:
    if params.typical_p < 1:
        raise ConfigError("vLLM has no typical sampling; leave out `typical_p`, or sample with the slot engine")
    if params.deny_tokens:
        raise ConfigError("with vLLM, name the allowed ids as `allow_tokens` instead of `deny_tokens`")
    if params.min_p > 0 and (params.top_k > 0 or params.top_p < 1):
        raise ConfigError("vLLM applies `min_p` before `top_k` and `top_p`, textenv after them; use one or the other")
    if logprobs is None and not (params.tempered_only and params.temperature == 1):
        raise ConfigError(
            "with these settings vLLM reports the log-probabilities of the draws only; pass "
            "`logprobs=policy.logprobs`, so that those of the policy itself can be computed"
        )


def _seed(seed: int, prompt: int, sample: int) -> int:
    """A seed of 63 bits for one answer."""
    digest = hashlib.sha256(f"{seed}/{prompt}/{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
