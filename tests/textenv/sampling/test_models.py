from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BartConfig, GemmaConfig, LEDConfig, LlamaConfig, Phi3Config

from agents.policy.token_logprobs import cross_entropy, token_logprobs
from textenv.errors import ConfigError, DataError
from textenv.sampling.models import OutputHead, agrees, context_length, output_head, start_token, trial

LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 32,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
}


def language_model(embedding: Any = None, **settings: Any) -> Any:
    bias = settings.pop("final_logits_bias", None)
    return SimpleNamespace(
        config=SimpleNamespace(**settings), get_output_embeddings=lambda: embedding, final_logits_bias=bias
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [2.0, -4.0]),
        ({"logit_scale": 0.5}, [1.0, -2.0]),
        ({"logits_scaling": 4}, [0.5, -1.0]),
        ({"lm_head_multiplier": 3.0}, [6.0, -12.0]),
        ({"logit_scale": None, "final_logit_softcapping": None}, [2.0, -4.0]),
        ({"logit_scale": "inv_sqrt_d_model"}, [2.0, -4.0]),
        ({"scale_decoder_outputs": True, "d_model": 4}, [1.0, -2.0]),
        ({"model_type": "umt5", "tie_word_embeddings": True, "d_model": 16}, [0.5, -1.0]),
        ({"model_type": "umt5", "tie_word_embeddings": False, "d_model": 16}, [2.0, -4.0]),
        ({"final_logit_softcapping": 2.0}, [2 * 0.761594156, -2 * 0.964027580]),
        ({"logits_soft_cap": 2.0, "logit_scale": 0.5}, [2 * 0.462117157, -2 * 0.761594156]),
        ({"final_logits_bias": torch.tensor([[1.0, 0.0]])}, [3.0, -4.0]),
        ({"final_logits_bias": torch.zeros(1, 2)}, [2.0, -4.0]),
    ],
)
def test_output_head_is_what_the_configuration_says(settings: dict[str, Any], expected: list[float]):
    embedding = torch.nn.Linear(1, 2, bias=False)
    embedding.weight.data = torch.tensor([[1.0], [-2.0]])
    head = output_head(language_model(embedding, **settings))
    torch.testing.assert_close(head(torch.tensor([[2.0]])), torch.tensor([expected]))


def test_a_model_without_an_output_embedding_has_no_head():
    with pytest.raises(ConfigError, match="it is no language model"):
        output_head(language_model())


@pytest.mark.parametrize(
    "extra",
    [{"scale": 0.25}, {"cap": 2.0}, {"bias": torch.linspace(-1, 1, 7)}, {"scale": 3.0, "cap": 1.5}],
    ids=["scaled", "capped", "biased", "scaled and capped"],
)
def test_scores_and_losses_of_a_head_have_the_values_and_gradients_of_its_logits(extra: dict[str, Any]):
    generator = torch.Generator().manual_seed(0)
    embedding = torch.nn.Linear(5, 7)
    hidden = torch.randn(6, 5, generator=generator, requires_grad=True)
    targets, weights = torch.tensor([0, 6, 3, 3, 1, 2]), torch.linspace(0.5, 2, 6)
    head = OutputHead(embedding, **extra)
    logprobs = head(hidden).log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    expected = torch.autograd.grad((logprobs * weights).sum(), [hidden, *embedding.parameters()])
    scores = token_logprobs(head, hidden, targets).logprobs
    torch.testing.assert_close(scores, logprobs)
    for loss in ((scores * weights).sum(), -cross_entropy(head, hidden, targets, weights)):
        found = torch.autograd.grad(loss, [hidden, *embedding.parameters()], retain_graph=True)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LlamaConfig(max_position_embeddings=40), 40),
        (
            Phi3Config(
                max_position_embeddings=64,
                original_max_position_embeddings=32,
                rope_parameters=LONG,
                hidden_size=32,
                num_attention_heads=4,
            ),
            32,
        ),
        (LEDConfig(max_encoder_position_embeddings=64, max_decoder_position_embeddings=16), 16),
        (BartConfig(max_position_embeddings=24), 24),
        (SimpleNamespace(max_position_embeddings=-1), None),
        (SimpleNamespace(), None),
        (SimpleNamespace(get_text_config=lambda: GemmaConfig(max_position_embeddings=20)), 20),
    ],
    ids=["plain", "long rotations", "encoder and decoder", "BART", "unlimited", "unsaid", "part of a larger model"],
)
def test_context_length(config: Any, expected: int | None):
    assert context_length(config) == expected


def test_start_token_is_the_configurations_or_that_of_generation():
    model = language_model(decoder_start_token_id=None)
    model.generation_config = SimpleNamespace(decoder_start_token_id=0)
    assert start_token(model) == 0
    model.config.decoder_start_token_id = 2
    assert start_token(model) == 2
    with pytest.raises(ConfigError, match="has no `decoder_start_token_id`: set it in its config"):
        start_token(language_model())


def test_agrees_up_to_rounding_and_not_where_nothing_is_finite():
    own = torch.tensor([3.0, -4.0])
    assert agrees(own + 1e-4, own, torch.float32)
    assert agrees(own + 1e-2, own, torch.float32) is False
    assert agrees(own + 1e-2, own, torch.bfloat16)
    assert agrees(own * torch.nan, own, torch.float32) is False
    assert agrees(own, own * torch.nan, torch.float32) is None


@pytest.mark.parametrize("error", [IndexError("a\nb"), ValueError("a"), RuntimeError("a"), KeyError()])
def test_a_trial_turns_raw_errors_into_refusals(error: Exception):
    message = f"SimpleNamespace cannot be read: {type(error).__name__}: {'' if isinstance(error, KeyError) else 'a'}$"
    with pytest.raises(ConfigError, match=message) as caught, trial(SimpleNamespace(), "cannot be read"):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [DataError("ours"), torch.OutOfMemoryError("full"), KeyboardInterrupt()])
def test_a_trial_lets_our_own_errors_and_lack_of_memory_through(error: BaseException):
    with pytest.raises(type(error)), trial(SimpleNamespace(), "cannot be read"):
        raise error
