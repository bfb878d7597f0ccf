"""What is measured: LLMProxy, and nginx as its peer, each started on a free loopback port.

Other peers are in `benchmarks.peers`. All relay to the same model server, keep connections alive on
both sides, pass each piece on at once, and write an access log to a file.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from benchmarks.certificate import Certificate

KEY = "sk-benchmark-key"
ROOT = Path(__file__).resolve().parent.parent
_STOP_S = 15.0

_NGINX = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 24000; }}
http {{
    access_log {folder}/access.log combined;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    upstream model {{
        server 127.0.0.1:{model_port};
        keepalive 1024;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} {tls} backlog=4096;
        {tls_files}
        client_max_body_size 64m;
        client_body_buffer_size 1m;  # a prompt stays in memory, as it does in LLMProxy
        location / {{
            proxy_pass http://model;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 300s;
        }}
    }}
}}
"""


class CannotStart(Exception):
    """A gateway or the model server did not start; the message says why."""


@attrs.frozen
class Running:
    """A server that runs.

    Attributes:
        name: What it is.
        port: Its loopback port.
        pid: The root of its process tree.
        folder: Its configuration and logs.
        log_mark: What each access-log line of a relayed completion holds, and no other does; empty
            when the log is not looked at.
    """

    name: str
    port: int
    pid: int
    folder: Path
    log_mark: bytes = b""


def logged_answers(gateway: Running, wanted: int, timeout_s: float = 2.0) -> int:
    """Count the completions in a gateway's access log; fewer than wanted are waited for."""
    end = time.monotonic() + timeout_s
    while True:
        with (gateway.folder / "access.log").open("rb") as file:
            logged = sum(gateway.log_mark in line for line in file)
        if logged >= wanted or time.monotonic() > end:
            return logged
        time.sleep(0.1)


