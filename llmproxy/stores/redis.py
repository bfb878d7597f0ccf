"""Redis: some connections to one server, kept up, and commands sent over them.

It knows nothing of what is kept there. While there is no connection it says so at once: whoever
asks decides what becomes of a request meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Final

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, fail, gatherResults
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionRefusedError,
    DNSLookupError,
)
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from llmproxy.config.model_stores import Cache
from llmproxy.errors import RedisReplyError, StoreUnavailable
from llmproxy.interfaces import IRedis

if TYPE_CHECKING:
    from llmproxy.stores.redis_protocol import RedisProtocol

FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 1.0
"""Between attempts to connect. The longest is about the time after which a server that is back is
used again."""

PROVEN_S: Final = 1.0
"""A connection that held for so long is made anew without delay: servers close idle ones."""


@implementer(IRedis)
class RedisConnections(Service):
    """One Redis server. Commands go to the connection that has least to do.

    So two commands may overtake each other unless the second is sent after the first's reply.

    Args:
        settings: One of ``storage.caches``.
        reactor: Connects, and gives the time.
        endpoint: Where the server is, if not at ``settings.addr``.

    Raises:
        ValueError: ``addr`` has no port.
    """

    _log = Logger()

    def __init__(
        self, settings: Cache, reactor: Any, endpoint: IStreamClientEndpoint | None = None
    ) -> None:
        # Imported here and not above: it costs memory, and it imports the global reactor.
        from llmproxy.stores.redis_protocol import RedisProtocol

        self._protocol = RedisProtocol
        self._settings = settings
        self._clock = reactor
        self._endpoint = endpoint or _endpoint(settings, reactor)
        self._ready: list[RedisProtocol] = []
        self._tended: list[Deferred[None]] = []
        self._scripts: dict[str, tuple[bytes, bytes]] = {}
        self._told_of_outage = False
        self._early: list[Deferred[None]] | None = None

    def __repr__(self) -> str:
        waiting = sum(connection.waiting for connection in self._ready)
        return (
            f"<RedisConnections {self._settings.name}: {len(self._ready)} of "
            f"{self._settings.pool_size} connections, {waiting} replies to come>"
        )

    @property
    def is_up(self) -> bool:
        """Whether there is a connection that can be used, as far as is known."""
        return bool(self._ready)

    def startService(self) -> None:
        """Begin to connect."""
        super().startService()
        self._early = []
        self._tended = [
            Deferred.fromCoroutine(self._tend()) for _ in range(self._settings.pool_size)
        ]

    def stopService(self) -> Deferred[Any]:
        """Send nothing more, wait for the replies to what was sent, and close all connections."""
        super().stopService()
        self._answer_early()
        for tended in self._tended:
            tended.cancel()
        return gatherResults(self._tended)

    def call(self, *words: bytes | str | int) -> Deferred[Any]:
        """Send a command; see `IRedis.call`.

        What is asked before the first attempt to connect has ended waits for its end: a gateway
        that has just been started is not one whose Redis is away.
        """
        if self.running and not self._ready and self._early is not None:
            first: Deferred[None] = Deferred()
            self._early.append(first)
            return first.addCallback(lambda _: self.call(*words))
        if not self.running or not self._ready:
            return fail(self._unavailable("there is no connection"))
        connection = min(self._ready, key=_waiting)
        return self._asked(connection, tuple(map(_encoded, words)))

    def run_script(
        self, script: str, keys: Sequence[bytes | str], arguments: Sequence[bytes | str | int]
    ) -> Deferred[Any]:
        """Run a Lua script; see `IRedis.run_script`."""
        if script not in self._scripts:
            source = script.encode("utf-8")
            # Redis names scripts so; it protects nothing.
            digest = sha1(source, usedforsecurity=False).hexdigest().encode("ascii")
            self._scripts[script] = source, digest
        source, digest = self._scripts[script]
        rest = (len(keys), *keys, *arguments)

        def unknown(failure: Any) -> Deferred[Any]:
            failure.trap(RedisReplyError)
            if not str(failure.value).startswith("NOSCRIPT"):
                return failure
            return self.call(b"EVAL", source, *rest)

        return self.call(b"EVALSHA", digest, *rest).addErrback(unknown)

    def _asked(self, connection: RedisProtocol, words: tuple[bytes, ...]) -> Deferred[Any]:
        try:
            return connection.ask(words).addErrback(self._named)
        except StoreUnavailable as error:
            return fail(self._unavailable(str(error)))

    def _named(self, failure: Any) -> Any:
        if failure.check(StoreUnavailable):
            raise self._unavailable(str(failure.value)) from None
        return failure

    def _unavailable(self, reason: str) -> StoreUnavailable:
        return StoreUnavailable(f"redis {self._settings.name} cannot be asked: {reason}")

    async def _tend(self) -> None:
        """Keep one connection up, until this is cancelled."""
        delay_s = FIRST_DELAY_S
        while self.running:
            held_s = 0.0
            try:
                held_s = await self._use(await self._connect())
            except StoreUnavailable as error:
                self._tell_of_outage(str(error))
                self._answer_early()
            except CancelledError:
                return
            except Exception:  # noqa: BLE001 - the outermost edge: it is tried again all the same
                self._log.failure("redis {name}: connecting failed", name=self._settings.name)
            if not self.running:  # an attempt that is cancelled may end like one that failed
                return
            if held_s >= PROVEN_S:
                delay_s = FIRST_DELAY_S
                continue
            try:
                await deferLater(self._clock, delay_s)
            except CancelledError:
                return
            delay_s = min(2 * delay_s, LONGEST_DELAY_S)

    async def _connect(self) -> RedisProtocol:
        """Connect once, and say what is to be said first.

        Raises:
            StoreUnavailable: Why there is no connection that can be used.
        """
        factory = Factory()
        factory.noisy = False
        timeout_s = self._settings.timeout
        factory.protocol = partial(self._protocol, timeout_s, self._clock)
        try:
            connected: Any = await self._endpoint.connect(factory)
        except ConnectingCancelledError:
            raise CancelledError from None
        except (ConnectError, OSError) as error:
            raise StoreUnavailable(_reason(error)) from None
        connection: RedisProtocol = connected
        try:
            await self._greet(connection)
        except BaseException:  # cancelled, too: nobody else knows of this connection
            connection.abort()
            await connection.when_lost()
            raise
        return connection

    async def _greet(self, connection: RedisProtocol) -> None:
        settings = self._settings
        if settings.password or settings.username:
            login = (settings.username, settings.password) if settings.username else ()
            try:
                await connection.ask((b"AUTH", *map(_encoded, login or (settings.password,))))
            except RedisReplyError:
                # Its message is not shown: it may quote what was sent.
                raise StoreUnavailable("it refuses the password, or wants none") from None
        try:
            if settings.db:
                await connection.ask((b"SELECT", _encoded(settings.db)))
            await connection.ask((b"PING",))
        except RedisReplyError as error:
            raise StoreUnavailable(f"it answers {str(error)[:200]!r}") from None

    async def _use(self, connection: RedisProtocol) -> float:
        """Have a connection used until it is lost; when cancelled, end it well.

        Returns:
            How long it held, in seconds.
        """
        began_s: float = self._clock.seconds()
        self._ready.append(connection)
        self._tell_of_return()
        self._answer_early()
        try:
            await connection.when_lost()
        except CancelledError:
            await self._end(connection)
            raise
        finally:
            self._ready.remove(connection)
        return self._clock.seconds() - began_s

    async def _end(self, connection: RedisProtocol) -> None:
        """Close a connection once all that was sent is answered, or is too late to be."""
        with suppress(StoreUnavailable, RedisReplyError):
            # Replies come in order: with this one all are there.
            await connection.ask((b"PING",))
        connection.abort()
        await connection.when_lost()

    def _answer_early(self) -> None:
        """Let those go on who asked before it was known whether there is a connection."""
        early, self._early = self._early, None
        for first in early or ():
            if not first.called:  # cancelled
                first.callback(None)

    def _tell_of_outage(self, reason: str) -> None:
        """Log why there is no connection: once, until there is one again."""
        if self._ready or self._told_of_outage or not self.running:
            return
        self._told_of_outage = True
        self._log.warn(
            "redis {name}: cannot be reached: {reason}", name=self._settings.name, reason=reason
        )

    def _tell_of_return(self) -> None:
        if self._told_of_outage:
            self._told_of_outage = False
            self._log.info("redis {name}: is back", name=self._settings.name)


def _endpoint(settings: Cache, reactor: Any) -> IStreamClientEndpoint:
    host, _, port = settings.addr.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()):
        raise ValueError(f'is {settings.addr!r}; want "host:port"')
    return HostnameEndpoint(reactor, host.strip("[]"), int(port), timeout=settings.timeout)


def _waiting(connection: RedisProtocol) -> int:
    return connection.waiting


def _encoded(word: bytes | str | int) -> bytes:
    """Give a word of a command as it is sent; any string can be, lone surrogates as well."""
    if isinstance(word, int):
        return b"%d" % word
    return word.encode("utf-8", "surrogatepass") if isinstance(word, str) else word


def _reason(error: Exception) -> str:
    """Say in plain words why a connection could not be made."""
    if isinstance(error, ConnectionRefusedError):
        return "the connection is refused"
    if isinstance(error, ConnectTimeout):
        return "connecting takes too long"
    if isinstance(error, DNSLookupError):
        return "its name cannot be resolved"
    return f"connecting fails: {type(error).__name__}"
