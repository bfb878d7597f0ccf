"""File descriptors: as many as may be had, and how it shows that there are none left.

A connection takes one, and one more while it is answered by a backend. What runs out of them
looks, to whoever connects, like a backend that cannot be reached; it is the gateway's own lack.
"""

from __future__ import annotations

import errno
import resource
import socket
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

SPARE: Final = 200
"""For files, listeners, databases, checks, and connections of administrators."""

OUTAGE_S: Final = 60.0
"""None lacking for so long, the next that lacks begins another outage."""

_EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE))


def raise_limit() -> None:
    """Raise the soft limit of this process, and of what it starts, to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def needed_for(max_connections: int) -> int:
    """Say how many a process needs to serve so many connections at once."""
    return 2 * max_connections + SPARE


def limit() -> int:
    """Say how many this process may have."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return soft if soft != resource.RLIM_INFINITY else 1 << 62


class DescriptorShortage:
    """Tells failures to connect that are our own lack of descriptors from those of others.

    Args:
        clock: Keeps time.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._last_s = float("-inf")

    def __repr__(self) -> str:
        return f"<DescriptorShortage last_s={self._last_s:g}>"

    def explains(self, error: BaseException) -> bool:
        """Say whether a connection could not be made for lack of a descriptor.

        The first time in an outage the log says so as well.
        """
        number: Any = getattr(error, "osError", None) or getattr(error, "errno", None)
        # Looking a name up takes descriptors too, and says nothing of why it failed.
        if number not in _EXHAUSTED and _is_one_left():
            return False
        now_s = self._clock.seconds()
        if now_s - self._last_s > OUTAGE_S:
            self._log.error(
                "no file descriptor is left for connections to backends: raise the limit "
                "(LimitNOFILE, ulimit -n), which is {limit}, or lower server.max_connections",
                limit=limit(),
            )
        self._last_s = now_s
        return True


def _is_one_left() -> bool:
    try:
        socket.socket().close()
    except OSError as error:
        return error.errno not in _EXHAUSTED
    return True
