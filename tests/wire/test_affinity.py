"""Tests of `llmproxy.wire.affinity`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.wire.affinity import FIRST_BYTES, affinity_of

SYSTEM = {"role": "system", "content": "You are a coding assistant. " * 200}
FIRST = {"role": "user", "content": [{"type": "text", "text": "Why does it fail?"}]}
OTHER = {"role": "user", "content": "What is in the file?"}
ANSWER = {"role": "assistant", "content": "It does not."}
AGAIN = {"role": "user", "content": "It does."}


def of(body: Any, fields: Mapping[bytes, bytes] | None = None, key_id: str = "key-1") -> bytes:
    """Give the affinity of a request."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return affinity_of(lambda name: (fields or {}).get(name, b""), key_id, raw)


def test_the_clients_own_word() -> None:
    """The first field that is there, whoever asks for what."""
    fields = {b"session_id": b"c"}
    assert of({}, fields) == b"c"
    fields[b"x-session-id"] = b"b"
    assert of({}, fields) == b"b"
    fields[b"x-session-affinity"] = b"a"
    assert of({}, fields) == b"a"
    assert of({"messages": [FIRST]}, fields, "key-2") == b"a"


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ({"messages": [FIRST]}, {"messages": [FIRST, ANSWER, AGAIN]}),
        ({"messages": [SYSTEM, FIRST]}, {"messages": [SYSTEM, FIRST, ANSWER, AGAIN]}),
        (
            {"model": "m", "messages": [SYSTEM, FIRST], "temperature": 0},
            {"tools": [1], "messages": [SYSTEM, FIRST, ANSWER], "stream": True, "model": "m"},
        ),
        (
            {"system": "You help.", "messages": [FIRST]},
            {"system": "You help.", "messages": [FIRST, ANSWER, AGAIN]},
        ),
        (
            {"instructions": "Help.", "input": [FIRST]},
            {"instructions": "Help.", "input": [FIRST, ANSWER, AGAIN]},
        ),
        ({"prompt": "x" * FIRST_BYTES}, {"prompt": "x" * FIRST_BYTES + "and on"}),
        ({"input": "x" * FIRST_BYTES}, {"input": "x" * FIRST_BYTES + "and on"}),
    ],
)
def test_the_same_from_turn_to_turn(first: Any, later: Any) -> None:
    """What is added to a conversation does not change where it belongs."""
    assert of(first) == of(later)


def test_conversations_differ() -> None:
    """By what the user asked first, by the system's words, by the key."""
    bodies = [
        {"messages": [SYSTEM, FIRST]},
        {"messages": [SYSTEM, OTHER]},
        {"messages": [FIRST]},
        {"messages": [FIRST], "system": "You help."},
        {"messages": "odd"},
        {"prompt": "odd"},
        {"input": "odd"},
        {"input": [FIRST]},
        {},
    ]
    seen = [of(body) for body in bodies] + [of(bodies[0], key_id="key-2")]
    assert len(set(seen)) == len(seen)


def test_no_prompt_comes_out() -> None:
    """Only a digest of it."""
    affinity = of({"messages": [FIRST]})
    assert affinity.startswith(b"key-1\0")
    assert len(affinity) == len(b"key-1\0") + 16


def test_the_same_on_every_gateway() -> None:
    """These bytes are for ever, as long as the places of conversations are to stay."""
    assert (
        of({"messages": [SYSTEM, FIRST, ANSWER]}).hex()
        == "6b65792d3100fa4a24d14b2a1abea73ac1ebcb3eeda3"
    )


def test_many_messages_before_the_first_of_a_user() -> None:
    """No more is read than so many of them."""
    many = [ANSWER] * 100
    assert of({"messages": [*many, FIRST]}) == of({"messages": [*many, OTHER]})


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages": [{"role": 1}, "x", null, {"role": "user", "content": "a"}]}',
        b'{"messages": {"role": "user"}}',
        b'{"messages": [{"role": "user", "content": "\\ud83d"}]}',
        b'{"prompt": ["a", "b"]}',
        b'{"prompt": [1, 2, 3]}',
        b"[1]",
        b"{",
        b"",
        b"[" * 100_000,
    ],
)
def test_odd_bodies(body: bytes) -> None:
    """Whatever there is has a place, always the same."""
    assert of(body) == of(body)


@given(st.binary(max_size=200))
def test_any_bytes(body: bytes) -> None:
    """Nothing that a client sends is an error here."""
    assert of(body) == of(body)
