"""Where a daemon listens: Unix sockets, and behind load balancers that speak the PROXY protocol."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.daemon import BIN, KEY, ROOT, Daemon, free_port, gateway_config
from tests.gateway.raw_client import Cut, RawClient, chat_body, request_bytes
from tests.scripted_backend import Connection, ScriptedBackend
from tests.upstream.certificates import Authority

V1 = b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 8000\r\n"
V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x08\xc0\0\x02\x01\xc3\x50\x1f\x40"
DEADLINE_S = 30


def answer_once(connection: Connection) -> None:
    """Be a model that says yes."""
    while connection.read_request() is not None:
        connection.send(b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"yes":true}')


def config_with(url: str, **server: Any) -> dict[str, Any]:
    """Give a configuration with one backend and such a server."""
    config = gateway_config(free_port(), [{"name": "b", "url": url}])
    config["server"].update(server)
    return config


@pytest.mark.parametrize("tls", [False, True])
def test_proxy_protocol(tmp_path: Path, tls: bool) -> None:
    """The client that the header names is the client: in the log, to the backend, to IP rules."""
    authority = Authority(tmp_path, "authority")
    cert, key = authority.issue("127.0.0.1")
    context = ssl.create_default_context(cafile=authority.cert_file)
    server: dict[str, Any] = {"proxy_protocol": True}
    if tls:
        server["tls"] = {"enabled": True, "cert_file": cert, "key_file": key}
    with ScriptedBackend(answer_once) as backend:
        config = config_with(backend.url, **server)
        keys = config["auth"]["pipeline"][0]["static"]["keys"]
        keys.append({"key": "sk-from-seven", "allowed_ips": ["192.0.2.7"]})
        with Daemon(tmp_path, config) as daemon:

            def ask(header: bytes, key: str = KEY) -> int:
                with RawClient(daemon.port, DEADLINE_S) as client:
                    client.send(header)
                    if tls:
                        client.sock = context.wrap_socket(client.sock, server_hostname="127.0.0.1")
                    forged = {"X-Forwarded-For": "203.0.113.9"}
                    return client.post(chat_body(), key=key, headers=forged).answer()[0]

            assert ask(V1) == 200
            assert ask(V2) == 200
            assert ask(b"PROXY UNKNOWN\r\n") == 200
            assert ask(V1, "sk-from-seven") == 200
            assert ask(V2, "sk-from-seven") == 403
            for nothing in (b"", b"PROXY TCP4 192.0.2.7\r\n", V2.replace(b"\x21", b"\x31")):
                with pytest.raises((Cut, OSError)):
                    ask(nothing)
            daemon.wait_for_log("ip_not_allowed", DEADLINE_S)
            lines = [line for line in daemon.log().splitlines() if line.startswith("{")]
            seen = [json.loads(line)["client_ip"] for line in lines]
            assert seen == ["192.0.2.7", "192.0.2.8", "127.0.0.1", "192.0.2.7", "192.0.2.8"]
            assert "Traceback" not in daemon.log()
        told = [one.header("x-forwarded-for") for one in backend.seen if one.body]
        assert told == ["192.0.2.7", "192.0.2.8", "127.0.0.1", "192.0.2.7"]


def test_who_may_speak_the_proxy_protocol(tmp_path: Path) -> None:
    """With trusted proxies nobody else; what their client says of others is not believed."""
    with ScriptedBackend(answer_once) as backend:
        for trusted, served in (["10.0.0.0/8"], False), (["127.0.0.0/8"], True):
            config = config_with(backend.url, proxy_protocol=True, trusted_proxies=trusted)
            with Daemon(tmp_path, config) as daemon, RawClient(daemon.port) as client:
                request = V1 + request_bytes(
                    chat_body(), headers={"X-Forwarded-For": "203.0.113.9"}
                )
                if served:
                    assert client.send(request).answer()[0] == 200
                else:
                    with pytest.raises((Cut, OSError)):
                        client.send(request).answer()
        (seen,) = (one for one in backend.seen if one.body)
        assert seen.header("x-forwarded-for") == "192.0.2.7"


def curl(path: Path, *arguments: str) -> tuple[int, bytes]:
    """Ask by a Unix socket; give the exit status and the answer."""
    done = subprocess.run(
        [
            *("curl", "-sS", "--max-time", str(DEADLINE_S), "--unix-socket", str(path)),
            *("-H", f"Authorization: Bearer {KEY}", *arguments),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=2 * DEADLINE_S,
    )
    return done.returncode, done.stdout


CURL = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@CURL
def test_a_unix_socket(tmp_path: Path) -> None:
    """Curl finds it, with a stream; a proxy in front of it says who calls; it goes with the daemon.

    A daemon that was killed leaves it, and the next one takes its place.
    """
    path = tmp_path / "sock"
    config = gateway_config(free_port(), [{"name": "demo", "url": "demo:"}])
    tcp = config["server"]["listen"]
    config["server"]["trusted_proxies"] = ["unix:"]
    daemon = Daemon(tmp_path, config)
    config["server"]["listen"] = [tcp, f"unix:{path}:mode=660"]
    (tmp_path / "llmproxy.yaml").write_text(yaml.safe_dump(config))
    url = "http://localhost/v1/chat/completions"
    asked = json.dumps(
        {"model": "demo", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    )
    with daemon:
        daemon.wait_for_log(f"listening on unix:{path}", DEADLINE_S)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        status, answer = curl(path, "-N", "-d", asked, url)
        assert status == 0
        assert answer.endswith(b"data: [DONE]\n\n")
        curl(path, "-d", asked, "-H", "X-Forwarded-For: 192.0.2.7", "-H", "X-Request-ID: two", url)
        line = json.loads(daemon.wait_for_log('"two"', DEADLINE_S))
        assert line["client_ip"] == "192.0.2.7"
        assert daemon.process is not None
        daemon.process.kill()
        daemon.process.wait()
        assert path.exists()
        daemon.start()
        daemon.wait_for_log(f"listening on unix:{path}", DEADLINE_S)
        assert curl(path, "http://localhost/health")[0] == 0
        another = subprocess.run(
            [
                *(str(BIN / "twistd"), "-n", "--pidfile=", "llmproxy"),
                *("--config", str(another_config(tmp_path, path))),
            ],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE_S,
        )
        assert another.returncode == 1
        assert "Address already in use" in another.stderr
        assert "Traceback" not in another.stderr
        assert curl(path, "http://localhost/health")[0] == 0
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(DEADLINE_S) == 0
        assert not path.exists()
        assert os.listdir(tmp_path).count("sock.lock") == 0
        assert "Traceback" not in daemon.log()


def another_config(folder: Path, path: Path) -> Path:
    """Write the configuration of a daemon that wants the same socket."""
    config = gateway_config(free_port(), [{"name": "demo", "url": "demo:"}])
    config["server"]["listen"] = f"unix:{path}"
    file = folder / "another.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


@CURL
def test_a_unix_socket_with_tls_and_the_proxy_protocol(tmp_path: Path) -> None:
    """What is on every listener is on this one as well."""
    path = tmp_path / "sock"
    authority = Authority(tmp_path, "authority")
    cert, key = authority.issue("localhost")
    config = gateway_config(free_port(), [{"name": "demo", "url": "demo:"}])
    tcp = config["server"]["listen"]
    config["server"].update(
        proxy_protocol=True, tls={"enabled": True, "cert_file": cert, "key_file": key}
    )
    daemon = Daemon(tmp_path, config)
    config["server"]["listen"] = [tcp, f"unix:{path}"]
    (tmp_path / "llmproxy.yaml").write_text(yaml.safe_dump(config))
    with daemon:
        daemon.wait_for_log(f"listening on unix:{path} with TLS", DEADLINE_S)
        context = ssl.create_default_context(cafile=authority.cert_file)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(DEADLINE_S)
            sock.connect(str(path))
            sock.sendall(V1)
            with context.wrap_socket(sock, server_hostname="localhost") as client:
                client.sendall(
                    b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                    b"Authorization: Bearer " + KEY.encode() + b"\r\n\r\n"
                )
                assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        line = json.loads(daemon.wait_for_log('"/v1/models"', DEADLINE_S))
        assert line["client_ip"] == "192.0.2.7"


HAPROXY = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
IN_FRONT = """\
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen one
    bind 127.0.0.1:{one}
    server gateway 127.0.0.1:{gateway} send-proxy check check-send-proxy inter 200ms
