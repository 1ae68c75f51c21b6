"""Tiny random models of many architectures: sampled from, scored, trained and saved exactly, or refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.utils import logging as transformers_logging

from agents.lm.batches import check_packing, weighted_loss
from agents.lm.in_memory import Example, collate, token_losses
from agents.policy import CausalLMPolicy
from agents.policy.annotation import annotate
from agents.policy.critic import Critic
from agents.policy.forward import SequenceBatch
from benchmarks import architectures
from textenv.errors import ConfigError
from textenv.sampling.params import SamplingParams

PAGE = Path(__file__).parents[3] / "docs" / "models.md"
FAST = [
    "GPT-2",
    "Llama 4",
    "Qwen 2 with a window",
    "Gemma 2",
    "Granite",
    "DeepSeek V3",
    "BLOOM",
    "OPT",
    "RWKV",
    "Switch Transformers",
    "XLNet",
    "FSMT",
]


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Any:
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    yield
    transformers_logging.set_verbosity(before)


@pytest.fixture(scope="module")
def committed() -> dict[str, list[str]]:
    """Cells of the page's table by architecture."""
    rows = [line.strip("|").split("|") for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in rows}


def agrees(row: architectures.Row, cells: list[str]) -> bool:
    """Whether a row says what the page says, the size of rounding errors and of messages' numbers apart."""
    found = architectures.cells(row)
    same = re.sub(r"\d+", "#", found[-1]) == re.sub(r"\d+", "#", cells[-1])
    return found[1:3] == cells[:2] and same


@pytest.mark.parametrize("name", FAST)
def test_architecture_is_what_the_page_says(name: str, tokenizer: Any, committed: dict[str, list[str]]):
    row = architectures.row_of(name, tokenizer)
    assert row.verdict != "WRONG", row
    assert agrees(row, committed[name]), (row, committed[name])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # other libraries' own, of models that nobody trains any more
def test_all_other_architectures_are_what_the_page_says(tokenizer: Any, committed: dict[str, list[str]]):
    assert len(architectures.ARCHITECTURES) >= 45
    others = [name for name in architectures.ARCHITECTURES if name not in FAST]
    rows = [architectures.row_of(name, tokenizer) for name in others]
    assert [row for row in rows if row.verdict == "WRONG"] == []
    assert [row for row in rows if not agrees(row, committed[row.name])] == []


def test_the_page_has_a_row_for_every_architecture(committed: dict[str, list[str]]):
    assert set(architectures.ARCHITECTURES) <= set(committed)


