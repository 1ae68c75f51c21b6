from __future__ import annotations

import pytest

from textenv.feedback.terminal.keys import Key, KeyReader


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"aB1", ["a", "B", "1"]),
        ("ü中".encode(), ["ü", "中"]),
        (b"\r\n\t\x7f", ["enter", "enter", "tab", "backspace"]),
        (b"\x03\x04\x1a", ["ctrl-c", "ctrl-d", "ctrl-z"]),
        (b"\x1b[A\x1bOB\x1b[5~\x1b[Z", ["up", "down", "pageup", "shift-tab"]),
        (b"\x1b[1;5C\x1b[15~x", ["x"]),  # keys of no use here
        (b"\x1bx", []),  # Alt-x
        (b"\xff", ["�"]),
    ],
)
def test_bytes_become_keys(data, names):
    assert [key.name for key in KeyReader().feed(data)] == names


def test_sequences_may_come_in_pieces():
    reader = KeyReader()
    found = [reader.feed(bytes([byte])) for byte in "é\x1b[6~".encode()]
    assert [key.name for keys in found for key in keys] == ["é", "pagedown"]


def test_lone_escape_is_a_key_once_nothing_follows():
    reader = KeyReader()
    assert reader.feed(b"\x1b") == []
    assert reader.pending
    assert reader.give_up() == [Key("esc")]
    assert not reader.pending


def test_pasted_text_is_one_key():
    reader = KeyReader()
    assert reader.feed(b"\x1b[200~q\x1b[31m\r") == []
    assert reader.give_up() == []
    assert reader.feed(b"z\x1b[201~s") == [Key("paste", "q\x1b[31m\nz"), Key("s")]
