"""``textenv trajectories show|stats|compare``: look into trajectory stores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from textenv.errors import CheckpointError, ConfigError, DataError
from textenv.pages.numbers import MISSING, fixed, percent
from textenv.settings import NonNegativeInt, Settings, refuse_unused
from textenv.trajectories import Estimate, FrontierPoint, Summary, Trajectory, TrajectoryReader, summarize
from textenv.trajectories.views.summary import PairedComparison, compare_scores


@dataclass(frozen=True)
class StoreOptions(Settings):
    """What all ``textenv trajectories`` have.

    Attributes:
        stores: Folder of a trajectory store; several to compare.
        where: Wanted values by field, such as ``{finish_reason: eos, policy_version: 3}``.
    """

    stores: list[str] = field(metadata={"nargs": "+"})
    where: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ShowOptions(StoreOptions):
    """Options of ``textenv trajectories show``.

    Attributes:
        limit: Most answers that are shown (of a page: 200 by default).
        order: As stored, or by score.
        html: Write the per-token heat map to this file.
        tokenizer: Folder or hub name of the tokenizer that splits answers into tokens; the policy's by default.
    """

    limit: Annotated[int, Ge(0), "0 takes the usual number"] = 0
    order: Literal["stored", "best", "worst"] = "stored"
    html: str = ""
    tokenizer: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.html:
            refuse_unused(self, "without `html`, the page whose tokens it tells apart: give `--html FILE`", "tokenizer")


@dataclass(frozen=True)
class StatsOptions(StoreOptions):
    """Options of ``textenv trajectories stats``.

    Attributes:
        json: Print JSON instead of a table.
        seed: Of the bootstrap.
    """

    json: bool = False
    seed: NonNegativeInt = 0


@dataclass(frozen=True)
class CompareOptions(StatsOptions):
    """Options of ``textenv trajectories compare``.

    Attributes:
        frontier: Draw score against KL into this PNG file.
        names: Names of the stores in the same order; their folders' by default.
    """

    frontier: str = ""
    names: list[str] = field(default_factory=list)


def show(options: ShowOptions, console: Console) -> None:
    """Print answers, or write the heat map of them.

    Raises:
        ConfigError: If not exactly one store is named, or an option is unusable.
        DataError: If the store cannot be read or nothing matches.
    """
    store = _one(options.stores, "show")
    reader = _open(store, options.where)
    total = len(reader)
    if not total:
        raise DataError(f"{store}: no trajectory matches; loosen --where, or sample some")
    limit = options.limit or (200 if options.html else 10)
    if options.order == "stored":
        chosen = list(islice(reader, limit))
    else:
        scores = reader.columns(["score"]).array("score")
        ranked = np.argsort(scores if options.order == "worst" else -scores, kind="stable")[:limit]
        chosen = [reader[int(i)] for i in ranked]
    if options.html:
        from textenv.trajectories import write_heatmap

        folder = Path(options.html).parent
        if not folder.is_dir():
            raise ConfigError(f"`--html {options.html}`: there is no folder {folder}; make it first")
        title = f"{Path(store).name}: {len(chosen)} of {total} answers"
        path = write_heatmap(
            chosen, options.html, decode=_decoder(options.tokenizer, chosen[0]), title=title, limit=limit
        )
        console.print(str(path), highlight=False, soft_wrap=True)
        return
    for answer in chosen:
        _print_answer(answer, console)
    if total > len(chosen):
        console.print(f"{len(chosen)} of {total} answers; --limit shows more", style="bright_black", highlight=False)


def stats(options: StatsOptions, console: Console) -> None:
    """Print the figures of one store.

    Raises:
        ConfigError: If not exactly one store is named.
        DataError: If the store cannot be read or nothing matches.
    """
    name = _one(options.stores, "stats")
    summary = summarize(_open(name, options.where), np.random.default_rng(options.seed))
    if options.json:
        console.print(json.dumps(_plain(summary)), soft_wrap=True, highlight=False, markup=False)
    else:
        console.print(_table({Path(name).name: summary}, []))


def compare(options: CompareOptions, console: Console) -> None:
    """Print the figures of several stores; the first is what the others are compared with.

    Raises:
        ConfigError: If fewer than two stores are named, or the names do not fit.
        DataError: If a store cannot be read, or lacks what the frontier needs.
    """
    stores = options.stores
    if len(stores) < 2:
        raise ConfigError("compare needs at least two stores: textenv trajectories compare A B")
    names = options.names or _distinct([Path(store).name for store in stores])
    if len(set(names)) != len(stores):
        raise ConfigError(f"`names` must hold {len(stores)} different names, one per store, got {list(names)}")
    rng = np.random.default_rng(options.seed)
    summaries = {name: summarize(_open(store, options.where), rng) for name, store in zip(names, stores, strict=True)}
    first = summaries[names[0]]
    paired = [None, *(compare_scores(first, summaries[name]) for name in names[1:])]
    if options.frontier:
        _frontier(summaries, options.frontier)
    if options.json:
        rows = {name: _plain(summary) for name, summary in summaries.items()}
        for name, found in zip(names, paired, strict=True):
            rows[name]["against_first"] = (
                None if found is None else found._asdict() | {"difference": found.difference._asdict()}
            )
        console.print(json.dumps(rows), soft_wrap=True, highlight=False, markup=False)
        return
    console.print(_table(summaries, paired))
    if options.frontier:
        console.print(options.frontier, highlight=False, soft_wrap=True)


# --- pieces -----------------------------------------------------------------------------------------------------------


def _one(stores: Sequence[str], action: str) -> str:
    if len(stores) != 1:
        raise ConfigError(f"{action} takes one store, got {len(stores)}; compare takes several")
    return stores[0]


def _open(store: str, where: Mapping[str, Any]) -> TrajectoryReader:
    reader = TrajectoryReader(store)
    return reader.where(where) if where else reader


def _distinct(names: list[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name} {i + 1}" for i, name in enumerate(names)]


def _decoder(tokenizer: str, answer: Trajectory) -> Any:
    """The tokenizer's ``decode``: the named one's, else that of the policy's folder, else None."""
    source = tokenizer or (answer.policy if answer.policy and Path(answer.policy).is_dir() else "")
    if not source:
        return None
    from textenv.pretrained import load_tokenizer

    try:
        return load_tokenizer(source).decode
    except CheckpointError as error:
        raise ConfigError(f"cannot load a tokenizer from `{source}`: {error}; name one with --tokenizer") from error


