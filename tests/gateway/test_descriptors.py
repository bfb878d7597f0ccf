"""A daemon with few file descriptors: what it makes of them, and whom it blames."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import attrs

from tests.daemon import Daemon, free_port, gateway_config
from tests.gateway.held import Held
from tests.gateway.raw_client import RawClient, chat_body, request_bytes
from tests.scripted_backend import ScriptedBackend

CLIENTS = 40
FEW = 80
READY = request_bytes(b"", "/ready", method="GET")
LACKING = "no file descriptor is left"
WARNED = "server.max_connections needs 300"


@attrs.frozen
class Outcome:
    """What came of many streams at once: their statuses, the backend's breaker, the log."""

    statuses: set[int]
    breaker: str
    log: str


def ask(folder: Path, ulimit: str) -> Outcome:
    """Ask for streams on connections that are all open before, of a daemon with a limit."""
    held = Held()
    with ExitStack() as stack:
        backend = stack.enter_context(ScriptedBackend(held))
        config = gateway_config(free_port(), [{"name": "b0", "url": backend.url}])
        config["server"]["max_connections"] = 50
        config["rate_limit"] = {"enabled": False}
        under = ("sh", "-c", f'ulimit {ulimit} {FEW}; exec "$0" "$@"')
        daemon = stack.enter_context(Daemon(folder, config, under=under))
        stack.callback(held.let.set)
        daemon.wait_for_log("lists", 20)
        clients = [stack.enter_context(RawClient(daemon.port, 30)) for _ in range(CLIENTS)]
        for client in clients:
            client.post(chat_body(stream=True))
        statuses = {client.head() for client in clients}
        for client in clients[:5]:
            client.close()
        with RawClient(daemon.port, 30) as observer:
            body = observer.send(READY).answer()[1]
        return Outcome(statuses, json.loads(body)["backends"][0]["breaker"], daemon.log())


def test_the_soft_limit_is_raised(tmp_path: Path) -> None:
    """It is there for programs that cannot do with more; this one can."""
    outcome = ask(tmp_path, "-Sn")
    assert outcome.statuses == {200}
    assert WARNED not in outcome.log


def test_none_is_left(tmp_path: Path) -> None:
    """It is the gateway that is overloaded: told once, and at the start; no backend is blamed."""
    outcome = ask(tmp_path, "-n")
    assert outcome.statuses == {200, 503}
    assert outcome.breaker == "closed"
    assert outcome.log.count(LACKING) == 1
    assert WARNED in outcome.log
