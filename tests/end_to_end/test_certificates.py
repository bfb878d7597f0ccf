"""Certificates while a daemon runs: replaced, chosen by name, and shown by its clients."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.daemon import KEY, Daemon, free_port, gateway_config
from tests.gateway.raw_client import RawClient, chat_body, request_bytes
from tests.scripted_backend import Connection, ScriptedBackend, event
from tests.upstream.certificates import Authority

STREAMS = 100
DEADLINE_S = 60


@attrs.frozen
class Place:
    """A folder with an authority, and the files that a daemon has its certificate from."""

    folder: Path
    authority: Authority
    cert: Path
    key: Path

    def renew(self, *names: str) -> None:
        """Replace the certificate and its key."""
        for new, file in zip(self.authority.issue(*names), (self.cert, self.key), strict=True):
            shutil.copy(new, file)

    def config(self, backends: list[dict[str, Any]], **tls: Any) -> dict[str, Any]:
        """Give a daemon's configuration."""
        config = gateway_config(free_port(), backends)
        config["server"]["tls"] = {
            "enabled": True,
            "cert_file": str(self.cert),
            "key_file": str(self.key),
            **tls,
        }
        return config

    def context(self) -> ssl.SSLContext:
        """Make a client's context."""
        return ssl.create_default_context(cafile=self.authority.cert_file)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Make a certificate."""
    authority = Authority(tmp_path, "authority")
    place = Place(tmp_path, authority, tmp_path / "tls.crt", tmp_path / "tls.key")
    place.renew("127.0.0.1", "first.test")
    return place


class Client(RawClient):
    """A raw client over TLS, which may ask for a name."""

    sock: ssl.SSLSocket

    def __init__(self, daemon: Daemon, context: ssl.SSLContext, name: str = "127.0.0.1") -> None:
        super().__init__(daemon.port, DEADLINE_S)
        self.sock = context.wrap_socket(self.sock, server_hostname=name, suppress_ragged_eofs=False)

    def names(self) -> list[str]:
        """List the names in the certificate that the daemon shows."""
        shown: Any = self.sock.getpeercert()
        return [name for _, name in shown["subjectAltName"]]


class Held:
    """A model that says one word, and the rest when it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()

    def __call__(self, connection: Connection) -> None:
        """Answer one request."""
        connection.read_request()
        connection.stream_head()
        connection.chunk(event("one"))
        assert self.let.wait(DEADLINE_S)
        connection.chunk(event("two"))
        connection.chunk(b"")


@pytest.mark.slow
def test_replaced_under_a_hundred_streams(place: Place) -> None:
    """None is cut; who comes later is shown the new certificate; a bad one changes nothing."""
    held = Held()
    with ScriptedBackend(held) as backend:
        config = place.config([{"name": "b", "url": backend.url}])
        with Daemon(place.folder, config) as daemon:
            clients = [Client(daemon, place.context()) for _ in range(STREAMS)]
            streams = []
            for client in clients:
                assert client.post(chat_body(stream=True)).head() == 200
                streams.append(client.pieces())
            assert [next(stream)[1] for stream in streams] == [event("one")] * STREAMS
            place.renew("127.0.0.1", "second.test")
            daemon.wait_for_log("TLS certificates are loaded anew", DEADLINE_S)
            with Client(daemon, place.context()) as late:
                assert late.names() == ["127.0.0.1", "second.test"]
            place.cert.write_text("no certificate")
            told = daemon.wait_for_log("those before stay in force", DEADLINE_S)
            assert str(place.cert) in told
            with Client(daemon, place.context()) as later:
                assert later.names() == ["127.0.0.1", "second.test"]
            held.let.set()
            for client, stream in zip(clients, streams, strict=True):
                assert [piece for _, piece in stream] == [event("two")]
                assert client.names() == ["127.0.0.1", "first.test"]
                client.close()
            assert "client_abort" not in daemon.log()
            assert daemon.log().count("those before stay in force") == 1


def test_names(place: Place) -> None:
    """Each name has its certificate; clients that ask for none get the default one."""
    pairs = [place.authority.issue(name) for name in ("a.test", "*.a.test")]
    certificates = [
        {"server_names": [name], "cert_file": cert, "key_file": key}
        for name, (cert, key) in zip(("a.test", "*.a.test"), pairs, strict=True)
    ]
    config = place.config([{"name": "demo", "url": "demo:"}], certificates=certificates)
    with Daemon(place.folder, config) as daemon:
        for name, shown in (
            ("a.test", ["a.test"]),
            ("x.a.test", ["*.a.test"]),
            ("first.test", ["127.0.0.1", "first.test"]),
            ("127.0.0.1", ["127.0.0.1", "first.test"]),
        ):
            with Client(daemon, place.context(), name) as client:
                assert client.names() == shown
                assert client.post(chat_body(model="demo")).answer()[0] == 200


