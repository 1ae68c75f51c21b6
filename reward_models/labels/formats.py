"""The field's files of labels by name: which columns tell them, and how their rows are read.

Most are a :class:`LabelColumns`; those without one stand in the usual columns (`reward_models.labels.columns`). A new
one is an entry of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reward_models.labels.column_map import LabelColumns, MappedRow
from textenv.answers import decoded
from textenv.errors import ConfigError, DataError, UnusableRow

Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class LabelFormat:
    """One data set's form.

    Attributes:
        title: The data set.
        needs: Columns by which it is told.
        columns: What they mean; None: they are the usual ones.
        prepare: Makes another row of a row, before its columns are looked at.
        rows: Makes rows in the usual columns, where no map can.
        fits: What else must hold of a row.
        attributes: By name the columns that can be the rating.
        attribute: The one that is taken if nobody says; ``mean`` for the mean of all.
        scale: Of each attribute.
        note: What of it is left out that no column's name tells.
    """

    title: str
    needs: frozenset[str]
    columns: LabelColumns | None = None
    prepare: Callable[[Mapping[str, Any], str], Mapping[str, Any]] | None = None
    rows: Callable[[Mapping[str, Any], str], Rows] | None = None
    fits: Callable[[Mapping[str, Any]], bool] = lambda row: True
    attributes: Mapping[str, str] = field(default_factory=dict)
    attribute: str = ""
    scale: tuple[int, int] | None = None
    note: str = ""

    def of(self, attribute: str | Mapping[str, float] | None, name: str) -> tuple[LabelColumns | None, bool, str]:
        """The map for a choice of attributes, whether their mean is asked for, and the choice in words.

        Raises:
            ConfigError: If there is nothing to choose, or no such attribute.
        """
        chosen = attribute or self.attribute
        if not chosen:
            return self.columns, False, ""
        if not self.attributes or self.columns is None:
            raise ConfigError(
                f"`attribute` has no effect: labels of the format {name} have no attributes; leave it out"
            )
        mean = chosen == "mean"
        weights = {chosen: 1.0} if isinstance(chosen, str) else dict(chosen)
        unknown = sorted(weights.keys() - self.attributes.keys()) if not mean else []
        if unknown:
            raise ConfigError(
                f"`attribute`: {name} has no {unknown[0]!r}; it has {', '.join(self.attributes)}, and `mean`"
            )
        if mean:
            weights = {each: 1.0 for each in self.attributes if each not in _TOTALS}
        whole = self.scale is not None and list(weights.values()) == [1.0] and next(iter(weights)) not in _TOTALS
        columns = replace(
            self.columns,
            rating="",
            attributes={self.attributes[each]: weight for each, weight in weights.items()},
            scale=list(self.scale or ()) if whole else [],
        )
        shown = " + ".join(each if weight == 1 else f"{weight:g} {each}" for each, weight in weights.items())
        return columns, mean, f"rating: {'mean of ' + ', '.join(weights) if mean else shown}"


_TOTALS = {"overall_score", "fine-grained_score"}  # they sum up the others, so they are not part of a mean
_EXTRA_TURN = "<extra_id_1>"


def _prm800k(row: Mapping[str, Any], where: str) -> Rows:
    """Every rated completion once: the path that was gone on with, and each other completion behind its beginning."""
    question, label = (_object(row[name], f"{where}: field `{name}`") for name in ("question", "label"))
    steps, path, labels = label.get("steps") or [], [], []
    common = {"prompt": question.get("problem"), "rater": row.get("labeler"), "step_separator": "\n"}
    for step in steps:
        completions, chosen = step.get("completions") or [], step.get("chosen_completion")
        for place, completion in enumerate(completions):
            if place != chosen and completion.get("rating") is not None:
                rated = [*[None] * len(path), _step_label(completion["rating"], where)]
                yield common | {"completions": [*path, completion["text"]], "labels": rated}
        taken, rating = None, None
        if chosen is not None:
            if chosen not in range(len(completions)):  # data frames make it a float
                raise DataError(f"{where}: field `chosen_completion`: expected an index, got {chosen!r}")
            taken, rating = completions[int(chosen)]["text"], completions[int(chosen)].get("rating")
        elif step.get("human_completion"):
            human = step["human_completion"]
            taken, rating = human if isinstance(human, str) else human["text"], 1
        if taken is None and len(completions) == 1 and completions[0].get("rating") is None:
            taken = completions[0]["text"]  # where it ended, unrated
        if taken is None:
            break
        path.append(taken)
        labels.append(None if rating is None else _step_label(rating, where))
    if path or not steps:
        yield common | {"completions": path, "labels": labels}


def _step_label(rating: Any, where: str) -> float:
    if rating not in (1, 0, -1):
        raise DataError(f"{where}: field `rating`: expected 1, 0, -1 or null, got {rating!r}")
    return (rating + 1) / 2


def _object(cell: Any, where: str) -> Mapping[str, Any]:
    found = decoded(cell, where) if isinstance(cell, str) else cell
    if not isinstance(found, Mapping):
        raise DataError(f"{where}: expected an object, got {repr(found)[:80]}")
    return found


def _summarize(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The post as its raters and policies saw it (Stiennon et al. 2020, arXiv:2009.01325, appendix B.3)."""
    info = _object(row["info"], f"{where}: field `info`")
    if info.get("post"):
        prompt = f"SUBREDDIT: r/{info.get('subreddit')}\n\nTITLE: {info.get('title')}\n\nPOST: {info['post']}\n\nTL;DR:"
    elif info.get("article"):
        prompt = f"Article: {info['article']}\n\nTL;DR:"
    else:
        raise UnusableRow(where, "no `post` and no `article`")
    return {**row, "prompt": prompt, "info": info}


