"""SIGHUP while requests run: what began goes on as it began, what begins is under the new file."""

from __future__ import annotations

import copy
import json
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import KEY, Daemon, free_port, gateway_config
from tests.gateway.held import FIRST, LAST, Held
from tests.gateway.raw_client import Cut, RawClient, chat_body, request_bytes
from tests.scripted_backend import Connection, ScriptedBackend
from tests.upstream.certificates import Authority

OTHER_KEY = "sk-test-key-2"
STREAM = chat_body(stream=True)


class Bench:
    """A daemon over a model whose streams are held.

    Attributes:
        held: The model.
        backend: Its server.
        daemon: The daemon.
        config: Its configuration, to be changed by tests.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.held = Held()
        stack.callback(self.held.let.set)
        self.backend = stack.enter_context(ScriptedBackend(self.held))
        self.config = gateway_config(free_port(), [{"name": "b0", "url": self.backend.url}])
        self.daemon = stack.enter_context(Daemon(folder, self.config))
        self.daemon.wait_for_log("lists", 20)
        self._stack = stack

    def changed(self, **sections: Any) -> dict[str, Any]:
        """Give the configuration with other sections; mappings are merged."""
        config = copy.deepcopy(self.config)
        for name, value in sections.items():
            config[name] = {**config.get(name, {}), **value} if isinstance(value, dict) else value
        return config

    def streaming(self, key: str = KEY) -> RawClient:
        """Begin a stream, and read its first word."""
        client = self._stack.enter_context(RawClient(self.daemon.port, 30))
        client.post(STREAM, key=key)
        assert client.head() == 200
        assert next(client.pieces())[1] == FIRST
        return client

    def status(self, key: str = KEY, port: int = 0) -> int:
        """Give the status of a plain request on a connection of its own."""
        with RawClient(port or self.daemon.port, 30) as client:
            return client.post(chat_body(), key=key).answer()[0]

    def ready(self) -> tuple[int, dict[str, Any]]:
        """Ask ``/ready``; give the status and what it says of the configuration."""
        with RawClient(self.daemon.port, 30) as client:
            status, body = client.send(request_bytes(b"", "/ready", method="GET")).answer()
        return status, json.loads(body)["config"]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Make one."""
    with ExitStack() as stack:
        yield Bench(tmp_path, stack)


def rest_of(client: RawClient) -> bytes:
    """Read a stream to its end, which must be a good one."""
    return b"".join(data for _, data in client.pieces())


def test_a_stream_ends_under_the_timeouts_that_it_began_with(bench: Bench) -> None:
    """What would cut it now does not; what begins now is cut."""
    old = bench.streaming()
    impatient = {"name": "b0", "url": bench.backend.url, "stall_timeout": "300ms"}
    assert bench.daemon.reload(bench.changed(backends=[impatient]))
    new = bench.streaming()
    with pytest.raises(Cut):
        rest_of(new)
    bench.held.let.set()
    assert rest_of(old) == LAST


def test_a_bad_file_changes_nothing(bench: Bench) -> None:
    """Every problem is in the log with its line, /ready says so, and a good file clears it."""
    client = bench.streaming()
    status, before = bench.ready()
    assert (status, before["last_reload"]) == (200, None)
    bad = bench.changed(server={"drain_timeuot": 1}, backends=[{"name": "b0", "url": "nonsense"}])
    bad["auth"]["pipeline"] = []
    assert not bench.daemon.reload(bad)
    lines = bench.daemon.file.read_text().splitlines()
    for key, text in (("drain_timeuot", "drain_timeuot"), ("url", "nonsense")):
        number = next(index for index, line in enumerate(lines, 1) if text in line)
        assert f"llmproxy.yaml:{number}: " in bench.daemon.wait_for_log(f".{key}: ")
    status, after = bench.ready()
    assert (status, after["digest"], after["since"]) == (200, before["digest"], before["since"])
    assert after["last_reload"]["result"] == "failed"
    assert after["last_reload"]["problems"] >= 2
    assert bench.status() == 200
    good = bench.changed(routing={"retry": {"max_retries": 1}})
    assert bench.daemon.reload(good)
    status, last = bench.ready()
    assert (status, last["last_reload"]["result"]) == (200, "ok")
    assert last["digest"] != before["digest"]
    bench.held.let.set()
    assert rest_of(client) == LAST


def test_what_wants_a_restart_is_refused(bench: Bench) -> None:
    """With the rest of the file, which would have been good."""
    changed = bench.changed(usage={"spool_dir": "./elsewhere"}, api_keys=[])
    assert not bench.daemon.reload(changed)
    assert "want it as it was, or a restart" in bench.daemon.wait_for_log("usage: ")
    assert bench.status() == 200


