"""Our certificates: which a client is shown, when their files change, and when they end.

It knows nothing of connections but the name that a client asks for. A certificate that is in use
stays with the connections that began with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from OpenSSL import SSL
from twisted.application.service import Service
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from llmproxy.config.model import ServerTls
from llmproxy.tls.contexts import Certificate, load_certificate, sources

LOOK_INTERVAL_S: Final = 2.0
"""How often the files are looked at."""

DAY_S: Final = 86_400.0

SOON_S: Final = 14 * DAY_S
"""How long before its end a certificate is warned of, once a day."""

_Stamp = tuple[int, int, int] | None


@implementer(IOpenSSLServerConnectionCreator)
class Certificates(Service):
    """All certificates of the listeners; makes the TLS side of client connections.

    A client that asks for a name (SNI) is shown the certificate of that name, else the one whose
    name has a star in the place of its first label, else the default one.

    Files that have changed are loaded when two looks in a row found them the same, for a
    certificate and its key are seldom written at once. When they cannot be used, all stays as it
    is, and the log says why, once.

    Args:
        settings: ``server.tls``; its files are there, the loader has looked.
        clock: Keeps time.
        now: Seconds since the epoch.

    Raises:
        OSError: A file cannot be read.
        ValueError: It holds no certificate or key, or the two do not belong together.

    Attributes:
        certificates: Those in force, the default one first; each knows its end.
    """

    _log = Logger()

    def __init__(self, settings: ServerTls, clock: IReactorTime, now: Callable[[], float]) -> None:
        self._settings = settings
        self._now = now
        self.certificates: tuple[Certificate, ...] = ()
        self._by_name: dict[str, Certificate] = {}
        self._loops: list[LoopingCall] = []
        for work in (self._look, self._warn):
            loop = LoopingCall(self._surviving, work)
            loop.clock = clock
            self._loops.append(loop)
        self._load()

    def __repr__(self) -> str:
        return f"<Certificates {[one.cert_file for one in self.certificates]}>"

    def startService(self) -> None:
        """Begin to look at the files, and warn of ends that are near."""
        super().startService()
        looks, warnings = self._loops
        looks.start(LOOK_INTERVAL_S, now=False)
        warnings.start(DAY_S)

    def stopService(self) -> None:
        """Look no more."""
        super().stopService()
        for loop in self._loops:
            if loop.running:
                loop.stop()

    def reload(self) -> None:
        """Load all files anew, whether they have changed or not: all of them or none.

        Connections that are open stay as they are.

        Raises:
            OSError: A file cannot be read; what was in force stays so.
            ValueError: One cannot be used; likewise.
        """
        self._load()
        self._log.info("{count} TLS certificates are loaded anew", count=len(self.certificates))

    def _load(self) -> None:
        settings = self._settings
        stamps = _stamps(settings)
        certificates = tuple(
            load_certificate(settings, source, self._choose_for) for source in sources(settings)
        )
        self.certificates = certificates
        self._by_name = {name: one for one in certificates for name in one.names}
        self._judged = self._seen = stamps

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Make the TLS side of one connection."""
        del tlsProtocol
        return SSL.Connection(self.certificates[0].context, None)

    def choose(self, name: str) -> Certificate:
        """Give the certificate that who asks for a name is shown."""
        name = name.lower().rstrip(".")
        found = self._by_name.get(name)
        if found is None:
            found = self._by_name.get(f"*.{name.partition('.')[2]}")
        return self.certificates[0] if found is None else found

    def _choose_for(self, connection: SSL.Connection) -> None:
        name = connection.get_servername()
        if name is not None and self._by_name:
            connection.set_context(self.choose(name.decode("latin-1")).context)

    def _surviving(self, work: Callable[[], None]) -> None:
        """Do what a LoopingCall does, so that it is done again whatever happens."""
        try:
            work()
        except Exception:  # noqa: BLE001 - the outermost edge of a LoopingCall
            self._log.failure("looking after TLS certificates failed; it is done again")

    def _look(self) -> None:
        seen, self._seen = self._seen, _stamps(self._settings)
        if self._seen == self._judged or self._seen != seen:
            return
        self._judged = self._seen
        try:
            self.reload()
        except (OSError, ValueError) as error:
            self._log.error(
                "the TLS certificates have changed and cannot be used; those before stay in force: "
                "{reason}",
                reason=str(error),
            )
        else:
            self._warn()

    def _warn(self) -> None:
        now_s = self._now()
        for one in self.certificates:
            left_s = one.not_after_s - now_s
            if left_s >= SOON_S:
                continue
            self._log.warn(
                "the TLS certificate in {file} {verb} on {day} ({days} days)",
                file=one.cert_file,
                verb="ends" if left_s > 0 else "has ended",
                day=datetime.fromtimestamp(one.not_after_s, UTC).date().isoformat(),
                days=int(left_s // DAY_S),
            )


def _stamps(settings: ServerTls) -> dict[str, _Stamp]:
    """Give what tells whether the files are still the same."""
    return {file: _stamp(file) for file in _files(settings)}


def _files(settings: ServerTls) -> Iterator[str]:
    for source in sources(settings):
        yield source.cert_file
        yield source.key_file
    if settings.client_auth != "none":
        yield settings.client_ca_file


def _stamp(file: str) -> _Stamp:
    try:
        status = os.stat(file)
    except OSError:
        return None  # gone, for the moment or for good: loading it will tell
    return status.st_ino, status.st_size, status.st_mtime_ns
