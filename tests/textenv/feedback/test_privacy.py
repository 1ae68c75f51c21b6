from __future__ import annotations

import pytest

from textenv.feedback.privacy import mask_personal_data


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to jane.doe+x@mail.example.org!", "write to [email]!"),
        ("call +49 (170) 123-4567 now", "call [phone] now"),
        ("call 0170 1234567", "call [phone]"),
        ("card 4111 1111 1111 1111 ok", "card [card] ok"),
        ("account DE89 3704 0044 0532 0130 00.", "account [account]."),
        ("from 192.168.17.4 today", "from [ip] today"),
        ("key sk-abcdEFGH1234567890xyz", "key [key]"),
        ("born 1984, on 2024-10-12, 1914-1918", "born 1984, on 2024-10-12, 1914-1918"),
        ("what is 12345678 + 3.14159265358?", "what is 12345678 + 3.14159265358?"),
        ("version 1.2.3 costs 1,000,000", "version 1.2.3 costs 1,000,000"),
    ],
)
def test_mask_personal_data(text, expected):
    assert mask_personal_data(text) == expected
