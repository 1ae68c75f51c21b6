"""``write_heatmap``: answers token by token, coloured by log-ratio, advantage, value, …, in one HTML file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textenv.checkpoints import write_atomic
from textenv.errors import ConfigError, DataError
from textenv.pages.page import STATIC, render_alone
from textenv.trajectory import Trajectory

Decode = Callable[[Sequence[int]], str]


class Quantity(NamedTuple):
    """What a token can be coloured by.

    Attributes:
        key: Name in the page.
        title: As people read it.
        unit: Unit, or an empty text.
        scale: ``"signed"`` has two colours around 0, ``"positive"`` one from 0 up.
        of: Its values for a trajectory, None where they are not known.
        meaning: One sentence for the legend.
        total: Whether the sum over an answer means something.
    """

    key: str
    title: str
    unit: str
    scale: Literal["signed", "positive"]
    of: Callable[[Trajectory], NDArray[Any] | None]
    meaning: str
    total: bool = False


def _log_ratio(t: Trajectory) -> NDArray[Any] | None:
    return None if t.ref_logprobs is None else t.logprobs - t.ref_logprobs


QUANTITIES = (
    Quantity(
        "log_ratio", "log-ratio", "nats", "signed", _log_ratio,
        "log π(token) − log π_ref(token): above 0 the policy likes the token more than the reference does.", True,
    ),
    Quantity("advantages", "advantage", "", "signed", lambda t: t.advantages,
             "How much better the token turned out than what the critic expected before it."),
    Quantity("values", "value", "", "signed", lambda t: t.values, "The critic's estimate before the token."),
    Quantity("returns", "return", "", "signed", lambda t: t.returns, "What the critic is trained towards."),
    Quantity("rewards", "reward", "", "signed", lambda t: t.rewards, "What the learner was paid for the token.", True),
    Quantity("surprise", "surprise", "nats", "positive", lambda t: -t.logprobs,
             "−log π(token): how unlikely the policy found what was drawn.", True),
    Quantity("entropy", "entropy", "nats", "positive", lambda t: t.entropy,
             "How undecided the policy was before the token."),
    Quantity("exact_kl", "exact KL", "nats", "positive", lambda t: t.exact_kl,
             "KL to the reference of the distribution that the token was drawn from.", True),
)  # fmt: skip
"""In the order in which the page offers them."""


def write_heatmap(
    trajectories: Iterable[Trajectory],
    path_html: str | Path,
    *,
    decode: Decode | None = None,
    title: str = "Answers, token by token",
    limit: int = 200,
) -> Path:
    """Write a page that shows answers with each token coloured by a quantity that the reader chooses.

    Args:
        trajectories: A store, a slice of one, or a list; the first ``limit`` are shown.
        path_html: Where to write; its folder must exist.
        decode: Text of token ids, such as ``tokenizer.decode``; None shows the ids and the answer's text above them.
        title: The page's heading.
        limit: Most answers on the page.

    Returns:
        ``path_html``.

    Raises:
        ConfigError: If the limit is below 1.
        DataError: If there is no trajectory, or nothing is known about any token.
    """
    if limit < 1:
        raise ConfigError(f"`limit` must be ≥ 1, got {limit}")
    shown = list(islice(trajectories, limit))
    if not shown:
        raise DataError("there are no trajectories to show; loosen the filter, or sample some")
    answers = [_answer(trajectory, decode) for trajectory in shown]
    offered = [q for q in QUANTITIES if any(q.key in answer["q"] for answer in answers)]
    if not offered:
        raise DataError("no trajectory says anything about its tokens (no log-probs, values, advantages, …)")
    data = {
        "quantities": [
            {"key": q.key, "title": q.title, "unit": q.unit, "scale": q.scale, "meaning": q.meaning, "total": q.total}
            for q in offered
        ],
        "answers": answers,
    }
    own = Path(__file__).parent / "static"
    styles, scripts = [STATIC / "theme.css", own / "heatmap.css"], [own / "heatmap.js"]
    package = "textenv.trajectories.views"
    page = render_alone(package, "heatmap.html", styles=styles, scripts=scripts, data=data, title=title)
    write_atomic(Path(path_html), page)
    return Path(path_html)


def token_texts(token_ids: Sequence[int], decode: Decode) -> list[str]:
    """The text that each token adds; empty for tokens that hold only a part of a character.

    Args:
        token_ids: Ids of an answer.
        decode: Text of token ids.
    """
    pieces, done = [], ""
    for end in range(1, len(token_ids) + 1):
        text = decode(list(token_ids[:end]))
        whole = text if end == len(token_ids) else text.rstrip("\ufffd")
        if whole.startswith(done):
            pieces.append(whole[len(done) :])
            done = whole
        else:  # the tokenizer changed what it had said before
            pieces.append(decode([token_ids[end - 1]]))
            done = text
    return pieces


def _answer(trajectory: Trajectory, decode: Decode | None) -> dict[str, Any]:
    ids = trajectory.token_ids.tolist()
    values = {}
    for quantity in QUANTITIES:
        array = quantity.of(trajectory)
        if array is None or not len(array) or np.isnan(array).all():
            continue
        values[quantity.key] = [round(v, 4) if math.isfinite(v) else None for v in array.astype(float).tolist()]
    answer: dict[str, Any] = {
        "prompt": trajectory.prompt,
        "ids": ids,
        "finish": trajectory.finish_reason,
        "q": values,
        "score": None if trajectory.score is None else round(trajectory.score, 4),
        "name": trajectory.traj_id,
        "version": trajectory.policy_version,
    }
    if decode is not None:
        answer["tokens"] = token_texts(ids, decode)
    else:
        answer["response"] = trajectory.response
    if trajectory.action_mask is not None and not trajectory.action_mask.all():
        answer["mask"] = trajectory.action_mask.astype(int).tolist()
    return answer
