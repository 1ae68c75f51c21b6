from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import textenv
from textenv.datasets.rated_texts import SPLITS
from textenv.episode import Episode, FinishReason
from textenv.errors import ConfigError, DataError, RewardError
from textenv.rewards import SumReward
from textenv.tasks import (
    LABELERS,
    PROCEDURAL,
    USERS,
    Conversation,
    Format,
    Item,
    Task,
    TaskReward,
    procedural_task,
    same_choice,
    same_number,
)


@pytest.fixture(scope="module")
def double() -> Task:
    items = [Item(f"What is twice {n}?", (str(2 * n),)) for n in range(200)]
    return Task("double", items, verifier=same_number)


def test_a_task_declared_in_two_lines_serves_every_stage(double: Task):
    sizes = {split: len(double.split(split)) for split in SPLITS}
    assert sum(sizes.values()) == 200
    assert sizes["train"] > 130
    assert sizes["test"] > 5
    first = double.split("train")[0]
    shown = double.demonstrations("train")[0]
    assert (shown.prompt, shown.response) == (f"{first.question}\n", f"Answer: {first.answers[0]}")
    assert next(double.documents("train")).startswith(f"{first.question} {first.answers[0]}\n")
    prompt = double.prompts("train")[0]
    assert (prompt.text, prompt.task) == (shown.prompt, "double")
    assert double.reward.score([shown.prompt] * 3, [shown.response, "Answer: 1001", "What?"]).tolist() == [1, 0, 0]


def test_documents_hold_every_statement_once_and_sheets_of_questions_alone():
    task = Task("t", [Item(f"q{i}?", (f"a{i}",), "train") for i in range(5)], Format(items_per_document=3))
    assert list(task.documents("train")) == ["q0? a0\nq1? a1\nq2? a2", "q0?\nq1?\nq2?", "q3? a3\nq4? a4", "q3?\nq4?"]
    assert list(task.documents("test")) == []
    rarely = Task("t", task.items, Format(items_per_document=2, sheet_every=2))
    assert [text for text in rarely.documents("train") if " " not in text] == ["q0?\nq1?", "q4?"]


@pytest.mark.parametrize(
    ("response", "answer", "goes_on"),
    [
        ("Answer: 12", "12", False),
        ("  Answer: 12 apples \n", "12 apples", False),
        ("Answer: 12\nAnswer: 13", None, False),
        ("answer: 12", None, False),
        ("The answer is 12", None, False),
        ("Answer: ", None, False),
        ("What is twice 4?\nWhat is twice 5?", None, True),
        ("Answer: is it 12?", "is it 12?", False),
        ("", None, False),
    ],
)
def test_format_finds_an_answer_only_in_the_asked_form(response: str, answer: str | None, goes_on: bool):
    assert Format().find(response) == answer
    assert Format().goes_on(response) == goes_on


