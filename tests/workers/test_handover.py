"""Tests of `llmproxy.workers.handover`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import attrs

from llmproxy.config.load import parse_config
from llmproxy.config.model import Config
from llmproxy.workers.handover import EXECUTE, Handover, as_worker, worker_count, worker_number


@attrs.frozen
class Port:
    """A listening port."""

    socket: socket.socket

    def fileno(self) -> int:
        """Give its descriptor."""
        return self.socket.fileno()


def config(more: str = "") -> Config:
    """Give a configuration."""
    text = f"backends: [{{name: a, url: 'demo:'}}]\nauth: {{enabled: false}}\n{more}"
    return parse_config(
        text, {}, read_file=lambda path: Path(path).read_text(), is_directory=".".__eq__
    )


def test_the_worker_names_what_it_is_handed() -> None:
    """By position and family; clients' sockets apart from those for metrics."""
    with ExitStack() as stack:
        families = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
        ports = [Port(stack.enter_context(socket.socket(family))) for family in families]
        handover = Handover(ports[:2], ports[2:])
        assert handover.descriptors() == {
            3 + index: port.fileno() for index, port in enumerate(ports)
        }
        environ = handover.environment(1)
    assert (environ["LISTEN_FDS"], environ["LISTEN_FDNAMES"]) == (
        "3",
        "llmproxy-0:llmproxy-1:llmproxy-2",
    )
    assert worker_number(environ) == 1
    worker = as_worker(config("metrics: {listen: ':9'}"), environ)
    assert worker.server.listen == ("systemd:domain=INET:index=0", "systemd:domain=INET6:index=1")
    assert worker.metrics.listen == "systemd:domain=UNIX:index=2"


def test_metrics_on_the_clients_listeners() -> None:
    """Nothing of their own is handed over."""
    with socket.socket() as listening:
        environ = Handover([Port(listening)]).environment(0)
    assert as_worker(config(), environ).metrics.listen == ""


def test_the_admin_api_is_the_first_workers() -> None:
    """Others have its keys, and do not serve it."""
    served = config("admin: {enabled: true, token: k7Qz9mB2wL5vX8rT4yU1, db_path: x.db}")
    with socket.socket() as listening:
        handover = Handover([Port(listening)])
        assert as_worker(served, handover.environment(0)).admin.enabled
        assert not as_worker(served, handover.environment(1)).admin.enabled


def test_who_is_no_worker() -> None:
    """Has no number."""
    assert worker_number({}) is None


def test_sockets_are_handed_to_the_process_that_execute_becomes() -> None:
    """Its own process id stands in its environment; it does not die of a terminal's signals."""
    program = """
import os, signal
print(os.environ['LISTEN_PID'] == str(os.getpid()))
for number in (signal.SIGINT, signal.SIGHUP):
    os.kill(os.getpid(), number)
print("lives")
"""
    command = [sys.executable, "-c", EXECUTE, sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True", "lives"]


def test_how_many() -> None:
    """``auto`` is one for each core that may be used."""
    assert worker_count(3) == 3
    assert worker_count("auto") == len(os.sched_getaffinity(0)) >= 1
