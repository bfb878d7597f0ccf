"""What every `IAgent` of the data path must do, checked over real sockets.

`AgentContract` is kept by our agent and by Twisted's own alike, so that the stock one is the oracle
for ours. Where the stock one cannot comply, the difference is said here: in ``refused_by_stock`` of
`BAD_HEADS`, and in `StrictAgentContract`, which is for ours alone.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

import attrs
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer

from tests.scripted_backend import Connection, ScriptedBackend
from tests.upstream.loopback import UpstreamTestCase, reactor
from tests.upstream.receiver import Receiver

CLOSE_WITHIN_S = 0.25
"""How soon a backend must see that nobody wants its answer any more."""

OK = b"HTTP/1.1 200 OK\r\n"
EMPTY = b"Content-Length: 0\r\n\r\n"


@attrs.frozen
class BadHead:
    """A head that breaks the rules (RFC 9110, RFC 9112).

    Attributes:
        name: What is wrong with it.
        octets: The head.
        refused_by_stock: Whether `twisted.web.client.Agent` sees it too.
    """

    name: str
    octets: bytes
    refused_by_stock: bool = False


BAD_HEADS = (
    BadHead("length and coding", OK + b"Transfer-Encoding: chunked\r\n" + EMPTY),
    BadHead(
        "coding and length",
        OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    BadHead("two lengths", OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", True),
    BadHead("the same length twice", OK + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
    BadHead("a list of lengths", OK + b"Content-Length: 3, 3\r\n\r\nabc"),
    BadHead("negative length", OK + b"Content-Length: -1\r\n\r\n", True),
    BadHead("signed length", OK + b"Content-Length: +3\r\n\r\nabc", True),
    BadHead("hexadecimal length", OK + b"Content-Length: 0x3\r\n\r\nabc", True),
    BadHead("empty length", OK + b"Content-Length: \r\n\r\nabc", True),
    BadHead("length over 64 bits", OK + b"Content-Length: 99999999999999999999\r\n\r\nabc"),
    BadHead("gzip coding", OK + b"Transfer-Encoding: gzip\r\n\r\nabc", True),
    BadHead("gzip and chunked", OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", True),
    BadHead("identity coding", OK + b"Transfer-Encoding: identity\r\n\r\nabc", True),
    BadHead("chunked twice", OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", True),
    BadHead("two codings", OK + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n"),
    BadHead("coding in 1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    BadHead("bare LF after the status", b"HTTP/1.1 200 OK\n" + EMPTY),
    BadHead("bare LF after a field", OK + b"A: b\n" + EMPTY),
    BadHead("bare LF at the end", OK + b"Content-Length: 0\r\n\n"),
    BadHead("bare CR in a value", OK + b"A: b\rc\r\n" + EMPTY),
    BadHead("folded line", OK + b"A: b\r\n c\r\n" + EMPTY),
    BadHead("folded with a tab", OK + b"A: b\r\n\tc\r\n" + EMPTY),
    BadHead("NUL in a value", OK + b"A: b\0c\r\n" + EMPTY),
    BadHead("bell in a value", OK + b"A: b\x07c\r\n" + EMPTY),
    BadHead("DEL in a value", OK + b"A: b\x7fc\r\n" + EMPTY),
    BadHead("NUL in the phrase", b"HTTP/1.1 200 O\0K\r\n" + EMPTY),
    BadHead("escape in the phrase", b"HTTP/1.1 200 O\x1bK\r\n" + EMPTY),
    BadHead("space before the colon", OK + b"A : b\r\n" + EMPTY, True),
    BadHead("no name", OK + b": b\r\n" + EMPTY, True),
    BadHead("no colon", OK + b"nonsense\r\n" + EMPTY, True),
    BadHead("a page", b"<html><body>no</body></html>\r\n\r\n", True),
    BadHead("binary", bytes(range(128, 256)) + b"\r\n\r\n", True),
    BadHead("TLS alert", b"\x15\x03\x01\x00\x02\x02\x0a\r\n\r\n", True),
    BadHead("a request", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", True),
    BadHead("empty line first", b"\r\n" + OK + EMPTY, True),
    BadHead("RTSP", b"RTSP/1.0 200 OK\r\n" + EMPTY),
    BadHead("ICY", b"ICE/1.0 200 OK\r\n" + EMPTY),
    BadHead("HTTP/0.9", b"HTTP/0.9 200 OK\r\n" + EMPTY),
    BadHead("HTTP/1.2", b"HTTP/1.2 200 OK\r\n" + EMPTY),
    BadHead("HTTP/2.0", b"HTTP/2.0 200 OK\r\n" + EMPTY),
    BadHead("lower-case http", b"http/1.1 200 OK\r\n" + EMPTY),
    BadHead("status 99", b"HTTP/1.1 099 OK\r\n" + EMPTY),
    BadHead("status 20", b"HTTP/1.1 20 OK\r\n" + EMPTY),
    BadHead("status 600", b"HTTP/1.1 600 OK\r\n" + EMPTY),
    BadHead("status 2000", b"HTTP/1.1 2000 OK\r\n" + EMPTY),
    BadHead("status abc", b"HTTP/1.1 abc OK\r\n" + EMPTY, True),
    BadHead("101", b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", True),
    BadHead("bare 101", b"HTTP/1.1 101 Switching\r\n\r\n", True),
    BadHead("one value of 65 KiB", OK + b"A: " + b"a" * 66_560 + b"\r\n" + EMPTY, True),
    BadHead("66 KiB of fields", OK + (b"A: " + b"a" * 1000 + b"\r\n") * 68 + EMPTY),
    BadHead("201 fields", OK + b"A: b\r\n" * 200 + EMPTY),
    BadHead(
        "bad head after a good interim one",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/2.0 200\r\n" + EMPTY,
    ),
)


class AgentContract(UpstreamTestCase):
    """What both agents do."""

    dead_before_head: tuple[str, ...]
    refused_connection: str
    refusals: tuple[str, ...]

    def make_agent(self, url: str) -> IAgent:
        """Make the agent under test, which keeps connections alive."""
        raise NotImplementedError

    def make_body(self, octets: bytes) -> IBodyProducer:
        """Make a request's body."""
        raise NotImplementedError

    async def answered(self, *octets: bytes, method: bytes = b"GET") -> tuple[Any, Receiver]:
        """Answer a request with these bytes, then close; read the answer."""

        def script(connection: Connection) -> None:
            connection.read_request()
            for piece in octets:
                connection.send(piece)

        backend = self.backend(script)
        response = await self.ask(self.make_agent(backend.url), backend.url + "/", method)
        return response, await self.receive(response)

    async def sent(self, method: bytes, **request: Any) -> ScriptedBackend:
        """Send a request; its backend knows what it saw."""

        def script(connection: Connection) -> None:
            while connection.read_request():
                connection.answer(b"{}")

        backend = self.backend(script)
        response = await self.ask(
            self.make_agent(backend.url), backend.url + "/", method, **request
        )
        await self.receive(response)
        return backend

    # answers

    async def test_plain(self) -> None:
        """Status, phrase, version, fields, length and body come as they were sent."""
        response, receiver = await self.answered(
            b"HTTP/1.1 203 Some Thing\r\nX-A: 1\r\nContent-Length: 5\r\nX-A: 2\r\n\r\nhello"
        )
        self.assertEqual((response.version, response.code), ((b"HTTP", 1, 1), 203))
        self.assertEqual((response.phrase, response.length), (b"Some Thing", 5))
        self.assertEqual(response.headers.getRawHeaders(b"x-a"), [b"1", b"2"])
        self.assertEqual((receiver.body, receiver.end), (b"hello", "ResponseDone"))

    async def test_chunked(self) -> None:
        """The coding is undone; extensions and trailers are nobody's fields."""
        response, receiver = await self.answered(
            OK + b"Transfer-Encoding: chunked\r\n\r\n"
            b"5;ext=1\r\nhello\r\n1\r\n \r\n00A\r\nthe world!\r\n0\r\nX-Trailer: 1\r\n\r\n"
        )
        self.assertEqual((receiver.body, receiver.end), (b"hello the world!", "ResponseDone"))
        self.assertIsNone(response.headers.getRawHeaders(b"x-trailer"))

    async def test_close_delimited(self) -> None:
        """Without any framing the body ends with the connection, and may be whole."""
        for version in (b"1.0", b"1.1"):
            _, receiver = await self.answered(b"HTTP/" + version + b" 200 OK\r\n\r\nhel", b"lo")
            self.assertEqual((receiver.body, receiver.end), (b"hello", "PotentialDataLoss"))

    async def test_no_body_by_status(self) -> None:
        """204 and 304 have none, whatever their fields say."""
        for octets in (
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        ):
            _, receiver = await self.answered(octets)
            self.assertEqual((receiver.body, receiver.end), (b"", "ResponseDone"))

    async def test_head(self) -> None:
        """The answer to HEAD has no body, though its length is told."""
        response, receiver = await self.answered(OK + b"Content-Length: 5\r\n\r\n", method=b"HEAD")
        self.assertEqual((response.code, receiver.body, receiver.end), (200, b"", "ResponseDone"))

    async def test_interim_answers(self) -> None:
        """1xx are swallowed, with their fields."""
        response, receiver = await self.answered(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n",
            OK + b"Content-Length: 2\r\n\r\nok",
        )
        self.assertEqual((response.code, response.phrase), (200, b"OK"))
        self.assertIsNone(response.headers.getRawHeaders(b"link"))
        self.assertEqual((receiver.body, receiver.end), (b"ok", "ResponseDone"))

    async def test_many_pieces(self) -> None:
        """A body may come one byte at a time."""
        octets = OK + b"Content-Length: 40\r\n\r\n" + b"0123456789" * 4
        _, receiver = await self.answered(*(octets[i : i + 1] for i in range(len(octets))))
        self.assertEqual((receiver.body, receiver.end), (b"0123456789" * 4, "ResponseDone"))

    async def test_empty_bodies(self) -> None:
        """A body of no bytes ends well."""
        for framing in (EMPTY, b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"):
            _, receiver = await self.answered(OK + framing)
            self.assertEqual((receiver.pieces, receiver.end), ([], "ResponseDone"))

    async def test_large_answer(self) -> None:
        """Some megabytes come whole."""
        octets = hashlib.shake_128(b"answer").digest(3 << 20)
        _, receiver = await self.answered(OK + b"Content-Length: %d\r\n\r\n" % len(octets), octets)
        self.assertEqual(receiver.end, "ResponseDone")
        self.assertTrue(receiver.body == octets)

    async def test_compressed_body_and_redirect_come_as_they_are(self) -> None:
        """Nothing is decoded, nothing followed."""
        response, receiver = await self.answered(
            b"HTTP/1.1 307 Elsewhere\r\nLocation: http://127.0.0.1:1/\r\n"
            b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\0\0"
        )
        self.assertEqual((response.code, receiver.body), (307, b"\x1f\x8b\0\0"))

    async def test_body_taken_late(self) -> None:
        """What came before somebody asks for the body waits."""

        def script(connection: Connection) -> None:
            connection.read_request()
            connection.answer(b"hello", more=b"Connection: close\r\n")

        backend = self.backend(script)
        response = await self.ask(self.make_agent(backend.url), backend.url + "/")
        await self.sleep(0.05)
        receiver = await self.receive(response)
        self.assertEqual((receiver.body, receiver.end), (b"hello", "ResponseDone"))

    # endings

    async def test_cut_bodies(self) -> None:
        """A framed body that breaks off is never shown as complete."""
        for octets in (
            OK + b"Content-Length: 10\r\n\r\nhello",
            OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            OK + b"Transfer-Encoding: chunked\r\n\r\n9\r\nhello",
            OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        ):
            _, receiver = await self.answered(octets)
            self.assertEqual((receiver.body, receiver.end), (b"hello", "ResponseFailed"))

    async def test_closed_before_the_head_is_complete(self) -> None:
        """No head, no answer."""
        for octets in (b"", b"HTTP/1.1 200 OK\r\nA: b\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"):

            def script(connection: Connection, octets: bytes = octets) -> None:
                connection.read_request()
                connection.send(octets)

            backend = self.backend(script)
            answer = self.make_agent(backend.url).request(b"GET", backend.url.encode() + b"/")
            self.assertIn(await self.failure_of(answer), self.dead_before_head)

    async def test_refused_connection(self) -> None:
        """Nobody listens."""
        backend = self.backend(lambda connection: None)
        url = backend.url
        backend.stop()
        answer = self.make_agent(url).request(b"GET", url.encode() + b"/")
        self.assertEqual(await self.failure_of(answer), self.refused_connection)

    async def test_cancelled_before_the_head(self) -> None:
        """The backend sees at once that nobody waits."""

        def script(connection: Connection) -> None:
            connection.read_request()
            connection.wait_for_close()

        backend = self.backend(script)
        answer = self.make_agent(backend.url).request(b"GET", backend.url.encode() + b"/")
        await self.until(lambda: bool(backend.seen))
        cancelled_at = time.monotonic()
        answer.cancel()
        self.assertNotIn("no failure", await self.failure_of(answer))
        await self.until(lambda: bool(backend.closed_at))
        self.assertLess(backend.closed_at[0] - cancelled_at, CLOSE_WITHIN_S)

    async def test_stopped_in_the_body(self) -> None:
        """The backend sees at once that nobody reads on."""

        def script(connection: Connection) -> None:
            connection.read_request()
            connection.stream_head()
            connection.chunk(b"one")
            connection.wait_for_close()

        backend = self.backend(script)
        response = await self.ask(self.make_agent(backend.url), backend.url + "/")
        receiver = Receiver()
        response.deliverBody(receiver)
        await self.until(lambda: receiver.body == b"one")
        stopped_at = time.monotonic()
        transport: Any = receiver.transport
        transport.stopProducing()
        await receiver.ended
        self.assertEqual(receiver.end, "ResponseFailed")
        await self.until(lambda: bool(backend.closed_at))
        self.assertLess(backend.closed_at[0] - stopped_at, CLOSE_WITHIN_S)

    async def test_refused_heads(self) -> None:
        """A head that breaks the rules gives no answer."""
        accepted = [
            bad.name
            for bad in BAD_HEADS
            if self.must_refuse(bad) and (await self.verdict_on(bad.octets)) not in self.refusals
        ]
        self.assertEqual(accepted, [])

    def must_refuse(self, bad: BadHead) -> bool:
        """Say whether this agent sees what is wrong."""
        raise NotImplementedError

    async def verdict_on(self, octets: bytes) -> str:
        """Answer a request with these bytes and hold the connection; name what comes of it."""

        def script(connection: Connection) -> None:
            connection.read_request()
            connection.send(octets)
            connection.wait_for_close()

        backend = self.backend(script)
        answer = self.make_agent(backend.url).request(b"GET", backend.url.encode() + b"/")
        answer.addTimeout(1.0, reactor)
        verdict = await self.failure_of(answer)
        backend.stop()
        return verdict

    # requests

    async def test_large_requests(self) -> None:
        """A body goes up byte for byte, with its length."""
        for size in (1, 256 * 1024, 256 * 1024 + 1, (10 << 20) + 7):
            octets = hashlib.shake_128(b"request").digest(size)
            backend = await self.sent(b"POST", body=self.make_body(octets))
            (seen,) = backend.seen
            self.assertEqual(seen.header("content-length"), str(size))
            self.assertEqual(seen.header("transfer-encoding"), "")
            self.assertTrue(seen.body == octets, size)

    async def test_post_without_a_body(self) -> None:
        """It says that it has none (RFC 9110, section 8.6); GET does not."""
        (seen,) = (await self.sent(b"POST")).seen
        self.assertEqual(seen.header("content-length"), "0")
        (seen,) = (await self.sent(b"GET")).seen
        self.assertNotIn(b"content-length", seen.head.lower())

    async def test_fields_in_their_order(self) -> None:
        """Fields keep their order and repetitions; nothing is asked for that was not given."""
        headers = Headers()
        for name, value in ((b"X-B", b"1"), (b"X-A", b"2"), (b"X-C", b"3"), (b"X-A", b"4")):
            headers.addRawHeader(name, value)
        (seen,) = (await self.sent(b"GET", headers=headers)).seen
        lines = [line for line in seen.head.split(b"\r\n") if line.startswith(b"X-")]
        self.assertEqual(lines, [b"X-B: 1", b"X-A: 2", b"X-A: 4", b"X-C: 3"])
        for absent in ("accept-encoding", "user-agent", "cookie", "accept", "te"):
            self.assertEqual(seen.header(absent), "")

    async def test_host(self) -> None:
        """Host is the URL's, once."""
        backend = await self.sent(b"GET")
        (seen,) = backend.seen
        self.assertEqual(seen.header("host"), f"127.0.0.1:{backend.port}")
        self.assertEqual(seen.head.lower().count(b"\r\nhost:"), 1)

    async def test_target_unchanged(self) -> None:
        """No character of the path or the query is touched."""
        target = "/v1/%7Efoo/../a//b;c=1?x=%20&y=a+b&&z=%e4{}|[]'"

        def script(connection: Connection) -> None:
            connection.read_request()
            connection.answer(b"{}")

        backend = self.backend(script)
        response = await self.ask(self.make_agent(backend.url), backend.url + target)
        await self.receive(response)
        self.assertEqual(backend.seen[0].request_line, f"GET {target} HTTP/1.1")

    async def test_connection_is_used_again(self) -> None:
        """Requests one after the other go over one connection, whatever their framing."""

        def script(connection: Connection) -> None:
            while seen := connection.read_request():
                if seen.request_line.startswith("POST"):
                    connection.stream_head()
                    connection.chunk(seen.body)
                    connection.chunk(b"")
                else:
                    connection.answer(b"plain")

        backend = self.backend(script)
        agent = self.make_agent(backend.url)
        for number in range(3):
            for method, body, expected in (
                (b"GET", None, b"plain"),
                (b"POST", self.make_body(b"%d" % number), b"%d" % number),
            ):
                response = await self.ask(agent, backend.url + "/", method, body=body)
                receiver = await self.receive(response)
                self.assertEqual((receiver.body, receiver.end), (expected, "ResponseDone"))
        self.assertEqual((backend.connections, len(backend.seen)), (1, 6))


class StrictAgentContract(AgentContract):
    """What ours does beyond Twisted's own: no broken head passes, and none without a bound."""

    refusals = ("BadResponse",)

    def must_refuse(self, bad: BadHead) -> bool:
        """All of them."""
        return True

    async def test_broken_coding_in_the_body(self) -> None:
        """What was good is delivered; then the answer is known to be broken."""
        for broken in (
            b"5\nhello\r\n",
            b"0x5\r\nhello\r\n",
            b"+5\r\nhello\r\n",
            b" 5\r\nhello\r\n",
            b"-5\r\nhello\r\n",
            b"FFFFFFFFFFFFFFFFF\r\nhello",
            b"5;a\nb\r\nhello\r\n",
            b"\r\nhello\r\n",
            b"5\r\nhelloX0\r\n",
            b"data: {}\n\n",
        ):

            def script(connection: Connection, broken: bytes = broken) -> None:
                connection.read_request()
                connection.stream_head()
                connection.chunk(b"good")
                time.sleep(0.01)
                connection.send(broken)
                connection.wait_for_close()

            backend = self.backend(script)
            response = await self.ask(self.make_agent(backend.url), backend.url + "/")
            receiver = await self.receive(response)
            self.assertEqual(receiver.end, "ResponseFailed", broken)
            self.assertIn(receiver.body, (b"good", b"goodhello"), broken)

    async def test_reset_without_framing_is_no_end(self) -> None:
        """Only an orderly close may end a body that has no framing (RFC 9112, section 8)."""

        def script(connection: Connection) -> None:
            connection.read_request()
            connection.send(OK + b"\r\nhel")
            time.sleep(0.02)
            connection.reset()

        backend = self.backend(script)
        response = await self.ask(self.make_agent(backend.url), backend.url + "/")
        receiver = await self.receive(response)
        self.assertEqual((receiver.body, receiver.end), (b"hel", "ResponseFailed"))
