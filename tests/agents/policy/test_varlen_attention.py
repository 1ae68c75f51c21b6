from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from itertools import pairwise
from time import sleep
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DogeConfig,
    FalconConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)

from agents.policy import varlen_attention as module
from agents.policy.forward import SequenceBatch, response_hidden
from agents.policy.varlen_attention import Documents, packed_states
from textenv.kernels import DocumentTokens, kernels

needs_compiler = pytest.mark.skipif(kernels() is None, reason="no C compiler")

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
    return AutoModelForCausalLM.from_config(deepcopy(config)).eval()


def rows(lengths: Any = LENGTHS) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, of which there are so few kinds that documents begin alike, and positions."""
    positions = torch.tensor([np.concatenate([np.arange(n) for n in row]).tolist() for row in lengths])
    tokens = torch.randint(3, positions.shape, generator=torch.Generator().manual_seed(1))
    return tokens.masked_fill(positions == 0, 0), positions


def everywhere(tokens: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(tokens, dtype=torch.bool)


def somewhere(tokens: torch.Tensor) -> torch.Tensor:
    wanted = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(4)) < 0.3
    wanted[1] = False
    return wanted


@pytest.fixture
def made(monkeypatch) -> list[Documents]:
    """The documents of every forward pass that attended by them."""
    found: list[Documents] = []
    original = Documents.of_rows.__func__  # type: ignore[attr-defined]  # of a class method

    def keeping(cls: Any, *arguments: Any, **options: Any) -> Documents:
        found.append(original(cls, *arguments, **options))
        return found[-1]

    monkeypatch.setattr(Documents, "of_rows", classmethod(keeping))
    return found


Choose = Callable[[torch.Tensor], torch.Tensor]


def documents_of(places: DocumentTokens) -> list[list[int]]:
    bounds = places.starts.tolist()
    return [places.tokens[begin:end].tolist() for begin, end in pairwise(bounds)]


def gradients(model: Any) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@needs_compiler
@pytest.mark.parametrize("choose", [everywhere, somewhere])
@pytest.mark.parametrize("hooked", [False, True], ids=["shared", "hooked"])
@pytest.mark.parametrize("kind", KINDS)
def test_states_and_gradients_are_those_of_every_document_alone(kind: str, hooked: bool, choose: Choose, made):
    model = build(KINDS[kind])
    if hooked:
        model.get_input_embeddings().register_forward_hook(lambda *_: None)
    tokens, positions = rows()
    wanted = choose(tokens)
    states, own = packed_states(model, tokens, positions, wanted)
    assert own is not None
    assert (made[-1].tokens.numel() == tokens.numel()) == hooked
    factors = torch.randn(int(wanted.sum()), states.shape[1], generator=torch.Generator().manual_seed(2))
    (states[own] * factors).sum().backward()
    found = gradients(model)

    model.zero_grad()
    alone = torch.zeros(*tokens.shape, states.shape[1])
    for row, lengths in enumerate(LENGTHS):
        for end, size in zip(np.cumsum(lengths), lengths, strict=True):
            part = slice(int(end) - size, int(end))
            alone[row, part] = model.base_model(input_ids=tokens[None, row, part], use_cache=False).last_hidden_state[0]
    (alone[wanted] * factors).sum().backward()
    torch.testing.assert_close(states[own].detach(), alone[wanted].detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, gradients(model), atol=1e-4, rtol=1e-4)
    assert model.config._attn_implementation == "sdpa"


@needs_compiler
def test_noise_on_the_embeddings_is_drawn_once_for_every_place():
    model = build(KINDS["llama"])
    tokens, positions = rows()
    seen = []
    model.get_input_embeddings().register_forward_hook(lambda _, __, output: seen.append(output.shape[:2]))
    packed_states(model, tokens, positions, everywhere(tokens))
    assert seen == [tokens.shape]


@pytest.mark.parametrize("seed", range(20))
def test_a_token_is_read_once_for_all_documents_that_begin_so(seed: int):
    rng = np.random.default_rng(seed)
    lengths = []
    for _ in range(4):
        cuts = np.sort(rng.choice(np.arange(1, 24), 5, replace=False))
        lengths.append(np.diff([0, *cuts, 24]).tolist())
    tokens, positions = rows(lengths)
    tokens = torch.from_numpy(rng.integers(0, 2, tokens.shape))
    positions[0] += int(rng.integers(0, 2))  # a document that was begun elsewhere is no other's like
    wanted = torch.from_numpy(rng.random(tokens.shape) < 0.4)
    wanted[2, 5] = True
    found = Documents.of_rows(tokens, positions, wanted, shared=True)

    beginnings, read = set(), {}
    ids, places = found.tokens.flatten().tolist(), found.positions.flatten().tolist()
    paths = documents_of(found.places)
    at = 0
    for row in range(4):
        for begin, end in pairwise([0, *np.cumsum(lengths[row]).tolist()]):
            asked = wanted[row, begin:end].nonzero().flatten().tolist()
            if not asked:
                continue
            path, at = paths[at], at + 1
            text = list(zip(tokens[row, begin:end].tolist(), positions[row, begin:end].tolist(), strict=True))
            assert [(ids[place], places[place]) for place in path] == text[: asked[-1] + 1]
            assert [path[place] for place in asked] == found.states.view(4, 24)[row, begin:end][asked].tolist()
            for length, place in enumerate(path, start=1):
                beginning = tuple(text[:length])
                assert read.setdefault(beginning, place) == place
                beginnings.add(beginning)
    assert at == len(paths)
    assert sorted(read.values()) == list(range(len(ids))) == list(range(len(beginnings)))
    repeats = found.places.repeated.diff().tolist()
    assert found.places.again.tolist() == [n for path, count in zip(paths, repeats, strict=True) for n in path[:count]]
    own = [place for path, count in zip(paths, repeats, strict=True) for place in path[count:]]
    assert sorted(own) == list(range(len(ids)))
    assert found.places.longest == max(map(len, paths))


def test_a_document_that_comes_again_costs_nothing():
    tokens = torch.arange(8).repeat(3, 2)
    positions = torch.arange(8).repeat(3, 2)
    found = Documents.of_rows(tokens, positions, everywhere(tokens), shared=True)
    assert found.tokens.tolist() == [list(range(8))]


def test_common_beginnings_are_looked_for_among_the_first_tokens_only(monkeypatch):
    monkeypatch.setattr(module, "_LONGEST_COMMON", 5)
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4, 5, 6, 8]])
    positions = torch.arange(7).repeat(1, 2)
    found = Documents.of_rows(tokens, positions, everywhere(tokens), shared=True)
    first, second = documents_of(found.places)
    assert found.tokens.tolist() == [[1, 2, 3, 4, 5, 6, 7, 6, 8]]
    assert (first, second) == ([*range(7)], [*range(5), 7, 8])


def test_a_row_begins_a_document_also_where_its_positions_go_on():
    tokens, positions = torch.arange(8).view(2, 4), torch.tensor([[0, 1, 2, 3], [4, 5, 0, 1]])
    found = Documents.of_rows(tokens, positions, everywhere(tokens), shared=True)
    assert found.places.starts.diff().tolist() == [4, 2, 2]


@pytest.mark.parametrize("case", ["one a row", "nothing wanted"])
def test_what_gains_nothing_is_attended_to_as_usual(case: str, made):
    model = build(KINDS["llama"])
    tokens, positions = rows(([40], [40]) if case == "one a row" else LENGTHS)
    wanted = everywhere(tokens) if case == "one a row" else ~everywhere(tokens)
    module._suits(model)
    made.clear()
    states, own = packed_states(model, tokens, positions, wanted)
    assert (len(states), own, made) == (int(wanted.sum()), None, [])


def test_a_model_that_is_small_or_of_another_kind_is_read_as_usual():
    models = [
        build(GPT2Config(vocab_size=60, n_embd=24, n_layer=1, n_head=2, n_positions=4)),
        build(FalconConfig(vocab_size=60, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, alibi=False)),
        build(FalconConfig(vocab_size=60, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, alibi=True)),
        build(DogeConfig(**SIZES, keep_window_size=4)),
    ]
    batch = SequenceBatch.from_ids([[1, 2], [3]], [[4], [5]])
    for model in models:
        found, _ = response_hidden(model, batch)
        assert not module._suits(model)
        whole = model.base_model(input_ids=batch.tokens[:, :4], use_cache=False).last_hidden_state
        torch.testing.assert_close(found, torch.stack([whole[0, 1], whole[1, 0]]))


def test_what_a_layer_adds_to_causal_attention_is_never_left_out(monkeypatch):
    model = build(KINDS["llama"])
    tokens, positions = rows()
    assert module._suits(model) == (kernels() is not None)
    model.base_model.layers[1].self_attn.attention_dropout = 0.5
    model.base_model.layers[1].self_attn.training = True
    monkeypatch.setattr(module, "_suits", lambda model: module._suitable.get(model, True))
    states, own = packed_states(model, tokens, positions, everywhere(tokens))
    assert (own, module._suitable[model], len(states)) == (None, False, tokens.numel())


def test_under_autocast_rows_are_read_as_usual():
    model = build(KINDS["llama"])
    tokens, positions = rows()
    packed_states(model, tokens, positions, everywhere(tokens))
    with torch.autocast("cpu", torch.bfloat16):
        states, own = packed_states(model, tokens, positions, everywhere(tokens))
    assert own is None
    torch.testing.assert_close(states.float(), masked(model).flatten(0, 1), atol=0.1, rtol=0.1)


def test_the_trial_waits_for_another_threads_call():
    model = build(KINDS["llama"])
    other = type(model)(model.config).eval()
    tokens, positions = rows()
    found = Documents.of_rows(tokens, positions, everywhere(tokens), shared=True)
    with ThreadPoolExecutor(1) as pool:
        with module._attending(model, found):
            tried = pool.submit(module._suits, other)
            sleep(0.2)
            assert not tried.done() or kernels() is None
        assert tried.result() == (kernels() is not None)


def masked(model: Any) -> torch.Tensor:
    tokens, positions = rows()
    return model.base_model(input_ids=tokens, position_ids=positions, use_cache=False).last_hidden_state


CONFIGS = {
    "window": MistralConfig(**SIZES, sliding_window=4),
    "layers": Qwen3Config(**SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "rotation by the batch": LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    ),
}
CASES = ["eager", "own attention", "wrong", "raises", "bfloat16", "checkpointing", "training", "half in training"]


@pytest.mark.parametrize("case", [*CONFIGS, *CASES, "uncompiled"])
def test_models_that_it_does_not_suit_are_masked(case: str, monkeypatch):
    model = build(CONFIGS.get(case, KINDS["llama"]))
    if case == "eager":
        model.set_attn_implementation("eager")
    elif case == "bfloat16":
        model.to(torch.bfloat16)
    elif case == "checkpointing":
        model.base_model.layers[1].gradient_checkpointing = True
    elif case == "training":
        model.train()
    elif case == "uncompiled":
        monkeypatch.setattr(module, "kernels", lambda: None)
    elif case == "own attention":  # that transformers' switch does not reach
        monkeypatch.setattr(module, "_NAME", "sdpa")
    elif case == "half in training":
        model.base_model.layers[1].train()
    elif case == "raises":
        usual: Any = module._states
        monkeypatch.setattr(
            module, "_states", lambda *a, **each: 1 / (not module._current.documents) * usual(*a, **each)
        )
    elif case == "wrong":
        right: Any = module._states
        monkeypatch.setattr(
            module, "_states", lambda *a, **each: right(*a, **each) + (module._current.documents is not None)
        )
    assert not module._suits(model)
    tokens, positions = rows()
    states, own = packed_states(model, tokens, positions, everywhere(tokens))
    assert own is None
    torch.testing.assert_close(states, masked(model).flatten(0, 1), atol=0, rtol=0)


PADDED = [(4, 12), (4, 3), (4, 7), (9, 1), (2, 20), (2, 20)]  # tokens of prompts and of answers


def sequences() -> SequenceBatch:
    """Answers to common prompts, padded; the first three share theirs, so do the last two."""
    rng = np.random.default_rng(5)
    prompts = {size: rng.integers(0, 60, size).tolist() for size in {size for size, _ in PADDED}}
    return SequenceBatch.from_ids(
        [prompts[size] for size, _ in PADDED], [rng.integers(0, 60, size).tolist() for _, size in PADDED]
    )


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
def test_padded_sequences_have_the_states_and_gradients_of_whole_rows(kind: str, made, monkeypatch):
    batch, found = sequences(), []
    for usual in (False, True):
        model = build(KINDS[kind])
        if usual:
            monkeypatch.setattr(module, "_suits", lambda model: False)
        hidden, last = response_hidden(model, batch)
        ((hidden**2).sum() + last.sum()).backward()
        found.append((hidden.detach(), last.detach(), gradients(model)))
    for mine, expected in zip(*found, strict=True):
        assert (mine - expected).norm() < 1e-5 * expected.norm()
    # Twice a prompt of 4 tokens, once one of 2, and all padding are not read.
    assert made[-1].tokens.numel() == int(batch.lengths.sum()) - 2 * 4 - 2


@needs_compiler
def test_rows_that_are_full_are_read_as_they_are(made):
    model = build(KINDS["llama"])
    batch = SequenceBatch.from_ids([[1], [2]], [[*range(7)], [*range(7)]])
    made.clear()
    response_hidden(model, batch)
    assert made[-1].tokens.numel() == batch.tokens.numel()
    assert module._current.documents is None
    with torch.no_grad():
        hidden, last = response_hidden(model, batch)
        rows = model.base_model(input_ids=batch.tokens, use_cache=False).last_hidden_state
    torch.testing.assert_close(hidden, rows[:, :-1].flatten(0, 1), atol=0, rtol=0)
    torch.testing.assert_close(last, rows[:, -1], atol=0, rtol=0)


@torch.no_grad()
def test_another_thread_may_call_the_model_meanwhile():
    model = build(KINDS["llama"])
    tokens, positions = rows()
    expected = masked(model)
    padding = torch.ones_like(tokens).index_fill_(1, torch.tensor([0, 1, 2]), 0)
    padded = model(input_ids=tokens, attention_mask=padding).logits
    found = Documents.of_rows(tokens, positions, everywhere(tokens), shared=False)
    with module._attending(model, found), ThreadPoolExecutor(1) as pool:
        other = pool.submit(masked, model).result()
        other_padded = pool.submit(lambda: model(input_ids=tokens, attention_mask=padding).logits).result()
        assert model.config._attn_implementation != "sdpa"
    torch.testing.assert_close(other, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(other_padded[:, 3:], padded[:, 3:], atol=1e-5, rtol=1e-5)
    assert model.config._attn_implementation == "sdpa"
