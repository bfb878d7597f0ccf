"""TLS from the configuration to the client: real clients, and the daemon as it really runs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import openai
import pytest
import yaml

from tests.daemon import BIN, KEY, ROOT, Daemon, free_port, gateway_config
from tests.gateway.raw_client import RawClient, chat_body
from tests.gateway.test_backpressure import resident_bytes
from tests.scripted_backend import Connection, ScriptedBackend, event
from tests.upstream.certificates import Authority

ASKED: Any = [{"role": "user", "content": "Hello, ünïcode ✓"}]
MEGABYTE = 1024 * 1024

# Runs a program as systemd does: with the listening socket as its descriptor 3.
ADOPT = """\
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="web", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


@attrs.frozen
class Identity:
    """A certificate on loopback, and who is to be trusted for it."""

    ca_file: str
    cert_file: str
    key_file: str

    @property
    def settings(self) -> dict[str, Any]:
        """What stands in the configuration."""
        return {"enabled": True, "cert_file": self.cert_file, "key_file": self.key_file}

    def context(self) -> ssl.SSLContext:
        """Make a client's context."""
        return ssl.create_default_context(cafile=self.ca_file)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """Make a certificate."""
    authority = Authority(tmp_path_factory.mktemp("certificates"), "authority")
    return Identity(authority.cert_file, *authority.issue("127.0.0.1", "localhost"))


def tls_config(
    identity: Identity, backends: list[dict[str, Any]] | None = None, **server: Any
) -> dict[str, Any]:
    """Give a configuration with TLS."""
    config = gateway_config(free_port(), backends or [{"name": "demo", "url": "demo:"}])
    config["server"].update(tls=identity.settings, **server)
    return config


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, identity: Identity) -> Iterator[Daemon]:
    """A gateway with TLS and the demo model; its log stays clean."""
    with Daemon(
        tmp_path_factory.mktemp("daemon"), tls_config(identity, max_connections=100)
    ) as running:
        running.wait_for_log("lists")
        yield running
    assert " with TLS" in running.log()
    for line in running.log().splitlines():
        assert "Traceback" not in line, running.log()
        assert line.startswith("{") or line.split()[1] == "info", line


class TlsClient(RawClient):
    """A raw client over TLS."""

    def __init__(self, daemon: Daemon, identity: Identity, timeout_s: float = 10.0) -> None:
        super().__init__(daemon.port, timeout_s)
        self.sock = identity.context().wrap_socket(
            self.sock, server_hostname="127.0.0.1", suppress_ragged_eofs=False
        )


class HeldStream:
    """A model that says one word, and the rest when it is let.

    Attributes:
        let: Lets it go on.
        stopped: Set when it was stopped instead.
    """

    def __init__(self) -> None:
        self.let = threading.Event()
        self.stopped = threading.Event()

    def __call__(self, connection: Connection) -> None:
        """Answer one request."""
        seen = connection.read_request()
        assert seen is not None
        connection.stream_head()
        connection.chunk(event("one"))
        if b"endless" in seen.body:
            connection.wait_for_close()
            self.stopped.set()
            return
        assert self.let.wait(10)
        connection.chunk(event("two"))
        connection.chunk(b"")


