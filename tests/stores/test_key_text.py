"""Tests of `llmproxy.stores.key_text`."""

from __future__ import annotations

import os
import re
from collections import Counter

import pytest

from llmproxy.stores.key_text import new_key, shown_prefix


def test_form() -> None:
    """A new key is what scanners of leaks look for, and no two are the same."""
    keys = {new_key(os.urandom) for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"sk-llmp-[0-9A-Za-z]{40}", key) for key in keys)


def test_no_character_is_likelier() -> None:
    """From bytes that are all equally often, all characters are made equally often."""
    stream = iter(bytes(range(256)) * 40)
    seen: Counter[str] = Counter()
    # 31 keys take 1 240 characters, which are five rounds of the 248 bytes that are used.

    def evenly(size_bytes: int) -> bytes:
        del size_bytes
        return bytes([next(stream)])

    for _ in range(31):
        seen.update(new_key(evenly).removeprefix("sk-llmp-"))
    assert set(seen.values()) == {20}
    assert len(seen) == 62


def test_bytes_at_the_top_are_not_used() -> None:
    """They are drawn again."""
    draws = iter([b"\xff" * 40, b"\xf8" * 40, b"\x00" * 39, b"\xf7\x01"])
    assert new_key(lambda _: next(draws)) == "sk-llmp-" + "0" * 39 + "z"


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        ("sk-llmp-" + "a" * 40, "sk-llmp-aaaa"),
        ("sk-llmp-" + "a" * 39, "sk-llmp-"),
        ("sk-llmp-" + "a" * 39 + "!", "sk-llmp-"),
        ("sk-llmp-abc", "sk-"),
        ("sk-" + "b" * 60, "sk-bbbbb"),
        ("secret", "se"),
        ("ab", ""),
        ("", ""),
    ],
)
def test_shown_prefix(key: str, prefix: str) -> None:
    """Of a foreign key never over a third, and at most eight characters."""
    assert shown_prefix(key) == prefix
