"""The rules of an intermediary, one by one, through the daemon and over real sockets.

The rows stand in the tables beside this file, each under the number of its rule.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import KEY, Daemon, free_port, gateway_config
from tests.edge import Edge, post, post_chunked, read_answers
from tests.gateway.raw_client import RawClient
from tests.gateway.rules import BACKEND, EDGE, GOOD, LAST, LEAVING, OUT, RULES, TARGET, asked
from tests.gateway.rules_of_backends import BAD_BY_RULE, BROKEN, Broken
from tests.gateway.rules_of_clients import LOCAL, REFUSED_BY_RULE, Local
from tests.gateway.rules_of_relaying import CROSSINGS, Crossing
from tests.raw_requests import REFUSED
from tests.scripted_backend import Connection, ScriptedBackend
from tests.upstream.agent_contract import BAD_HEADS


class Gateway:
    """A daemon before one backend that says what the test at hand wants.

    Attributes:
        backend: The backend.
        daemon: The daemon.
        our_name: What the daemon calls itself in Via.
    """

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._pieces: tuple[bytes, ...] = (LEAVING,)
        self._closes = False
        self._further = threading.Event()
        self.backend = stack.enter_context(ScriptedBackend(self._serve))
        config = gateway_config(
            free_port(),
            [{"name": "b", "url": self.backend.url, "models": ["m"]}],
            health_check={"enabled": False},
        )
        config["server"].update(
            max_body_size=4096, header_timeout="300ms", body_timeout="300ms", idle_timeout="300ms"
        )
        self.daemon = stack.enter_context(Daemon(folder, config))
        with self.client() as client:
            assert client.send(asked()).answer() == (200, b"{}")
        self.our_name = self.backend.seen[0].header("via").removeprefix("1.1 ").encode()
        assert self.our_name

    def _serve(self, connection: Connection) -> None:
        while connection.read_request() is not None:
            for number, piece in enumerate(self._pieces):
                assert number == 0 or self._further.wait(10)
                connection.send(piece)
            if self._closes:
                return

    def client(self) -> RawClient:
        """Open a connection to the daemon."""
        return RawClient(self.daemon.port)

    def prepare(self, *pieces: bytes, closes: bool = False) -> None:
        """Say what the backend is to answer each request with, on a connection that is new.

        Args:
            pieces: What it sends, the second only after `say_the_rest`.
            closes: Whether it closes then; else it keeps the connection as long as the daemon does.
        """
        self._pieces, self._closes = (LEAVING,), False
        with self.client() as client:
            assert client.send(asked()).answer() == (200, b"{}")
        self._pieces, self._closes = pieces, closes
        self._further.clear()
        self.backend.seen.clear()

    def say_the_rest(self) -> None:
        """Let the backend send its second piece."""
        self._further.set()

    def filled(self, text: bytes) -> bytes:
        """Fill in what is known only now."""
        host = self.backend.url.removeprefix("http://").encode()
        return text.replace(b"BACKEND", host).replace(b"OURS", self.our_name)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Start one for all tests."""
    with ExitStack() as stack:
        gateway = Gateway(stack, tmp_path_factory.mktemp("rules"))
        yield gateway
        assert gateway.backend.errors == []


def named(table: Mapping[str, tuple[str, ...]]) -> list[Any]:
    """Give the rows of a table of names, each with its rule."""
    return [
        pytest.param(name, id=f"{rule} {name}") for rule, names in table.items() for name in names
    ]


def ruled(table: Iterable[Any]) -> list[Any]:
    """Give the rows of a table, each with its rule."""
    return [pytest.param(row, id=f"{row.rule} {row.name}") for row in table]


@pytest.mark.parametrize("name", named(REFUSED_BY_RULE))
def test_what_clients_must_not_send(gateway: Gateway, name: str) -> None:
    """One answer of ours, then an end that lets it be read; the backend hears nothing."""
    sent, status, code = REFUSED[name]
    # Whose body is read, it would be a 404 or 401 otherwise, and that at once.
    let_in = b"POST %b HTTP/1.1\r\nX-API-Key: %b\r\n" % (TARGET, KEY.encode())
    sent = sent.replace(b"POST / HTTP/1.1\r\n", let_in, 1)
    gateway.prepare(GOOD)
    with gateway.client() as client:
        client.send(sent)
        assert client.error() == (status, code)
        assert client.headers["connection"] == "close"
        assert client.headers["date"]
        assert client.rest() == (b"", False)
    assert gateway.backend.seen == []


@pytest.mark.parametrize("row", ruled(LOCAL))
def test_what_is_answered_here(gateway: Gateway, row: Local) -> None:
    """As many answers as there should be, in their order; nothing else goes up."""
    gateway.prepare(GOOD)
    with gateway.client() as client:
        client.send(gateway.filled(row.sent) + (b"" if row.waits else LAST))
        raw, _ = client.rest()
    answers = read_answers(raw, row.methods, closed=True)
    assert tuple(answer.status for answer in answers) == row.statuses
    assert all(answer.complete for answer in answers)
    assert all(text in raw for text in row.has)
    assert len(gateway.backend.seen) == row.relayed


