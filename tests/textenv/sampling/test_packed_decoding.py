from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tests.textenv.sampling.models import MODELS
from textenv.kernels import DocumentTokens, kernels
from textenv.sampling import packed_decoding


def test_models_of_other_kinds_are_left_to_transformers():
    for name in ("gpt2", "gemma3", "mistral with a window", "qwen2 with a window"):
        assert packed_decoding.packed_decoder(MODELS[name]()) is None


def test_a_model_that_only_looks_like_a_known_kind_is_found_out(caplog: pytest.LogCaptureFixture):
    model = MODELS["llama"]()
    model.base_model.layers[0].mlp.register_forward_hook(lambda module, args, output: output * 2)
    with caplog.at_level(logging.WARNING):
        assert packed_decoding.packed_decoder(model) is None
    assert "packed form differs" in caplog.text


def test_a_packed_model_is_made_once_and_dies_with_the_model():
    model = MODELS["llama"]()
    assert packed_decoding.packed_decoder(model) is packed_decoding.packed_decoder(model)
    before = len(packed_decoding._packed)
    del model
    import gc

    gc.collect()
    assert len(packed_decoding._packed) < before


needs_compiler = pytest.mark.skipif(kernels() is None, reason="no C compiler")


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 8), (37, 576), (20, 65)])
def test_compiled_norm_equals_torch(dtype: torch.dtype, shape: tuple[int, int]):
    compiled = kernels()
    assert compiled is not None
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(shape, generator=generator).to(dtype), torch.randn(shape[1], generator=generator).to(dtype)
    expected = torch.nn.functional.rms_norm(x.float(), weight.shape, weight.float(), 1e-5)
    found = compiled.rms_norm(x, weight, 1e-5)
    assert found.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(found.float(), expected, atol=1e-6, rtol=tolerance)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(9, 3, 64), (4, 4, 128), (6, 1, 24)])
