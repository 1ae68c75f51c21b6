"""The top of the page: one sentence that says what happened, and the tiles with the figures that matter most."""

from html import escape
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textenv.report.evaluation import figure, model_names, model_title
from textenv.report.numbers import duration, fixed, percent, short
from textenv.report.records import RunRecord, number, text

DATA_TITLES = {
    "human": "human sentiment ratings of real texts",
    "builtin": "the built-in generator of rated sentences",
}
"""The summary's ``data`` to the words used for it on the page."""


class Gain(NamedTuple):
    """What PPO gained: mean rewards before and after, their difference in SFT standard deviations, and its price."""

    before: float
    after: float
    deviations: float | None
    kl: float | None


def sample_rewards(run: RunRecord, model: str) -> NDArray[np.float64]:
    """The finite rewards of one model's answers in ``samples.jsonl``, shape ``(n,)``, n may be 0."""
    found = (number(sample, model, "reward") for sample in run.samples)
    return np.array([value for value in found if value is not None], dtype=np.float64)


def policy_number(run: RunRecord, model: str, name: str) -> float | None:
    """A figure of ``summary.policy``; mean and deviation of the reward are those of the samples where it is silent."""
    value = number(run.summary, "policy", model, name)
    if value is None and name in ("reward_mean", "reward_std"):
        rewards = sample_rewards(run, model)
        if len(rewards):
            value = float(rewards.mean() if name == "reward_mean" else rewards.std())
    if value is None and name == "kl" and model == "ppo":
        found = [v for sample in run.samples if (v := number(sample, "ppo", "kl")) is not None]
        value = float(np.mean(found)) if found else None
    return value


def gain(run: RunRecord) -> Gain | None:
    """The gain from SFT to PPO on the held-out prompts, or None while one of the two is not measured."""
    before, after = (policy_number(run, model, "reward_mean") for model in ("sft", "ppo"))
    if before is None or after is None:
        return None
    std = policy_number(run, "sft", "reward_std")
    return Gain(before, after, (after - before) / std if std else None, policy_number(run, "ppo", "kl"))


def headline(run: RunRecord) -> str:
    """The sentence at the top, as HTML."""
    parameters = number(run.summary, "pretrain", "parameters")
    model = f"a language model of {short(parameters)} parameters" if parameters else "a language model"
    data = text(run.summary, "data")
    source = f" trained on {escape(DATA_TITLES.get(data, data))}" if data else ""
    if run.evaluation and (sentence := _answering(run, model)):
        return sentence
    change = gain(run)
    if change is None:
        return _so_far(run, model, source)
    verb = "raised" if change.after >= change.before else "lowered"
    amount = f"from {fixed(change.before)} to <b>{fixed(change.after)}</b>"
    if change.deviations is not None:
        amount = f"by <b>{fixed(abs(change.deviations))} SFT standard deviations</b>"
    price = f" at <b>{fixed(change.kl, 1)} nats</b> of KL per answer" if change.kl is not None else ""
    sentence = f"PPO {verb} the mean reward of {model}{source} {amount}{price}"
    before, after = (number(run.summary, "policy", name, "vader_positive") for name in ("sft", "ppo"))
    if before is not None and after is not None:
        sentence += f"; VADER finds <b>{percent(after)}</b> of its answers positive, before it was {percent(before)}"
    return sentence + "."


def _answering(run: RunRecord, model: str) -> str:
    """The sentence of a run that was measured on tasks: form and accuracy from the first model to the last."""
    stages = model_names(run.evaluation)
    form = [figure(run.evaluation, stage, "mean", "answered") for stage in stages]
    right = [figure(run.evaluation, stage, "mean", "accuracy") for stage in stages]
    if not stages or not all(form) or not all(right):
        return ""

    def course(values: list[Any]) -> str:
        return ", ".join(
            f"{escape(model_title(stage))} <b>{percent(found[0])}</b>"
            for stage, found in zip(stages, values, strict=True)
        )

    sentence = f"How often {model} answers in the asked form: {course(form)}; how often rightly: {course(right)}"
    kl = figure(run.evaluation, stages[-1], "mean", "kl")
    return sentence + (f", at <b>{fixed(kl[0], 1)} nats</b> of KL per answer." if kl else ".")


def _so_far(run: RunRecord, model: str, source: str) -> str:
    """The sentence of a run that has not compared its policies yet."""
    score, kl = run.series("ppo", "objective/score"), run.series("ppo", "objective/kl")
    if score is not None and kl is not None:
        now = (
            f"<b>{fixed(float(score.values[-1]))}</b> at <b>{fixed(float(kl.values[-1]), 1)} nats</b> of KL per answer"
        )
        moved = f"from {fixed(float(score.values[0]))} to {now}"
        return f"So far PPO has taken the reward of {model}{source} {moved}, measured on its own rollouts."
    stages = {"pretrain": "pre-training", "sft": "fine-tuning", "reward": "the reward model", "ppo": "PPO"}
    seen = [stages[stage] for stage in run.stages()]
    records = f"on record so far: {_listed(seen)}" if seen else "nothing on record yet"
    return f"{model[0].upper()}{model[1:]}{source}; {records}."


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def tiles(run: RunRecord) -> str:
    """Up to five tiles: gain, KL, the independent judge, the reward model, the time. What is unknown has no tile."""
    made: list[str] = []
    change = gain(run)
    if change is not None:
        big = fixed(change.after - change.before, signed=True)
        unit = "reward"
        if change.deviations is not None:
            big, unit = fixed(change.deviations, signed=True), "SFT std"
        below = f"mean {fixed(change.before)} → {fixed(change.after)}"
        made.append(_tile(big, unit, "reward, SFT to PPO", below))
        if change.kl is not None:
            made.append(_tile(fixed(change.kl, 1), "nats", "KL per answer", "away from the SFT model"))
    before, after = (number(run.summary, "policy", model, "vader_positive") for model in ("sft", "ppo"))
    if before is not None and after is not None:
        below = f"SFT {percent(before)}; judge not used in training"
        made.append(_tile(percent(after), "", "VADER-positive answers", below))
    accuracy = number(run.summary, "reward_model", "accuracy_gap_0_5")
    if accuracy is not None:
        human = number(run.summary, "human_rater", "accuracy_gap_0_5")
        rater = "simulated rater" if run.simulated else "human"
        below = "pairs more than 0.5 apart" + (f"; one {rater} {percent(human, 1)}" if human is not None else "")
        made.append(_tile(percent(accuracy, 1), "", "reward-model accuracy", below))
    total = number(run.summary, "seconds", "total")
    if total is not None:
        made.append(_tile(duration(total), "", "in all", "data to evaluation"))
    return f'<div class="tiles">{"".join(made)}</div>' if made else ""


def _tile(big: str, unit: str, name: str, below: str) -> str:
    unit = f" <small>{escape(unit)}</small>" if unit else ""
    return (
        f'<div class="tile"><b>{escape(big)}{unit}</b><span>{escape(name)}</span>'
        f'<span class="soft">{escape(below)}</span></div>'
    )
