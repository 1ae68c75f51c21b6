from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, Qwen3Config

import agents.lm.document_attention as document_attention
from agents.lm.document_attention import Documents, packed_states

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
KINDS = {
    "llama": LlamaConfig(**SIZES),  # fewer heads of keys than of queries
    "qwen3": Qwen3Config(**SIZES, head_dim=6),
    "gpt2": GPT2Config(vocab_size=60, n_embd=24, n_layer=2, n_head=2, n_positions=64),
}
LENGTHS = ([5, 1, 17, 9, 8], [40], [1] * 10 + [30], [20, 20])


def build(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def rows(lengths: Any = LENGTHS) -> tuple[torch.Tensor, torch.Tensor]:
    positions = torch.tensor([np.concatenate([np.arange(n) for n in row]).tolist() for row in lengths])
    return torch.randint(60, positions.shape, generator=torch.Generator().manual_seed(1)), positions


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """Documents of every forward pass that attended by them."""
    found: list[int] = []
    original = Documents.from_positions.__func__  # type: ignore[attr-defined]  # of a class method

    def counting(cls: Any, positions: torch.Tensor) -> Documents:
        made = original(cls, positions)
        found.append(made.count)
        return made

    monkeypatch.setattr(Documents, "from_positions", classmethod(counting))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_states_and_gradients_are_those_of_every_document_alone(kind: str, calls):
    model = build(KINDS[kind])
    tokens, positions = rows()
    states = packed_states(model, tokens, positions)
    wanted = torch.randn(states.shape, generator=torch.Generator().manual_seed(2))
    (states * wanted).sum().backward()
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert calls[-1] == sum(len(row) for row in LENGTHS)

    model.zero_grad()
    alone = torch.empty_like(states)
    for row, lengths in enumerate(LENGTHS):
        for end, size in zip(np.cumsum(lengths), lengths, strict=True):
            part = slice(int(end) - size, int(end))
            own = model.base_model(input_ids=tokens[None, row, part], use_cache=False).last_hidden_state[0]
            alone[row, part] = own.detach()
            (own * wanted[row, part]).sum().backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(states.detach(), alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert model.config._attn_implementation == "sdpa"


def test_noise_on_the_embeddings_is_drawn_once(calls):
    model = build(KINDS["llama"])
    seen = []
    model.get_input_embeddings().register_forward_hook(lambda *_: seen.append(1))
    packed_states(model, *rows())
    assert len(seen) == 1


def test_every_place_is_in_one_group_and_comes_back():
    _, positions = rows()
    documents = Documents.from_positions(positions)
    assert torch.equal(documents.places[documents.inverse], torch.arange(positions.numel()))
    assert sum(count * size for count, size in documents.groups) == len(documents.places)
    begin = 0
    for count, size in documents.groups:
        for document in documents.places[begin : begin + count * size].view(count, size).tolist():
            inside = len(set(document))
            assert document[:inside] == list(range(document[0], document[0] + inside))
            assert set(document[inside:]) <= {document[0]}
        begin += count * size


def test_a_row_begins_a_document_also_where_its_positions_go_on():
    documents = Documents.from_positions(torch.tensor([[0, 1, 2, 3], [4, 5, 0, 1]]))
    assert sorted(documents.groups) == [(3, 4)]


def test_one_document_a_row_is_attended_to_as_usual(calls, monkeypatch):
    monkeypatch.setattr(document_attention, "_attending", None)  # would be called
    model = build(KINDS["llama"])
    monkeypatch.setitem(document_attention._suitable, model, True)
    packed_states(model, *rows(([40], [40])))
    assert calls == [2]


def masked(model: Any) -> torch.Tensor:
    tokens, positions = rows()
    return model.base_model(input_ids=tokens, position_ids=positions, use_cache=False).last_hidden_state


@pytest.mark.parametrize(
    "case", ["window", "layers", "eager", "deaf", "wrong", "bfloat16", "checkpointing", "training"]
)
def test_models_that_it_does_not_suit_are_masked(case: str, monkeypatch):
    config = KINDS["llama"]
    if case == "window":
        config = MistralConfig(**SIZES, sliding_window=4)
    elif case == "layers":
        config = Qwen3Config(**SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    model = build(config)
    if case == "eager":
        model.set_attn_implementation("eager")
    elif case == "bfloat16":
        model.to(torch.bfloat16)
    elif case == "checkpointing":
        model.base_model.layers[1].gradient_checkpointing = True
    elif case == "training":
        model.train()
    elif case == "deaf":  # takes the arguments and does not hand them on
        plain = model.base_model.forward
        monkeypatch.setattr(model.base_model, "forward", lambda documents=None, **each: plain(**each))
    elif case == "wrong":
        states = document_attention._states
        monkeypatch.setattr(
            document_attention,
            "_states",
            lambda *a, documents=None, **each: states(*a, **each) + (documents is not None),
        )
    assert not document_attention._suits(model)
    torch.testing.assert_close(packed_states(model, *rows()), masked(model), atol=0, rtol=0)