def _print_answer(answer: Trajectory, console: Console) -> None:
    score = fixed(answer.score, 3, signed=True)
    facts = [f"score {score}", f"{len(answer)} tokens", answer.finish_reason, f"version {answer.policy_version}"]
    if answer.ref_logprobs is not None and answer.knows_behaviour:
        facts.append(f"log-ratio {fixed(float((answer.behaviour_logprobs - answer.ref_logprobs).sum()), 2)} nats")
    console.print(Text(answer.prompt, style="bold"))
    console.print(Text(answer.response.strip() or "(empty)", style="" if answer.response.strip() else "italic"))
    console.print(Text(" · ".join(facts) + f"   {answer.traj_id}", style="bright_black"))
    console.print()


def _frontier(summaries: Mapping[str, Summary], path: str) -> None:
    from textenv.trajectories import write_frontier

    folder = Path(path).parent
    if not folder.is_dir():
        raise ConfigError(f"`--frontier {path}`: there is no folder {folder}; make it first")
    points = [FrontierPoint.of(name, summary) for name, summary in summaries.items()]
    # Best-of-n is a frontier of the reference: of the set that is (all but) equal to it.
    nearest = min(summaries.values(), key=lambda s: s.best_kl.value if s.best_kl is not None else np.inf)
    at_reference = nearest.best_kl is not None and abs(nearest.best_kl.value) < 1e-2
    write_frontier(points, path, best_of_n=nearest.best_of_n if at_reference else None)


