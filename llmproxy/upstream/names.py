"""What the names of hosts mean: looked up beside everything else, and remembered.

``getaddrinfo`` blocks, for half a minute where no name server answers. So every look-up has a
thread of its own, one for a name at a time: nothing else waits for it, other names least of all.
Whoever can do with what was found last does not wait for it either.

The module knows names and addresses; who connects, and in which order, does not concern it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final

import attrs
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHostnameResolver,
    IHostResolution,
    IResolutionReceiver,
)
from twisted.logger import Logger
from zope.interface import implementer

FRESH_S: Final = 10.0
"""How long addresses are used before they are looked up again.

How long they hold, ``getaddrinfo`` does not tell; of names that are made to change it is half a
minute or so. Connections come in bursts, for which this is long enough.
"""

PATIENCE_S: Final = 0.5
"""How long a look-up is waited for where addresses are known.

An answer takes milliseconds; a name server that does not give one is asked again after seconds.
"""

AGAIN_S: Final = 1.0
"""How long known addresses are used after a look-up that failed, before the next."""

KEPT_S: Final = 3600.0
"""How long known addresses are used that cannot be looked up.

Not for ever: they may be somebody else's by then, who would get prompts and keys.
"""

_NO_SUCH_NAME: Final = frozenset(
    (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
)
"""That there are no addresses is an answer, after which the old ones do not hold."""

_KINDS: Final[dict[int, Callable[..., IPv4Address | IPv6Address]]] = {
    socket.AF_INET: IPv4Address,
    socket.AF_INET6: IPv6Address,
}


@implementer(IHostResolution)
@attrs.frozen
class _Resolution:
    """What one who asks is told of."""

    name: str

    def cancel(self) -> None:
        """Nothing to do: others may wait for the same look-up."""


@attrs.define(eq=False)
class _Host:
    """What is known of one name.

    Attributes:
        name: The name.
        addresses: Found last, in their order.
        found_s: When that was, on the clock.
        again_s: When they are to be looked up again.
        asking: Whether a look-up is under way.
        late: Whether it was waited for long enough.
        patience: Fires when it was.
        troubled: Whether the log has it that look-ups fail, or are late.
        waiting: To be called when it is over.
    """

    name: str
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    found_s: float = -inf
    again_s: float = -inf
    asking: bool = False
    late: bool = False
    patience: IDelayedCall | None = None
    troubled: bool = False
    waiting: list[Callable[[], None]] = attrs.Factory(list)


def _in_thread(name: str, run: Callable[[], None]) -> None:
    # A daemon: a look-up that hangs must not keep the process.
    threading.Thread(target=run, name=f"look-up of {name}", daemon=True).start()


@implementer(IHostnameResolver)
class RememberingResolver:
    """Looks names up, and remembers what they meant.

    As many are remembered as the configuration ever named: no others are asked for.

    Args:
        reactor: Keeps time, and is told from threads.
        look_up: As `socket.getaddrinfo`.
        in_thread: Starts a thread of a name.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        look_up: Callable[..., Sequence[tuple[Any, ...]]] = socket.getaddrinfo,
        in_thread: Callable[[str, Callable[[], None]], None] = _in_thread,
    ) -> None:
        self._reactor = reactor
        self._look_up = look_up
        self._in_thread = in_thread
        self._hosts: dict[str, _Host] = {}

    def __repr__(self) -> str:
        asking = sum(host.asking for host in self._hosts.values())
        return f"<RememberingResolver hosts={len(self._hosts)} asking={asking}>"

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """Tell the addresses of a name, as `IHostnameResolver` has it; fresh ones at once."""
        now = self._reactor.seconds()
        host = self._hosts.setdefault(hostName, _Host(hostName))
        if now >= host.found_s + KEPT_S:
            host.addresses = ()
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)

        def tell() -> None:
            for address in host.addresses:
                if addressTypes is None or type(address) in addressTypes:
                    kind: Any = transportSemantics
                    resolutionReceiver.addressResolved(
                        attrs.evolve(address, type=kind, port=portNumber)
                    )
            resolutionReceiver.resolutionComplete()

        if not host.asking and (not host.addresses or now >= host.again_s):
            self._ask(host)
        if host.addresses and (host.late or not host.asking):
            tell()
        else:
            host.waiting.append(tell)
        return resolution

    def _ask(self, host: _Host) -> None:
        host.asking, host.late = True, False
        if host.addresses:
            host.patience = self._reactor.callLater(PATIENCE_S, self._lose_patience, host)
        tell = self._reactor.callFromThread

        def run() -> None:
            try:
                found = self._look_up(host.name, 0, type=socket.SOCK_STREAM)
            except Exception as error:  # noqa: BLE001 - the thread's outermost edge; it is logged
                tell(self._failed, host, error)
            else:
                tell(self._found, host, found)

        try:
            self._in_thread(host.name, run)
        except RuntimeError as error:  # no thread is to be had
            self._reactor.callLater(0, self._failed, host, error)

    def _found(self, host: _Host, found: Sequence[tuple[Any, ...]]) -> None:
        host.addresses = tuple(
            _KINDS[family]("TCP", *address) for family, *_, address in found if family in _KINDS
        )
        host.found_s = self._reactor.seconds()
        host.again_s = host.found_s + FRESH_S
        if host.troubled and not host.late:
            host.troubled = False
            self._log.info("the name {host} can be looked up again", host=host.name)
        self._end(host)

    def _failed(self, host: _Host, error: Exception) -> None:
        if isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_NAME:
            host.addresses = ()
        host.again_s = self._reactor.seconds() + AGAIN_S
        self._complain(host, str(error))
        self._end(host)

    def _lose_patience(self, host: _Host) -> None:
        host.patience, host.late = None, True
        self._complain(host, f"no answer within {PATIENCE_S:g} s")
        self._tell(host)

    def _end(self, host: _Host) -> None:
        host.asking = host.late = False
        if host.patience is not None:
            host.patience.cancel()
            host.patience = None
        self._tell(host)

    def _tell(self, host: _Host) -> None:
        waiting, host.waiting = host.waiting, []
        for tell in waiting:
            tell()

    def _complain(self, host: _Host, why: str) -> None:
        """Say it once, until look-ups are well again."""
        if host.troubled:
            return
        host.troubled = True
        self._log.warn(
            "the name {host} cannot be looked up: {why}; {so}",
            host=host.name,
            why=why,
            so=(
                f"its last addresses are used, for {KEPT_S / 60:g} minutes at most"
                if host.addresses
                else "nothing that has it can be reached"
            ),
        )
