"""Tests of `llmproxy.stores.sqlite_text`."""

from __future__ import annotations

import pytest

from llmproxy.stores.sqlite_text import storable


@pytest.mark.parametrize("text", ["", "plain", "ключ \N{SNOWMAN}", "a\x00b", "'; --", "\\ud800"])
def test_text_stays(text: str) -> None:
    """What UTF-8 holds is not touched."""
    assert storable(text) == text


def test_lone_surrogates_are_escaped() -> None:
    """What it does not hold can be encoded afterwards."""
    assert storable("a\ud800b").encode("utf-8") == b"a\\ud800b"
