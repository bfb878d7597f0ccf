"""Tests of `llmproxy.workers.supervisor`."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import DatagramProtocol, ProcessProtocol
from twisted.internet.task import Clock

from llmproxy.workers.orders import Hurry, Stay
from llmproxy.workers.supervisor import LOOK_INTERVAL_S, Supervisor
from tests.workers.test_worker import FIRST, SECOND, Process


class Port:
    """A listening port."""

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.reads = True
        self._shouldShutdown = True

    def fileno(self) -> int:
        """Give its descriptor."""
        return self.socket.fileno()

    def stopReading(self) -> None:
        """Take no connection."""
        self.reads = False


class Listening:
    """What listens."""

    def __init__(self) -> None:
        self.ports: list[Port] = []
        self.closed = False

    def privilegedStartService(self) -> None:
        """Listen."""
        self.ports = [Port()]

    def close(self) -> Deferred[None]:
        """Listen no more."""
        self.closed = True
        for port in self.ports:
            port.socket.close()
        return succeed(None)


class NoticePort:
    """Where a worker speaks."""

    def __init__(self) -> None:
        self.is_open = True

    def stopListening(self) -> None:
        """Hear no more."""
        self.is_open = False


class Reactor(Clock):
    """Runs no process."""

    def __init__(self) -> None:
        super().__init__()
        self.spawned: list[tuple[Process, list[str], dict[str, str], dict[int, int | str]]] = []
        self.heard: dict[str, DatagramProtocol] = {}
        self.notices: list[NoticePort] = []

    def spawnProcess(
        self,
        protocol: ProcessProtocol,
        executable: str,
        args: list[str],
        env: dict[str, str],
        childFDs: dict[int, int | str],
    ) -> Process:
        """Note it."""
        process = Process(protocol, 100 + len(self.spawned))
        self.spawned.append((process, args, env, childFDs))
        return process

    def listenUNIXDatagram(self, address: str, protocol: DatagramProtocol) -> NoticePort:
        """Note it."""
        self.heard[address] = protocol
        self.notices.append(NoticePort())
        return self.notices[-1]


class World:
    """A supervisor of two, and what it told."""

    def __init__(self, *, with_metrics: bool = False, runtime: str = "") -> None:
        self.reactor = Reactor()
        self.clients = Listening()
        self.metrics = Listening() if with_metrics else None
        self.told: list[str] = []
        self.gone: list[tuple[int, str]] = []
        clients: Any = self.clients
        metrics: Any = self.metrics
        self.supervisor = Supervisor(
            2,
            command=["python", "twistd", "llmproxy"],
            first_order=lambda: FIRST,
            environ={
                "A": "1",
                "NOTIFY_SOCKET": "systemd's",
                "WATCHDOG_PID": "1",
                "RUNTIME_DIRECTORY": runtime,
            },
            reactor=self.reactor,
            clients=clients,
            metrics=metrics,
            watchdog_s=10.0,
            drain_delay_s=2.0,
            shared_metrics="SHARED",
            process_gone=lambda *gone: self.gone.append(gone),
            ready=lambda: self.told.append("ready"),
            failed=lambda: self.told.append("failed"),
        )

    def started(self) -> World:
        """Start it."""
        self.supervisor.privilegedStartService()
        self.supervisor.startService()
        return self

    def _spawned(self, number: int) -> tuple[Process, dict[str, str]]:
        found = [
            (process, env)
            for process, _, env, _ in self.reactor.spawned
            if env["LLMPROXY_WORKER"] == str(number)
        ]
        return found[-1]

    def process(self, number: int) -> Process:
        """Give the last process of a worker."""
        return self._spawned(number)[0]

    def says(self, number: int, text: bytes) -> None:
        """Have a worker say something, where it was told to."""
        address = self._spawned(number)[1]["NOTIFY_SOCKET"]
        self.reactor.heard[address].datagramReceived(text, ("", 0))

    def ready(self) -> World:
        """Have both be ready."""
        for number in range(2):
            self.says(number, b"READY=1")
        return self

    def stop(self) -> list[object]:
        """Stop it; what is given has an item when that is over."""
        over: list[object] = []
        self.supervisor.stopService().addCallback(over.append)
        return over


@pytest.fixture
def world() -> Iterator[World]:
    """A supervisor whose workers run."""
    made = World().started()
    yield made
    over = made.stop()
    for worker in made.supervisor.workers:
        if worker.state != "ended":
            made.process(worker.number).exit()
    assert over == [None]
    assert made.reactor.getDelayedCalls() == []
    assert not os.path.exists(made.supervisor._folder)
    assert not any(port.is_open for port in made.reactor.notices)


def test_workers_serve_and_the_supervisor_does_not(world: World) -> None:
    """It listens, reads nothing, hands the sockets on, and will not shut them down."""
    (port,) = world.clients.ports
    assert not port.reads
    assert not port._shouldShutdown
    for _, args, env, descriptors in world.reactor.spawned:
        assert args[-3:] == ["python", "twistd", "llmproxy"]
        assert descriptors == {0: "w", 1: 1, 2: 2, 3: port.fileno()}
        assert (env["A"], env["LISTEN_FDS"], env["WATCHDOG_USEC"]) == ("1", "1", "10000000")
        assert "WATCHDOG_PID" not in env
        assert os.path.isdir(env["SHARED"])
    assert [env["LLMPROXY_WORKER"] for _, _, env, _ in world.reactor.spawned] == ["0", "1"]


def test_the_folder_is_left_alone_by_who_tidies_up(tmp_path: Path) -> None:
    """It is locked, and where systemd has such things; it goes in the end."""
    world = World(runtime=f"{tmp_path}:/nowhere").started()
    (folder,) = tmp_path.iterdir()
    assert world.supervisor._folder == str(folder)
    descriptor = os.open(folder, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    world.stop()
    for number in range(2):
        world.process(number).exit()
    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    os.close(descriptor)
    assert [*tmp_path.iterdir()] == []


def test_a_folder_of_systemds_that_is_not_there(tmp_path: Path) -> None:
    """There are others."""
    world = World(runtime=str(tmp_path / "none")).started()
    assert os.path.isdir(world.supervisor._folder)
    world.stop()
    for number in range(2):
        world.process(number).exit()


def test_metrics_of_their_own() -> None:
    """Their socket is handed over as well, and closed in the end."""
    world = World(with_metrics=True).started()
    assert world.metrics is not None
    assert len(world.reactor.spawned[0][3]) == 5
    world.stop()
    for number in range(2):
        world.process(number).exit()
    assert world.metrics.closed


def test_ready_when_all_are(world: World) -> None:
    """Not before; and again after a reload."""
    world.says(0, b"READY=1")
    assert world.told == []
    world.says(1, b"READY=1")
    assert world.told == ["ready"]
    world.supervisor.reload(SECOND)
    assert [world.process(number).told for number in range(2)] == [[FIRST, SECOND]] * 2
    world.ready()
    assert world.told == ["ready", "ready"]


def test_a_reload_that_failed(world: World) -> None:
    """All are told, and have nothing to do for it."""
    world.ready()
    world.supervisor.tell(Stay(2))
    assert [world.process(number).told for number in range(2)] == [[FIRST, Stay(2)]] * 2
    assert {worker.state for worker in world.supervisor.workers} == {"ready"}


def test_a_worker_that_ends_is_followed(world: World) -> None:
    """The other goes on; what it counted is known to be of a dead process."""
    world.ready()
    world.process(1).exit(by=signal.SIGKILL)
    (gone,) = world.gone
    assert gone == (101, world.reactor.spawned[0][2]["SHARED"])
    world.reactor.advance(0.1)
    assert len(world.reactor.spawned) == 3
    assert world.process(0).signals == []
    world.says(1, b"READY=1")
    assert world.told == ["ready", "ready"]


def test_a_worker_that_cannot_begin() -> None:
    """What is wrong for it is wrong for all: the others end, and that is told."""
    world = World().started()
    world.process(0).exit(1)
    assert world.process(1).signals == ["TERM"]
    assert world.told == []
    world.process(1).exit()
    assert world.told == ["failed"]
    assert world.stop() == [None]
    assert world.reactor.getDelayedCalls() == []


def test_a_worker_that_hangs(world: World) -> None:
    """It is killed."""
    world.ready()
    for _ in range(12):
        world.says(0, b"WATCHDOG=1")
        world.reactor.advance(LOOK_INTERVAL_S)
    assert world.process(0).signals == []
    assert "KILL" in world.process(1).signals


def test_the_end() -> None:
    """Workers are told at once; sockets are closed when theirs are; it is over when all ended."""
    world = World().started().ready()
    over = world.stop()
    world.reactor.advance(1.9)
    assert not world.clients.closed
    world.reactor.advance(0.1)
    assert world.clients.closed
    world.supervisor.hurry()
    for number in range(2):
        assert world.process(number).signals == ["TERM"]
        assert world.process(number).told == [FIRST, Hurry()]
    world.process(0).exit()
    assert over == []
    world.process(1).exit()
    assert over == [None]


def test_the_end_of_workers_that_do_not_wait() -> None:
    """Then nor does the supervisor."""
    world = World().started().ready()
    over = world.stop()
    for number in range(2):
        world.process(number).exit()
    assert over == [None]
    assert world.clients.closed
    assert world.reactor.getDelayedCalls() == []


def test_the_end_before_a_worker_is_ready() -> None:
    """It is told all the same."""
    world = World().started()
    world.says(0, b"READY=1")
    over = world.stop()
    assert world.process(1).signals == ["TERM"]
    for number in range(2):
        world.process(number).exit()
    assert over == [None]
