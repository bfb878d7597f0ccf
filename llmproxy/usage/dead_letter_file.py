"""A file of dead letters: lines in the form of the spool's, with one delivery each.

Several processes may append to it, and one of them may take it away. It knows nothing of who its
deliveries are for.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, cast

import msgspec

from llmproxy.deliveries import Batch, DeadLetter, EventKind
from llmproxy.wire.spool_line import decode_line, encode_line

_LINE_BYTES: Final = 16 << 20


class _LetterJson(msgspec.Struct):
    id: str
    kind: str
    first_try_at_s: float
    tries: int
    reason: str
    events: list[msgspec.Raw]


_DECODER = msgspec.json.Decoder(_LetterJson)


def encode_letter(letter: DeadLetter) -> bytes:
    """Write a letter as a line."""
    body = _LetterJson(
        letter.batch.id,
        letter.batch.kind,
        letter.first_try_at_s,
        letter.tries,
        letter.reason,
        [msgspec.Raw(event) for event in letter.batch.events],
    )
    return encode_line("dead", letter.given_up_at_s, msgspec.json.encode(body))


def read_letters(file: BinaryIO, damaged: Callable[[str], None]) -> Iterator[DeadLetter]:
    """Read letters one by one, and pass over damaged ones."""
    while line := file.readline(_LINE_BYTES):
        found = decode_line(line)
        try:
            body = None if found is None else _DECODER.decode(found.event)
        except msgspec.DecodeError:
            body = None
        if found is None or body is None:
            damaged(file.name)
            continue
        yield DeadLetter(
            batch=Batch(
                body.id, cast(EventKind, body.kind), tuple(bytes(event) for event in body.events)
            ),
            given_up_at_s=found.time_s,
            first_try_at_s=body.first_try_at_s,
            tries=body.tries,
            reason=body.reason,
        )


def append(path: str, line: bytes) -> None:
    """Append to a file that others append to, and rename; all of it or nothing."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    descriptor = _open_locked(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        size_bytes, written = os.fstat(descriptor).st_size, 0
        try:
            while written < len(line):
                written += os.write(descriptor, line[written:])
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size_bytes)
            raise
    finally:
        os.close(descriptor)


def rename(path: str, new: str) -> None:
    """Rename a file when nobody is appending to it; nothing when there is none."""
    try:
        descriptor = _open_locked(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.rename(path, new)
    finally:
        os.close(descriptor)


def _open_locked(path: str, flags: int) -> int:
    """Open the file of that name, and keep others from it until it is closed."""
    while True:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # it was renamed meanwhile


def _is_at(path: str, descriptor: int) -> bool:
    """Tell whether an open file is still the one of that name."""
    try:
        found = os.stat(path)  # one look: between two the name may go
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))