def _table(summaries: Mapping[str, Summary], paired: Sequence[PairedComparison | None]) -> Table:
    unequal = len({s.answers for s in summaries.values()}) > 1
    caption = "distinct-n and self-BLEU depend on the number of answers, which differs" if unequal else None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    table.add_column("")
    for name in summaries:
        table.add_column(name, justify="right")
    all_of = list(summaries.values())

    def row(title: str, cells: Sequence[str]) -> None:
        if any(cell != MISSING for cell in cells):
            table.add_row(title, *cells)

    row("answers", [f"{s.answers:,}" for s in all_of])
    row("repeated draws, left out", [_count(s.repeated_answers) for s in all_of])
    row("prompts", [f"{s.prompts:,}" for s in all_of])
    row("tokens", [f"{s.tokens:,}" for s in all_of])
    row("tokens per answer", [_with_error(s.length, 1) for s in all_of])
    for reason in ("eos", "stop", "length", "aborted"):
        shares = [s.finish_reasons.get(reason) for s in all_of]
        row(f"ended by {reason}", [percent(share, 1) for share in shares])
    row("score, 95% interval", [_with_interval(s) for s in all_of])
    row("score, standard deviation", [fixed(s.score_std, 3) for s in all_of])
    row("entropy, nats per token", [_with_error(s.entropy, 3) for s in all_of])
    for name, title in (("exact", "exact"), ("k1", "k1"), ("k2", "k2"), ("k3", "k3")):
        row(f"KL to reference, {title}", [_with_error(s.kl.get(name), 3) for s in all_of])
    row("distinct-1", [fixed(s.distinct_1, 3) for s in all_of])
    row("distinct-2", [fixed(s.distinct_2, 3) for s in all_of])
    row("self-BLEU", [fixed(s.self_bleu, 3) for s in all_of])
    row("effective sample size", [percent(s.ess_share, 1) for s in all_of])
    row("sampler left out tokens", [_count(s.truncated_answers) for s in all_of])
    row("chosen by a method: no KL, no ESS", [_count(s.selected_answers) for s in all_of])
    for n in sorted({int(k) for s in all_of if s.best_of_n is not None for k in s.best_of_n.n if k > 1}):
        row(f"expected best of {n}", [_best_of(s, n) for s in all_of])
    if any(found is not None for found in paired):
        table.add_section()
        row("score against the first", [_difference(found) for found in paired])
        row("wins against the first", [MISSING if p is None else percent(p.wins, 1) for p in paired])
        row("shared prompts", [MISSING if p is None else f"{p.prompts:,}" for p in paired])
    return table


def _count(number: int) -> str:
    return f"{number:,}" if number else MISSING


def _with_error(estimate: Estimate | None, digits: int) -> str:
    if estimate is None:
        return MISSING
    error = f" ± {fixed(estimate.standard_error, digits)}" if np.isfinite(estimate.standard_error) else ""
    return fixed(estimate.value, digits) + error


def _with_interval(summary: Summary) -> str:
    if summary.score is None or summary.score_interval is None:
        return MISSING
    return _in_interval(summary.score.value, summary.score_interval, signed=False)


def _best_of(summary: Summary, n: int) -> str:
    curve = summary.best_of_n
    if curve is None or n not in curve.n:
        return MISSING
    return fixed(float(curve.values[curve.n == n][0]), 3)


def _difference(found: PairedComparison | None) -> str:
    if found is None:
        return MISSING
    return _in_interval(found.difference.value, found.interval, signed=True)


def _in_interval(value: float, ends: tuple[float, float], *, signed: bool) -> str:
    """A value with its interval, where one is known."""
    if not np.isfinite(ends[0]):
        return fixed(value, 3, signed=signed)
    low, high = (fixed(end, 3, signed=signed) for end in ends)
    return f"{fixed(value, 3, signed=signed)} [{low}, {high}]"


def _plain(summary: Summary) -> dict[str, Any]:
    """A summary as JSON can hold it; NaN becomes null, and the scores of single prompts are left out."""

    def plain(value: Any) -> Any:
        if isinstance(value, Estimate):
            return {"value": plain(value.value), "standard_error": plain(value.standard_error), "units": value.units}
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_asdict"):
            return plain(value._asdict())  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(value, np.ndarray):
            return [plain(entry) for entry in value.tolist()]
        if isinstance(value, tuple):
            return [plain(entry) for entry in value]
        return None if isinstance(value, float) and not np.isfinite(value) else value

    return {name: plain(value) for name, value in vars(summary).items() if name != "prompt_scores"}
