"""Sessions: which field names them, and what may not get into a record."""

import pytest

from llmproxy.wire.sessions import MAX_SESSION_LENGTH, read_session


def read(**fields: bytes) -> tuple[str, str]:
    """Read the session of a request with these fields."""
    named = {name.replace("_", "-").encode(): value for name, value in fields.items()}
    named |= {b"session_id": named.pop(b"session-id", b"")}
    return read_session(lambda name: named.get(name, b""))


@pytest.mark.parametrize(
    ("fields", "session"),
    [
        ({"x_session_id": b"a", "x_session_affinity": b"b"}, "a"),
        ({"x_session_affinity": b"b", "session_id": b"c"}, "b"),
        ({"session_id": b"c"}, "c"),
        ({}, ""),
        ({"x_session_id": b"a\x07\xff" + b"b" * 500}, "a" + "b" * (MAX_SESSION_LENGTH - 3)),
    ],
)
def test_session(fields: dict[str, bytes], session: str) -> None:
    """The first field given wins; what is not printable ASCII is left out."""
    assert read(**fields) == (session, "")


def test_parent() -> None:
    """A subagent's session names its parent's."""
    assert read(x_session_id=b"a", x_parent_session_id=b"p") == ("a", "p")
