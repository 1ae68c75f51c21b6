"""Draws against exact distributions, written out in plain numpy, and against transformers' own processors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers.generation.logits_process as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare

from textenv.errors import ConfigError, ShapeError
from textenv.sampling import SamplingParams, draw, trajectory_uniforms

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5, -3.0, 1.5, -0.2])
SEEN = [1, 3]

SETTINGS = {
    "plain": SamplingParams(),
    "cold": SamplingParams(temperature=0.5),
    "hot": SamplingParams(temperature=2.5),
    "top-k": SamplingParams(top_k=3),
    "top-p": SamplingParams(top_p=0.8),
    "min-p": SamplingParams(min_p=0.2),
    "typical": SamplingParams(typical_p=0.6),
    "penalty": SamplingParams(repetition_penalty=1.7),
    "allow": SamplingParams(allow_tokens=(0, 3, 5)),
    "deny": SamplingParams(deny_tokens=(0, 6)),
    "all": SamplingParams(2.0, 6, 0.9, min_p=0.1, typical_p=0.9, repetition_penalty=1.3, deny_tokens=(4,)),
}


def exact(logits: NDArray[np.float64], params: SamplingParams, seen: list[int]) -> NDArray[np.float64]:
    """Probabilities of the next token by the definitions, one row, no cleverness."""
    z = logits.astype(np.float64).copy()
    for token in set(seen):
        z[token] = z[token] * params.repetition_penalty if z[token] < 0 else z[token] / params.repetition_penalty
    if params.allow_tokens is not None:
        z[[i for i in range(len(z)) if i not in params.allow_tokens]] = -np.inf
    z[list(params.deny_tokens)] = -np.inf
    p = np.exp((z - z.max()) / params.temperature)
    p /= p.sum()
    if params.top_k:
        p[p < np.sort(p)[::-1][min(params.top_k, len(p)) - 1]] = 0
        p /= p.sum()
    if params.top_p < 1:
        order = np.argsort(-p, kind="stable")
        before = np.cumsum(p[order]) - p[order]
        p[order[before >= params.top_p]] = 0
        p /= p.sum()
    if params.min_p:
        p[p < params.min_p * p.max()] = 0
        p /= p.sum()
    if params.typical_p < 1:
        information = -np.log(p, out=np.full_like(p, -np.inf), where=p > 0)
        distance = np.abs(information - (p[p > 0] * information[p > 0]).sum())
        order = np.argsort(distance, kind="stable")
        last = min(int((np.cumsum(p[order]) < params.typical_p).sum()), len(p) - 1)
        p[distance > distance[order[last]]] = 0
        p /= p.sum()
    return p


def history(n: int, seen: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the seen tokens, followed by padding that must not count."""
    return np.tile([*seen, 0, 6], (n, 1)), np.full(n, len(seen))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SETTINGS)
def test_draws_follow_the_exact_distribution(name: str, dtype: torch.dtype):
    n, params = 20_000, SETTINGS[name]
    uniforms = np.random.default_rng(0).random(n)
    drawn = draw(LOGITS.to(dtype).expand(n, 8), params, uniforms, history=history(n, SEEN))
    probs = exact(LOGITS.double().numpy(), params, SEEN)
    counts = np.bincount(drawn.tokens.numpy(), minlength=8)
    assert counts[probs == 0].sum() == 0
    assert chisquare(counts[probs > 0], probs[probs > 0] * n).pvalue > 1e-3
    np.testing.assert_allclose(drawn.behaviour_logprobs.numpy(), np.log(probs[drawn.tokens.numpy()]), atol=1e-6)
    own = LOGITS.double().log_softmax(0)[drawn.tokens]
    np.testing.assert_allclose(drawn.logprobs.numpy(), own.numpy(), atol=1e-6)


