"""Listeners: ``server.listen`` as Twisted endpoints, and their opening and closing."""

from __future__ import annotations

import os
import select
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet import tcp, unix
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import (
    AdoptedStreamServerEndpoint,
    quoteStringArgument,
    serverFromString,
)
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from llmproxy.config.addresses import parse_listen, parse_unix
from llmproxy.errors import LLMProxyError
from llmproxy.transport import ImmediateServer, ImmediateUnixServer
from llmproxy.unix_sockets import Adopting, UnixPort

BACKLOG = 4096


class CannotListen(LLMProxyError):
    """An address cannot be listened on; the message says which and why, in one line."""


def endpoint_string(listen: str) -> str:
    """Translate ``":8000"``, ``"127.0.0.1:8000"`` and ``"[::1]:8000"`` to an endpoint string.

    What is one already stays as it is.

    Raises:
        ValueError: It is neither; the loader has refused it before.
    """
    short = parse_listen(listen)
    if short is None:
        return listen
    host, port = short
    text = f"tcp:{port}:backlog={BACKLOG}"
    return f"{text}:interface={quoteStringArgument(host)}" if host else text


class _Current(Factory):
    """What the ports ask for protocols: it asks the factory that is in force.

    Attributes:
        factory: That one; None before there is one.
    """

    noisy = False
    factory: IProtocolFactory | None = None

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make the protocol of a connection."""
        assert self.factory is not None
        return self.factory.buildProtocol(addr)  # type: ignore[arg-type]


@attrs.frozen(eq=False)
class Listening:
    """What is listened on under one configuration.

    Attributes:
        listens: The addresses.
        factory: Makes the protocol of each connection.
        note: What the log says behind each address.
        kept: Ports that were open already, by their place among the addresses.
        opened: Ports that were opened for it, likewise.
    """

    listens: Sequence[str]
    factory: IProtocolFactory | None
    note: str
    kept: Mapping[int, IListeningPort]
    opened: Mapping[int, IListeningPort]


class Listeners(Service):
    """Listens on every configured address with the same factory.

    Before it is started it opens nothing; then it opens all, and after that whatever another
    configuration adds.

    Args:
        reactor: Listens.
        listens: ``server.listen``.
        factory: Makes the protocol of each connection; None: there are no addresses yet.
        note: What the log says behind each address.

    Attributes:
        ports: What is listened on now.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        listens: Sequence[str] = (),
        factory: IProtocolFactory | None = None,
        note: str = "",
    ) -> None:
        self._reactor = reactor
        self._current = _Current()
        self._is_open = False
        self._listens: Sequence[str] = ()
        self.ports: list[IListeningPort] = []
        self.adopt(self.prepare(listens, factory, note))

    def __repr__(self) -> str:
        return f"<Listeners {[describe(port.getHost()) for port in self.ports]}>"

    @property
    def factory(self) -> IProtocolFactory | None:
        """What makes the protocols of new connections."""
        return self._current.factory

    def privilegedStartService(self) -> None:
        """Listen, while ports below 1024 can still be had.

        Raises:
            CannotListen: An address is in use, not ours, or makes no sense.
        """
        self._is_open = True
        self.adopt(self.prepare(self._listens, self._current.factory, self._note))

    def prepare(
        self, listens: Sequence[str], factory: IProtocolFactory | None, note: str = ""
    ) -> Listening:
        """Listen on the addresses that are not listened on yet; arguments as the constructor's.

        In the same turn of the reactor, `adopt` or `discard` must follow.

        Raises:
            CannotListen: One cannot be had; then no other is kept either.
        """
        kept: dict[int, IListeningPort] = {}
        opened: dict[int, IListeningPort] = {}
        left = list(zip(self._listens, self.ports, strict=True)) if self.ports else []
        for place, listen in enumerate(listens):
            found = next((one for one in left if one[0] == listen), None)
            if found is not None:
                left.remove(found)
                kept[place] = found[1]
        listening = Listening(listens, factory, note, kept, opened)
        try:
            for place, listen in enumerate(listens):
                if self._is_open and place not in kept:
                    opened[place] = self._open(listen)
        except CannotListen:
            self.discard(listening)
            raise
        return listening

    def adopt(self, listening: Listening) -> None:
        """Take connections there, and nowhere else; those that are open stay as they are."""
        self._listens, self._note = listening.listens, listening.note
        self._current.factory = listening.factory
        closed = [port for port in self.ports if port not in listening.kept.values()]
        self.ports = [port for _, port in sorted({**listening.kept, **listening.opened}.items())]
        for port in listening.opened.values():
            self._log.info(
                "listening on {address}{note}", address=describe(port.getHost()), note=self._note
            )
        for port in closed:
            self._log.info("listening no more on {address}", address=describe(port.getHost()))
            port.stopListening()

    def discard(self, listening: Listening) -> None:
        """Close what was opened for nothing."""
        for port in listening.opened.values():
            port.stopListening()

    def _open(self, listen: str) -> IListeningPort:
        try:
            port = self._port(listen)
        except Exception as error:
            reason = getattr(error, "socketError", None) or error
            text = getattr(reason, "strerror", None) or str(reason)
            if isinstance(error, LookupError) and listen.startswith("systemd:"):
                text = "systemd has handed over no such socket, or one without a name"
            raise CannotListen(f"cannot listen on {listen!r}: {text}") from error
        # The ports of adopted sockets are of these classes as well, and TLS is put on top of it.
        if isinstance(port, tcp.Port) and port.transport is tcp.Server:
            port.transport = ImmediateServer
        elif isinstance(port, unix.Port) and port.transport is unix.Server:
            port.transport = ImmediateUnixServer
        return port

    def _port(self, listen: str) -> IListeningPort:
        unix_listen = parse_unix(listen)
        if unix_listen is not None:
            backlog = unix_listen.backlog or BACKLOG
            name = os.fsencode(unix_listen.path)
            own = UnixPort(name, self._current, backlog, unix_listen.mode, self._reactor)
            own.startListening()
            return own
        endpoint: Any = serverFromString(self._reactor, endpoint_string(listen))
        if isinstance(endpoint, AdoptedStreamServerEndpoint):
            endpoint.reactor = Adopting(self._reactor)
        ports: list[IListeningPort] = []
        failures: list[Failure] = []
        listening: Deferred[IListeningPort] = endpoint.listen(self._current)
        listening.addCallbacks(ports.append, failures.append)
        if failures:
            failures[0].raiseException()
        (port,) = ports
        return port

    async def close(self) -> None:
        """Listen no more; connections stay, and so do those that only the system has taken yet."""
        ports, self.ports = self.ports, []
        self._is_open = False
        reading = self._reactor.getReaders()
        for listen, port in zip(self._listens, ports, strict=bool(ports)):
            # Of a socket that goes on, another process takes them.
            if port in reading and not listen.startswith("systemd:"):
                # Twisted closes it in the reactor's next turn, and reads no more until then: what
                # connects meanwhile is to be taken too.
                self._reactor.callLater(0, _take_waiting, port)
            await maybeDeferred(port.stopListening)


def _take_waiting(port: Any) -> None:
    """Take the connections that are made already: closing the socket would reset them."""
    waiting = select.poll()
    waiting.register(port.fileno(), select.POLLIN)
    for _ in range(BACKLOG):
        if not waiting.poll(0):
            return
        port.doRead()


def describe(address: Any) -> str:
    """Write an address as operators do."""
    if isinstance(address, UNIXAddress):
        return f"unix:{os.fsdecode(address.name or b'')}"
    host = getattr(address, "host", None)
    if host is None:
        return str(address)
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
