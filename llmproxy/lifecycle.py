"""The daemon's end: it is told, no new work, what runs may finish, then out.

SIGTERM makes the reactor stop the services, and it waits for the Deferreds that they return.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final, Protocol

from twisted.internet.task import deferLater
from twisted.logger import Logger

from llmproxy.errors import Draining, GatewayError

POLL_S: Final = 0.05

FIRST_REQUEST_S: Final = 1.0
"""How long a connection that was taken just before the end may wait for its first request."""


LAST_WORDS_S: Final = 0.3
"""How long clients have to take what they are told when their requests are cut."""

LAST_WRITES_S: Final = 30.0
"""How long the stores may take to write what is left, once nothing runs any more."""


class _Closing(Protocol):
    async def close(self) -> None: ...


class _Running(Protocol):
    def cut(self, error: GatewayError) -> None: ...


class _Connections(Protocol):
    @property
    def expects_requests(self) -> bool: ...

    @property
    def delivering(self) -> int: ...

    def keep_no_more(self) -> None: ...

    def close_idle(self, *, unused: bool = True) -> None: ...

    def abort_all(self) -> None: ...


class Lifecycle:
    """Drains the daemon when it is stopped.

    States: serving; leaving (``/ready`` says so, all requests are still taken, and each answer is
    the last on its connection); draining (new requests are turned away).

    Args:
        reactor: Keeps time.
        drain_delay_s: How long it is leaving before the listeners close, for load balancers to see.
        drain_timeout_s: How long what runs may go on after that.
        listeners: Closed first.
        running: What runs; what is cut leaves it.
        connections: Of clients.

    Attributes:
        drain_delay_s: As the argument; it may change.
        drain_timeout_s: Likewise.
        leaving: Whether the end has begun.
        draining: Whether new requests are turned away.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        *,
        drain_delay_s: float,
        drain_timeout_s: float,
        listeners: _Closing,
        running: Collection[_Running],
        connections: _Connections,
    ) -> None:
        self._reactor = reactor
        self.drain_delay_s = drain_delay_s
        self.drain_timeout_s = drain_timeout_s
        self._listeners = listeners
        self._running = running
        self._connections = connections
        self._hurried = False
        self.leaving = False
        self.draining = False

    def __repr__(self) -> str:
        return (
            f"<Lifecycle leaving={self.leaving} draining={self.draining} "
            f"running={len(self._running)}>"
        )

    @property
    def longest_s(self) -> float:
        """How long the end may take, with some time to write what was used."""
        return self.drain_delay_s + FIRST_REQUEST_S + self.drain_timeout_s + LAST_WRITES_S

    def is_leaving(self) -> bool:
        """Say whether the end has begun."""
        return self.leaving

    def is_draining(self) -> bool:
        """Say whether new requests are turned away."""
        return self.draining

    def hurry(self) -> None:
        """Wait no longer: what still runs is cut."""
        self._hurried = True

    async def drain(self) -> None:
        """Return when nothing runs any more, or time is up."""
        connections, running = self._connections, self._running
        self.leaving = True
        connections.keep_no_more()
        if self.drain_delay_s > 0:
            self._log.info(
                "not ready any more; listeners close in {delay_s:g} s", delay_s=self.drain_delay_s
            )
            await self._while(lambda: True, self.drain_delay_s)
        await self._listeners.close()
        connections.close_idle(unused=False)
        # Whoever connected in the last moment is about to ask, and nobody else takes that request.
        await self._while(lambda: connections.expects_requests, FIRST_REQUEST_S)
        self.draining = True
        connections.close_idle()
        if len(running):
            self._log.info("draining: {count} requests are running", count=len(running))
        # A request is over before its client has taken all of the answer.
        await self._while(
            lambda: bool(len(running) or connections.delivering), self.drain_timeout_s
        )
        if len(running):
            self._log.warn("{count} requests still run and are cut", count=len(running))
            for request in tuple(running):
                request.cut(Draining())
        elif connections.delivering:
            self._log.warn(
                "{count} clients have not taken all of their answers and are cut",
                count=connections.delivering,
            )
        await self._turn()  # those that were closed just now are closed, not cut
        await self._while(lambda: bool(connections.delivering), LAST_WORDS_S, even_hurried=True)
        connections.abort_all()
        await self._turn()

    async def _turn(self) -> None:
        """Let the reactor do what is due."""
        await deferLater(self._reactor, 0, lambda: None)

    async def _while(
        self, lasts: Callable[[], bool], longest_s: float, *, even_hurried: bool = False
    ) -> None:
        """Wait while something lasts, and nobody hurries."""
        deadline_s = self._reactor.seconds() + longest_s
        while lasts() and (even_hurried or not self._hurried):
            left_s = deadline_s - self._reactor.seconds()
            if left_s <= 0:
                return
            await deferLater(self._reactor, min(POLL_S, left_s), lambda: None)
