from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textenv.errors import ConfigError
from textenv.trajectories import distinct_n, self_bleu


def slow_bleu(candidate: list[str], references: list[list[str]], max_n: int) -> float:
    """BLEU of one text as Papineni et al. state it, with 0.1 for a count of 0."""
    logs = []
    for n in range(1, max_n + 1):
        own = Counter(tuple(candidate[i : i + n]) for i in range(len(candidate) - n + 1))
        hits = 0
        for gram, count in own.items():
            most = max(sum(tuple(other[i : i + n]) == gram for i in range(len(other) - n + 1)) for other in references)
            hits += min(count, most)
        if n == 1 and hits == 0:
            return 0.0
        logs.append(math.log((hits or 0.1) / max(1, sum(own.values()))))
    closest = min((abs(len(r) - len(candidate)), len(r)) for r in references)[1]
    penalty = 1.0 if len(candidate) >= closest else math.exp(1 - closest / len(candidate))
    return penalty * math.exp(sum(logs) / max_n)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcd"), max_size=8), min_size=2, max_size=6),
    st.integers(min_value=1, max_value=4),
)
def test_self_bleu_equals_the_slow_definition(texts, max_n):
    expected = np.mean([slow_bleu(text, texts[:i] + texts[i + 1 :], max_n) for i, text in enumerate(texts)])
    assert self_bleu([" ".join(text) for text in texts], max_n) == pytest.approx(expected)


def test_self_bleu_by_hand():
    assert self_bleu(["a b c d e", "A B C D E"]) == pytest.approx(1)
    assert self_bleu(["a b", "c d"]) == 0
    # "a b c" against "a b d": 2/3 of words, 1/2 of pairs
    assert self_bleu(["a b c", "a b d"], 2) == pytest.approx(math.sqrt(2 / 3 * 1 / 2))
    # "a" against "a b": precision 1 with penalty exp(1 − 2/1); "a b" against "a": precision 1/2
    assert self_bleu(["a", "a b"], 1) == pytest.approx((math.exp(-1) + 0.5) / 2)


def test_self_bleu_order_of_texts_changes_nothing():
    texts = ["the cat sat", "the cat ran off", "a dog sat down there", "the cat sat"]
    assert self_bleu(texts) == pytest.approx(self_bleu(texts[::-1]))


def test_self_bleu_bad_arguments_are_refused():
    with pytest.raises(ConfigError, match="at least two texts, got 1"):
        self_bleu(["a"])
    with pytest.raises(ConfigError, match="`max_n` must be ≥ 1"):
        self_bleu(["a", "b"], 0)


def test_distinct_n_by_hand():
    assert distinct_n(["a b a", "a b"], 1) == pytest.approx(2 / 5)
    assert distinct_n(["a b a", "a b"], 2) == pytest.approx(2 / 3)
    assert distinct_n(["a"], 2) == 0
    with pytest.raises(ConfigError, match="`n` must be ≥ 1"):
        distinct_n(["a"], 0)
