"""What a worker is handed: listening sockets, and in its environment how it is to name them.

It is systemd's own protocol (sd_listen_fds(3)): descriptors from 3 on, counted and named in the
environment. So a worker takes its sockets over as the daemon takes systemd's, by endpoint strings
such as ``systemd:domain=INET:index=0``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import attrs

from llmproxy.config.model import Config

NUMBER: Final = "LLMPROXY_WORKER"
"""In the environment of a worker: which it is, from 0 on."""

_LISTEN: Final = "LLMPROXY_WORKER_LISTEN"
_METRICS_LISTEN: Final = "LLMPROXY_WORKER_METRICS_LISTEN"
_FIRST: Final = 3
_DOMAINS: Final = {socket.AF_UNIX: "UNIX", socket.AF_INET: "INET", socket.AF_INET6: "INET6"}

EXECUTE: Final = (
    "import os, signal, sys; os.environ['LISTEN_PID'] = str(os.getpid()); "
    "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
"""Becomes the worker: who is handed sockets is named by a process id that is known only then.

A terminal's signals are for the parent, though all get them.
"""


@attrs.frozen
class Handover:
    """The sockets of all workers.

    Attributes:
        clients: Those of ``server.listen``, in its order.
        metrics: Those of ``metrics.listen``; none where metrics are served to clients.
    """

    clients: Sequence[Any]
    metrics: Sequence[Any] = ()

    def descriptors(self) -> dict[int, int]:
        """Give which descriptors of ours are which of the worker's, by the latter."""
        ports = (*self.clients, *self.metrics)
        return dict(enumerate((port.fileno() for port in ports), _FIRST))

    def environment(self, number: int) -> dict[str, str]:
        """Give what a worker's environment says of them.

        Args:
            number: Which worker it is.
        """
        names = [
            f"systemd:domain={_DOMAINS[port.socket.family]}:index={index}"
            for index, port in enumerate((*self.clients, *self.metrics))
        ]
        return {
            NUMBER: str(number),
            _LISTEN: " ".join(names[: len(self.clients)]),
            _METRICS_LISTEN: " ".join(names[len(self.clients) :]),
            "LISTEN_FDS": str(len(names)),
            "LISTEN_FDNAMES": ":".join(f"llmproxy-{index}" for index in range(len(names))),
        }


def worker_count(workers: int | Literal["auto"]) -> int:
    """Say how many workers there are to be: ``auto`` is one for each core that we may use."""
    return len(os.sched_getaffinity(0)) if workers == "auto" else workers


def worker_number(environ: Mapping[str, str]) -> int | None:
    """Say which worker this process is; None: it is none."""
    number = environ.get(NUMBER, "")
    return int(number) if number else None


def as_worker(config: Config, environ: Mapping[str, str]) -> Config:
    """Give what a worker is to do: serve on the sockets that it was handed.

    The admin API is the first worker's alone: it listens on an address that only one can have.

    Args:
        config: What the file says.
        environ: The worker's environment.
    """
    metrics = environ.get(_METRICS_LISTEN, "")
    config = attrs.evolve(
        config, server=attrs.evolve(config.server, listen=tuple(environ[_LISTEN].split(" ")))
    )
    if metrics:
        config = attrs.evolve(config, metrics=attrs.evolve(config.metrics, listen=metrics))
    if worker_number(environ):
        config = attrs.evolve(config, admin=attrs.evolve(config.admin, enabled=False))
    return config
