"""Tests of `llmproxy.wire.retry_after`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from llmproxy.wire.retry_after import read_retry_after

NOW_S = 1_700_000_000.0


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be in another zone of time."""
    with monkeypatch.context() as patched:
        patched.setitem(os.environ, "TZ", "XYZ-5")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("9" * 50, 999_999_999.0),
        ("Tue, 14 Nov 2023 22:13:30 GMT", 10.0),
        ("Tue, 14 Nov 2023 22:13:30 -0000", 10.0),
        ("Tue, 14 Nov 2023 23:13:30 +0100", 10.0),
        ("Tue, 14 Nov 2023 22:13:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("7.5", None),
        ("\xb2", None),
        ("\xff", None),
        ("", None),
        ("Fri, 31 Dec 99999999999 23:59:59 GMT", None),
        ("Fri, 31 Dec 1999 23:59:59 +9999999999999", None),
    ],
)
def test_values(value: str, wait_s: float | None) -> None:
    """Seconds or a date, wherever this machine is; anything else says nothing."""
    assert read_retry_after(value, NOW_S) == wait_s