@pytest.mark.parametrize("vocabulary", [65, pytest.param(3001, marks=pytest.mark.slow), 4096])
@pytest.mark.parametrize("name", SETTINGS)
def test_draws_from_wide_vocabularies_follow_the_exact_distribution(name: str, vocabulary: int):
    """Wide enough for several blocks, the last one short, and for the path that sorts only likely tokens."""
    n, rng, params = 20_000, np.random.default_rng(1), SETTINGS[name]
    logits = torch.from_numpy(2 * rng.normal(size=vocabulary).astype(np.float32))
    rows = 40
    drawn = [
        draw(logits.expand(rows, vocabulary), params, u, history=history(rows, SEEN))
        for u in rng.random((n // rows if vocabulary < 100 else 10, rows))
    ]
    tokens = torch.cat([d.tokens for d in drawn]).numpy()
    probs = exact(logits.double().numpy(), params, SEEN)
    assert (probs[tokens] > 0).all()
    np.testing.assert_allclose(
        torch.cat([d.behaviour_logprobs for d in drawn]).numpy(), np.log(probs[tokens]), atol=1e-6
    )
    if vocabulary < 100:
        likely = probs * n >= 5
        counts = np.bincount(tokens, minlength=vocabulary)
        observed = [*counts[likely], counts[~likely].sum()]
        expected = np.array([*probs[likely], max(probs[~likely].sum(), 1e-12)]) * n
        keep = expected > 1
        assert (
            chisquare(np.array(observed)[keep], expected[keep] * np.sum(observed) / expected[keep].sum()).pvalue > 1e-3
        )


def test_a_uniform_grid_gives_each_token_its_share_of_a_large_vocabulary():
    """Float32 cumulative sums over 49,152 entries would move the shares; these are right to one grid step."""
    n, vocabulary = 16_384, 49_152
    logits = 2 * torch.randn(vocabulary, generator=torch.Generator().manual_seed(0))
    grid = (np.arange(n) + 0.5) / n
    tokens = torch.cat([draw(logits.expand(64, -1), SamplingParams(), u).tokens for u in grid.reshape(-1, 64)])
    cumulative = logits.double().softmax(0).cumsum(0).numpy()
    expected = np.searchsorted(cumulative, grid, side="right")
    # Where the two differ, the grid point lies within 1e-8 of the boundary between neighbours.
    off = np.flatnonzero(tokens.numpy() != expected)
    assert len(off) <= 0.001 * n
    assert (np.abs(cumulative[np.minimum(tokens.numpy(), expected)[off]] - grid[off]) < 1e-7).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_logprobs_over_a_large_vocabulary_are_exact_to_1e_6(dtype: torch.dtype, temperature: float):
    logits = (3 * torch.randn(6, 49_152, generator=torch.Generator().manual_seed(1))).to(dtype)
    drawn = draw(logits, SamplingParams(temperature), np.linspace(0.01, 0.99, 6))
    for found, scale in ((drawn.behaviour_logprobs, temperature), (drawn.logprobs, 1.0)):
        expected = (logits.double() / scale).log_softmax(-1).gather(1, drawn.tokens[:, None]).squeeze(1)
        np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-6)


def warpers(params: SamplingParams) -> list:
    """Transformers' processors in the order of its ``generate``."""
    found: list = []
    if params.repetition_penalty != 1:
        found.append(hf.RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.deny_tokens:
        found.append(hf.SuppressTokensLogitsProcessor(list(params.deny_tokens)))
    if params.temperature != 1:
        found.append(hf.TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        found.append(hf.TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        found.append(hf.TopPLogitsWarper(params.top_p))
    if params.min_p:
        found.append(hf.MinPLogitsWarper(params.min_p))
    if params.typical_p < 1:
        found.append(hf.TypicalLogitsWarper(params.typical_p))
    return found


@pytest.mark.parametrize("vocabulary", [50, 5000])
@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "allow"])
def test_draws_have_the_probabilities_of_transformers_processors(name: str, vocabulary: int):
    rng, params = np.random.default_rng(5), SETTINGS[name]
    logits = torch.from_numpy(2 * rng.normal(size=(24, vocabulary)).astype(np.float32))
    tokens = rng.integers(vocabulary, size=(24, 12))
    ids: Any = torch.from_numpy(tokens)
    scores = logits.double()
    for warper in warpers(params):
        scores = warper(ids, scores)
    theirs = scores.log_softmax(-1)
    kept = []
    for _ in range(20):
        drawn = draw(logits, params, rng.random(24), history=(tokens, np.full(24, 12)))
        expected = theirs.gather(1, drawn.tokens[:, None]).squeeze(1)
        np.testing.assert_allclose(drawn.behaviour_logprobs.numpy(), expected.numpy(), atol=1e-6)
        kept.append(expected)
    assert torch.stack(kept).isfinite().all()


def test_greedy_equals_transformers_where_a_penalty_moves_the_largest():
    logits = torch.tensor([[3.0, 2.9, -1.0]])
    ids: Any = torch.tensor([[0]])
    theirs = hf.RepetitionPenaltyLogitsProcessor(1.5)(ids, logits.clone()).argmax(-1)
    params = SamplingParams(temperature=0, repetition_penalty=1.5, top_k=1)
    ours = draw(logits, params, np.zeros(1), history=(ids.numpy(), np.ones(1, np.int64)))
    assert ours.tokens.tolist() == theirs.tolist() == [1]
    assert ours.behaviour_logprobs.tolist() == [0]
    assert ours.logprobs.item() == pytest.approx(logits.log_softmax(-1)[0, 1].item())


def test_greedy_takes_the_first_of_equals():
    logits = torch.zeros(2, 300)
    logits[0, [70, 250]] = 1
    assert draw(logits, SamplingParams(temperature=0), np.zeros(2)).tokens.tolist() == [70, 0]


def test_top_k_keeps_equals_of_the_last_as_transformers_does():
    logits = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]]).expand(500, 5)
    drawn = draw(logits, SamplingParams(top_k=2), np.random.default_rng(0).random(500))
    assert set(drawn.tokens.tolist()) == {0, 1, 2, 3}
    mass = np.exp(2) + 3 * np.exp(1)
    assert drawn.behaviour_logprobs[drawn.tokens == 0][0].item() == pytest.approx(2 - np.log(mass))