def test_openai_sdk(daemon: Daemon, identity: Identity) -> None:
    """A stream says what a plain answer says."""
    http_client = openai.DefaultHttpxClient(trust_env=False, verify=identity.context())
    with openai.OpenAI(
        base_url=f"https://localhost:{daemon.port}/v1",
        api_key=KEY,
        max_retries=0,
        timeout=20,
        http_client=http_client,
    ) as client:
        plain = client.chat.completions.create(model="demo", messages=ASKED)
        stream = client.chat.completions.create(model="demo", messages=ASKED, stream=True)
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert len(pieces) > 5
    assert "".join(pieces) == plain.choices[0].message.content


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("version", ["--http1.1", "--http1.0", "--http2", "--no-alpn"])
def test_curl(daemon: Daemon, identity: Identity, version: str) -> None:
    """Whatever it offers by ALPN."""
    asked = {"model": "demo", "messages": ASKED, "stream": True}
    done = subprocess.run(
        [
            *("curl", "-sS", "-N", "--noproxy", "*", "--max-time", "20", version),
            *("--cacert", identity.ca_file, "-H", f"Authorization: Bearer {KEY}"),
            *("-H", "Content-Type: application/json", "-d", json.dumps(asked)),
            f"https://127.0.0.1:{daemon.port}/v1/chat/completions",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"data: {") > 5
    assert done.stdout.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_resumed(daemon: Daemon, identity: Identity, version: ssl.TLSVersion) -> None:
    """By its ticket, which a client of TLS 1.3 has when it has read something."""
    context = identity.context()
    context.minimum_version = context.maximum_version = version
    session: ssl.SSLSession | None = None
    for is_resumed in (False, True):
        with (
            socket.create_connection(("127.0.0.1", daemon.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as sock,
        ):
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
            assert sock.session_reused == is_resumed
            session = sock.session


def test_who_does_not_belong_here(daemon: Daemon, identity: Identity) -> None:
    """Plain HTTP, scanners and clients that do not trust us: closed, and no noise in the log.

    The fixture looks at the log.
    """
    for said in (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\0" * 999,
    ):
        with socket.create_connection(("127.0.0.1", daemon.port), 5) as client:
            client.sendall(said)
            client.shutdown(socket.SHUT_WR)
            answered = b""
            try:
                while piece := client.recv(1000):
                    answered += piece
            except ConnectionResetError:
                pass
            assert b"HTTP" not in answered
    with (
        socket.create_connection(("127.0.0.1", daemon.port), 5) as sock,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        ssl.create_default_context().wrap_socket(sock, server_hostname="127.0.0.1")
    with TlsClient(daemon, identity) as client_after:
        assert client_after.post(chat_body(model="demo")).answer()[0] == 200


def test_each_piece_at_once(tmp_path: Path, identity: Identity) -> None:
    """What the model has said is there while it still thinks; it is told that we are secure.

    When the client leaves, the model's work ends.
    """
    held = HeldStream()
    with ScriptedBackend(held) as backend:
        config = tls_config(identity, [{"name": "b", "url": backend.url}])
        with Daemon(tmp_path, config) as daemon:
            with TlsClient(daemon, identity) as client:
                assert client.post(chat_body(stream=True)).head() == 200
                pieces = client.pieces()
                assert next(pieces)[1] == event("one")
                assert not held.let.is_set()
                held.let.set()
                assert next(pieces)[1] == event("two")
                assert list(pieces) == []
            with TlsClient(daemon, identity) as client:
                client.post(chat_body(stream=True, user="endless")).head()
                assert next(client.pieces())[1] == event("one")
            assert held.stopped.wait(5)
            daemon.wait_for_log('"client_abort"')
        assert [seen.header("x-forwarded-proto") for seen in backend.seen] == ["https", "https"]


def test_a_stream_outlives_sigterm(tmp_path: Path, identity: Identity) -> None:
    """It goes on to its end, and TLS ends well; then the daemon ends."""
    held = HeldStream()
    with ScriptedBackend(held) as backend:
        config = tls_config(identity, [{"name": "b", "url": backend.url}])
        with Daemon(tmp_path, config) as daemon:
            assert daemon.process is not None
            with TlsClient(daemon, identity) as idle, TlsClient(daemon, identity) as client:
                client.post(chat_body(stream=True)).head()
                pieces = client.pieces()
                assert next(pieces)[1] == event("one")
                daemon.process.send_signal(signal.SIGTERM)
                assert idle.rest() == (b"", False)
                held.let.set()
                assert [piece for _, piece in pieces] == [event("two")]
                assert client.rest() == (b"", False)
            assert daemon.process.wait(10) == 0


def test_slow_reader(tmp_path: Path, identity: Identity) -> None:
    """64 MB for a client that does not read for a second: the backend waits, memory stays flat."""
    total, piece = 64 * MEGABYTE, bytes(range(256)) * 1024
    sent = [0]

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while sent[0] < total:
            connection.send(piece)
            sent[0] += len(piece)

    with ScriptedBackend(script) as backend:
        config = tls_config(identity, [{"name": "b", "url": backend.url}])
        with Daemon(tmp_path, config) as daemon, TlsClient(daemon, identity, 30) as client:
            assert daemon.process is not None
            before = resident_bytes(daemon.process.pid)
            assert client.post(chat_body()).head() == 200
            time.sleep(1)
            assert sent[0] < 40 * MEGABYTE
            body = client.body()
            assert resident_bytes(daemon.process.pid) - before < 16 * MEGABYTE
    wanted = hashlib.sha256(piece * (total // len(piece)))
    assert hashlib.sha256(body).digest() == wanted.digest()


def test_an_adopted_socket(tmp_path: Path, identity: Identity) -> None:
    """A socket that systemd has opened, with TLS: a stream goes through."""
    config = tls_config(identity)
    config["server"]["listen"] = "systemd:domain=INET:index=0"
    file, output = tmp_path / "llmproxy.yaml", tmp_path / "output.log"
    file.write_text(yaml.safe_dump(config))
    opened = socket.create_server(("127.0.0.1", 0))
    port = opened.getsockname()[1]
    twistd = [str(BIN / "twistd"), "-n", "--pidfile=", "llmproxy", "--config", str(file)]
    with opened, output.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", ADOPT, str(opened.fileno()), *twistd],
            pass_fds=[opened.fileno()],
            cwd=ROOT,
            env=dict(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        # The socket is open already: what comes before the daemon listens waits in its queue.
        http_client = openai.DefaultHttpxClient(trust_env=False, verify=identity.context())
        with openai.OpenAI(
            base_url=f"https://127.0.0.1:{port}/v1",
            api_key=KEY,
            max_retries=3,
            timeout=20,
            http_client=http_client,
        ) as client:
            stream = client.chat.completions.create(model="demo", messages=ASKED, stream=True)
            assert len(list(stream)) > 5
    finally:
        process.terminate()
        status = process.wait(10)
    assert status == 0, output.read_text()
    assert f"listening on 127.0.0.1:{port} with TLS" in output.read_text()


def test_a_wrong_key_is_told_at_the_start(tmp_path: Path, identity: Identity) -> None:
    """By the daemon and by ``check-config``, in the same line."""
    other = Authority(tmp_path, "other").issue("127.0.0.1")[1]
    config = tls_config(attrs.evolve(identity, key_file=other))
    file = tmp_path / "llmproxy.yaml"
    file.write_text(yaml.safe_dump(config))
    for command in ("twistd -n --pidfile= llmproxy --config", "llmproxy check-config"):
        program, *arguments = command.split()
        done = subprocess.run(
            [str(BIN / program), *arguments, str(file)],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 1
        assert "server.tls.key_file: " in done.stderr.splitlines()[0]
        assert "does not belong to the first certificate in" in done.stderr
        assert "Traceback" not in done.stderr
