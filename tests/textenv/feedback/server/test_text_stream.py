from __future__ import annotations

from typing import Any

import pytest

from textenv.feedback.server.text_stream import TextStream


class Bytes:
    """A tokenizer whose tokens are bytes: characters outside ASCII take several."""

    def decode(self, token_ids: Any, *, skip_special_tokens: bool = False) -> str:
        return bytes(token_ids).decode(errors="replace")


def run(text: bytes, stops: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream = TextStream(Bytes(), stops)  # type: ignore[arg-type]
    pieces = []
    for token in text:
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    return [*pieces, stream.finish()], stream


def test_pieces_join_to_the_text():
    assert run(b"hello")[0] == ["h", "e", "l", "l", "o", ""]


def test_half_a_character_waits_for_its_other_half():
    assert run("aé€".encode())[0] == ["a", "", "é", "", "", "€", ""]


def test_broken_text_is_let_through_at_the_end():
    assert "".join(run(b"ab\xe2\x82")[0]) == "ab\N{REPLACEMENT CHARACTER}"


def test_what_may_begin_a_stop_string_waits():
    pieces, stream = run(b"one\ntwo", ("\n\n",))

    assert pieces == ["o", "n", "e", "", "\nt", "w", "o", ""]
    assert not stream.stopped


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        (b"one STOP two", ("STOP",), "one "),
        (b"ab", ("abc",), "ab"),
        (b"xaab", ("ab", "aab"), "x"),
        ("grüße!".encode(), ("ß",), "grü"),
    ],
)
def test_text_ends_before_the_stop_string(text, stops, expected):
    pieces, _ = run(text, stops)

    assert "".join(pieces) == expected