def test_a_forbidden_token_is_never_drawn_even_at_the_edges():
    allowed = torch.tensor([False, True, False, True, False, False, False, False])
    for u in (0.0, 0.5, np.nextafter(1, 0)):
        for params in (
            SamplingParams(),
            SamplingParams(0.3),
            SamplingParams(top_p=0.99),
            SamplingParams(typical_p=0.5),
        ):
            assert draw(LOGITS[None], params, np.array([u]), allowed=allowed).tokens.item() in (1, 3)


@pytest.mark.parametrize("vocabulary", [7, 64, 130, 3000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_impossible_tokens_at_both_ends_are_never_drawn(vocabulary: int, dtype: torch.dtype):
    logits = torch.full((4, vocabulary), -torch.inf, dtype=dtype)
    logits[:, 2 : vocabulary - 3] = 0.0
    drawn = draw(logits, SamplingParams(), np.array([0.0, 1e-300, np.nextafter(1, 0), 0.3]))
    assert drawn.tokens.min() >= 2
    assert drawn.tokens.max() < vocabulary - 3


def test_steep_logits_stay_exact():
    """Far below the largest logit float32 exponentials underflow: such tokens have no share, and nothing is NaN."""
    logits = torch.tensor([[0.0, -40.0, -200.0, -5000.0]]).expand(3, 4)
    drawn = draw(logits, SamplingParams(temperature=0.05), np.array([0.0, 0.5, np.nextafter(1, 0)]))
    assert drawn.tokens.tolist() == [0, 0, 0]
    np.testing.assert_allclose(drawn.behaviour_logprobs.numpy(), 0, atol=1e-12)


finite = st.floats(-20, 20, allow_subnormal=False)  # compiled kernels may have switched subnormals off


@settings(max_examples=60, deadline=None)
@given(
    st.lists(finite, min_size=2, max_size=12),
    st.builds(
        SamplingParams,
        temperature=st.floats(0.1, 3),
        top_k=st.integers(0, 14),
        top_p=st.floats(0.05, 1, allow_subnormal=False),
        min_p=st.floats(0, 1, allow_subnormal=False),
        typical_p=st.floats(0.05, 1, allow_subnormal=False),
        repetition_penalty=st.floats(0.5, 2),
    ),
    st.floats(0, 1, exclude_max=True, allow_subnormal=False),
)
def test_any_setting_draws_inside_the_support_with_the_probability_it_reports(logits, params, u):
    rows = torch.tensor([logits], dtype=torch.float64)
    n = len(logits)
    grid = (np.arange(4000) + 0.5) / 4000
    drawn = draw(
        rows.expand(4001, n),
        params,
        np.append(grid, u),
        history=(np.zeros((4001, 1), np.int64), np.ones(4001, np.int64)),
    )
    probs = drawn.behaviour_logprobs.exp().numpy()
    tokens = drawn.tokens.numpy()
    reported = {token: probs[tokens == token] for token in set(tokens.tolist())}
    for token, values in reported.items():
        assert np.ptp(values) < 1e-12
        assert abs((tokens[:4000] == token).mean() - values[0]) < 1e-3
    assert sum(values[0] for values in reported.values()) == pytest.approx(1, abs=n * 2.6e-4)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 2**31))
