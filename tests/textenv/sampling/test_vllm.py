"""The vLLM backend against a stand-in that answers as vLLM's offline interface does; vLLM itself needs a GPU."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.textenv.sampling.test_generation import Letters
from textenv.cli.sampling import Draws, SampleConfig, _answer, _vllm
from textenv.errors import ConfigError, DataError, MissingDependencyError
from textenv.prompts import Prompt
from textenv.sampling import SamplingParams
from textenv.sampling.vllm import VLLMGenerator, vllm_available


class Numbered(Letters):
    def __len__(self) -> int:
        return 100

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return super().encode(text)


class StandInLLM:
    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def get_tokenizer(self) -> Numbered:
        return Numbered()

    def generate(self, prompts: list[dict[str, list[int]]], params: list[Any], use_tqdm: bool) -> list[Any]:
        """Answers with the prompt's last token, then (if there is room) the end token."""
        self.params = params
        outputs = []
        for prompt, setting in zip(prompts, params, strict=True):
            ids = [prompt["prompt_token_ids"][-1], 2][: setting.max_tokens]
            steps = [{t: SimpleNamespace(logprob=-0.5 - place), 99: None} for place, t in enumerate(ids)]
            outputs.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, logprobs=steps)]))
        return outputs


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> VLLMGenerator:
    module: Any = ModuleType("vllm")
    module.LLM, module.SamplingParams = StandInLLM, lambda **settings: SimpleNamespace(**settings)
    monkeypatch.setitem(sys.modules, "vllm", module)
    return VLLMGenerator("folder", dtype="bfloat16", max_length=64)


def test_answers_come_as_trajectories(generator: VLLMGenerator):
    found = generator.generate(["5 6", "7"], SamplingParams(max_new_tokens=4), n=2)
    assert [t.token_ids.tolist() for t in found] == [[6, 2], [6, 2], [7, 2], [7, 2]]
    assert [t.prompt for t in found] == ["5 6", "5 6", "7", "7"]
    assert [t.response for t in found] == [" 6", " 6", " 7", " 7"]  # what they add to "5 6" and "7"
    assert {t.finish_reason for t in found} == {"eos"}
    np.testing.assert_allclose(found[0].logprobs, [-0.5, -1.5])
    np.testing.assert_allclose(found[0].behaviour_logprobs, [-0.5, -1.5])
    assert generator._llm.settings["logprobs_mode"] == "processed_logprobs"


def test_every_answer_has_a_seed_of_its_own(generator: VLLMGenerator):
    generator.generate([[5], [6]], n=2, seed=1)
    seeds = [p.seed for p in generator._llm.params]
    generator.generate([[5]], n=1, seed=1)
    assert len(set(seeds)) == 4
    assert generator._llm.params[0].seed == seeds[0]


def test_a_cut_answer_ends_by_length(generator: VLLMGenerator):
    assert generator.generate([[5]], SamplingParams(max_new_tokens=1))[0].finish_reason == "length"


def test_limits_and_later_prompts(generator: VLLMGenerator):
    found = generator.generate([[5], [6]], SamplingParams(max_new_tokens=3), limits=[1, 2])
    assert [len(t) for t in found] == [1, 2]
    second = generator._llm.params[1].seed
    generator.generate([[6]], first_prompt=1)
    assert generator._llm.params[0].seed == second


def test_changed_distributions_are_scored_by_the_policy(generator: VLLMGenerator):
    found = generator.generate(
        [[5]],
        SamplingParams(temperature=0.5, top_k=3),
        logprobs=lambda prompts, answers: [np.full(len(a), -9.0, np.float32) for a in answers],
    )
    assert found[0].logprobs.tolist() == [-9, -9]
    np.testing.assert_allclose(found[0].behaviour_logprobs, [-0.5, -1.5])
    assert generator._llm.params[0].top_k == 3


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_sample_command_lets_vllm_decode(generator: VLLMGenerator, temperature: float):
    class Scorer:
        tokenizer = Letters()

        def encode_prompt(self, prompt: str) -> list[int]:
            return self.tokenizer.encode(prompt)

        def logprobs(self, prompts: list[list[int]], answers: list[list[int]]) -> list[np.ndarray]:
            return [np.full(len(a), -9.0, np.float32) for a in answers]

    config = SampleConfig(policy="p", n=2, backend="vllm", sampling=SamplingParams(temperature=temperature))
    draws = Draws("p", None, asdict(config.sampling), config.seed)
    found = _answer(Scorer(), [Prompt(text="5 6"), Prompt(text="7")], 3, config, draws, generator)
    assert [(t.prompt, t.prompt_id, t.sample_index) for t in found] == [
        ("5 6", "3", 0),
        ("5 6", "3", 1),
        ("7", "4", 0),
        ("7", "4", 1),
    ]
    assert found[0].logprobs.tolist() == ([-0.5, -1.5] if temperature == 1 else [-9, -9])
    assert found[0].provenance["backend"] == "vllm"
    assert _vllm(SampleConfig(policy="p"), Path("p")) is None


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (SamplingParams(temperature=0.5), r"pass `logprobs=policy.logprobs`"),
        (SamplingParams(typical_p=0.5), "no typical sampling"),
        (SamplingParams(deny_tokens=(3,)), "name the allowed ids as `allow_tokens`"),
        (SamplingParams(min_p=0.1, top_k=3), "applies `min_p` before"),
    ],
)
def test_what_vllm_cannot_do_is_said(generator: VLLMGenerator, params: SamplingParams, message: str):
    with pytest.raises(ConfigError, match=message):
        generator.generate([[5]], params)


def test_an_empty_prompt_is_named(generator: VLLMGenerator):
    with pytest.raises(DataError, match="prompt 1 has no tokens"):
        generator.generate([[5], []])


def test_without_vllm_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "textenv\[vllm\]"'):
        VLLMGenerator("folder")
    assert not vllm_available()
