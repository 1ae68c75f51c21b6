"""Evaluation on tasks: figures equal hand-made ones, and every error is named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from agents.evaluation.tasks import (
    Answer,
    Asked,
    EvaluationConfig,
    answer_records,
    answer_tasks,
    held_out,
    summarize_answers,
)
from agents.policy import CausalLMPolicy
from textenv.errors import ConfigError, DataError
from textenv.sampling.params import SamplingParams
from textenv.tasks import Format, Item, Task

WORDS = ("old", "new", "long")
SAY = Task("say", [Item(f"the {x}?", (x,), "test") for x in WORDS], Format("{question}", "A: {answer}"))
READ = Task("read", [Item("the film", (" is good",), "test")], Format("{question}", "{answer}"), verifier=None)
GREEDY_LENGTH = SamplingParams(max_new_tokens=6)


@dataclass
class Scripted:
    """The part of a policy that is asked for, with its answers given."""

    policy: CausalLMPolicy
    responses: list[tuple[str, str]]
    asked: list[SamplingParams] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def generate(self, prompts: list[str], params: SamplingParams, **settings: Any) -> list[Any]:
        self.asked.append(params)
        answers = self.policy.generate(prompts, params, **settings)
        for answer, (response, finish) in zip(answers, self.responses, strict=True):
            answer.response, answer.finish_reason = response, finish
        return answers


def test_figures_of_given_answers_are_those_of_the_verifier(policy: CausalLMPolicy):
    asked = held_out([SAY, READ])
    said = [("A: old", "eos"), ("the film? the film?", "length"), ("A: long", "length"), (" is bad", "eos")]
    scripted = Scripted(policy, said)
    answers = answer_tasks(scripted, asked, sampling=GREEDY_LENGTH)  # pyright: ignore[reportArgumentType]
    assert [a.figures.get("answered") for a in answers] == [1.0, 0.0, 0.0, None]
    assert [a.figures.get("accuracy") for a in answers] == [1.0, 0.0, 0.0, None]
    assert [a.figures.get("goes_on") for a in answers] == [0.0, 1.0, 0.0, None]
    assert [a.figures["eos"] for a in answers] == [1.0, 0.0, 0.0, 1.0]
    assert [params.temperature for params in scripted.asked] == [1.0, 0.0]
    figures = summarize_answers(asked, answers)
    assert figures["say"]["accuracy"].value == figures["mean"]["accuracy"].value == pytest.approx(1 / 3)
    assert "accuracy" not in figures["read"]
    assert figures["mean"]["eos"].value == pytest.approx((1 / 3 + 1) / 2)
    assert figures["read"]["eos"][:3] == pytest.approx((1.0, 0.05, 1.0))  # one prompt: half of 0.05 is 0.025


def test_reference_log_likelihood_is_the_mean_over_its_tokens_and_the_end(policy: CausalLMPolicy):
    asked = held_out([SAY])[:1]
    found = answer_tasks(policy, asked, sampling=GREEDY_LENGTH)[0].figures["reference_logprob"]
    prompt = policy.encode_prompt(asked[0].prompt)
    answer = policy.tokenizer(asked[0].reference, add_special_tokens=False)["input_ids"] + [
        policy.tokenizer.eos_token_id
    ]
    with torch.no_grad():
        logits = policy.causal_lm(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1)[torch.arange(len(answer)), answer].mean()
    assert found == pytest.approx(float(expected), abs=1e-5)


def test_kl_is_zero_against_itself_and_differs_against_another(make_policy):
    asked = held_out([SAY, READ])
    ours, other = make_policy(0), make_policy(1)
    same = answer_tasks(ours, asked, reference=ours, sampling=GREEDY_LENGTH)
    apart = answer_tasks(ours, asked, reference=other, sampling=GREEDY_LENGTH)
    np.testing.assert_allclose([a.figures["kl"] for a in same], 0, atol=1e-6)
    assert [a.response for a in same] == [a.response for a in apart]
    assert any(abs(a.figures["kl"]) > 1e-3 for a in apart)


def test_intervals_of_the_mean_over_tasks_come_from_resampling_within_them():
    rng = np.random.default_rng(0)
    tasks = [Task(name, [Item("q", ("a",), "test")]) for name in ("one", "two")]
    asked = [Asked(task, task.items[0], "q", "a") for task in tasks for _ in range(400)]
    scores = rng.random(800) < np.repeat([0.2, 0.9], 400)
    answers = [Answer("a", "eos", {"accuracy": float(score)}) for score in scores]
    mean = summarize_answers(asked, answers)["mean"]["accuracy"]
    by_task = scores.reshape(2, 400)
    half = 1.96 * np.sqrt(by_task.var(1).sum() / 400) / 2
    assert mean.value == pytest.approx(by_task.mean())
    assert (mean.high - mean.low) / 2 == pytest.approx(half, rel=0.15)


def test_records_hold_every_model_beside_prompt_and_reference():
    asked = held_out([SAY])[:1]
    record = answer_records(asked, {"base": [Answer("x?", "length", {"tokens": 2.00001})]})[0]
    assert record == {
        "task": "say",
        "prompt": "the old?",
        "reference": "A: old",
        "base": {"response": "x?", "finish": "length", "tokens": 2.0},
    }


def test_what_cannot_be_measured_is_named(policy: CausalLMPolicy):
    with pytest.raises(DataError, match="task 'say' has no questions with answers in the train split"):
        held_out([SAY], "train")
    with pytest.raises(ConfigError, match="tasks need different names, got say, say"):
        held_out([SAY, SAY])
    with pytest.raises(ConfigError, match="`per_task` must be ≥ 1, got 0"):
        held_out([SAY], per_task=0)
    with pytest.raises(ConfigError, match="a KL needs answers that are drawn plainly"):
        answer_tasks(policy, held_out([SAY]), reference=policy, sampling=SamplingParams(top_k=3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": 0}, "`prompts` must be ≥ 1, got 0"),
        ({"temperature": 0.0}, "`temperature` must be positive, got 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        EvaluationConfig(**settings)