@pytest.fixture
def known_by_certificates(place: Place) -> Iterator[Daemon]:
    """A daemon that may ask clients for certificates; alice and her laptop are known to it."""
    config = place.config(
        [{"name": "demo", "url": "demo:"}],
        client_auth="request",
        client_ca_file=place.authority.cert_file,
    )
    keys = config["auth"]["pipeline"][0]["static"]["keys"]
    keys.append({"key": "tls:CN=alice", "name": "alice", "allowed_models": ["demo"]})
    keys.append({"key": "tls:CN=carol", "name": "carol", "status": "disabled"})
    with Daemon(place.folder, config) as daemon:
        yield daemon


def ask(client: Client, key: str = "") -> tuple[int, str]:
    """Ask the model; give the status, and an error's code."""
    status, body = client.send(request_bytes(chat_body(model="demo"), key=key)).answer()
    return status, json.loads(body).get("error", {}).get("code", "")


def test_clients_with_certificates(place: Place, known_by_certificates: Daemon) -> None:
    """A certificate's subject is a key like any other, and no header can pretend to be one."""
    daemon = known_by_certificates
    alice, bob, carol = (place.authority.issue(name) for name in ("alice", "bob", "carol"))

    def connect(pair: tuple[str, str] | None) -> Client:
        context = place.context()
        if pair is not None:
            context.load_cert_chain(*pair)
        return Client(daemon, context)

    with connect(alice) as client:
        assert ask(client) == (200, "")
        assert ask(client, "sk-unknown") == (401, "invalid_api_key")
        assert ask(client) == (200, "")
        client.send(request_bytes(b"", "/me", key="", method="GET"))
        assert json.loads(client.answer()[1])["name"] == "alice"
    daemon.wait_for_log('"alice"')
    with connect(bob) as client:
        assert ask(client) == (401, "invalid_api_key")
        assert ask(client, "tls:CN=alice") == (401, "invalid_api_key")
        assert ask(client, KEY) == (200, "")
    with connect(carol) as client:
        assert ask(client) == (403, "key_disabled")
    with connect(None) as client:
        assert ask(client) == (401, "invalid_api_key")
        assert ask(client, "tls:CN=alice") == (401, "invalid_api_key")
        assert ask(client, KEY) == (200, "")


@pytest.mark.parametrize("kind", ["expired", "of another authority"])
def test_certificates_that_are_no_good(
    place: Place, known_by_certificates: Daemon, kind: str
) -> None:
    """Who shows one gets no answer at all, whatever key comes with it."""
    if kind == "expired":
        pair = place.authority.issue("alice", days=-1)
    else:
        pair = Authority(place.folder, "another").issue("alice")
    context = place.context()
    context.load_cert_chain(*pair)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        exchange(known_by_certificates, context)


def exchange(daemon: Daemon, context: ssl.SSLContext) -> bytes:
    """Connect, ask, and read what comes."""
    with Client(daemon, context) as client:
        client.send(request_bytes(chat_body(model="demo"), key=KEY))
        return client.sock.recv(100)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_agrees(place: Place) -> None:
    """Its client sees whose certificates are wanted, a good chain, and TLS 1.3; none before 1.2."""
    config = place.config(
        [{"name": "demo", "url": "demo:"}],
        client_auth="require",
        client_ca_file=place.authority.cert_file,
    )
    cert, key = place.authority.issue("alice")

    def client(*options: str) -> str:
        done = subprocess.run(
            [
                *("openssl", "s_client", "-connect", f"127.0.0.1:{daemon.port}"),
                *("-CAfile", place.authority.cert_file, "-verify_ip", "127.0.0.1"),
                *("-cert", cert, "-key", key, *options),
            ],
            input="",
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        return done.stdout + done.stderr

    with Daemon(place.folder, config) as daemon:
        told = client()
        assert "Verify return code: 0 (ok)" in told
        assert "TLSv1.3" in told
        assert "Acceptable client certificate CA names" in told
        assert "CN = authority" in told or "CN=authority" in told
        for version in ("-tls1", "-tls1_1"):
            refused = client(version, "-cipher", "ALL:@SECLEVEL=0")
            assert "Cipher is (NONE)" in refused, refused
        weak = client("-tls1_2", "-cipher", "AES128-SHA:AES256-SHA:ECDHE-ECDSA-AES128-SHA")
        assert "Cipher is (NONE)" in weak
        assert "ECDHE-ECDSA-" in client("-tls1_2")
        with socket.create_connection(("127.0.0.1", daemon.port), 5) as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"HTTP" not in plain.recv(1000)
