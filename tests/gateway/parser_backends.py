"""Backends on the HTTP parsers of real servers, which record each request as they read it.

They know nothing of LLMProxy: what they hold against what a client sent is the tests' affair.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import attrs
import uvicorn

from tests.daemon import free_port

ANSWER = b'{"ok":true}'
"""What each of them answers to each request."""

MARK = b"/mark"
"""The target of the requests by which `ParserBackend.settled` knows that nothing is under way."""


class NotInstalled(Exception):
    """The program that a backend needs is not there; says which, and where it comes from."""


@attrs.frozen
class Read:
    """One request as a parser read it.

    Attributes:
        method: The method; empty for bytes that it refused.
        target: The request target.
        fields: Names in lower case, and values; of nginx only those of `NGINX_FIELDS`.
        body: The body.
        complete: Whether the parser saw the request's end, and had nothing against it.
    """

    method: bytes
    target: bytes = b""
    fields: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    complete: bool = True

    def values(self, name: bytes) -> list[bytes]:
        """Give the values of all fields of that name."""
        return [value for field, value in self.fields if field == name]


class ParserBackend:
    """A server on 127.0.0.1.

    Attributes:
        name: Of its parser.
        port: Its port, once it was entered.
    """

    name = ""
    all_fields = True
    port = 0

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reads: list[Read] = []
        self._news = threading.Condition()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def url(self) -> str:
        """The origin."""
        return f"http://127.0.0.1:{self.port}"

    def _start(self) -> None:
        raise NotImplementedError

    def _stop(self) -> None:
        raise NotImplementedError

    def _note(self, read: Read) -> None:
        with self._news:
            self._reads.append(read)
            self._news.notify_all()

    def settled(self, timeout_s: float = 10.0) -> list[Read]:
        """Let it finish what it has in hand; give what it has read since the last call.

        It handles connections in the order of what they send, so that a request of our own shows
        when all before it is done.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        with contextlib.closing(connection):
            connection.request("POST", MARK.decode(), b"{}", {"Connection": "close"})
            assert connection.getresponse().read() == ANSWER
        with self._news:
            assert self._news.wait_for(self._is_marked, timeout_s), f"{self.name} does not settle"
            reads, self._reads = self._reads, []
        return [read for read in reads if read.target != MARK]

    def _is_marked(self) -> bool:
        return any(read.target == MARK for read in self._reads)


class UvicornBackend(ParserBackend):
    """uvicorn, which vLLM, TGI's router apart, and most Python servers stand on.

    Args:
        folder: For its files; it has none.
        parser: Which of its two parsers.
    """

    def __init__(self, folder: Path, parser: Literal["h11", "httptools"]) -> None:
        super().__init__(folder)
        self.name = f"uvicorn-{parser}"
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._application,
                interface="asgi3",
                http=parser,
                ws="none",
                proxy_headers=False,
                lifespan="off",
                log_config=None,
                access_log=False,
                timeout_keep_alive=3600,
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), daemon=True
        )

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        body, complete, more = b"", True, True
        while more:
            message = await receive()
            complete = message["type"] == "http.request"
            more = complete and message.get("more_body", False)
            body += message.get("body", b"")
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        self._note(
            Read(
                method=scope["method"].encode(),
                target=scope["raw_path"] + query,
                fields=tuple((bytes(name), bytes(value)) for name, value in scope["headers"]),
                body=body,
                complete=complete,
            )
        )
        fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": ANSWER})

    def _start(self) -> None:
        self._thread.start()
        end = time.monotonic() + 20
        while not self._server.started:
            assert time.monotonic() < end, "uvicorn did not start"
            time.sleep(0.01)

    def _stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)
        self._socket.close()