@pytest.mark.parametrize("name", named(BAD_BY_RULE))
def test_what_backends_must_not_answer(gateway: Gateway, name: str) -> None:
    """A 502 of ours, the backend's connection is cut, and the client's lives on."""
    (bad,) = [bad for bad in BAD_HEADS if bad.name == name]
    gateway.prepare(bad.octets)
    before = gateway.backend.connections
    with gateway.client() as client:
        client.send(asked())
        assert client.error() == (502, "bad_response")
        assert "connection" not in client.headers
        assert len(gateway.backend.seen) == 1
        assert client.send(asked()).error() == (502, "bad_response")
    assert gateway.backend.connections == before + 2


@pytest.mark.parametrize("row", ruled(BROKEN))
def test_answers_that_break(gateway: Gateway, row: Broken) -> None:
    """Never complete for the client, and never asked for twice."""
    gateway.prepare(*row.pieces, closes=len(row.pieces) == 1)
    with gateway.client() as client:
        client.send(asked())
        if row.got is None:
            status, code = client.error()
            assert status == 502
            assert code in ("bad_response", "connection_lost")
        else:
            assert client.head() == 200
            head = "".join(f"{name}: {value}\r\n" for name, value in client.headers.items())
            got = b"HTTP/1.1 200 OK\r\n" + head.encode() + b"\r\n"
            if len(row.pieces) > 1:
                assert next(client.pieces())[1] == row.got
                got += b"%x\r\n%b\r\n" % (len(row.got), row.got)
                gateway.say_the_rest()
            rest, _ = client.rest()
            (answer,) = read_answers(got + rest, closed=True)
            assert answer.body.startswith(row.got)
            assert not answer.complete
    assert len(gateway.backend.seen) == 1


SINGLE = (b"host", b"content-length", b"date", b"via", b"x-request-id", b"transfer-encoding")


@pytest.mark.parametrize("row", ruled(CROSSINGS))
def test_what_goes_out(gateway: Gateway, row: Crossing) -> None:
    """The request up and the answer down: what must stand in each, and what must not."""
    gateway.prepare(gateway.filled(row.answer), closes=b"HTTP/1.0 200" in row.answer)
    with gateway.client() as client:
        client.send(row.sent + LAST)
        raw, was_reset = client.rest()
    assert not was_reset
    answers = [answer for answer in read_answers(raw, closed=True) if answer.status != 100]
    assert all(answer.complete for answer in answers)
    answer = answers[0]
    assert answer.status == row.status
    if row.body is not None:
        assert answer.body == row.body
    (seen,) = gateway.backend.seen
    if row.up_body is not None:
        assert seen.body == row.up_body
    assert seen.header("content-length") == str(len(seen.body))
    begin = raw.index(b"HTTP/1.1 %d" % row.status)
    heads = {
        "up": (b"\r\n" + seen.head + b"\r\n", row.up, row.up_not),
        "down": (b"\r\n" + raw[begin:].partition(b"\r\n\r\n")[0] + b"\r\n", row.down, row.down_not),
    }
    for way, (head, stands, stands_not) in heads.items():
        lowered = head.lower()
        for line in map(gateway.filled, stands):
            end = b"" if line.endswith(b" ") else b"\r\n"
            assert b"\r\n" + line.lower() + end in lowered, (way, line, head)
        for text in stands_not:
            assert text.lower() not in lowered, (way, text, head)
        for name in SINGLE:
            assert lowered.count(b"\r\n" + name + b":") <= 1, (way, name, head)


# what stock twisted.web does with bodies, and we must not


@pytest.mark.parametrize("write", [post, post_chunked])
def test_no_body_goes_to_disk(
    monkeypatch: pytest.MonkeyPatch, write: Callable[[bytes], bytes]
) -> None:
    """However large a body is and however it is framed, there is no file for it."""

    def make_file(*_: object, **__: object) -> None:
        raise AssertionError("a temporary file")

    monkeypatch.setattr("tempfile.TemporaryFile", make_file)
    body = b"x" * 300_000
    with Edge() as edge:
        client = edge.connect().send(write(body))
        assert client.answer("POST").json["body"] == body.decode()


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=b"]
)
def test_no_form_is_parsed(content_type: str) -> None:
    """A body is bytes to us, whatever the client says that it is."""
    body = b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\nb\r\n--b--\r\n"
    with Edge() as edge:
        client = edge.connect().send(post(body, f"Content-Type: {content_type}", path="/?c=d"))
        assert client.answer("POST").json["body"] == body.decode()
        (request,) = edge.stage.requests
        assert not request.args


# the tables are whole


def test_every_row_has_a_rule() -> None:
    """No row of the parsers' tables is forgotten here, or named twice."""
    refused = [name for names in REFUSED_BY_RULE.values() for name in names]
    assert sorted(refused) == sorted(REFUSED)
    bad = [name for names in BAD_BY_RULE.values() for name in names]
    assert sorted(bad) == sorted(one.name for one in BAD_HEADS)


def test_every_rule_has_rows() -> None:
    """Each rule, on each side that it has, is named by a row; and no row names another."""
    sides = {
        EDGE: {*REFUSED_BY_RULE, *(row.rule for row in LOCAL)},
        BACKEND: {*BAD_BY_RULE, *(row.rule for row in BROKEN)},
        OUT: {row.rule for row in CROSSINGS},
    }
    assert {str(number) for number in range(1, 26)} < set(RULES)
    for side, named_rules in sides.items():
        assert named_rules == {rule for rule, (_, has) in RULES.items() if side in has}, side
