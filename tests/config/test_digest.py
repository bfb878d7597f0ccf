"""Tests of `llmproxy.config.digest`."""

from __future__ import annotations

import re

import pytest

from llmproxy.config.digest import digest
from tests.config.conftest import Load

BASE = """
backends: [{name: a, url: "http://a:1", api_key: sk-up, headers: {X: one, Y: two}}]
auth: {storage: file}
api_keys: [{key: sk-first-1}]
"""


def test_it_says_nothing_but_which(load: Load) -> None:
    """It is short, the same every time, and of what stands there, not of how it is written."""
    first = digest(load(BASE))
    assert re.fullmatch("[0-9a-f]{12}", first)
    assert digest(load("server: {workers: 1, drain_timeout: 600s}" + BASE)) == first
    assert digest(load(BASE.replace("X: one, Y: two", "Y: two, X: one"))) == first


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sk-first-1", "sk-first-2"),
        ("sk-up", "sk-upp"),
        ("two", "too"),
        ("http://a:1", "http://a:2"),
        ("api_keys", "log: {level: debug}\napi_keys"),
    ],
)
def test_it_is_another_when_anything_is(load: Load, old: str, new: str) -> None:
    """Secrets and header fields among it."""
    assert digest(load(BASE.replace(old, new))) != digest(load(BASE))