def _arena_55k(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The turns of both conversations put together; null is an answer that never came."""
    turns: dict[str, list[Any]] = {}
    for name in ("prompt", "response_a", "response_b"):
        cell = row[name]
        turns[name] = decoded(cell, f"{where}: field `{name}`") if isinstance(cell, str) else cell
        if not isinstance(turns[name], list) or len(turns[name]) != len(turns["prompt"]):
            raise DataError(f"{where}: field `{name}`: expected a list of turns, as many as in `prompt`")
        if not all(isinstance(turn, str) for turn in turns[name]):
            raise UnusableRow(where, f"a turn of `{name}` is null")
        if any("\ud800" <= letter <= "\udfff" for turn in turns[name] for letter in turn):
            raise UnusableRow(where, f"`{name}` holds half a character")
    made = dict(row)
    for name in ("response_a", "response_b"):
        made[name] = [
            {"role": role, "content": said}
            for pair in zip(turns["prompt"], turns[name], strict=True)
            for role, said in zip(("user", "assistant"), pair, strict=True)
        ]
    return made


def _turns_of_prompt(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """HelpSteer writes earlier turns into the prompt, each behind a marker with its role."""
    prompt = row["prompt"]
    if not isinstance(prompt, str) or _EXTRA_TURN not in prompt:
        return row
    first, *later = prompt.split(_EXTRA_TURN)
    messages = [{"role": "user", "content": first.strip()}] if first.strip() else []
    for turn in later:
        role, _, said = turn.partition("\n")
        if said.strip():
            messages.append({"role": role.strip().lower(), "content": said.strip()})
    return {**row, "prompt": messages}


def _starts_with(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda row: all(isinstance(row[each], str) and row[each].lstrip().startswith("Human:") for each in names)


def _needs(names: str) -> frozenset[str]:
    return frozenset(names.split())


_HELPFULNESS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
_ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
_NEGATIVE_FIRST: dict[str | int, str | float] = {"<0": "a", "0": "tie", ">0": "b"}

FORMATS: dict[str, LabelFormat] = {
    "hh_rlhf": LabelFormat("Anthropic/hh-rlhf", _needs("chosen rejected"), fits=_starts_with("chosen", "rejected")),
    "ultrafeedback": LabelFormat(
        "openbmb/UltraFeedback",
        _needs("instruction completions"),
        LabelColumns(
            prompt="instruction", answers="completions.response", rating="completions.overall_score", source="source"
        ),
        attributes={
            **{name: f"completions.annotations.{name}.Rating" for name in _ASPECTS},
            **{name: f"completions.{name}" for name in sorted(_TOTALS)},
        },
        attribute="mean",
        scale=(1, 5),
        note="left out: `custom_system_prompt`, which the judges did not see and which differs from answer to answer",
    ),
    "ultrafeedback_binarized": LabelFormat(
        "HuggingFaceH4/ultrafeedback_binarized", _needs("chosen rejected score_chosen score_rejected")
    ),
    "helpsteer2_preference": LabelFormat(
        "nvidia/HelpSteer2, preference",
        _needs("prompt response_1 response_2 preference_strength"),
        LabelColumns(
            prompt="prompt",
            answers=["response_1", "response_2"],
            preference="preference_strength",
            coding=_NEGATIVE_FIRST,
        ),
        prepare=_turns_of_prompt,
    ),
    "helpsteer2": LabelFormat(
        "nvidia/HelpSteer2",
        _needs("prompt response " + " ".join(_HELPFULNESS)),
        LabelColumns(prompt="prompt", answers="response", rating="helpfulness"),
        prepare=_turns_of_prompt,
        attributes={name: name for name in _HELPFULNESS},
        attribute="helpfulness",
        scale=(0, 4),
    ),
    "summarize_comparisons": LabelFormat(
        "openai/summarize_from_feedback, comparisons",
        _needs("info summaries choice"),
        LabelColumns(
            prompt="prompt",
            answers="summaries.text",
            preference="choice",
            coding={"0": "a", "1": "b"},
            rater="worker",
            item="info.id",
        ),
        prepare=_summarize,
    ),
    "shp": LabelFormat(
        "stanfordnlp/SHP",
        _needs("history human_ref_A human_ref_B labels"),
        LabelColumns(
            prompt="history",
            answers=["human_ref_A", "human_ref_B"],
            preference="labels",
            coding={"1": "a", "0": "b"},
            source="domain",
        ),
    ),
    "arena_33k": LabelFormat(
        "lmsys/chatbot_arena_conversations",
        _needs("conversation_a conversation_b winner"),
        LabelColumns(
            answers=["conversation_a", "conversation_b"], preference="winner", rater="judge", item="question_id"
        ),
    ),
    "arena_55k": LabelFormat(
        "lmarena-ai/arena-human-preference-55k",
        _needs("prompt response_a response_b winner_model_a winner_model_b winner_tie"),
        LabelColumns(
            answers=["response_a", "response_b"],
            preference=["winner_model_a", "winner_model_b", "winner_tie"],
            item="id",
        ),
        prepare=_arena_55k,
    ),
    "orca_dpo_pairs": LabelFormat(
        "Intel/orca_dpo_pairs",
        _needs("system question chosen rejected"),
        LabelColumns(prompt="question", system="system", chosen="chosen", rejected="rejected"),
    ),
    "prm800k": LabelFormat(
        "openai/prm800k",
        _needs("question label"),
        rows=_prm800k,
        fits=lambda row: "steps" in row["label"] and "problem" in row["question"],
    ),
    "trl_steps": LabelFormat("trl-lib/prm800k, trl-lib/math_shepherd", _needs("prompt completions labels")),
    "kto": LabelFormat("KTO's rows", _needs("prompt completion label")),
    "trl_hh_rlhf": LabelFormat("trl-lib/hh-rlhf-helpful-base", _needs("prompt chosen rejected")),
    "skywork_preference": LabelFormat("Skywork/Skywork-Reward-Preference-80K", _needs("chosen rejected")),
    "columns": LabelFormat("the usual columns", frozenset()),
}
"""Formats by name; where two fit a row, the earlier one is meant (``columns`` fits all)."""

_USUAL = ("trl_hh_rlhf", "skywork_preference")  # no more than the usual columns, so nothing is recognised in them


def candidates(columns: Iterable[str]) -> Sequence[str]:
    """Names of the formats that rows with these columns may have, ``columns`` the last."""
    there = set(columns)
    return [name for name, each in FORMATS.items() if each.needs <= there and name not in _USUAL]


def usual_rows(
    form: LabelFormat, columns: LabelColumns | None, row: Mapping[str, Any], where: str, seen: set[str], mean: bool
) -> Iterator[Mapping[str, Any]]:
    """A row of a format as rows of the usual columns.

    Args:
        form: The format.
        columns: Its map, with the attributes that are chosen.
        row: Columns by name.
        where: File and line, for messages.
        seen: Gets the mapped columns that are there.
        mean: Take the mean of the attributes.

    Raises:
        UnusableRow: If nothing in it could be used.
        DataError: If a cell cannot be what the format says.
    """
    try:
        prepared = form.prepare(row, where) if form.prepare else row
        if form.rows is not None:
            yield from form.rows(prepared, where)
        elif columns is not None:
            yield from MappedRow(columns, prepared, where, seen, mean=mean).usual()
        else:
            yield prepared
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{where}: not as {form.title} has it: {type(error).__name__} {error}") from error
