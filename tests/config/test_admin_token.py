"""Tests of `llmproxy.config.admin_token`."""

from __future__ import annotations

from random import Random
from string import ascii_letters, digits, hexdigits, punctuation

import pytest

from llmproxy.config.admin_token import token_fault


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("x", "of 1 characters; want at least 16"),
        ("k7Qz9!mB2w#L5vX", "of 15 characters; want at least 16"),
        ("a" * 40, "of fewer than 6 different characters"),
        ("abcdeabcdeabcdeabcde", "of fewer than 6 different characters"),
        ("adminadminadminadmin", "of fewer than 6 different characters"),
        ("k7Qz9!mB2w#L5vX k7Qz9", "with characters that no header can carry"),
        ("k7Qz9!mB2w#L5vX\x7f", "with characters that no header can carry"),
        ("k7Qz9!mB2w#L5vXé", "with characters that no header can carry"),
    ],
)
def test_form(token: str, expected: str) -> None:
    """Long enough, of different characters, and such that it can be sent."""
    assert token_fault(token).startswith(expected)


@pytest.mark.parametrize(
    "token",
    [
        "your-secure-admin-token",
        "YOUR_SECURE_ADMIN_TOKEN",
        "administratoradministrator",
        "passwordpassword",
        "changemechangeme",
        "change-me-change-me",
        "please-change-this-token",
        "my-secret-admin-token",
        "super-secret-token-123",
        "llmproxy-admin-token",
        "default-admin-token",
        "example-token-test",
        "test-token-test-token",
        "secret1234567890",
        "0123456789abcdef",
        "1234567890123456",
        "abcdefghijklmnop",
        "qwertyuiop123456",
        "Admin!!!!!!!Admin",
        "admin@!#@!#@!#@!#",
        "replace-me-with-a-random-token",
        "insert_your_token_here",
        "<your-admin-token-here>",
        "password-password-x1",
    ],
)
def test_words_that_everybody_tries(token: str) -> None:
    """Alone, repeated, joined in any way, with a few characters more."""
    assert token_fault(token).startswith("made of well-known words")
    assert token not in token_fault(token)


@pytest.mark.parametrize(
    "token",
    [
        "k7Qz9!mB2w#L5vX8",
        "admin-k7Qz9mB2wL5vX8",
        "correct-horse-battery-staple",
        "!\"#$%&'()*+,-./:;<=>",
        "4821-9938-1103-7765-2046",
    ],
)
def test_tokens_that_will_do(token: str) -> None:
    """A word within a token does no harm when there is enough beside it."""
    assert not token_fault(token)


@pytest.mark.parametrize(
    ("letters", "length"),
    [
        (hexdigits.lower(), 32),
        (ascii_letters + digits, 24),
        (ascii_letters + digits + "-_", 22),
        (ascii_letters + digits + punctuation, 20),
    ],
)
def test_random_tokens_pass(letters: str, length: int) -> None:
    """What a generator makes is never taken for a word."""
    random = Random(4)
    for _ in range(2000):
        token = "".join(random.choice(letters) for _ in range(length))
        assert not token_fault(token), token
