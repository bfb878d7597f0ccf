"""Texts without their secrets."""

from __future__ import annotations

import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.logs.redaction import HIDDEN, SHORTEST, Redactor

KEY = "sk-llmp-0123456789abcdefghijABCDEFGHIJ0123456789"


@given(
    secret=st.text(st.characters(exclude_categories=["Cs"]), min_size=SHORTEST),
    before=st.text(max_size=5),
    after=st.text(max_size=5),
)
def test_known_secrets(secret: str, before: str, after: str) -> None:
    """However they are written."""
    redact = Redactor([secret])
    for form in (
        secret,
        quote(secret, safe=""),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        repr(secret.encode())[2:-1],
    ):
        assert form not in redact(f"{before}{form}{after}").replace(HIDDEN, "")


def test_a_secret_within_another() -> None:
    """The longer one goes first, so that no part of it stays."""
    redact = Redactor(["secret", "secret-and-more"])
    assert redact("a secret-and-more, a secret") == f"a {HIDDEN}, a {HIDDEN}"


def test_what_is_learnt_later() -> None:
    """It is looked for as well, and what was known before still is."""
    redact = Redactor(["the-first"])
    redact.learn(["the-first-and-second", "third-one"])
    redact.learn([])
    text = "the-first the-first-and-second third-one"
    assert redact(text) == f"{HIDDEN} {HIDDEN} {HIDDEN}"


def test_short_texts_are_no_secrets() -> None:
    """Or they would be found in every second word."""
    assert Redactor(["a", "", "admin"])("an admin said a word") == "an admin said a word"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        (f"key {KEY}, used", f"key {HIDDEN}, used"),
        ("Authorization: Bearer abcdefgh12345678", f"Authorization: Bearer {HIDDEN}"),
        ("{b'authorization': b'bearer 12345678'}", f"{{b'authorization': b'bearer {HIDDEN}'}}"),
        ("at redis://user:pass@host:6379/0", f"at redis://{HIDDEN}@host:6379/0"),
        ("at redis://:pass@host", f"at redis://{HIDDEN}@host"),
        ("signed by whsec_MDEyMzQ1Njc4OTAxMjM0NQ==", f"signed by whsec_{HIDDEN}"),
    ],
)
def test_shapes(text: str, redacted: str) -> None:
    """What looks like a secret is one, though nobody told of it."""
    assert Redactor([])(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "key sk-llmp-0a1b was made",
        "http://127.0.0.1:8000/v1 answers",
        "the ask-me-anything-of-the-day",
        "a bearer of news",
        "user@host:22",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """Ordinary words, addresses, and what people tell keys by."""
    assert Redactor([])(text) == text


def test_its_repr_tells_nothing() -> None:
    """But for how much it knows."""
    assert "canary" not in repr(Redactor(["canary-secret"]))
