from __future__ import annotations

import gymnasium
import pytest

import textenv  # noqa: F401  (registers the environments)
from reward_models.adapters.function import FunctionReward
from reward_models.adapters.process import ProcessReward, step_ends
from reward_models.lexicon import Lexicon
from tests.reward_models.tiny import word_tokenizer
from textenv.episode import Episode, FinishReason
from textenv.errors import ConfigError, RewardError, ShapeError
from textenv.rewards import score_episodes

TOKENIZER = word_tokenizer(["rate the film is great and bad . it yes no !"], encoder=False)


def goods(prompts: list[str], responses: list[str]) -> list[float]:
    """10 for each "rate" in the prompt, 1 for each "great", −2 for each "bad" in the response."""
    return [
        10.0 * p.count("rate") + r.count("great") - 2.0 * r.count("bad")
        for p, r in zip(prompts, responses, strict=True)
    ]


def episode(response: str, prompt: str = "rate the film") -> Episode:
    ids = TOKENIZER.encode(response, add_special_tokens=False)
    return Episode(prompt, 0, tuple(TOKENIZER.encode(prompt)), response, tuple(ids), FinishReason.EOS, 0.0)


def test_token_rewards_are_differences_of_potentials() -> None:
    found = score_episodes(ProcessReward(FunctionReward(goods), TOKENIZER), [episode("great and bad"), episode("yes")])
    assert [row.tolist() for row in found.token_rewards or []] == [[1.0, 0.0, -2.0], [0.0]]
    assert found.scores.tolist() == [-1.0, 0.0]


def test_rewards_that_keep_the_level_sum_to_the_score() -> None:
    rm = ProcessReward(FunctionReward(goods), TOKENIZER, keep_level=True)
    found = score_episodes(rm, [episode("great and bad")])
    assert (found.token_rewards or [])[0].tolist() == [11.0, 0.0, -2.0]
    assert found.scores.tolist() == rm.score(["rate the film"], ["great and bad"]).tolist() == [9.0]


def test_sentence_rewards_stand_on_the_last_token_of_the_sentence() -> None:
    episodes = [episode("the film is great . it is bad ! yes"), episode("great")]
    found = score_episodes(ProcessReward(FunctionReward(goods), TOKENIZER, steps="sentence"), episodes)
    assert (found.token_rewards or [])[0].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, -2, 0]
    assert (found.token_rewards or [])[1].tolist() == [1]
    level = score_episodes(ProcessReward(FunctionReward(goods), TOKENIZER, steps="sentence", form="level"), episodes)
    assert (level.token_rewards or [])[0].tolist() == [0, 0, 0, 0, 11, 0, 0, 0, 9, 9]


def test_every_step_size_telescopes_to_the_same_sum() -> None:
    shown = [episode("the film is great . great bad great ! yes"), episode("bad")]
    sums = [
        score_episodes(ProcessReward(FunctionReward(goods), TOKENIZER, steps=steps), shown).scores.tolist()
        for steps in ("token", "word", "sentence", "line")
    ]
    assert sums == [[1.0, -2.0]] * 4


def test_every_different_text_is_scored_once() -> None:
    asked: list[str] = []

    def counted(prompts: list[str], responses: list[str]) -> list[float]:
        asked.extend(responses)
        return [0.0] * len(responses)

    shown = [episode("great and bad"), episode("great and great"), episode("great and bad")]
    score_episodes(ProcessReward(FunctionReward(counted), TOKENIZER), shown)
    assert sorted(asked) == sorted(["", "great", "great and", "great and bad", "great and great"])


def test_step_rewards_of_texts() -> None:
    rm = ProcessReward(FunctionReward(goods), steps="line")
    assert [row.tolist() for row in rm.step_rewards(["rate", ""], ["great\nbad\n", ""])] == [[1.0, -2.0], [0.0]]
    with pytest.raises(ConfigError, match="texts have no tokens"):
        ProcessReward(Lexicon()).step_rewards(["a"], ["b"])
    with pytest.raises(ShapeError, match="got 1 prompts for 0 responses"):
        rm.step_rewards(["a"], [])


@pytest.mark.parametrize(
    ("text", "steps", "ends"),
    [
        ("One. Two!  ", "sentence", [4, 11]),
        ("3.5 stars. Yes", "sentence", [10, 14]),
        ("no end", "sentence", [6]),
        ("", "sentence", [0]),
        ("a\n\nb", "line", [2, 3, 4]),
        (" two words", "word", [4, 10]),
    ],
)
def test_step_ends(text: str, steps: str, ends: list[int]) -> None:
    assert step_ends(text, steps) == ends


def test_environment_pays_the_process_reward_step_by_step() -> None:
    env = gymnasium.make(
        "textenv/TextGeneration-v0",
        tokenizer=TOKENIZER,
        prompts=["rate the film"],
        reward=ProcessReward(FunctionReward(goods), TOKENIZER),
        max_new_tokens=3,
        eos_token_id=[],
    )
    env.reset(seed=0)
    actions = TOKENIZER.encode("great and bad", add_special_tokens=False)
    paid = [float(env.step(action)[1]) for action in actions]
    assert sum(paid) == pytest.approx(-1.0)
    assert env.get_wrapper_attr("last_episode").rewards == (1.0, 0.0, -2.0)


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(ConfigError, match="needs the policy's `tokenizer`"):
        ProcessReward(Lexicon()).score_episodes([episode("great")])
    with pytest.raises(ConfigError, match="`steps` must be one of token, word"):
        ProcessReward(Lexicon(), steps="page")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match='`form` must be "difference" or "level"'):
        ProcessReward(Lexicon(), form="x")  # type: ignore[arg-type]
    broken = FunctionReward(lambda p, r: [float("nan")] * len(r))
    with pytest.raises(RewardError, match="returned nan"):
        ProcessReward(broken, TOKENIZER).score_episodes([episode("great")])