def test_the_command_fails_where_a_model_is_neither_exact_nor_refused(monkeypatch: pytest.MonkeyPatch, capsys):
    class Broken(CausalLMPolicy):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            raise IndexError("raw")

    assert architectures.main(["--only", "BERT"]) == 0
    monkeypatch.setattr(architectures, "CausalLMPolicy", Broken)
    assert architectures.main(["--only", "GPT-2"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_a_learner_that_is_off_is_wrong(monkeypatch: pytest.MonkeyPatch, tokenizer: Any):
    honest = CausalLMPolicy.logprobs
    monkeypatch.setattr(CausalLMPolicy, "logprobs", lambda *a, **o: [found + 1e-3 for found in honest(*a, **o)])
    assert architectures.row_of("GPT-2", tokenizer).verdict == "WRONG"


# --- what is optimised: the model's own loss -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Gemma 2", "Granite", "Cohere (Command R)", "Llama"])
def test_training_losses_are_the_models_own(name: str):
    model = architectures.build(architectures.ARCHITECTURES[name])
    examples = [[3, 4, 5, 6, 7, 8, 9], [10, 11, 12]]
    batch = collate([Example(torch.tensor(ids).numpy(), 1) for ids in examples])
    expected = []
    for ids in examples:
        row = torch.tensor([ids])
        logits = model(input_ids=row).logits[0, :-1].log_softmax(-1)
        expected.append(-logits.gather(1, row[0, 1:, None]).squeeze(1))
    losses = torch.cat(expected)
    torch.testing.assert_close(token_losses(model, batch), losses, atol=1e-5, rtol=1e-5)
    weights = torch.linspace(0.5, 1.5, len(losses))
    model.zero_grad()
    (losses * weights).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    weighted_loss(model, batch, weights).backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    torch.testing.assert_close(found, gradients, atol=1e-4, rtol=1e-3)


def test_the_gap_to_a_soft_capped_reference_is_zero(tokenizer: Any):
    policy = CausalLMPolicy(architectures.build(architectures.ARCHITECTURES["Gemma 2"]), tokenizer)
    answers = policy.generate(["the old", "a"], SamplingParams(max_new_tokens=5))
    annotate(answers, policy, reference=policy)
    for answer in answers:
        assert answer.ref_logprobs is not None
        assert answer.exact_kl is not None
        np.testing.assert_allclose(answer.ref_logprobs, answer.logprobs, atol=1e-5)
        np.testing.assert_allclose(answer.exact_kl, 0, atol=1e-6)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message"),
    [(RuntimeError("no kernel\nmore"), "RuntimeError: no kernel$"), (AttributeError("x"), "AttributeError: x")],
)
def test_whatever_a_model_raises_is_a_refusal_that_says_so(monkeypatch: pytest.MonkeyPatch, tokenizer, error, message):
    model = architectures.build(architectures.ARCHITECTURES["GPT-2"])

    def forward(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(model.base_model, "forward", forward)
    monkeypatch.setattr(model, "forward", forward)
    with pytest.raises(ConfigError, match=f"GPT2LMHeadModel cannot score sequences: {message}"):
        CausalLMPolicy(model, tokenizer)
    with pytest.raises(ConfigError, match="GPT2Model cannot score sequences"):
        Critic(model.base_model, torch.nn.Linear(32, 1))


def test_a_model_whose_rows_depend_on_each_other_is_refused(monkeypatch: pytest.MonkeyPatch, tokenizer: Any):
    model = architectures.build(architectures.ARCHITECTURES["GPT-2"])
    model.set_attn_implementation("eager")  # else the rows are read as one
    own = model.base_model.forward

    def forward(*arguments: Any, **options: Any) -> Any:
        output = own(*arguments, **options)
        output.last_hidden_state = output.last_hidden_state * (1 + 0.1 * (len(output.last_hidden_state) - 1))
        return output

    monkeypatch.setattr(model.base_model, "forward", forward)
    monkeypatch.setattr(model, "forward", model.forward)  # a model of its own structure
    with pytest.raises(ConfigError, match="depends on the sequences beside it"):
        CausalLMPolicy(model, tokenizer)


def test_a_bidirectional_critic_is_refused():
    trunk = architectures.build(architectures.ARCHITECTURES["BERT"]).base_model
    with pytest.raises(ConfigError, match=r"BertModel cannot be scored: .* it is not causal"):
        Critic(trunk, torch.nn.Linear(32, 1))


def test_a_model_without_positions_cannot_be_packed(monkeypatch: pytest.MonkeyPatch):
    model = architectures.build(architectures.ARCHITECTURES["BLOOM"])
    with pytest.raises(ConfigError, match="lets sequences that are packed into one row see each other"):
        check_packing(model)
    own = model.base_model.forward
    monkeypatch.setattr(model.base_model, "forward", lambda input_ids, use_cache: own(input_ids=input_ids))
    with pytest.raises(ConfigError, match="BloomForCausalLM cannot be trained on packed rows; train it unpacked: Type"):
        check_packing(model)


def test_values_have_the_width_of_the_states_not_of_the_embeddings(tokenizer: Any):
    model = architectures.build(architectures.ARCHITECTURES["OPT"])
    assert model.get_input_embeddings().weight.shape[1] == 16
    policy = CausalLMPolicy(model, tokenizer, critic=Critic.from_language_model(model))
    assert policy.critic is not None
    values = policy.evaluate(SequenceBatch.from_ids([[3, 4]], [[5, 6, 7]])).values
    assert values.shape == (1, 3)


def test_long_rotations_end_where_a_neighbour_would_change_them(tokenizer: Any):
    model = architectures.build(architectures.ARCHITECTURES["Phi 3 with long rotations"])
    policy = CausalLMPolicy(model, tokenizer)
    assert policy.context_length == 32
    policy.slot_engine(1, 32)
    with pytest.raises(ConfigError, match="need 33 tokens, the model's context holds 32"):
        policy.slot_engine(1, 33)


# --- tokenizers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if i < 2 else pytest.mark.slow) for i, kind in enumerate(architectures.TOKENIZERS)],
)
def test_tokenizer_is_what_the_page_says(kind: str, committed: dict[str, list[str]]):
    row = architectures.tokenizer_row(kind)
    assert row == [kind, *committed[kind]]


def test_a_tokenizer_comes_back_as_it_was_saved_whatever_the_model(tokenizer: Any, tmp_path: Path):
    for name in ("Qwen 2 and 2.5", "Gemma"):
        policy = CausalLMPolicy(architectures.build(architectures.ARCHITECTURES[name]), tokenizer)
        policy.save_pretrained(tmp_path / name)
        again = CausalLMPolicy.from_pretrained(tmp_path / name).tokenizer
        assert len(again) == len(tokenizer)
        for text in ("the old film", " a  b", "\n"):
            assert again.encode(text) == tokenizer.encode(text)
            assert again.decode(again.encode(text)) == tokenizer.decode(tokenizer.encode(text))
