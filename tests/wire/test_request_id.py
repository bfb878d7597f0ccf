"""Request ids: the client's own and ours."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.wire.request_id import new_id, sane_request_id


@pytest.mark.parametrize(
    "value",
    [
        b"a",
        b"018bcfe5-6800-7000-8000-000000000001",
        b"req_1.2:3/4+5=6@7~8",
        b"x" * 128,
    ],
)
def test_sane_ids_are_kept(value: bytes) -> None:
    """As they are."""
    assert sane_request_id(value) == value.decode()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"x" * 129,
        b"a b",
        b"a\n",
        b"a\r\nX: y",
        b'"',
        b"a\\",
        b"a,b",
        b"<a>",
        b"\xc3\xa9",
        b"\0",
    ],
)
def test_others_are_not(value: bytes) -> None:
    """Nothing that could break a log line or a field."""
    assert sane_request_id(value) == ""


def test_new_id() -> None:
    """Time first, then version, then what is random, then the variant (RFC 9562, appendix A.6)."""
    random_bytes = (0xCC3 << 64 | 0x18C4DC0C0C07398F).to_bytes(10, "big")
    assert new_id(1645557742.0, random_bytes) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@given(
    time_s=st.floats(0, 2**47 / 1000),
    later_s=st.floats(0.002, 1000),
    random_bytes=st.binary(min_size=10, max_size=10),
)
def test_ids_are_uuids_that_sort_by_time(
    time_s: float, later_s: float, random_bytes: bytes
) -> None:
    """Whatever the random bytes are."""
    made = new_id(time_s, random_bytes)
    parsed = uuid.UUID(made)
    assert str(parsed) == made
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert made < new_id(time_s + later_s, b"\0" * 10)
    assert sane_request_id(made.encode()) == made
