"""Listeners: ``server.listen`` as Twisted endpoints, and their opening and closing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet import tcp, unix
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import (
    AdoptedStreamServerEndpoint,
    quoteStringArgument,
    serverFromString,
)
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.logger import Logger

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


class Listeners(Service):
    """Listens on every configured address with the same factory.

    Args:
        reactor: Listens.
        listens: ``server.listen``.
        factory: Makes the protocol of each connection.
        note: What the log says behind each address.

    Attributes:
        ports: What is listened on now.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, listens: Sequence[str], factory: IProtocolFactory, note: str = ""
    ) -> None:
        self._reactor = reactor
        self._listens = listens
        self._factory = factory
        self._note = note
        self.ports: list[IListeningPort] = []

    def __repr__(self) -> str:
        return f"<Listeners {[describe(port.getHost()) for port in self.ports]}>"

    def privilegedStartService(self) -> None:
        """Listen, while ports below 1024 can still be had.

        Raises:
            CannotListen: An address is in use, not ours, or makes no sense.
        """
        for listen in self._listens:
            try:
                self._listen(listen)
            except Exception as error:
                reason = getattr(error, "socketError", None) or error
                text = getattr(reason, "strerror", None) or str(reason)
                raise CannotListen(f"cannot listen on {listen!r}: {text}") from error
        for port in self.ports:
            self._log.info(
                "listening on {address}{note}", address=describe(port.getHost()), note=self._note
            )

    def _listen(self, listen: str) -> None:
        unix_listen = parse_unix(listen)
        if unix_listen is not None:
            backlog = unix_listen.backlog or BACKLOG
            name = os.fsencode(unix_listen.path)
            port = UnixPort(name, self._factory, backlog, unix_listen.mode, self._reactor)
            port.startListening()
            self._opened(port)
            return
        endpoint: Any = serverFromString(self._reactor, endpoint_string(listen))
        if isinstance(endpoint, AdoptedStreamServerEndpoint):
            endpoint.reactor = Adopting(self._reactor)
        opened: Deferred[IListeningPort] = endpoint.listen(self._factory)
        opened.addCallback(self._opened)
        failures: list[Any] = []
        opened.addErrback(failures.append)
        if failures:
            failures[0].raiseException()

    def _opened(self, port: IListeningPort) -> None:
        self.ports.append(port)
        # The ports of adopted sockets are of these classes as well, and TLS is put on top of it.
        if isinstance(port, tcp.Port) and port.transport is tcp.Server:
            port.transport = ImmediateServer
        elif isinstance(port, unix.Port) and port.transport is unix.Server:
            port.transport = ImmediateUnixServer

    async def close(self) -> None:
        """Listen no more; connections stay."""
        ports, self.ports = self.ports, []
        for port in ports:
            await maybeDeferred(port.stopListening)


def describe(address: Any) -> str:
    """Write an address as operators do."""
    if isinstance(address, UNIXAddress):
        return f"unix:{os.fsdecode(address.name or b'')}"
    host = getattr(address, "host", None)
    if host is None:
        return str(address)
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
