"""Tests of `llmproxy.systemd`: what arrives at the socket that systemd would listen on."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from llmproxy.systemd import SystemdNotifier


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """Systemd's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.setblocking(False)
        yield end


def heard(systemd: socket.socket) -> list[str]:
    """Give the messages that have come."""
    messages = []
    while True:
        try:
            messages.append(systemd.recv(4096).decode())
        except BlockingIOError:
            return messages


def notifier(systemd: socket.socket, clock: Clock, **environ: str) -> SystemdNotifier:
    """Make one of an environment."""
    address = {"NOTIFY_SOCKET": str(systemd.getsockname())}
    return SystemdNotifier.from_environment({**address, **environ}, 42, clock)


def test_the_messages(systemd: socket.socket) -> None:
    """As sd_notify(3) has them."""
    one = notifier(systemd, Clock())
    one.ready("all is well")
    assert heard(systemd) == ["READY=1\nSTATUS=all is well"]
    before_us = time.monotonic_ns() // 1000
    one.reloading()
    (message,) = heard(systemd)
    fields = dict(line.split("=", 1) for line in message.split("\n"))
    assert fields.pop("RELOADING") == "1"
    assert before_us <= int(fields.pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
    assert list(fields) == ["STATUS"]
    one.stopping(1.5)
    assert heard(systemd) == ["STOPPING=1\nEXTEND_TIMEOUT_USEC=1500000\nSTATUS=finishing what runs"]


def test_an_abstract_socket() -> None:
    """Systemd writes its first byte, a zero, as ``@``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(f"\0llmproxy-test-{time.monotonic_ns()}")
        end.settimeout(5)
        address = end.getsockname()
        one = SystemdNotifier("@" + address[1:].decode(), 0, Clock())
        one.ready("x")
        assert end.recv(100) == b"READY=1\nSTATUS=x"


@pytest.mark.parametrize("process", [{}, {"WATCHDOG_PID": "42"}])
def test_the_watchdog_is_fed_in_half_its_time(
    systemd: socket.socket, process: dict[str, str]
) -> None:
    """From when the daemon is ready, and by the reactor's clock alone."""
    clock = Clock()
    one = notifier(systemd, clock, WATCHDOG_USEC="3000000", **process)
    clock.advance(10)
    assert heard(systemd) == []
    one.ready("x")
    assert heard(systemd) == ["READY=1\nSTATUS=x", "WATCHDOG=1"]
    clock.pump([0.5] * 2)
    assert heard(systemd) == []
    clock.pump([0.5] * 4)
    assert heard(systemd) == ["WATCHDOG=1"] * 2
    one.ready("x")  # after a reload
    clock.pump([0.5] * 3)
    assert heard(systemd) == ["READY=1\nSTATUS=x", "WATCHDOG=1"]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "41"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
    ],
)
def test_no_watchdog(systemd: socket.socket, environ: dict[str, str]) -> None:
    """Where systemd does not ask for it, or asks another process."""
    clock = Clock()
    notifier(systemd, clock, **environ).ready("x")
    assert clock.getDelayedCalls() == []
    assert len(heard(systemd)) == 1


def test_without_systemd() -> None:
    """Nobody is told anything, and nothing is tried."""
    clock = Clock()
    one = SystemdNotifier.from_environment({"WATCHDOG_USEC": "3000000"}, 42, clock)
    with capturedLogs() as events:
        one.ready("x")
        one.reloading()
        one.stopping(1)
    assert clock.getDelayedCalls() == []
    assert list(events) == []
    assert repr(one) == "<SystemdNotifier to nobody, watchdog 3 s>"


def test_a_socket_that_is_gone(tmp_path: Path, systemd: socket.socket) -> None:
    """It is logged once, the daemon goes on, and so do the signs of life when it is back."""
    clock = Clock()
    one = notifier(systemd, clock, WATCHDOG_USEC="2000000")
    (tmp_path / "notify").unlink()
    with capturedLogs() as events:
        one.ready("x")
        clock.pump([1.0] * 3)
    assert [one["log_level"].name for one in events] == ["error"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
        again.bind(str(tmp_path / "notify"))
        again.setblocking(False)
        clock.advance(1.0)
        assert heard(again) == ["WATCHDOG=1"]
