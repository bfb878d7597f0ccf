"""A log's file, on a real disk."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from twisted.logger import capturedLogs, formatEvent
from zope.interface.verify import verifyObject

from llmproxy.interfaces import ILogSink
from llmproxy.logs.rotating_file import RotatingFile
from llmproxy.values import LogLine


def lines(*texts: str) -> list[LogLine]:
    """Make lines."""
    return [LogLine(f"{text}\n") for text in texts]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the log goes."""
    return tmp_path / "a.log"


def test_it_is_a_sink(path: Path) -> None:
    """It provides the interface."""
    assert verifyObject(ILogSink, RotatingFile(str(path)))


def test_it_appends(path: Path) -> None:
    """What stood there stays, and a file that is truncated begins at its start again."""
    path.write_text("before\n")
    sink = RotatingFile(str(path))
    sink.write(lines("one", "two"))
    assert path.read_text() == "before\none\ntwo\n"
    os.truncate(path, 0)
    sink.write(lines("three"))
    assert path.read_text() == "three\n"


def test_it_is_set_aside_before_it_is_too_large(path: Path) -> None:
    """So often are older ones kept, and no more."""
    sink = RotatingFile(str(path), 10, 2)
    for text in ("1111", "2222", "3333", "4444", "5555", "6666", "7777"):
        sink.write(lines(text))
    assert path.read_text() == "7777\n"
    assert path.with_name("a.log.1").read_text() == "5555\n6666\n"
    assert path.with_name("a.log.2").read_text() == "3333\n4444\n"
    assert sorted(file.name for file in path.parent.iterdir()) == ["a.log", "a.log.1", "a.log.2"]


def test_lines_that_belong_together_stay_together(path: Path) -> None:
    """Even when they are larger than a file may be."""
    sink = RotatingFile(str(path), 10, 1)
    sink.write(lines("1111", "2222", "3333"))
    sink.write(lines("4444"))
    assert path.with_name("a.log.1").read_text() == "1111\n2222\n3333\n"
    assert path.read_text() == "4444\n"


def test_it_never_rotates_unless_told(path: Path) -> None:
    """By default others do that."""
    sink = RotatingFile(str(path))
    sink.write(lines("x" * 100_000))
    sink.write(lines("y"))
    assert [file.name for file in path.parent.iterdir()] == ["a.log"]


def test_reopening(path: Path) -> None:
    """After somebody moved it away: until then the old one is written, then the new one."""
    sink = RotatingFile(str(path))
    sink.write(lines("one"))
    old = path.rename(path.with_name("old.log"))
    sink.write(lines("two"))
    assert not path.exists()
    sink.reopen(0, 1)
    sink.write(lines("three"))
    assert old.read_text() == "one\ntwo\n"
    assert path.read_text() == "three\n"
    sink.reopen(10, 1)
    sink.write(lines("four!"))
    assert path.with_name("a.log.1").read_text() == "three\n"
    assert path.read_text() == "four!\n"


def test_closing(path: Path) -> None:
    """What comes after that is written nowhere, least of all to what is opened next."""
    sink = RotatingFile(str(path), 10)
    sink.close()
    other = RotatingFile(str(path.with_name("b.log")))
    with pytest.raises(OSError, match="Bad file descriptor"):
        sink.write(lines("one"))
    other.write(lines("two"))
    assert path.read_text() == ""
    assert path.with_name("b.log").read_text() == "two\n"


def test_reopening_that_fails(tmp_path: Path) -> None:
    """What was open stays in use."""
    folder = tmp_path / "logs"
    folder.mkdir()
    sink = RotatingFile(str(folder / "a.log"))
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        sink.reopen(0, 1)
    sink.write(lines("one"))
    assert (moved / "a.log").read_text() == "one\n"


def test_a_file_that_cannot_be_set_aside(path: Path) -> None:
    """It grows on, no line is lost, and that is told once."""
    path.with_name("a.log.1").mkdir()
    (path.with_name("a.log.1") / "x").touch()
    sink = RotatingFile(str(path), 10, 1)
    with capturedLogs() as told:
        for text in ("1111", "2222", "3333", "4444"):
            sink.write(lines(text))
    assert path.read_text() == "1111\n2222\n3333\n4444\n"
    (event,) = told
    assert "a.log is full and cannot be set aside" in formatEvent(event)


def write_many(sink: RotatingFile, name: str) -> None:
    """Write two hundred lines that can be told apart."""
    for number in range(200):
        sink.write(lines(f"{name} {number:03d} {'x' * 40}"))


def assert_all_there(path: Path) -> None:
    """Assert that nothing of three writers is lost or broken, and that no file is too large."""
    files = sorted(path.parent.iterdir())
    written = [line for file in files for line in file.read_text().splitlines()]
    assert sorted(written) == sorted(
        f"{name} {number:03d} {'x' * 40}" for name in "abc" for number in range(200)
    )
    # One of them may write a little more while another sets the file aside.
    assert all(1000 < file.stat().st_size < 3000 for file in files if file != path)


def test_several_threads(path: Path) -> None:
    """They share one sink: no line is lost, and none is written to a file that is closed."""
    sink = RotatingFile(str(path), 2000, 100)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write_many, [sink] * 3, "abc"))
    assert_all_there(path)


def _write_in_process(path: str, name: str) -> None:
    write_many(RotatingFile(path, 2000, 100), name)


def test_several_processes(path: Path) -> None:
    """They write the same file, and set it aside once each time: no line is lost or broken."""
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_write_in_process, args=(str(path), name)) for name in "abc"
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert_all_there(path)
