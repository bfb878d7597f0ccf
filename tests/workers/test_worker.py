"""Tests of `llmproxy.workers.worker`."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from llmproxy.config.load import LoadedConfig
from llmproxy.config.model import Backend, Config
from llmproxy.values import ConfigStatus
from llmproxy.workers.orders import DESCRIPTOR, Begin, Order, Serve, Stay, decode
from llmproxy.workers.worker import FIRST_WAIT_S, LONGEST_WAIT_S, STEADY_S, Worker


def serve(digest: str) -> Serve:
    """Give an order to go on under a configuration."""
    config = Config(backends=(Backend(name="a", url="http://a:1"),))
    return Serve(LoadedConfig(config, "x.yaml", digest, {"backends": 1}))


FIRST = Begin(serve("first").loaded, ConfigStatus("first", 1.7e9, 1.7e9 + 60, 2))
SECOND, THIRD = serve("second"), serve("third")


class Process:
    """A process that does what the test says."""

    def __init__(self, protocol: ProcessProtocol, pid: int) -> None:
        self.protocol = protocol
        self.pid = pid
        self.signals: list[str] = []
        self.told: list[Order] = []
        self.is_over = False

    def signalProcess(self, name: str) -> None:
        """Keep it."""
        if self.is_over:
            raise ProcessExitedAlready
        self.signals.append(name)

    def writeToChild(self, descriptor: int, data: bytes) -> None:
        """Keep the order."""
        assert descriptor == DESCRIPTOR
        if self.is_over:
            raise KeyError(descriptor)
        self.told.extend(decode(bytearray(data)))

    def exit(self, status: int = 0, by: int | None = None) -> None:
        """End."""
        self.is_over = True
        error: Any = ProcessTerminated(status, by) if status or by else ProcessDone(0)
        self.protocol.processEnded(Failure(error))


class World:
    """A worker and its processes."""

    def __init__(self, watchdog_s: float = 10.0) -> None:
        self.clock = Clock()
        self.processes: list[Process] = []
        self.states: list[str] = []
        self.gone: list[int] = []
        self.first_order: Order = FIRST
        self.worker = Worker(
            3,
            spawn=self._spawn,
            first_order=lambda: self.first_order,
            watchdog_s=watchdog_s,
            clock=self.clock,
            changed=lambda worker: self.states.append(worker.state),
            gone=self.gone.append,
        )

    def _spawn(self, protocol: ProcessProtocol) -> Process:
        self.processes.append(Process(protocol, 100 + len(self.processes)))
        return self.processes[-1]

    @property
    def process(self) -> Process:
        """The last process."""
        return self.processes[-1]

    def says(self, *lines: bytes) -> None:
        """Have the process say something."""
        self.worker.datagramReceived(b"\n".join(lines), None)

    def started(self) -> World:
        """Start it, until it is ready."""
        self.worker.start()
        self.says(b"READY=1", b"STATUS=serving")
        return self


def test_it_is_ready_when_it_says_so() -> None:
    """And then only."""
    world = World()
    world.worker.start()
    assert world.worker.state == "starting"
    world.says(b"STATUS=reading")
    assert world.worker.state == "starting"
    world.says(b"READY=1", b"STATUS=serving")
    assert world.states == ["ready"]
    assert world.worker.was_ready
    assert "Worker 3 ready process=100" in repr(world.worker)


def test_who_ends_is_followed_soon() -> None:
    """Within a tenth of a second."""
    world = World().started()
    world.process.exit(by=signal.SIGKILL)
    assert (world.worker.state, world.worker.status, world.gone) == ("waiting", None, [100])
    world.clock.advance(FIRST_WAIT_S)
    assert len(world.processes) == 2
    assert world.worker.restarts == 1


def test_who_ends_over_and_over_is_followed_later_and_later() -> None:
    """Up to a limit; after it has served for a while, soon again."""
    world = World().started()
    waits = []
    for _ in range(10):
        world.process.exit(3)
        (call,) = world.clock.getDelayedCalls()
        waits.append(call.getTime() - world.clock.seconds())
        world.clock.advance(waits[-1])
    assert waits[0] == pytest.approx(FIRST_WAIT_S)
    assert waits[1] == pytest.approx(2 * FIRST_WAIT_S)
    assert waits[-1] == pytest.approx(LONGEST_WAIT_S)
    assert world.worker.status == 3
    world.says(b"READY=1")
    world.clock.advance(STEADY_S)
    world.process.exit(3)
    (call,) = world.clock.getDelayedCalls()
    assert call.getTime() - world.clock.seconds() == pytest.approx(FIRST_WAIT_S)


def test_the_end() -> None:
    """The process is told, once, and nobody follows."""
    world = World().started()
    world.worker.end()
    world.worker.end()
    assert world.process.signals == ["TERM"]
    world.process.exit()
    assert world.states[-1] == "ended"
    assert world.clock.getDelayedCalls() == []
    world.worker.tell(SECOND)


def test_the_end_while_nobody_runs() -> None:
    """Nobody is started any more."""
    world = World().started()
    world.process.exit(1)
    world.worker.end()
    assert world.states[-1] == "ended"
    assert world.clock.getDelayedCalls() == []


def test_a_signal_or_an_order_to_a_process_that_is_over() -> None:
    """Word of its end is on the way."""
    world = World().started()
    world.process.is_over = True
    world.worker.tell(SECOND)
    world.worker.end()
    assert world.worker.state == "ending"


def test_a_reload() -> None:
    """It is told, and is ready again when it says so."""
    world = World()
    world.worker.reload(SECOND)
    world.started()
    assert world.process.told == [FIRST]
    world.worker.reload(SECOND)
    world.worker.tell(Stay(3))
    assert (world.process.told, world.process.signals) == ([FIRST, SECOND, Stay(3)], [])
    assert world.worker.state == "starting"
    world.says(b"RELOADING=1", b"MONOTONIC_USEC=1")
    world.says(b"READY=1")
    assert world.worker.state == "ready"


def test_no_sign_of_life() -> None:
    """It is killed; one that gives signs is not, nor one that is still starting."""
    world = World(watchdog_s=10.0)
    world.worker.start()
    world.clock.advance(100.0)
    world.worker.look()
    assert world.process.signals == []
    world.says(b"READY=1")
    for _ in range(5):
        world.clock.advance(5.0)
        world.says(b"WATCHDOG=1")
        world.worker.look()
    assert world.process.signals == []
    world.clock.advance(10.1)
    world.worker.look()
    assert world.process.signals == ["KILL"]


def test_no_watchdog() -> None:
    """0 asks for no sign of life."""
    world = World(watchdog_s=0.0).started()
    world.clock.advance(1e6)
    world.worker.look()
    assert world.process.signals == []


def test_a_reload_while_it_starts() -> None:
    """It comes after what it was told before, and it is ready when it has done all of that."""
    world = World()
    world.worker.start()
    world.worker.reload(SECOND)
    world.worker.reload(THIRD)
    assert world.process.told == [FIRST, SECOND, THIRD]
    world.says(b"READY=1")
    world.says(b"READY=1")
    assert world.states == []
    world.says(b"READY=1")
    assert world.states == ["ready"]


def test_who_follows_is_told_what_holds_then() -> None:
    """Not what the one before it began with, nor what was to be done by that one."""
    world = World().started()
    world.worker.reload(SECOND)
    world.process.exit(by=signal.SIGKILL)
    world.first_order = THIRD
    world.clock.advance(FIRST_WAIT_S)
    assert world.process.told == [THIRD]
    world.says(b"READY=1")
    assert world.worker.state == "ready"


def test_who_hangs_in_a_reload_is_killed() -> None:
    """Not only who is ready; but not who has yet to start, however long that takes."""
    world = World(watchdog_s=10)
    world.worker.start()
    world.clock.advance(60)
    world.worker.look()
    assert world.process.signals == []
    world.says(b"READY=1")
    world.worker.reload(SECOND)
    world.clock.advance(11)
    world.worker.look()
    assert world.process.signals == ["KILL"]
