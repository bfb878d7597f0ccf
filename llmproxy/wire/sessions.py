"""Sessions: which conversation of a client a request belongs to."""

from __future__ import annotations

from collections.abc import Callable

MAX_SESSION_LENGTH = 128

_SESSION = (b"x-session-id", b"x-session-affinity", b"session_id")
_PARENT = b"x-parent-session-id"


def read_session(header: Callable[[bytes], bytes]) -> tuple[str, str]:
    """Read the session's id and its parent's; empty where there is none.

    Args:
        header: Gives a field's value by its lower-case name.
    """
    session = next((value for value in map(header, _SESSION) if value), b"")
    return _printable(session), _printable(header(_PARENT))


def _printable(value: bytes) -> str:
    if not value:
        return ""
    return "".join(
        character
        for character in value.decode("latin-1")[:MAX_SESSION_LENGTH]
        if character.isascii() and character.isprintable()
    )