def test_a_row_does_not_depend_on_the_batch_around_it(order, seed):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(6, 200)).astype(np.float32))
    u = rng.random(6)
    params = SamplingParams(0.8, 50, 0.9)
    together, shuffled = draw(logits, params, u), draw(logits[list(order)], params, u[list(order)])
    assert together.tokens[list(order)].tolist() == shuffled.tokens.tolist()
    alone = [draw(logits[i : i + 1], params, u[i : i + 1]) for i in range(6)]
    assert together.tokens.tolist() == [a.tokens.item() for a in alone]
    assert together.behaviour_logprobs.tolist() == [a.behaviour_logprobs.item() for a in alone]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_head_cut_to_its_vocabulary_draws_as_the_whole(name: str):
    """A slice of a padded head is not contiguous."""
    padded = torch.randn(5, 300, generator=torch.Generator().manual_seed(2))
    u = np.linspace(0, 0.99, 5)
    for params in (SETTINGS[name], SamplingParams(temperature=0)):
        cut = draw(padded[:, :200], params, u, history=history(5, SEEN))
        whole = draw(padded[:, :200].contiguous(), params, u, history=history(5, SEEN))
        assert cut.tokens.tolist() == whole.tokens.tolist()
        assert cut.behaviour_logprobs.tolist() == whole.behaviour_logprobs.tolist()


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=0), SamplingParams(top_p=0.5)])
def test_no_rows_give_no_tokens(params: SamplingParams):
    assert [len(part) for part in draw(torch.zeros(0, 70), params, np.zeros(0))] == [0, 0, 0]


def test_logits_are_not_changed():
    logits = LOGITS.clone()[None]
    for params in SETTINGS.values():
        draw(logits, params, np.array([0.4]), history=history(1, SEEN))
    assert torch.equal(logits[0], LOGITS)


@pytest.mark.parametrize(
    ("logits", "params", "kwargs", "error", "message"),
    [
        (torch.tensor([[0.0, 1.0], [torch.nan, 0.0]]), SamplingParams(), {}, ConfigError, "row 1 has no token"),
        (
            torch.zeros(1, 2),
            SamplingParams(),
            {"allowed": torch.zeros(2, dtype=torch.bool)},
            ConfigError,
            "row 0 has no",
        ),
        (
            torch.zeros(1, 2),
            SamplingParams(temperature=0),
            {"allowed": torch.zeros(2, dtype=torch.bool)},
            ConfigError,
            "row 0 has no token that can be drawn",
        ),
        (torch.zeros(1, 2), SamplingParams(repetition_penalty=2.0), {}, ConfigError, "needs `history`"),
        (
            torch.zeros(2, 2),
            SamplingParams(repetition_penalty=2.0),
            {"history": (np.zeros((1, 1), int), np.ones(1, int))},
            ShapeError,
            "`history` has 1 rows",
        ),
        (torch.zeros(1, 2), SamplingParams(deny_tokens=(2,)), {}, ConfigError, "names token 2; the last one is 1"),
        (torch.zeros(1, 2), SamplingParams(allow_tokens=(5,)), {}, ConfigError, "names token 5; the last one is 1"),
    ],
    ids=["nan", "masked", "masked greedy", "no history", "history rows", "deny", "allow"],
)
def test_draw_bad_use_is_refused(logits, params, kwargs, error, message):
    with pytest.raises(error, match=message):
        draw(logits, params, np.full(len(logits), 0.5), **kwargs)


def test_trajectory_uniforms_depend_on_seed_and_number_alone():
    alone = trajectory_uniforms(3, np.array([7]), 5)
    beside = trajectory_uniforms(3, np.array([2, 7, 9]), 9)
    np.testing.assert_array_equal(alone[0], beside[1, :5])
    assert (trajectory_uniforms(4, np.array([7]), 5) != alone).all()
    assert trajectory_uniforms(3, np.array([], np.int64), 5).shape == (0, 5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", SETTINGS)
def test_draws_on_a_gpu_equal_those_on_the_cpu(name: str):
    rng = np.random.default_rng(3)
    logits = torch.from_numpy(2 * rng.normal(size=(64, 5000)).astype(np.float32))
    args = SETTINGS[name], rng.random(64)
    rows = history(64, SEEN)
    here, there = draw(logits, *args, history=rows), draw(logits.cuda(), *args, history=rows)
    assert (here.tokens == there.tokens.cpu()).float().mean() > 0.98
    same = here.tokens == there.tokens.cpu()
    np.testing.assert_allclose(
        here.behaviour_logprobs[same].numpy(), there.behaviour_logprobs.cpu()[same].numpy(), atol=1e-5
    )


@pytest.mark.parametrize(
    ("uniforms", "error", "message"),
    [
        (np.array([0.1, 0.2]), ShapeError, r"has shape \(2,\), expected \(3,\)"),
        (np.array([0.1, 0.2, 1.0]), ConfigError, r"must lie in \[0, 1\)"),
        (np.array([0.1, np.nan, 0.2]), ConfigError, r"must lie in \[0, 1\)"),
    ],
)
def test_uniforms_that_cannot_be_are_refused(uniforms: np.ndarray, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        draw(torch.zeros(3, 2000), SamplingParams(), uniforms)