@pytest.mark.parametrize("threads", ["openmp", "one"])
def test_compiled_attention_equals_plain_arithmetic(
    dtype: torch.dtype, heads: int, kv_heads: int, dim: int, threads: str, monkeypatch: pytest.MonkeyPatch
):
    compiled = kernels()
    assert compiled is not None
    if threads == "one":
        monkeypatch.setattr(compiled, "_parallel", None)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    lengths = torch.tensor([1, 7, 32, 33, 70])
    rows, slots, positions, groups = len(lengths), 8, 71, heads // kv_heads
    places = torch.tensor([6, 0, 3, 2, 7])
    qkv = random(rows, heads + 2 * kv_heads, dim).to(dtype)
    keys, values = random(slots, positions, kv_heads, dim).to(dtype), random(slots, positions, kv_heads, dim).to(dtype)
    angles = random(rows, dim // 2)
    cos, sin = torch.cat([angles.cos()] * 2, 1), torch.cat([angles.sin()] * 2, 1)
    expected_keys, expected_values = keys.clone(), values.clone()

    def turned(x: torch.Tensor, row: int) -> torch.Tensor:
        x = x.float()
        return x * cos[row] + torch.cat([-x[:, dim // 2 :], x[:, : dim // 2]], 1) * sin[row]

    expected = []
    for row, (place, length) in enumerate(zip(places.tolist(), lengths.tolist(), strict=True)):
        expected_keys[place, length - 1] = turned(qkv[row, heads : heads + kv_heads], row).to(dtype)
        expected_values[place, length - 1] = qkv[row, heads + kv_heads :]
        k = expected_keys[place, :length].float().repeat_interleave(groups, 1)
        v = expected_values[place, :length].float().repeat_interleave(groups, 1)
        scores = torch.einsum("hd,jhd->hj", turned(qkv[row, :heads], row), k) * 0.2
        expected.append(torch.einsum("hj,jhd->hd", scores.softmax(-1), v).reshape(-1))
    found = compiled.decode_attention(qkv, cos, sin, keys, values, places, lengths - 1, lengths, heads=heads, scale=0.2)
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.float(), torch.stack(expected), atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(keys.float(), expected_keys.float(), atol=1e-6, rtol=tolerance)
    assert torch.equal(values, expected_values)


@needs_compiler
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim"),
    [(4, 4, 64), (6, 2, 24), (3, 1, 7), (2, 2, 80)],
    ids=["plain", "grouped", "odd", "wide"],
)
def test_compiled_attention_of_documents_equals_torch(heads: int, kv_heads: int, dim: int):
    compiled = kernels()
    assert compiled is not None
    generator = torch.Generator().manual_seed(heads)
    # Two that go on differently after 20 common tokens, one that an other begins with, and some on their own.
    paths = [[*range(33)], [*range(20), *range(33, 50)], [*range(9)], [50], [*range(51, 130)], [130, 131]]
    own = [0, 20, 9, 0, 0, 0]
    places = DocumentTokens(
        tokens=torch.tensor([token for path in paths for token in path]),
        starts=torch.tensor([0, *np.cumsum([len(path) for path in paths])]),
        repeated=torch.tensor([0, *np.cumsum(own)]),
        again=torch.tensor([token for path, count in zip(paths, own, strict=True) for token in path[:count]]),
        longest=79,
    )
    count, scale = 132, 0.3
    q = torch.randn(heads, count, dim, generator=generator).transpose(0, 1)  # strided, as models have them
    k, v = torch.randn(2, count, kv_heads, dim, generator=generator)
    by_out = torch.randn(count, heads, dim, generator=generator)
    found = compiled.document_attention(q, k, v, places, scale)
    slopes = compiled.document_attention_gradient(q, k, v, places, scale, found, by_out)

    exact = [each.double().requires_grad_() for each in (q, k, v)]
    expected = torch.full_like(by_out, torch.nan, dtype=torch.float64)
    for path, begin in zip(paths, own, strict=True):
        queries, keys, values = (each[path].transpose(0, 1)[None] for each in exact)
        out = scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scale, enable_gqa=True)
        expected[path[begin:]] = out[0].transpose(0, 1)[begin:]
    (expected * by_out).sum().backward()
    torch.testing.assert_close(found[0].double(), expected.detach(), atol=2e-6, rtol=2e-5)
    for slope, leaf in zip(slopes, exact, strict=True):
        torch.testing.assert_close(slope.double(), leaf.grad, atol=1e-5, rtol=2e-5)


def test_helpers_can_be_switched_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TEXTENV_KERNELS", "0")
    assert kernels.__wrapped__() is None


def test_without_a_working_compiler_there_are_no_helpers(monkeypatch: pytest.MonkeyPatch, tmp_path, caplog):
    monkeypatch.setenv("CC", "false")
    monkeypatch.setenv("TEXTENV_CACHE", str(tmp_path))
    with caplog.at_level(logging.INFO):
        assert kernels.__wrapped__() is None
    assert "decoding without compiled helpers" in caplog.text


@needs_compiler
def test_subnormal_numbers_stay_switched_on():
    kernels()
    assert (torch.tensor([1e-20]) * torch.tensor([1e-20])).item() > 0


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [5, 512, 1300])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.3, 2.0])
def test_compiled_draw_is_the_inverse_of_the_cumulative_distribution(
    dtype: torch.dtype, vocabulary: int, temperature: float
):
    compiled = kernels()
    assert compiled is not None
    generator = torch.Generator().manual_seed(0)
    wide = (torch.randn(40, vocabulary + 3, generator=generator) * 4).to(dtype)
    wide[:, ::3] = -torch.inf
    logits = wide[:, :vocabulary]  # rows further apart than they are long
    points = torch.rand(40, generator=generator, dtype=torch.float64)
    found = compiled.draw(logits, points, temperature)
    exact = (logits.double() / temperature).softmax(-1).cumsum(-1)
    assert torch.equal(found.tokens, torch.searchsorted(exact, points[:, None], right=True).squeeze(1))
    torch.testing.assert_close(found.tops, logits.double().amax(-1))
    for totals, divisor in ((found.totals, temperature), (found.plain_totals, 1.0)):
        expected = (logits.double() / divisor).logsumexp(-1)
        torch.testing.assert_close(found.tops / divisor + totals.log(), expected, atol=5e-7, rtol=0)


@needs_compiler
@pytest.mark.parametrize("point", [0.0, 0.5, 1 - 2**-53])
def test_compiled_draw_never_takes_an_impossible_token(point: float):
    compiled = kernels()
    assert compiled is not None
    logits = torch.full((3, 2000), -torch.inf)
    logits[0, 700], logits[1, 1999], logits[2, 3:5] = 0.0, -50.0, 7.0
    found = compiled.draw(logits, torch.full((3,), point, dtype=torch.float64))
    assert found.tokens[:2].tolist() == [700, 1999]
    assert found.tokens[2] in (3, 4)


@needs_compiler
@pytest.mark.parametrize("bad", [torch.nan, -torch.inf])
def test_compiled_draw_shows_rows_without_a_distribution(bad: float):
    compiled = kernels()
    assert compiled is not None
    logits = torch.full((1, 1500), bad)
    found = compiled.draw(logits, torch.tensor([0.3], dtype=torch.float64))
    assert not (found.tops + found.totals.log()).isfinite().any()


@pytest.mark.slow
@pytest.mark.skipif(kernels() is None, reason="needs a C compiler")
def test_compiled_helpers_use_the_threads_of_torch():
    """Also where another library brought an OpenMP runtime of its own before: two sets of threads slow each other."""
    pytest.importorskip("sklearn")
    program = """
import sklearn.metrics
from textenv.kernels import _openmp_entry
entry = _openmp_entry()
for line in open("/proc/self/maps"):
    begin, end = (int(part, 16) for part in line.split()[0].split("-"))
    if begin <= entry < end:
        print(line.split()[-1])
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert any(part in ("torch", "torch.libs") for part in Path(told.strip()).parts)