def test_an_address_that_is_taken(bench: Bench) -> None:
    """It keeps all else from being taken over, as a problem of the file."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listens = [f"127.0.0.1:{bench.daemon.port}", f"127.0.0.1:{port}"]
        assert not bench.daemon.reload(
            bench.changed(server={"listen": listens}, backends=[{"name": "x", "url": "demo:"}])
        )
        line = bench.daemon.wait_for_log("Address already in use")
        assert "llmproxy.yaml:2: server.listen: cannot listen on" in line
        assert bench.status() == 200
        assert bench.backend.seen
    assert bench.daemon.reload(bench.changed(server={"listen": listens}))
    assert bench.status(port=port) == 200


def test_listeners_come_and_go(bench: Bench) -> None:
    """Connections that came through one that is gone are served to their end."""
    first, second = bench.daemon.port, free_port()
    streaming = bench.streaming()
    with RawClient(first, 30) as kept:
        assert kept.post(chat_body()).answer()[0] == 200
        assert bench.daemon.reload(bench.changed(server={"listen": f"127.0.0.1:{second}"}))
        bench.daemon.wait_for_log(f"listening no more on 127.0.0.1:{first}")
        assert bench.status(port=second) == 200
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", first), 5)
        assert kept.post(chat_body()).answer()[0] == 200
    bench.held.let.set()
    assert rest_of(streaming) == LAST


def test_a_backend_goes_while_it_streams(bench: Bench) -> None:
    """Its stream goes on to the end; all that begins goes elsewhere."""
    streaming = bench.streaming()
    asked = len(bench.backend.seen)
    other = Held()
    with ScriptedBackend(other) as backend:
        assert bench.daemon.reload(
            bench.changed(backends=[{"name": "other", "url": backend.url, "models": ["m"]}])
        )
        assert [bench.status() for _ in range(5)] == [200] * 5
        assert (len(bench.backend.seen), len(backend.seen)) == (asked, 5)
        bench.held.let.set()
        assert rest_of(streaming) == LAST
        record = json.loads(bench.daemon.wait_for_log('"backend":"b0"'))
        assert record["outcome"] == "ok"


def with_keys(bench: Bench, *keys: str, **auth: Any) -> dict[str, Any]:
    """Give the configuration with these keys."""
    static = {"keys": [{"key": key, "name": key[-1]} for key in keys]}
    return bench.changed(
        auth={"pipeline": [{"name": "static", "type": "static", "static": static}], **auth}
    )


@pytest.mark.parametrize("on_revoke", ["finish", "cut"])
def test_a_key_goes_while_it_streams(bench: Bench, on_revoke: str) -> None:
    """It opens nothing from then on; what runs ends as the new file says."""
    assert bench.daemon.reload(with_keys(bench, KEY, OTHER_KEY))
    gone, stays = bench.streaming(OTHER_KEY), bench.streaming(KEY)
    assert bench.daemon.reload(with_keys(bench, KEY, on_revoke=on_revoke))
    assert bench.status(OTHER_KEY) == 401
    assert bench.status(KEY) == 200
    if on_revoke == "cut":
        raw, _ = gone.rest()
        assert b'"code":"invalid_api_key"' in raw
        assert b"[DONE]" not in raw
    bench.held.let.set()
    if on_revoke == "finish":
        assert rest_of(gone) == LAST
    assert rest_of(stays) == LAST


def test_limits_change_while_requests_count(bench: Bench) -> None:
    """Requests that run count under the new limit too, and give back what they took."""
    assert bench.daemon.reload(bench.changed(rate_limit={"per_key": {"max_concurrent": 5}}))
    streams = [bench.streaming() for _ in range(2)]
    assert bench.status() == 200
    assert bench.daemon.reload(bench.changed(rate_limit={"per_key": {"max_concurrent": 2}}))
    assert bench.status() == 429
    bench.held.let.set()
    assert [rest_of(client) for client in streams] == [LAST] * 2
    assert bench.status() == 200


def test_the_access_log_is_begun_anew(bench: Bench, tmp_path: Path) -> None:
    """After it was moved away; a stream that runs meanwhile is in the new one."""
    file = tmp_path / "access.log"
    access = {"access": {"format": "json", "output": "file", "path": str(file)}}
    config = bench.changed(logging=access)
    assert bench.daemon.reload(config)
    streaming = bench.streaming()
    assert bench.status() == 200
    file.rename(tmp_path / "access.log.1")
    assert bench.daemon.reload(config)
    bench.held.let.set()
    assert rest_of(streaming) == LAST
    deadline = time.monotonic() + 20
    while not file.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    for path, is_stream in ((tmp_path / "access.log.1", False), (file, True)):
        (record,) = map(json.loads, path.read_text().splitlines())
        assert record["stream"] is is_stream


@contextmanager
def tls_connection(port: int, authority: Authority) -> Iterator[ssl.SSLSocket]:
    """Connect, and trust what the authority has signed."""
    context = ssl.create_default_context(cafile=authority.cert_file)
    with (
        socket.create_connection(("127.0.0.1", port), 30) as plain,
        context.wrap_socket(plain, server_hostname="gateway.test") as secure,
    ):
        yield secure


def test_a_certificate_changes_under_a_connection(bench: Bench, tmp_path: Path) -> None:
    """New connections are shown the new one; the others go on. TLS may even begin or end."""
    authority = Authority(tmp_path, "authority")
    cert_file, key_file = tmp_path / "now.pem", tmp_path / "now.key"
    config = bench.changed(
        server={
            "listen": f"127.0.0.1:{bench.daemon.port}",
            "tls": {"enabled": True, "cert_file": str(cert_file), "key_file": str(key_file)},
        }
    )
    plain = bench.streaming()
    shown: list[bytes | None] = []
    with ExitStack() as stack:
        connections = []
        for _ in range(2):
            made = authority.issue("gateway.test")
            cert_file.write_bytes(Path(made[0]).read_bytes())
            key_file.write_bytes(Path(made[1]).read_bytes())
            assert bench.daemon.reload(config)
            connections.append(stack.enter_context(tls_connection(bench.daemon.port, authority)))
            shown.append(connections[-1].getpeercert(binary_form=True))
        assert shown[0] != shown[1]
        for connection in connections:
            connection.sendall(request_bytes(chat_body()))
            assert connection.recv(12) == b"HTTP/1.1 200"
        cert_file.write_text("no certificate")
        assert not bench.daemon.reload(config)
        with tls_connection(bench.daemon.port, authority) as connection:
            assert connection.getpeercert(binary_form=True) == shown[1]
    bench.held.let.set()
    assert rest_of(plain) == LAST


def test_a_storm_of_reloads_loses_nothing(bench: Bench) -> None:
    """However often and whatever changes: every request is answered, every stream is whole."""
    second = Held()
    streams = [bench.streaming() for _ in range(10)]
    over = threading.Event()
    statuses: list[int] = []
    failures: list[Exception] = []

    def ask() -> None:
        try:
            with RawClient(bench.daemon.port, 60) as client:
                while not over.is_set():
                    statuses.append(client.post(chat_body()).answer()[0])
                    statuses.append(bench.status())
        except Exception as error:  # noqa: BLE001 - told by the test
            failures.append(error)

    with ScriptedBackend(second) as backend:
        askers = [threading.Thread(target=ask) for _ in range(4)]
        for asker in askers:
            asker.start()
        for number in range(60):
            config = bench.changed(
                backends=[
                    {"name": "b0", "url": bench.backend.url, "weight": 1 + number % 3},
                    *([{"name": "b1", "url": backend.url}] if number % 2 else []),
                ],
                routing={"load_balance": ("weighted", "round_robin")[number % 2]},
                rate_limit={"per_key": {"max_concurrent": 100 + number}},
            )
            bench.daemon.write(config)
            bench.daemon.signal(signal.SIGHUP)
            if number % 4:
                time.sleep(0.03)
        assert bench.daemon.reload(bench.config)
        over.set()
        for asker in askers:
            asker.join(60)
    assert failures == []
    assert set(statuses) == {200}
    assert len(statuses) > 20
    assert backend.seen
    bench.held.let.set()
    assert [rest_of(client) for client in streams] == [LAST] * 10
    assert "Traceback" not in bench.daemon.log()
    assert bench.ready()[1]["last_reload"]["result"] == "ok"


def test_what_an_administrator_keeps_out_stays_out(tmp_path: Path) -> None:
    """So does the state of a backend whose weight changes."""

    def gone(connection: Connection) -> None:
        connection.read_request()

    with ScriptedBackend(gone) as backend, ExitStack() as stack:
        bench = Bench(tmp_path, stack)
        both: list[dict[str, Any]] = [
            {"name": "b0", "url": bench.backend.url, "models": ["m"]},
            {"name": "broken", "url": backend.url, "models": ["m"]},
        ]
        port, token = free_port(), "x7Qh2mPz9vK4wLr8tB"
        admin = {
            "enabled": True,
            "token": token,
            "listen": f"127.0.0.1:{port}",
            "db_path": str(tmp_path / "own.db"),
        }
        bench.config["auth"]["pipeline"].append({"name": "local", "type": "builtin"})
        bench.config = bench.changed(backends=both, admin=admin)
        bench.daemon.stop()
        bench.daemon.write(bench.config)
        bench.daemon.start()
        bench.daemon.wait_for_log("for the admin API", 20)
        with RawClient(port, 30) as administrator:
            body = b'{"name": "broken"}'
            administrator.post(body, "/admin/backends/drain", headers={"X-Admin-Token": token})
            assert administrator.answer()[0] == 200
            both[1]["weight"] = 100
            assert bench.daemon.reload(bench.changed(backends=both))
            assert {bench.status() for _ in range(5)} == {200}
            assert backend.seen == []
            administrator.post(body, "/admin/backends/enable", headers={"X-Admin-Token": token})
            assert administrator.answer()[0] == 200
            # Nobody goes on administering where nobody is to any more.
            assert bench.daemon.reload(bench.changed(admin={"enabled": False}))
            assert administrator.rest() == (b"", False)