listen two
    bind 127.0.0.1:{two}
    server gateway unix@{path} send-proxy-v2-ssl-cn
"""


@CURL
@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed: see tests/setup")
def test_behind_haproxy(tmp_path: Path) -> None:
    """Version 1 with health checks, version 2 by a Unix socket: as HAProxy really sends them."""
    path = tmp_path / "sock"
    one, two = free_port(), free_port()
    config = gateway_config(free_port(), [{"name": "demo", "url": "demo:"}])
    tcp = config["server"]["listen"]
    config["server"].update(proxy_protocol=True, trusted_proxies=["127.0.0.1", "unix:"])
    daemon = Daemon(tmp_path, config)
    config["server"]["listen"] = [tcp, f"unix:{path}"]
    (tmp_path / "llmproxy.yaml").write_text(yaml.safe_dump(config))
    file = tmp_path / "haproxy.cfg"
    file.write_text(IN_FRONT.format(one=one, two=two, gateway=daemon.port, path=path))
    with daemon:
        daemon.wait_for_log(f"listening on unix:{path}", DEADLINE_S)
        haproxy = subprocess.Popen(
            [str(HAPROXY), "-db", "-f", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            for port, client in (one, "127.0.0.9"), (two, "127.0.0.8"):
                done = subprocess.run(
                    [
                        *("curl", "-sS", "--noproxy", "*", "--interface", client),
                        *("--retry", "20", "--retry-connrefused", "--retry-delay", "1"),
                        *("--max-time", str(DEADLINE_S), "-H", f"Authorization: Bearer {KEY}"),
                        *("-H", f"X-Request-ID: from-{client}"),
                        f"http://127.0.0.1:{port}/v1/models",
                    ],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=2 * DEADLINE_S,
                )
                assert b'"demo"' in done.stdout, done.stderr
                line = json.loads(daemon.wait_for_log(f'"from-{client}"', DEADLINE_S))
                assert line["client_ip"] == client
        finally:
            haproxy.terminate()
            haproxy.wait(DEADLINE_S)
        assert "Traceback" not in daemon.log()
