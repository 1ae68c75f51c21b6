import json

import pytest

from textenv import Episode, FinishReason


def make_episode(**changes):
    fields = {
        "prompt": "Say",
        "prompt_index": 2,
        "prompt_ids": (4, 5),
        "response": "hi",
        "response_ids": (6, 1),
        "finish_reason": FinishReason.EOS,
        "score": 0.5,
    }
    return Episode(**(fields | changes))


@pytest.mark.parametrize(
    "episode",
    [make_episode(), make_episode(rewards=(0.0, 0.5), action_mask=(True, False), task="greet", turns=2)],
    ids=["plain", "everything"],
)
def test_dictionary_survives_json(episode):
    record = json.loads(json.dumps(episode.to_dict()))
    assert record["finish_reason"] == "eos"
    assert Episode.from_dict(record) == episode


def test_unknown_finish_reason_is_refused():
    with pytest.raises(KeyError, match="TIRED"):
        Episode.from_dict(make_episode().to_dict() | {"finish_reason": "tired"})


@pytest.mark.parametrize(("mask", "expected"), [(None, 2), ((True, False), 1)])
def test_action_tokens_counts_the_policys_tokens(mask, expected):
    assert make_episode(action_mask=mask).action_tokens == expected


def test_finish_reasons_keep_their_codes():
    assert [(reason.name, int(reason)) for reason in FinishReason] == [
        ("RUNNING", 0),
        ("EOS", 1),
        ("STOP", 2),
        ("LENGTH", 3),
        ("ABORTED", 4),
    ]
