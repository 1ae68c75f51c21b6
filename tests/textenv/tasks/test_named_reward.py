"""Verifiable rewards by name: an environment's spec with one survives JSON and pays what the verifier says."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

import textenv  # noqa: F401  (registers the environments)
from textenv.envs import ToyTokenizer
from textenv.errors import ConfigError
from textenv.rewards import resolve_reward
from textenv.tasks import Fields, TaskReward, TaskSource, load_task, named_reward, reward_name

ADDITION = TaskSource("addition", count=40, seed=3)


def test_reward_name_survives_json_and_keeps_every_field():
    source = TaskSource("sums", "file", "sums.jsonl", fields=Fields(question="q"), verifier="same_number")
    written = json.loads(json.dumps(reward_name([source])))
    row = json.loads(written.removeprefix("tasks:"))[0]
    assert TaskSource(**row | {"fields": Fields(**row["fields"])}) == source


def test_environment_of_a_json_spec_pays_what_the_verifier_says():
    task = load_task(ADDITION)
    prompts = [{"prompt": prompt.text, "task": prompt.task} for prompt in task.prompts("train")]
    spec = gymnasium.spec("textenv/TextGeneration-v0")
    spec.kwargs |= {"tokenizer": "toy", "prompts": prompts, "reward": reward_name([ADDITION]), "max_new_tokens": 16}
    env = gymnasium.make(EnvSpec.from_json(spec.to_json()))
    words = ToyTokenizer()
    item = task.split("train")[1]
    for response, paid in ((task.format.answer(item.answers[0]), 1.0), ("Answer: 999", 0.0), ("What?", 0.0)):
        env.reset(options={"prompt_index": 1})
        earlier = [env.step(token)[1] for token in words.encode(response)]
        _, reward, terminated, _, _ = env.step(words.eos_token_id)
        assert terminated
        assert not any(earlier)
        assert reward == task.verify(item, response).score == paid
    env.close()


def test_named_rewards_of_builtin_tasks_and_of_records_agree():
    task = load_task(TaskSource("compare"))
    item = task.items[0]
    prompt, right = task.format.ask(item.question), task.format.answer(item.answers[0])
    for name in ("tasks:compare", "tasks:compare, copy", reward_name([TaskSource("compare")])):
        reward = resolve_reward(name)
        assert isinstance(reward, TaskReward)
        np.testing.assert_array_equal(reward.score([prompt, prompt], [right, "What?"]), [1.0, 0.0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tasks:nothing", "there is no built-in task 'nothing'"),
        ("tasks:[{]", "does not list tasks as JSON"),
        ('tasks:[{"names": "x"}]', "does not list tasks as JSON: .*names"),
        ('tasks:["x"]', "does not list tasks as JSON"),
        ("tasks:text", "no verifiable reward without a verifier: text"),
        ("tasks:copy,copy", "tasks need different names, got copy, copy"),
    ],
)
def test_names_that_stand_for_nothing_are_refused(name: str, message: str):
    with pytest.raises(ConfigError, match=message):
        named_reward(name)
