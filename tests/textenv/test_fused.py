"""Fused norms and gates against the modules they replace, in value and gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

import textenv.fused
from textenv.fused import fuse
from textenv.kernels import kernels
from textenv.mixed_precision import ComputeCopy

pytestmark = pytest.mark.skipif(kernels() is None, reason="needs a C compiler")
CONFIG = LlamaConfig(
    vocab_size=60,
    hidden_size=48,
    intermediate_size=100,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)


def norm() -> LlamaRMSNorm:
    module = LlamaRMSNorm(48, eps=1e-5)
    nn.init.normal_(module.weight, 1.0, 0.3)
    return module


def gradients(module, x, slopes):
    module.zero_grad()
    leaf = x.clone().requires_grad_()
    out = module(leaf)
    out.backward(slopes)
    return [out.detach(), leaf.grad, *(p.grad for p in module.parameters())]


@pytest.mark.parametrize("make", [norm, lambda: LlamaMLP(CONFIG)], ids=["norm", "gate"])
@pytest.mark.parametrize("rows", [1, 3, 200])
def test_values_and_gradients_equal_the_modules(make, rows):
    torch.manual_seed(0)
    module = make()
    fused = copy.deepcopy(module)
    assert fuse(fused) == 1
    x, slopes = torch.randn(2, rows, 48), torch.randn(2, rows, 48)
    for ours, theirs in zip(
        gradients(fused, x, slopes), gradients(module.double(), x.double(), slopes.double()), strict=True
    ):
        torch.testing.assert_close(ours.double(), theirs, atol=2e-4, rtol=2e-5)


@pytest.mark.parametrize("make", [norm, lambda: LlamaMLP(CONFIG)], ids=["norm", "gate"])
def test_bfloat16_is_at_least_as_exact_as_the_modules(make):
    torch.manual_seed(0)
    module = make().bfloat16()
    fused = copy.deepcopy(module)
    fuse(fused)
    x, slopes = torch.randn(2, 100, 48).bfloat16(), torch.randn(2, 100, 48).bfloat16()
    exact = gradients(copy.deepcopy(module).double(), x.double(), slopes.double())
    for ours, theirs, truth in zip(gradients(fused, x, slopes), gradients(module, x, slopes), exact, strict=True):
        assert (ours.double() - truth).norm() <= 1.05 * (theirs.double() - truth).norm()


def test_gate_far_from_zero_stays_finite():
    gate = torch.tensor([[-1e4, -100.0, -88.0, 0.0, 88.0, 1e4]], requires_grad=True)
    out = textenv.fused._Gate.apply(gate, torch.ones_like(gate))
    out.sum().backward()
    torch.testing.assert_close(out, torch.nn.functional.silu(gate))
    torch.testing.assert_close(gate.grad, torch.tensor([[0.0, 0.0, 0.0, 0.5, 1.0, 1.0]]), atol=1e-6, rtol=0)


def test_copies_of_a_fused_model_use_their_own_weights():
    module = norm()
    fuse(module)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        module.weight.zero_()
    assert twin(torch.randn(3, 48)).abs().sum() > 0


def test_gradients_are_the_same_bits_with_any_number_of_threads():
    torch.manual_seed(0)
    module = norm().bfloat16()
    fuse(module)
    x, slopes = torch.randn(333, 48).bfloat16(), torch.randn(333, 48).bfloat16()
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(gradients(module, x, slopes))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_modules_of_another_kind_are_left_alone(monkeypatch):
    assert fuse(GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2))) == 0
    assert fuse(GemmaRMSNorm(48)) == 0

    class Shifted(LlamaRMSNorm):
        def forward(self, hidden_states):
            return super().forward(hidden_states) + 1

    assert fuse(Shifted(48)) == 0
    gelu = copy.deepcopy(CONFIG)
    gelu.hidden_act = "gelu"
    assert fuse(LlamaMLP(gelu)) == 0
    monkeypatch.setattr(textenv.fused, "kernels", lambda: None)
    assert fuse(norm()) == 0


@pytest.mark.parametrize(
    ("model", "modules"),
    [
        (lambda: LlamaForCausalLM(CONFIG), 2 * 2 + 1 + 2),
        (
            lambda: Qwen3ForCausalLM(
                Qwen3Config(
                    vocab_size=60,
                    hidden_size=48,
                    intermediate_size=100,
                    num_hidden_layers=1,
                    num_attention_heads=4,
                    num_key_value_heads=2,
                    head_dim=12,
                )
            ),
            2 + 2 + 1 + 1,
        ),
    ],
    ids=["llama", "qwen3"],
)
def test_bfloat16_copy_of_a_whole_model_is_fused_and_as_exact(model, modules, monkeypatch):
    torch.manual_seed(0)
    whole = model().eval()
    ids = torch.randint(60, (4, 12))
    reference = whole(ids, labels=ids)
    reference.loss.backward()
    exact = {name: p.grad.clone() for name, p in whole.named_parameters()}
    errors = []
    for fused in (True, False):
        whole.zero_grad()
        if not fused:
            monkeypatch.setattr("textenv.mixed_precision.fuse", lambda model: 0)
        compute = ComputeCopy(whole, torch.bfloat16)
        changed = [module for module in compute.model.modules() if type(module).__name__.startswith("Fused")]
        assert len(changed) == (modules if fused else 0)
        compute.model(ids, labels=ids).loss.backward()
        compute.pull_gradients()
        errors.append(sum(float((p.grad - exact[name]).norm()) for name, p in whole.named_parameters()))
    assert errors[0] < 1.1 * errors[1]


def test_fused_twin_computes_with_the_weights_of_the_model():
    whole = LlamaForCausalLM(CONFIG).eval()
    ids = torch.randint(60, (4, 12), generator=torch.Generator().manual_seed(0))
    expected = torch.autograd.grad(whole(ids, labels=ids).loss, list(whole.parameters()))
    compute = ComputeCopy(whole, None, fused=True)
    compute.model(ids, labels=ids).loss.backward()

    assert any(type(module).__name__.startswith("Fused") for module in compute.model.modules())
    assert not any(type(module).__name__.startswith("Fused") for module in whole.modules())
    for own, twin, gradient in zip(whole.parameters(), compute.model.parameters(), expected, strict=True):
        assert own is twin
        torch.testing.assert_close(own.grad, gradient, atol=1e-6, rtol=1e-4)
    assert compute.model.lm_head.weight is whole.lm_head.weight


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_types_are_left_alone(dtype):
    model = LlamaForCausalLM(CONFIG).to(dtype)
    assert fuse(model) == 0
    assert ComputeCopy(model, None, fused=True).model is model


def test_model_without_anything_to_fuse_is_its_own_twin():
    model = torch.nn.Linear(3, 3)
    assert ComputeCopy(model, None, fused=True).model is model
