from __future__ import annotations

import pytest

from textenv.errors import ConfigError
from textenv.sampling import SamplingParams


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", -1.0, "`temperature` must be ≥ 0"),
        ("temperature", float("inf"), "`temperature` must be a finite number, got inf; 0 is greedy"),
        ("top_k", -1, "`top_k` must be ≥ 0"),
        ("top_p", 0.0, r"`top_p` must lie in \(0, 1\]"),
        ("max_new_tokens", 0, "`max_new_tokens` must be ≥ 1"),
        ("min_p", 1.5, r"`min_p` must lie in \[0, 1\]"),
        ("typical_p", 0.0, r"`typical_p` must lie in \(0, 1\]"),
        ("repetition_penalty", 0.0, "`repetition_penalty` must be positive"),
        ("allow_tokens", (), "leaves no token to draw"),
        ("deny_tokens", (-1,), "token ids, which are ≥ 0"),
    ],
)
def test_sampling_params_refuse_nonsense(field, value, message):
    with pytest.raises(ConfigError, match=message):
        SamplingParams(**{field: value})


def test_sampling_params_allowing_only_what_is_denied_is_refused():
    with pytest.raises(ConfigError, match="leaves no token to draw"):
        SamplingParams(allow_tokens=(3,), deny_tokens=(3, 4))


@pytest.mark.parametrize(
    ("params", "full", "tempered", "stochastic"),
    [
        (SamplingParams(), True, True, True),
        (SamplingParams(temperature=0.7), True, True, True),
        (SamplingParams(repetition_penalty=1.2), True, False, True),
        (SamplingParams(top_k=5), False, False, True),
        (SamplingParams(top_p=0.9), False, False, True),
        (SamplingParams(min_p=0.1), False, False, True),
        (SamplingParams(typical_p=0.9), False, False, True),
        (SamplingParams(allow_tokens=(1, 2)), False, False, True),
        (SamplingParams(deny_tokens=(1,)), False, False, True),
        (SamplingParams(temperature=0), False, False, False),
    ],
    ids=lambda value: "" if isinstance(value, bool) else str(value)[15:60],
)
def test_sampling_params_say_what_can_be_drawn(params, full, tempered, stochastic):
    assert (params.full_support, params.tempered_only, params.stochastic) == (full, tempered, stochastic)
