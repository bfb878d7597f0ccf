"""Tests of `llmproxy.auth.digests`."""

from __future__ import annotations

import pytest

from llmproxy.auth import digests
from llmproxy.auth.digests import DefaultIds, KeyDigests, public_key_id

KEY_ID_OF_SK_ONE = "key-a81c23576c67"


def test_digest_hangs_on_key_and_secret() -> None:
    """Another key or another process has another digest; any string has one."""
    one = KeyDigests(b"0" * 16)
    assert one.of("sk-one") == KeyDigests(b"0" * 16).of("sk-one")
    assert one.of("sk-one") != one.of("sk-One")
    assert one.of("sk-one") != KeyDigests(b"1" * 16).of("sk-one")
    assert len(one.of("\ud800ключ")) == 32
    assert "0000" not in repr(one)


def test_key_id() -> None:
    """The id is stable, differs between keys and does not hold the key; it is part of records."""
    assert public_key_id("sk-one") == KEY_ID_OF_SK_ONE
    assert public_key_id("sk-one") != public_key_id("sk-two")


def test_key_id_of_a_source() -> None:
    """Two sources call a key by different ids, and each always by the same."""
    assert public_key_id("sk-one", "redis") == public_key_id("sk-one", "redis")
    assert len({public_key_id("sk-one", source) for source in ("", "redis", "sql")}) == 3


def test_default_ids_are_derived_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow derivation is done when an id is needed, and for each key once."""
    derived: list[str] = []

    def derive(key: str, source: str) -> str:
        derived.append(key)
        return f"{source}/{key}"

    monkeypatch.setattr(digests, "public_key_id", derive)
    ids = DefaultIds("redis", KeyDigests(b"0" * 16))
    maker = ids.maker("a")
    assert derived == []
    assert maker() == ids.of("a") == "redis/a"
    assert ids.of("b") == "redis/b"
    assert derived == ["a", "b"]


def test_default_ids_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many are remembered, those asked for last; the others are derived again."""
    derived: list[str] = []

    def derive(key: str, source: str) -> str:
        derived.append(key)
        return key

    monkeypatch.setattr(digests, "public_key_id", derive)
    monkeypatch.setattr(digests, "MAX_IDS", 2)
    ids = DefaultIds("redis", KeyDigests(b"0" * 16))
    for key in "abaca":
        ids.of(key)
    assert derived == ["a", "b", "c"]
    assert repr(ids) == "<DefaultIds redis remembered=2>"
    ids.of("b")
    assert derived == ["a", "b", "c", "b"]