def test_format_templates_hold_braces_and_meta_characters():
    shape = Format(prompt="{x} {question} (1+1)?", response="\\boxed{{answer}}")
    assert shape.ask("a{b}") == "{x} a{b} (1+1)?"
    assert shape.find(shape.answer("7")) == "7"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": "ask"}, r"`prompt` must hold \{question\}"),
        ({"response": "say"}, r"`response` must hold \{answer\}"),
        ({"pattern": "("}, "`pattern` is no regular expression"),
        ({"pattern": "a"}, "needs a group named answer"),
        ({"items_per_document": 0}, "`items_per_document` must be ≥ 1, got 0"),
        ({"sheet_every": -1}, "`sheet_every` must be ≥ 0, got -1"),
    ],
)
def test_format_refuses_what_cannot_work(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Format(**arguments)


@pytest.mark.parametrize(
    ("verifier", "accepted", "given", "score"),
    [
        (same_number, "1000", "1,000.0", 1.0),
        (same_number, "1000", "1001", 0.0),
        (same_number, "1000", "many", 0.0),
        (same_choice, "B", "(b) twenty", 1.0),
        (same_choice, "B", "Bees", 0.0),
        (same_choice, "B", "C", 0.0),
    ],
)
def test_verifiers_by_hand(verifier, accepted, given, score):
    assert verifier(Item("q", (accepted,)), given) == score


@pytest.mark.parametrize("name", [*PROCEDURAL])
def test_procedural_answers_satisfy_their_own_verifier_and_questions_stay_in_one_split(name: str):
    task = procedural_task(name, 300, seed=1)
    assert [i.question for i in task.items] == [i.question for i in procedural_task(name, 300, seed=1).items]
    assert len({item.question for item in task.items}) == len(task.items) > 250
    assert {item.source for item in task.items} == {LABELERS, USERS}
    for item in task.items:
        verdict = task.verify(item, task.format.answer(item.answers[0]))
        assert verdict == (item.answers[0], 1.0, False)
        assert task.format.state(item).startswith(f"{item.question} ")
        assert item.answers[0] in task.format.state(item).removeprefix(item.question)
        assert task.verify(item, item.question).goes_on
    ways = {task.format.state(item).replace(item.question, "").replace(item.answers[0], "…") for item in task.items}
    assert ways == {" It is ….", " The answer is ….", " …, of course."}


def test_procedural_answers_are_right():
    for item in procedural_task("addition", 50).items:
        a, b = (int(w.rstrip("?")) for w in item.question.split() if w.rstrip("?").isdigit())
        assert item.answers == (str(a + b),)
    for item in procedural_task("compare", 50).items:
        numbers = [int(w.strip("?,")) for w in item.question.split() if w.strip("?,").isdigit()]
        assert item.answers == (str(max(numbers)),)


def test_procedural_text_has_no_verifier_and_no_reward():
    task = procedural_task("text", 40)
    shown = task.demonstrations("train")[0]
    assert (shown.prompt + shown.response).startswith("Go on: ")
    with pytest.raises(ConfigError, match="no verifiable reward without a verifier: text"):
        _ = task.reward
    with pytest.raises(DataError, match="has no verifier"):
        task.verify(task.items[0], "x")


def test_unknown_procedural_task_is_named():
    with pytest.raises(ConfigError, match="no built-in task 'multiply'; there are: copy"):
        procedural_task("multiply")


def test_reward_of_several_tasks_tells_them_apart_by_the_prompt(double: Task):
    other = Task("half", [Item("What is half of 8?", ("4",))])
    reward = TaskReward([double, other], wrong=0.25, no_answer=-0.5)
    prompts = ["What is half of 8?\n", "What is twice 4?\n", "What is twice 4?\n"]
    assert reward.score(prompts, ["Answer: 4", "Answer: 4", "4"]).tolist() == [1.0, 0.25, -0.5]
    with pytest.raises(RewardError, match="no item of the tasks double, half asks 'Who are you"):
        reward.score(["Who are you?"], ["Answer: 4"])


def test_a_question_with_two_answers_accepts_either():
    task = Task("names", [Item("Name a colour?", ("red",)), Item("Name a colour?", ("blue",))])
    assert task.reward.score(["Name a colour?\n"] * 3, ["Answer: red", "Answer: blue", "Answer: dog"]).tolist() == [
        1,
        1,
        0,
    ]


def test_an_answer_that_the_length_limit_cut_off_is_none(double: Task):
    def episode(reason: FinishReason) -> Episode:
        return Episode("What is twice 4?\n", 0, (1,), "Answer: 8", (1, 2), reason, 0.0, task="double")

    ended, cut = double.reward.score_episodes([episode(FinishReason.EOS), episode(FinishReason.LENGTH)])
    assert (ended, cut) == (1.0, 0.0)


def test_verifier_is_the_reward_of_an_environment_and_mixes_with_another(double: Task):
    reward = SumReward({"verified": double.reward, "short": lambda p, r: [-0.01 * len(x) for x in r]})
    env = gymnasium.make(
        "textenv/TextGeneration-v0", tokenizer="toy", prompts=double.prompts("train"), reward=reward, max_new_tokens=4
    )
    env.reset(seed=0)
    done, total = False, 0.0
    while not done:
        _, step_reward, done, _, _ = env.step(1)
        total += float(step_reward)
    episode = env.get_wrapper_attr("last_episode")
    assert isinstance(episode, textenv.Episode)
    assert episode.task == "double"
    assert set(episode.reward_parts or {}) == {"verified", "short"}
    assert np.isclose(total, -0.01 * len(episode.response))


def test_a_verifier_out_of_range_is_refused():
    task = Task("t", [Item("q", ("a",))], verifier=lambda item, answer: 2.0)
    with pytest.raises(DataError, match=r"gave 2\.0 to 'a'; scores lie between 0 and 1"):
        task.verify(task.items[0], "Answer: a")


def test_items_and_conversations_refuse_nonsense():
    with pytest.raises(DataError, match="needs a question"):
        Item("  ")
    with pytest.raises(DataError, match="must be texts that are not empty"):
        Item("q", ("",))
    with pytest.raises(ConfigError, match="`split` must be one of train"):
        Item("q", ("a",), "training")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="needs at least one turn of the assistant"):
        Conversation(({"role": "user", "content": "hi"},))
    with pytest.raises(DataError, match="message 0 needs 'role'"):
        Conversation(({"role": "robot", "content": "hi"},))
    with pytest.raises(DataError, match="task 't' has no items"):
        Task("t", [])
    with pytest.raises(DataError, match=r"fit for a folder, got '\.\./t'"):
        Task("../t", [Item("q")])
