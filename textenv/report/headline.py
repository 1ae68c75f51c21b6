"""The top of the page: one sentence that says what happened, and the tiles with the figures that matter most."""

from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from textenv.pages.numbers import duration, fixed, percent, short
from textenv.report.evaluation import figure, model_names, model_title
from textenv.report.run_folder import RunRecord, number, text

DATA_TITLES = {
    "human": "human sentiment ratings of real texts",
    "builtin": "the built-in generator of rated sentences",
}
"""The summary's ``data`` to the words used for it on the page."""

POLICY_FIGURES = (
    ("Mean reward", "reward_mean", lambda v: fixed(v)),
    ("Std of reward", "reward_std", lambda v: fixed(v)),
    ("KL, nats per answer", "kl", lambda v: fixed(v, 1)),
    ("VADER-positive", "vader_positive", percent),
    ("Distinct-2", "distinct_2", lambda v: fixed(v, 3)),
    ("Tokens per answer", "response_tokens", lambda v: fixed(v, 1)),
    ("Ends by itself", "eos_fraction", percent),
)
"""The table of the policies, on the page and in the terminal: title, key in the summary, how it is written."""


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


def headline(run: RunRecord) -> Markup:
    """The sentence at the top."""
    parameters = number(run.summary, "pretrain", "parameters")
    model = f"a language model of {short(parameters)} parameters" if parameters else "a language model"
    data = text(run.summary, "data")
    source = f" trained on {DATA_TITLES.get(data, data)}" if data else ""
    if run.evaluation and (sentence := _answering(run, model)):
        return sentence
    change = gain(run)
    if change is None:
        return _so_far(run, model, source)
    verb = "raised" if change.after >= change.before else "lowered"
    amount = Markup("from {} to <b>{}</b>").format(fixed(change.before), fixed(change.after))
    if change.deviations is not None:
        amount = Markup("by <b>{} SFT standard deviations</b>").format(fixed(abs(change.deviations)))
    price = Markup(" at <b>{} nats</b> of KL per answer").format(fixed(change.kl, 1)) if change.kl is not None else ""
    sentence = Markup("PPO {} the mean reward of {}{} {}{}").format(verb, model, source, amount, price)
    before, after = (number(run.summary, "policy", name, "vader_positive") for name in ("sft", "ppo"))
    if before is not None and after is not None:
        words = "; VADER finds <b>{}</b> of its answers positive, before it was {}"
        sentence += Markup(words).format(percent(after), percent(before))
    return sentence + "."


def _answering(run: RunRecord, model: str) -> Markup:
    """The sentence of a run that was measured on tasks: form and accuracy from the first model to the last."""
    stages = model_names(run.evaluation)
    form = [figure(run.evaluation, stage, "mean", "answered") for stage in stages]
    right = [figure(run.evaluation, stage, "mean", "accuracy") for stage in stages]
    if not stages or not all(form) or not all(right):
        return Markup("")

    def course(values: list[Any]) -> Markup:
        parts = zip(stages, values, strict=True)
        return Markup(", ").join(Markup("{} <b>{}</b>").format(model_title(s), percent(v["value"])) for s, v in parts)

    words = "How often {} answers in the asked form: {}; how often rightly: {}"
    sentence = Markup(words).format(model, course(form), course(right))
    kl = figure(run.evaluation, stages[-1], "mean", "kl")
    return sentence + (Markup(", at <b>{} nats</b> of KL per answer.").format(fixed(kl["value"], 1)) if kl else ".")


def _so_far(run: RunRecord, model: str, source: str) -> Markup:
    """The sentence of a run that has not compared its policies yet."""
    score, kl = run.series("ppo", "objective/score"), run.series("ppo", "objective/kl")
    if score is not None and kl is not None:
        words = (
            "So far PPO has taken the reward of {}{} from {} to <b>{}</b> at <b>{} nats</b> of KL per answer, measured "
            "on its own rollouts."
        )
        first, last, distance = float(score.values[0]), float(score.values[-1]), float(kl.values[-1])
        return Markup(words).format(model, source, fixed(first), fixed(last), fixed(distance, 1))
    stages = {"pretrain": "pre-training", "sft": "fine-tuning", "reward": "the reward model", "ppo": "PPO"}
    seen = [stages[stage] for stage in run.stages()]
    records = f"on record so far: {_listed(seen)}" if seen else "nothing on record yet"
    return escape(f"{model[0].upper()}{model[1:]}{source}; {records}.")


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


class Tile(NamedTuple):
    """A figure that matters: the figure, its unit, what it is, and a remark."""

    figure: str
    unit: str
    name: str
    remark: str


def tiles(run: RunRecord) -> list[Tile]:
    """Up to five: gain, KL, the independent judge, the reward model, the time. What is unknown has no tile."""
    made: list[Tile] = []
    change = gain(run)
    if change is not None:
        big, unit = fixed(change.after - change.before, signed=True), "reward"
        if change.deviations is not None:
            big, unit = fixed(change.deviations, signed=True), "SFT std"
        remark = f"mean {fixed(change.before)} → {fixed(change.after)}"
        made.append(Tile(big, unit, "reward, SFT to PPO", remark))
        if change.kl is not None:
            made.append(Tile(fixed(change.kl, 1), "nats", "KL per answer", "away from the SFT model"))
    before, after = (number(run.summary, "policy", model, "vader_positive") for model in ("sft", "ppo"))
    if before is not None and after is not None:
        remark = f"SFT {percent(before)}; judge not used in training"
        made.append(Tile(percent(after), "", "VADER-positive answers", remark))
    accuracy = number(run.summary, "reward_model", "accuracy_gap_0_5")
    if accuracy is not None:
        human = number(run.summary, "human_rater", "accuracy_gap_0_5")
        rater = "simulated rater" if run.simulated else "human"
        remark = "pairs more than 0.5 apart" + (f"; one {rater} {percent(human, 1)}" if human is not None else "")
        made.append(Tile(percent(accuracy, 1), "", "reward-model accuracy", remark))
    total = number(run.summary, "seconds", "total")
    if total is not None:
        made.append(Tile(duration(total), "", "in all", "data to evaluation"))
    return made