def nginx_path() -> str | None:
    """Give the path of nginx; None when it is not installed."""
    # Debian installs it where the PATH of ordinary users does not look.
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def model_server(program: Path) -> Iterator[int]:
    """Run the model server; gives its port."""
    with subprocess.Popen(
        [str(program)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.strip().isdigit():
                raise CannotStart("the model server printed no port")
            yield int(line)
        finally:
            _stop(process)


@contextmanager
def nginx(folder: Path, model_port: int, certificate: Certificate | None) -> Iterator[Running]:
    """Run nginx with one worker in front of the model server.

    Args:
        folder: Where its configuration and logs go.
        model_port: The model server's port.
        certificate: For TLS; None: without.

    Raises:
        CannotStart: It did not answer.
    """
    program = nginx_path()
    if program is None:
        raise CannotStart("nginx is not installed")
    port = free_port()
    tls_files = (
        f"ssl_certificate {certificate.cert_file}; ssl_certificate_key {certificate.key_file};"
        if certificate
        else ""
    )
    file = folder / "nginx.conf"
    file.write_text(
        _NGINX.format(
            folder=folder,
            port=port,
            model_port=model_port,
            tls="ssl" if certificate else "",
            tls_files=tls_files,
        )
    )
    command = [program, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(file)]
    subject = Running("nginx", port, 0, folder, log_mark=b'HTTP/1.1" 200 ')
    with started(subject, command, tls=certificate is not None) as running:
        yield running


@contextmanager
def llmproxy(
    folder: Path,
    model_port: int,
    certificate: Certificate | None,
    *,
    name: str = "LLMProxy",
    is_open: bool = False,
    workers: int = 1,
) -> Iterator[Running]:
    """Run LLMProxy, all its features on, in front of the model server.

    Args:
        folder: Where its configuration and logs go.
        model_port: The model server's port.
        certificate: For TLS; None: without.
        name: What it is called in the table.
        is_open: Whether everybody may use it, as much as they like: no keys, limits and quotas.
        workers: How many processes serve.

    Raises:
        CannotStart: It did not answer.
    """
    port = free_port()
    key = {"key": KEY, "name": "benchmark", "user_id": "benchmark"}
    # Every limit there is, each too high to be met.
    limits = {
        "requests_per_second": 1_000_000,
        "requests_per_minute": 60_000_000,
        "tokens_per_minute": 1_000_000_000_000,
        "max_concurrent": 1_000_000,
    }
    entitled: dict[str, Any] = {
        "auth": {
            "pipeline": [
                {
                    "name": "static",
                    "type": "static",
                    "static": {"keys": [{**key, "total_quota": 1_000_000_000_000_000}]},
                }
            ]
        },
        "rate_limit": {
            "global": limits,
            "per_key": limits,
            "per_model": {"bench-model": limits},
        },
        "admin": {"db_path": str(folder / "llmproxy.db")},
    }
    server: dict[str, Any] = {
        "listen": f"127.0.0.1:{port}",
        "max_connections": 20000,
        "workers": workers,
    }
    if certificate:
        server["tls"] = {
            "enabled": True,
            "cert_file": str(certificate.cert_file),
            "key_file": str(certificate.key_file),
        }
    config = {
        "server": server,
        "backends": [{"name": "model", "url": f"http://127.0.0.1:{model_port}"}],
        **({"auth": {"enabled": False}} if is_open else entitled),
        "health_check": {"enabled": True},
        "log": {"output": "file", "file": {"path": str(folder / "error.log")}},
        "logging": {"access": {"output": "file", "path": str(folder / "access.log")}},
    }
    file = folder / "llmproxy.yaml"
    file.write_text(json.dumps(config, indent=2))  # JSON is YAML
    twistd = Path(sys.executable).with_name("twistd")
    command = [str(twistd) if twistd.exists() else "twistd", "-n", "--pidfile="]
    command += ["llmproxy", "--config", str(file)]
    # Every answer's token counts must have been read: metering is part of what is measured.
    subject = Running(name, port, 0, folder, log_mark=b"(exact)")
    with started(subject, command, tls=certificate is not None) as running:
        yield running


@contextmanager
def started(
    subject: Running,
    command: Sequence[str],
    *,
    tls: bool = False,
    environ: Mapping[str, str] | None = None,
    start_s: float = 30.0,
) -> Iterator[Running]:
    """Run a gateway until the block ends; it has answered a request when the block begins.

    Args:
        subject: All that is known of it, but for its pid.
        command: The command line.
        tls: Whether it speaks TLS.
        environ: Its environment; None: ours.
        start_s: How long it may take.

    Raises:
        CannotStart: It did not answer.
    """
    output_file = subject.folder / "output.log"
    with (
        output_file.open("wb") as output,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            seen = _wait_until_it_answers(process, subject.port, tls, start_s)
            if seen:
                said = output_file.read_text(errors="replace").strip()[-2000:]
                raise CannotStart(
                    f"{subject.name} did not start: {seen}; it said: {said or 'nothing'}"
                )
            yield attrs.evolve(subject, pid=process.pid)
        finally:
            _stop(process)


def _connection(port: int, tls: bool) -> http.client.HTTPConnection:
    if not tls:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)


def _wait_until_it_answers(
    process: subprocess.Popen[bytes], port: int, tls: bool, start_s: float
) -> str:
    """Ask until a request is relayed; gives what was wrong, or nothing."""
    seen = "no answer"
    body = json.dumps({"model": "bench-model", "messages": [{"role": "user", "content": "hello"}]})
    fields = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    end = time.monotonic() + start_s
    while time.monotonic() < end:
        if process.poll() is not None:
            return f"exit status {process.returncode}"
        connection = _connection(port, tls)
        try:
            connection.request("POST", "/v1/chat/completions", body, fields)
            status = connection.getresponse().status
            if status == 200:
                return ""
            seen = f"status {status}"
        except (OSError, http.client.HTTPException) as error:
            seen = repr(error)
        finally:
            connection.close()
        time.sleep(0.05)
    return seen


def _stop(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """Give a port that is free at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
