"""Tests of `llmproxy.usage.dead_letters`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from twisted.internet.defer import maybeDeferred

from llmproxy.deliveries import DeadLetterSummary
from llmproxy.errors import ResendRefused
from llmproxy.usage.dead_letters import DeadLetters, Resending
from tests.stores.logged import Logged
from tests.usage.rig import START_S, Numbers
from tests.usage.test_dead_letter_file import letter


@pytest.fixture
def letters(tmp_path: Path) -> DeadLetters:
    """Give the files of a test."""
    return DeadLetters(str(tmp_path / "dead"), in_thread=maybeDeferred, new_id=Numbers("new_"))


def add(letters: DeadLetters, *names: str, reporter: str = "billing") -> None:
    """Keep letters."""
    for name in names:
        letters.add(reporter, letter(name))


def oldest(letters: DeadLetters, limit: int = 99) -> list[str]:
    """List them."""
    found: list[Sequence[DeadLetterSummary]] = []
    letters.oldest("billing", limit).addCallback(found.append)
    return [one.id for one in found[0]]


def send(source: Resending, count: int = 99) -> list[str]:
    """Take so many; say under which ids."""
    sent: list[str] = []
    while len(sent) < count and source.is_due(1, 0.0):
        pending = source.take(1)
        if pending is not None:
            assert pending.first_try_s == START_S
            sent.append(pending.batch.id)
            source.done()
    return sent


def now() -> float:
    """Give the time."""
    return START_S


def test_none(letters: DeadLetters) -> None:
    """There is not even a directory."""
    assert oldest(letters) == []


def test_each_reporter_has_its_own(letters: DeadLetters) -> None:
    """Oldest first, so many at most."""
    add(letters, "1", "2", "3")
    add(letters, "x", reporter="billing.2")
    assert oldest(letters) == ["1", "2", "3"]
    assert oldest(letters, 2) == ["1", "2"]


def test_how_large_they_are(letters: DeadLetters, tmp_path: Path) -> None:
    """Of all processes, those that are being sent as well; not what was sent, or is damaged."""
    assert letters.size_bytes("billing") == 0
    add(letters, "1", "2")
    add(letters, "x", reporter="other")
    size_bytes = (tmp_path / "dead" / "billing.dead").stat().st_size
    assert letters.size_bytes("billing") == size_bytes
    source = letters.claim("billing", now)
    add(letters, "3")
    assert letters.size_bytes("billing") == size_bytes * 3 // 2
    send(source)
    assert letters.size_bytes("billing") == size_bytes // 2
    source.close()


def test_sending_them_again(letters: DeadLetters, tmp_path: Path) -> None:
    """As new batches; a letter that was not taken comes again; what is taken is deleted."""
    add(letters, "1", "2")
    source = letters.claim("billing", now)
    first = source.take(1)
    assert first is not None
    source.failed()
    assert source.take(1) is first
    assert (first.batch.id, first.batch.events, first.tries) == (
        "new_1",
        letter("1").batch.events,
        1,
    )
    source.done()
    add(letters, "3")  # it died meanwhile
    assert oldest(letters) == ["1", "2", "3"]
    assert send(source) == ["new_2"]
    source.close()
    assert oldest(letters) == ["3"]
    assert sorted(os.listdir(tmp_path / "dead")) == ["billing.dead", "billing.lock"]


def test_only_one_at_a_time(letters: DeadLetters) -> None:
    """Whoever else wants to send them is refused, until it is over."""
    add(letters, "1")
    source = letters.claim("billing", now)
    with pytest.raises(ResendRefused, match="being sent already"):
        letters.claim("billing", now)
    source.close()
    letters.claim("billing", now).close()


def test_what_was_interrupted(letters: DeadLetters) -> None:
    """It is sent by the next one, before what died since."""
    add(letters, "1", "2")
    source = letters.claim("billing", now)
    assert send(source, 1) == ["new_1"]
    source.close()
    add(letters, "3")
    again = letters.claim("billing", lambda: START_S + 1)
    pending = [again.take(1)]
    assert pending[0] is not None
    again.close()
    assert oldest(letters) == ["1", "2", "3"]


def test_damaged_letters(letters: DeadLetters, tmp_path: Path) -> None:
    """They are told of, and their file is kept; the others are sent."""
    add(letters, "1", "2", "3")
    path = Path(letters.path("billing"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"garbage\n" + lines[2])
    logged = Logged("Resending")
    source = letters.claim("billing", now)
    assert send(source) == ["new_1", "new_2"]
    source.close()
    logged.stop()
    assert len(logged.lines) == 1
    (kept,) = (tmp_path / "dead").glob("*.damaged")
    assert b"garbage" in kept.read_bytes()
    assert oldest(letters) == []


def test_names_that_look_alike(letters: DeadLetters) -> None:
    """Each reporter's letters are its own, whatever its name."""
    add(letters, "x", reporter="billing.dead.1")
    add(letters, "1")
    source = letters.claim("billing", now)
    assert send(source) == ["new_1"]
    source.close()
    other = letters.claim("billing.dead.1", now)
    assert len(send(other)) == 1
    other.close()


def test_files_that_cannot_be_claimed(
    letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails, and they can be claimed later."""
    add(letters, "1")

    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", refuse)
        with pytest.raises(OSError, match="Input/output"):
            letters.claim("billing", now)
    source = letters.claim("billing", now)
    assert send(source) == ["new_1"]
    source.close()