class ProgramBackend(ParserBackend):
    """A program that tells of each request with a line of JSON.

    Attributes:
        encoding: Of the lines; the text in them stands for bytes as Latin-1 has it.
    """

    encoding = "utf-8"
    _process: subprocess.Popen[bytes]

    def _run(self, *command: str, **options: Any) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, **options)

    def _listen(self, lines: IO[bytes]) -> None:
        """Take the lines, in a thread of their own, until there are no more."""

        def take() -> None:
            for line in lines:
                self._note(self._read(json.loads(line.decode(self.encoding))))

        threading.Thread(target=take, daemon=True).start()

    def _read(self, line: dict[str, Any]) -> Read:
        raise NotImplementedError

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class NodeBackend(ProgramBackend):
    """node's ``http``: llhttp as we use it, with node's own options and rules above it."""

    name = "node"

    def _start(self) -> None:
        node = shutil.which("node")
        if node is None:
            raise NotInstalled("Node.js (Debian: nodejs) is not installed")
        script = Path(__file__).with_name("node_recorder.js")
        self._run(node, str(script), stdout=subprocess.PIPE)
        output = self._process.stdout
        assert output is not None
        self.port = json.loads(output.readline())["port"]
        self._listen(output)

    def _read(self, line: dict[str, Any]) -> Read:
        if "refused" in line:
            return Read(b"", line["refused"].encode(), complete=False)
        raw = [part.encode("latin-1") for part in line["fields"]]
        return Read(
            method=line["method"].encode(),
            target=line["target"].encode("latin-1"),
            fields=tuple(
                (name.lower(), value) for name, value in zip(raw[::2], raw[1::2], strict=True)
            ),
            body=base64.b64decode(line["body"]),
            complete=line["complete"],
        )


NGINX_FIELDS = (
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"connection",
    b"expect",
    b"upgrade",
    b"te",
    b"trailer",
    b"keep-alive",
    b"proxy-connection",
    b"authorization",
    b"x-api-key",
    b"x-forwarded-for",
    b"x-request-id",
    b"x-canary",
    b"x-hop",
)

_NGINX_CONF = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_timeout 3600;
    keepalive_requests 1000000;
    client_body_buffer_size 1m;
    lingering_close off;  # it would log only afterwards
    # Names that nginx would drop in silence are to be seen.
    ignore_invalid_headers off;
    underscores_in_headers on;
    log_format seen escape=json
        '{{"method":"$request_method","target":"$request_uri","status":"$status",'
        '"body":"$request_body"{fields}}}';
    server {{
        listen 127.0.0.1:{port};
        access_log {folder}/seen.log seen;
        # A body is read, and can be logged, only when it is passed on.
        location / {{ proxy_pass http://unix:{folder}/answer.sock; }}
    }}
    server {{
        listen unix:{folder}/answer.sock;
        access_log off;
        return 200 '{answer}';
    }}
}}
"""


class NginxBackend(ProgramBackend):
    """nginx, as it stands in front of many inference servers."""

    name = "nginx"
    all_fields = False
    encoding = "latin-1"  # it writes bytes as they are

    def _start(self) -> None:
        search = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
        nginx = shutil.which("nginx", path=search)
        if nginx is None:
            raise NotInstalled("nginx (Debian: nginx-light) is not installed")
        self.port = free_port()
        variables = ((name, name.replace(b"-", b"_").decode()) for name in NGINX_FIELDS)
        file = self._folder / "nginx.conf"
        file.write_text(
            _NGINX_CONF.format(
                folder=self._folder,
                port=self.port,
                answer=ANSWER.decode(),
                fields="".join(f',"{name.decode()}":"$http_{var}"' for name, var in variables),
            )
        )
        seen = self._folder / "seen.log"
        # A pipe instead of a file: each line is there as soon as it is written.
        os.mkfifo(seen)
        reading = os.open(seen, os.O_RDONLY | os.O_NONBLOCK)
        self._run(nginx, "-p", str(self._folder), "-c", str(file), stderr=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while True:
            assert self._process.poll() is None, (self._folder / "error.log").read_text()
            assert time.monotonic() < end, "nginx did not start"
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            time.sleep(0.02)
        os.set_blocking(reading, True)
        self._listen(open(reading, "rb"))  # noqa: SIM115 - its thread reads it to its end

    def _read(self, line: dict[str, Any]) -> Read:
        def text(name: str) -> bytes:
            value: bytes = line[name].encode("latin-1")
            return value

        return Read(
            method=text("method"),
            target=text("target"),
            fields=tuple(
                (name, text(name.decode())) for name in NGINX_FIELDS if line[name.decode()]
            ),
            body=text("body"),
            complete=line["status"] == "200",
        )


PARSERS = ("uvicorn-h11", "uvicorn-httptools", "node", "nginx")


def make_backend(name: str, folder: Path) -> ParserBackend:
    """Make one of `PARSERS`, not yet started."""
    if name == "uvicorn-h11":
        return UvicornBackend(folder, "h11")
    if name == "uvicorn-httptools":
        return UvicornBackend(folder, "httptools")
    return NodeBackend(folder) if name == "node" else NginxBackend(folder)
