"""What ties a request to its conversation, so that it can go where its prefix is cached.

The client's own word where it gives one, else the key and the beginning of the prompt, as far as it
stays the same from turn to turn. The same bytes come out on every gateway. It is read for those
strategies only that ask; what they make of it is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b

import msgspec

AFFINITY_HEADERS = (b"x-session-affinity", b"x-session-id", b"session_id")
"""The fields in which clients name their conversation; the first that is there counts."""

FIRST_BYTES = 1024
"""How much is read of each message, and of a prompt that is plain text."""

MOST_MESSAGES = 16
"""How many are read at most; a conversation begins with few that are not of a user."""

_ABSENT = msgspec.Raw(b"null")


class _Prompt(msgspec.Struct):
    """Where the prompt may be, with chat completions, messages, responses, completions."""

    system: msgspec.Raw = _ABSENT
    instructions: msgspec.Raw = _ABSENT
    messages: msgspec.Raw = _ABSENT
    input: msgspec.Raw = _ABSENT
    prompt: msgspec.Raw = _ABSENT


class _Message(msgspec.Struct):
    role: str = ""


_PROMPT = msgspec.json.Decoder(_Prompt)
_MESSAGES = msgspec.json.Decoder(list[msgspec.Raw])
_MESSAGE = msgspec.json.Decoder(_Message)


def affinity_of(header: Callable[[bytes], bytes], key_id: str, body: bytes) -> bytes:
    """Give what is the same for all requests of one conversation.

    Args:
        header: Gives a field's value by its lower-case name.
        key_id: Who asks.
        body: The request's.
    """
    for name in AFFINITY_HEADERS:
        value = header(name)
        if value:
            return value
    digest = blake2b(digest_size=16)
    for part in _first_parts(body):
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return b"%b\0%b" % (key_id.encode("utf-8"), digest.digest())


def _first_parts(body: bytes) -> Iterator[bytes]:
    """Give the beginnings of a prompt's parts, up to its first message of a user."""
    try:
        prompt = _PROMPT.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Half a surrogate pair somewhere: the body's own beginning must do.
        yield body[:FIRST_BYTES]
        return
    for part in (prompt.system, prompt.instructions, prompt.prompt):
        yield bytes(part)[:FIRST_BYTES]
    for listed in (prompt.messages, prompt.input):
        try:
            messages = _MESSAGES.decode(listed)
        except msgspec.ValidationError:
            yield bytes(listed)[:FIRST_BYTES]  # plain text, or nothing
            continue
        for message in messages[:MOST_MESSAGES]:
            yield bytes(message)[:FIRST_BYTES]
            if _role(message) == "user":
                break


def _role(message: msgspec.Raw) -> str:
    try:
        return _MESSAGE.decode(message).role
    except msgspec.ValidationError:
        return ""
