"""The supervisor: holds the listening sockets, and has workers serve on them.

It takes no connection itself: whoever of the workers is free does. A worker that ends is followed
by another; connections that it had not taken yet wait in the sockets meanwhile. A reload and the
end are passed on. It knows nothing of requests.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from tempfile import mkdtemp
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger

from llmproxy.listeners import Listeners
from llmproxy.rounds import Rounds
from llmproxy.workers.handover import EXECUTE, Handover
from llmproxy.workers.orders import DESCRIPTOR, Hurry, Order
from llmproxy.workers.worker import Worker

RUNTIME_FOLDER: Final = "RUNTIME_DIRECTORY"
"""In the environment: where systemd has the service keep what goes with it."""

LOOK_INTERVAL_S: Final = 1.0


class Supervisor(Service):
    """Runs workers.

    Args:
        count: How many.
        command: Runs the daemon.
        first_order: Gives what each of its processes is told first.
        environ: The environment that workers inherit.
        reactor: Runs processes, and keeps time.
        clients: What listens for clients.
        metrics: What listens for those who read metrics; None: nothing of its own.
        watchdog_s: Within what time each must give a sign of life.
        drain_delay_s: How long they take connections after they were told to end.
        shared_metrics: The name in the environment of the folder where workers count together;
            empty: they do not count.
        process_gone: Called with a process id and that folder when a worker's process has ended.
        ready: Called when all workers serve, at the start and after each reload.
        failed: Called when a worker could not even begin; all have ended then.

    Attributes:
        workers: Them.
        drain_delay_s: As the argument; it may change.
    """

    _log = Logger()

    def __init__(
        self,
        count: int,
        *,
        command: Sequence[str],
        first_order: Callable[[], Order],
        environ: Mapping[str, str],
        reactor: Any,
        clients: Listeners,
        metrics: Listeners | None = None,
        watchdog_s: float,
        drain_delay_s: float,
        shared_metrics: str = "",
        process_gone: Callable[[int, str], None] = lambda _process_id, _folder: None,
        ready: Callable[[], None],
        failed: Callable[[], None],
    ) -> None:
        self._command = command
        self._environ = environ
        self._reactor = reactor
        self._clients = clients
        self._metrics = metrics
        self._watchdog_s = watchdog_s
        self.drain_delay_s = drain_delay_s
        self._shared_metrics = shared_metrics
        self._process_gone = process_gone
        self._ready = ready
        self._failed = failed
        self._folder = ""
        self._folder_lock = -1
        self._ports: list[Any] = []
        self._handover = Handover(())
        self._stopped: Deferred[None] | None = None
        self._has_failed = False
        self._looks = Rounds(self._look, clock=reactor, interval_s=LOOK_INTERVAL_S, log=self._log)
        self.workers = [
            Worker(
                number,
                spawn=partial(self._spawn, number),
                first_order=first_order,
                watchdog_s=watchdog_s,
                clock=reactor,
                changed=self._changed,
                gone=self._gone,
            )
            for number in range(count)
        ]

    def __repr__(self) -> str:
        return f"<Supervisor {self.workers}>"

    def privilegedStartService(self) -> None:
        """Listen, and take nothing.

        Raises:
            CannotListen: An address cannot be had.
        """
        super().privilegedStartService()
        for listeners in (self._clients, self._metrics):
            if listeners is not None:
                listeners.privilegedStartService()
        metrics = () if self._metrics is None else tuple(self._metrics.ports)
        self._handover = handover = Handover(tuple(self._clients.ports), metrics)
        for port in (*handover.clients, *handover.metrics):
            port.stopReading()
            # At its end Twisted would shut the socket down, for all workers that serve on it.
            port._shouldShutdown = False

    def startService(self) -> None:
        """Start all workers."""
        super().startService()
        runtime = self._environ.get(RUNTIME_FOLDER, "").partition(":")[0]
        self._folder = mkdtemp(prefix="llmproxy-", dir=runtime if os.path.isdir(runtime) else None)
        # Who tidies temporary folders up leaves a locked one alone (tmpfiles.d(5)).
        self._folder_lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._folder_lock, fcntl.LOCK_EX)
        if self._shared_metrics:
            os.mkdir(self._metrics_folder)
        for worker in self.workers:
            address = self._address(worker.number)
            self._ports.append(self._reactor.listenUNIXDatagram(address, worker))
            worker.start()
        self._looks.start(LOOK_INTERVAL_S)

    def stopService(self) -> Deferred[None]:
        """Have all workers end; the Deferred fires when they have."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self._looks.stop()
        self._stopped = Deferred()
        self._end_all()
        # When the workers close theirs: what only we hold open would take connections that nobody
        # serves, and until then whoever connects must find the sockets' paths.
        closing = self._reactor.callLater(
            self.drain_delay_s, lambda: Deferred.fromCoroutine(self._close())
        )
        await self._stopped
        if closing.active():
            closing.cancel()
        await self._close()
        for port in self._ports:
            port.stopListening()
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._folder_lock)

    async def _close(self) -> None:
        for listeners in (self._clients, self._metrics):
            if listeners is not None:
                await listeners.close()

    def reload(self, order: Order) -> None:
        """Have all workers go on under another configuration.

        Args:
            order: Says under which.
        """
        for worker in self.workers:
            worker.reload(order)

    def tell(self, order: Order) -> None:
        """Tell all workers something."""
        for worker in self.workers:
            worker.tell(order)

    def hurry(self) -> None:
        """Have those that are ending wait for nothing."""
        self.tell(Hurry())

    def _spawn(self, number: int, protocol: ProcessProtocol) -> Any:
        environ = {
            **self._environ,
            **self._handover.environment(number),
            "NOTIFY_SOCKET": self._address(number),
            "WATCHDOG_USEC": str(round(self._watchdog_s * 1_000_000)),
        }
        environ.pop("WATCHDOG_PID", None)
        if self._shared_metrics:
            environ[self._shared_metrics] = self._metrics_folder
        return self._reactor.spawnProcess(
            protocol,
            sys.executable,
            [sys.executable, "-c", EXECUTE, *self._command],
            environ,
            childFDs={DESCRIPTOR: "w", 1: 1, 2: 2, **self._handover.descriptors()},
        )

    def _address(self, number: int) -> str:
        return os.path.join(self._folder, f"worker-{number}")

    @property
    def _metrics_folder(self) -> str:
        return os.path.join(self._folder, "metrics")

    async def _look(self) -> None:
        for worker in self.workers:
            worker.look()

    def _changed(self, worker: Worker) -> None:
        if worker.state == "waiting" and worker.status == 1 and not worker.was_ready:
            # What is wrong for it is wrong for all, and it has said what.
            self._has_failed = True
            self._end_all()
        elif all(one.state == "ready" for one in self.workers):
            self._ready()
        else:
            self._look_for_end()

    def _end_all(self) -> None:
        for worker in self.workers:
            if worker.state != "ended":
                worker.end()
        self._look_for_end()

    def _look_for_end(self) -> None:
        if any(worker.state != "ended" for worker in self.workers):
            return
        if self._stopped is not None:
            if not self._stopped.called:
                self._stopped.callback(None)
        elif self._has_failed:
            self._failed()

    def _gone(self, process_id: int) -> None:
        if self._shared_metrics:
            self._process_gone(process_id, self._metrics_folder)
