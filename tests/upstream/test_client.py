"""Tests of `llmproxy.upstream.client`: treq's API without what a gateway must not do."""

from __future__ import annotations

import gzip
from typing import Any

import treq
from twisted.web.http_headers import Headers
from zope.interface.verify import verifyObject

from llmproxy.interfaces import IUpstreamClient
from llmproxy.upstream.body import BytesBody
from llmproxy.upstream.client import GatewayClient
from tests.scripted_backend import Connection, ScriptedBackend
from tests.upstream.loopback import UpstreamTestCase


class GatewayClientTests(UpstreamTestCase):
    """What goes out is what was given, what comes back is what was sent."""

    def begin(self, *answers: bytes) -> ScriptedBackend:
        """Start a backend that gives these answers, one after the other, and a client for it."""

        def script(connection: Connection) -> None:
            for answer in answers:
                if connection.read_request() is None:
                    return
                connection.send(answer)
            connection.read_request()

        backend = self.backend(script)
        self.client = GatewayClient(self.agent(backend.url))
        self.url = backend.url.encode()
        return backend

    async def test_provides_its_interface(self) -> None:
        """It is an `IUpstreamClient`, and a treq client."""
        self.begin()
        self.assertTrue(verifyObject(IUpstreamClient, self.client))
        self.assertIsInstance(self.client, treq.client.HTTPClient)

    async def test_request(self) -> None:
        """Method, URL, fields and body go to the agent as they are; treq reads the answer."""
        backend = self.begin(b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a": 1}')
        response = await self.client.request(
            "POST",
            self.url + b"/v1/x",
            headers=Headers({b"X-A": [b"1", b"2"]}),
            data=BytesBody(b"body"),
            unbuffered=True,
        )
        self.assertEqual(await treq.json_content(response), {"a": 1})
        (seen,) = backend.seen
        self.assertEqual(
            seen.head,
            b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 4"
            % backend.port,
        )
        self.assertEqual(seen.body, b"body")

    async def test_no_cookies(self) -> None:
        """What one tenant is told to keep does not go up with another's request."""
        answer = (
            b"HTTP/1.1 200 OK\r\nSet-Cookie: session=tenant-a; Path=/\r\n"
            b"Set-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok"
        )
        backend = self.begin(answer, answer, answer)
        for _ in range(3):
            response = await self.client.request("GET", self.url + b"/")
            await treq.content(response)
            self.assertEqual(
                response.headers.getRawHeaders(b"set-cookie"),
                [b"session=tenant-a; Path=/", b"b=2"],
            )
        self.assertEqual(len(backend.seen), 3)
        for seen in backend.seen:
            self.assertNotIn(b"cookie", seen.head.lower())

    async def test_a_given_cookie_goes_up_alone(self) -> None:
        """The client's own is a field like any other."""
        answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nContent-Length: 0\r\n\r\n"
        backend = self.begin(answer, answer)
        for _ in range(2):
            response = await self.client.request(
                "GET", self.url + b"/", headers=Headers({b"Cookie": [b"mine=1"]})
            )
            await treq.content(response)
        self.assertEqual([seen.header("cookie") for seen in backend.seen], ["mine=1", "mine=1"])

    async def test_no_redirects(self) -> None:
        """They come back as they are, and nobody goes there."""
        codes = (301, 302, 303, 307, 308)
        location = b"http://169.254.169.254/latest"
        backend = self.begin(
            *(
                b"HTTP/1.1 %d Elsewhere\r\nLocation: %s\r\nContent-Length: 5\r\n\r\nthere"
                % (code, location)
                for code in codes
            )
        )
        for code in codes:
            response = await self.client.request("GET", self.url + b"/")
            self.assertEqual((response.code, await treq.content(response)), (code, b"there"))
            self.assertEqual(response.headers.getRawHeaders(b"location"), [location])
        self.assertEqual(len(backend.seen), len(codes))

    async def test_no_decoding(self) -> None:
        """A compressed body passes as it is, and none is asked for."""
        body = gzip.compress(b"hello" * 100)
        backend = self.begin(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
            + body
        )
        response = await self.client.request("GET", self.url + b"/")
        self.assertEqual(await treq.content(response), body)
        self.assertEqual(response.headers.getRawHeaders(b"content-encoding"), [b"gzip"])
        self.assertEqual(backend.seen[0].header("accept-encoding"), "")

    async def test_no_url_rewriting(self) -> None:
        """Not a character of it is normalised."""
        targets = (
            b"/v1/%7Efoo?x=%20",
            b"/v1/%7efoo/../bar/./%2e%2E//",
            b"/?",
            b"/v1?a=b&a=b&=&c=%zz%",
            b'/a;b=c,d?e=f;g|{}^`"<>\\',
        )
        backend = self.begin(*[b"HTTP/1.1 204 No Content\r\n\r\n"] * len(targets))
        for target in targets:
            await treq.content(await self.client.request("GET", self.url + target))
        self.assertEqual(
            [seen.request_line.encode("latin-1") for seen in backend.seen],
            [b"GET " + target + b" HTTP/1.1" for target in targets],
        )

    async def test_refuses_what_it_cannot_do(self) -> None:
        """An argument of treq's that would be ignored is an error instead."""
        backend = self.begin()
        refused: list[dict[str, Any]] = [
            {"cookies": {"a": "b"}},
            {"allow_redirects": False},
            {"browser_like_redirects": True},
            {"params": {"a": "b"}},
            {"json": {}},
            {"files": {}},
            {"auth": ("a", "b")},
            {"timeout": 5},
            {"reactor": None},
            {"unbuffered": False},
        ]
        for arguments in refused:
            with self.assertRaises(TypeError, msg=arguments):
                self.client.request("GET", self.url + b"/", **arguments)
        self.assertEqual(backend.connections, 0)

    async def test_short_forms(self) -> None:
        """The other methods of a treq client go the same way."""
        backend = self.begin(*[b"HTTP/1.1 204 No Content\r\n\r\n"] * 3)
        client: Any = self.client
        for method in (client.get, client.post, client.delete):
            response = await method(self.url + b"/")
            self.assertEqual((response.code, await treq.content(response)), (204, b""))
        self.assertEqual(
            [seen.request_line for seen in backend.seen],
            ["GET / HTTP/1.1", "POST / HTTP/1.1", "DELETE / HTTP/1.1"],
        )

    async def test_refuses_other_origins(self) -> None:
        """The agent's rule holds for its client."""
        backend = self.begin()
        with self.assertRaises(ValueError):
            self.client.request("GET", self.url + b"1/")
        self.assertEqual(backend.connections, 0)
