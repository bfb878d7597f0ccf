"""Deliveries that were given up: a file for each reporter, until somebody has them sent again."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from glob import escape, glob
from itertools import islice
from typing import Any, BinaryIO, Final

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from llmproxy.deliveries import DeadLetter, DeadLetterSummary
from llmproxy.errors import ResendRefused
from llmproxy.usage.dead_letter_file import append, encode_letter, read_letters, rename
from llmproxy.usage.sources import Pending

_DEAD: Final = ".dead"
_DIGITS: Final = 16


class DeadLetters:
    """The files, in a directory that is made when the first is needed.

    Args:
        directory: Where they are.
        in_thread: Runs something in a thread.
        new_id: Makes ids of batches.
    """

    def __init__(
        self,
        directory: str,
        *,
        in_thread: Callable[..., Deferred[Any]],
        new_id: Callable[[], str],
    ) -> None:
        self._directory = directory
        self._in_thread = in_thread
        self._new_id = new_id

    def path(self, reporter: str) -> str:
        """Give the name of a reporter's file."""
        return os.path.join(self._directory, reporter + _DEAD)

    def add(self, reporter: str, letter: DeadLetter) -> Deferred[None]:
        """Keep one.

        Returns:
            A Deferred that fires when it is on the disk. It fails with `OSError`. Cancelling it
            leaves it open whether it is kept.
        """
        return self._in_thread(append, self.path(reporter), encode_letter(letter))

    def oldest(self, reporter: str, limit: int) -> Deferred[Sequence[DeadLetterSummary]]:
        """Sum up the oldest, those among them that are being sent again; fails with `OSError`."""
        return self._in_thread(_oldest, (*self._claimed(reporter), self.path(reporter)), limit)

    def size_bytes(self, reporter: str) -> int:
        """Say how large a reporter's files are together."""
        sizes_bytes = 0
        for path in (*self._claimed(reporter), self.path(reporter)):
            with suppress(FileNotFoundError):
                sizes_bytes += os.stat(path).st_size
        return sizes_bytes

    def claim(self, reporter: str, now: Callable[[], float]) -> Resending:
        """Give what sends a reporter's dead letters again; what dies comes into a new file.

        Raises:
            ResendRefused: Somebody is at it already.
            OSError: It cannot be done.
        """
        os.makedirs(self._directory, 0o700, exist_ok=True)
        lock = os.open(
            os.path.join(self._directory, f"{reporter}.lock"),
            os.O_RDWR | os.O_CREAT | os.O_CLOEXEC,
            0o600,
        )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Sorts behind what an interrupted resending left.
            claimed = f"{self.path(reporter)}.{int(now() * 1000):0{_DIGITS}d}"
            rename(self.path(reporter), claimed)
        except BlockingIOError:
            os.close(lock)
            raise ResendRefused("its dead letters are being sent already") from None
        except OSError:
            os.close(lock)
            raise
        return Resending(self._claimed(reporter), lock, new_id=self._new_id, now=now)

    def _claimed(self, reporter: str) -> Sequence[str]:
        return sorted(glob(f"{escape(self.path(reporter))}.{'[0-9]' * _DIGITS}"))


class Resending:
    """Dead letters as a source of batches; see `BatchSource`.

    A file whose letters all were taken, or died again, is deleted; one with damage in it is kept
    under another name.

    Args:
        paths: The files.
        lock: The descriptor that keeps others off.
        new_id: Makes ids of batches.
        now: Seconds since the epoch.
    """

    _log = Logger()

    def __init__(
        self,
        paths: Sequence[str],
        lock: int,
        *,
        new_id: Callable[[], str],
        now: Callable[[], float],
    ) -> None:
        self._paths = [*paths]
        self._lock = lock
        self._new_id = new_id
        self._now = now
        self._file: BinaryIO | None = None
        self._letters: Iterator[DeadLetter] = iter(())
        self._pending: Pending | None = None
        self._damaged = 0

    def is_due(self, _limit: int, _interval_s: float) -> bool:
        """Say whether there may be more; see `BatchSource`."""
        return self._pending is not None or bool(self._paths)

    def take(self, _limit: int) -> Pending | None:
        """Give the next letter; see `BatchSource`."""
        if self._pending is None:
            if self._file is None:
                self._file = open(self._paths[0], "rb")  # noqa: SIM115 - closed at its end
                self._letters = read_letters(self._file, self._note_damage)
            letter = next(self._letters, None)
            if letter is None:
                self._close_file()
                path = self._paths.pop(0)
                if self._damaged:
                    os.rename(path, f"{path}.damaged")
                    self._damaged = 0
                else:
                    os.unlink(path)
                return None
            batch = attrs.evolve(letter.batch, id=self._new_id())
            self._pending = Pending(batch, self._now())
        return self._pending

    def failed(self) -> None:
        """Note a failure; see `BatchSource`."""
        assert self._pending is not None
        self._pending.tries += 1

    def done(self) -> None:
        """Go on; see `BatchSource`."""
        self._pending = None

    def close(self) -> None:
        """Give no more; the files that are left are sent when it is asked for again."""
        self._close_file()
        os.close(self._lock)

    def _note_damage(self, path: str) -> None:
        self._damaged += 1
        self._log.error("a dead letter in {path} is damaged, and not sent", path=path)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _oldest(paths: Sequence[str], limit: int) -> Sequence[DeadLetterSummary]:
    found: list[DeadLetterSummary] = []
    for path in paths:
        # Any of them may not be there, or be taken away just now.
        with suppress(FileNotFoundError), open(path, "rb") as file:
            letters = read_letters(file, lambda _: None)  # who sends them tells of damage
            found.extend(map(_summary, islice(letters, limit - len(found))))
    return found


def _summary(letter: DeadLetter) -> DeadLetterSummary:
    batch = letter.batch
    return DeadLetterSummary(
        id=batch.id,
        kind=batch.kind,
        events=len(batch.events),
        size_bytes=sum(map(len, batch.events)),
        given_up_at_s=letter.given_up_at_s,
        first_try_at_s=letter.first_try_at_s,
        tries=letter.tries,
        reason=letter.reason,
    )
