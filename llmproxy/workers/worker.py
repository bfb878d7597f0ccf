"""One worker: a process, and the one that follows when it ends.

The supervisor hears from it as systemd hears from a daemon, by datagrams (sd_notify(3)): that it is
ready, and that its event loop turns. It knows nothing of what the process does.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import DatagramProtocol, ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from llmproxy.workers.orders import DESCRIPTOR, Order, encode

FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 10.0
"""Before a process that ended is followed by another; twice as long each time that it fails."""

STEADY_S: Final = 60.0
"""One that served for so long did not fail at the start."""


class Worker(DatagramProtocol):
    """One worker.

    States: starting, ready, waiting (to be started again), ending, ended.

    Args:
        number: Which it is.
        spawn: Starts a process for a protocol; gives its transport.
        first_order: Gives what each process is told first.
        watchdog_s: Within what time it must give a sign of life; 0: it need not.
        clock: Keeps time.
        changed: Called after each change of its state.
        gone: Called with the process id of each process that has ended.

    Attributes:
        number: Which it is.
        state: One of these.
        status: The exit status of the last process that ended; None before, and after a signal.
        was_ready: Whether any of its processes ever was.
        restarts: How many processes followed on the first.
    """

    _log = Logger()

    def __init__(
        self,
        number: int,
        *,
        spawn: Callable[[ProcessProtocol], Any],
        first_order: Callable[[], Order],
        watchdog_s: float,
        clock: IReactorTime,
        changed: Callable[[Worker], None],
        gone: Callable[[int], None],
    ) -> None:
        self.number = number
        self._spawn = spawn
        self._first_order = first_order
        self._watchdog_s = watchdog_s
        self._clock = clock
        self._changed = changed
        self._gone = gone
        self._process: Any = None
        self._process_id = 0
        self._wait_s = FIRST_WAIT_S
        self._next: IDelayedCall | None = None
        self._ready_at_s = 0.0
        self._alive_at_s = 0.0
        self._serves = False
        self._awaited = 0
        self.state = "waiting"
        self.status: int | None = None
        self.was_ready = False
        self.restarts = -1

    def __repr__(self) -> str:
        return f"<Worker {self.number} {self.state} process={self._process_id}>"

    def start(self) -> None:
        """Start a process."""
        self._next = None
        self.restarts += 1
        self.state = "starting"
        self._serves = False
        self._awaited = 1
        self._alive_at_s = self._clock.seconds()
        self._process = self._spawn(_Exit(self._ended))
        self._process_id = self._process.pid
        self.tell(self._first_order())

    def tell(self, order: Order) -> None:
        """Tell its process something, if it has one."""
        if self._process is not None:
            with suppress(KeyError):  # the pipe is closed: word of its end is on the way to us
                self._process.writeToChild(DESCRIPTOR, encode(order))

    def reload(self, order: Order) -> None:
        """Have it go on under another configuration; it is ready again when it says so.

        Args:
            order: Says under which.
        """
        if self.state in ("ready", "starting"):
            self.state = "starting"
            self._awaited += 1
            self.tell(order)

    def end(self) -> None:
        """Have it end, and followed by nobody."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._process is None:
            self._become("ended")
        elif self.state != "ending":
            self.state = "ending"
            self._signal("TERM")

    def look(self) -> None:
        """Kill it if it gives no sign of life; called now and then."""
        silent_s = self._clock.seconds() - self._alive_at_s
        is_meant_to_live = self._serves and self.state != "ending"
        if is_meant_to_live and 0 < self._watchdog_s < silent_s:
            self._log.error(
                "worker {number} (process {id}) gives no sign of life and is killed",
                number=self.number,
                id=self._process_id,
            )
            self._signal("KILL")

    # what it says

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """Take a message of its process."""
        del addr
        lines = datagram.split(b"\n")
        if b"WATCHDOG=1" in lines or b"READY=1" in lines:
            self._alive_at_s = self._clock.seconds()
        if b"READY=1" in lines and self.state == "starting":
            self._ready_at_s = self._clock.seconds()
            self.was_ready = self._serves = True
            self._awaited -= 1  # it says so once for its start, and once for each reload
            if not self._awaited:
                self._become("ready")

    def _ended(self, status: int | None, reason: str) -> None:
        process_id, self._process, self._process_id = self._process_id, None, 0
        self.status = status
        self._gone(process_id)
        if self.state == "ending":
            self._become("ended")
            return
        self._log.error(
            "worker {number} (process {id}) ended: {reason}",
            number=self.number,
            id=process_id,
            reason=reason,
        )
        if self.state == "ready" and self._clock.seconds() - self._ready_at_s >= STEADY_S:
            self._wait_s = FIRST_WAIT_S
        self._next = self._clock.callLater(self._wait_s, self.start)
        self._wait_s = min(self._wait_s * 2, LONGEST_WAIT_S)
        self._become("waiting")

    def _signal(self, name: str) -> None:
        if self._process is not None:
            with suppress(ProcessExitedAlready):  # word of its end is on the way to us
                self._process.signalProcess(name)

    def _become(self, state: str) -> None:
        self.state = state
        self._changed(self)


class _Exit(ProcessProtocol):
    """Tells of a process's end."""

    def __init__(self, ended: Callable[[int | None, str], None]) -> None:
        self._ended = ended

    def processEnded(self, reason: Failure) -> None:
        """Tell how it ended."""
        error: Any = reason.value
        if error.signal is not None:
            self._ended(None, f"by {signal.Signals(error.signal).name}")
        else:
            self._ended(error.exitCode, f"with status {error.exitCode}")
