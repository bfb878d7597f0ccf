"""Tests of `llmproxy.upstream.factory`."""

from __future__ import annotations

from typing import Any, cast

import treq
from twisted.internet.defer import Deferred

from llmproxy.config.model import BackendTls
from llmproxy.descriptors import DescriptorShortage
from llmproxy.upstream.factory import BackendClients
from llmproxy.values import Backend
from tests.scripted_backend import Connection, ScriptedBackend
from tests.upstream.certificates import Authority
from tests.upstream.loopback import UpstreamTestCase, reactor
from tests.upstream.test_tls import answers, over_tls


def serve(connection: Connection) -> None:
    """Answer requests until the peer has enough."""
    while connection.read_request():
        connection.answer(b"{}")


class BackendClientsTests(UpstreamTestCase):
    """One client for the data path, one for checks."""

    def clients(self, url: str, tls: BackendTls | None = None) -> BackendClients:
        """Make them."""
        backend = Backend(name="one", url=url.encode(), host=b"model.test", connect_timeout_s=0.2)
        clients = BackendClients(reactor, backend, tls or BackendTls(), DescriptorShortage(reactor))
        self.addCleanup(lambda: Deferred.fromCoroutine(self._emptied(clients.pool)))
        return clients

    async def test_plain(self) -> None:
        """The data path keeps its connection; a check has one of its own, and closes it."""
        backend = self.backend(serve)
        clients = self.clients(backend.url + "/prefix")
        for _ in range(2):
            response = await clients.gateway.request("GET", backend.url.encode() + b"/prefix/v1")
            self.assertEqual(await treq.content(response), b"{}")
        self.assertEqual(clients.pool.counts, (1, 1))
        self.assertEqual(backend.connections, 1)
        self.assertEqual(backend.seen[0].header("host"), "model.test")
        for number in (2, 3):
            response = await clients.checks.get(backend.url + "/health")
            self.assertEqual(await treq.content(response), b"{}")
            self.assertEqual(backend.connections, number)
        self.assertEqual(clients.pool.counts, (1, 1))

    async def test_https(self) -> None:
        """Both check the backend's certificate by the same settings."""
        authority = Authority(self.make_folder(), "authority")
        backend = self.backend(over_tls(authority.server_context("model.test"), answers))
        url = f"https://127.0.0.1:{backend.port}"
        trusting = BackendTls(ca_file=authority.cert_file, server_name="model.test")
        clients = self.clients(url, trusting)
        for answer in (
            clients.gateway.request("GET", url.encode() + b"/"),
            clients.checks.get(url),
        ):
            self.assertEqual(await treq.content(await answer), b"ok")
        clients = self.clients(url, BackendTls(server_name="model.test"))
        for answer in (
            clients.gateway.request("GET", url.encode() + b"/"),
            clients.checks.get(url),
        ):
            self.assertNotIn("no failure", await self.failure_of(cast("Any", answer)))
        self.assertEqual(len(backend.seen), 2)

    async def test_connect_timeout(self) -> None:
        """It is the backend's own."""

        def hang(connection: Connection) -> None:
            connection.wait_for_close()

        backend: ScriptedBackend = self.backend(hang)
        url = f"https://127.0.0.1:{backend.port}"
        answer = self.clients(url).gateway.request("GET", url.encode() + b"/")
        self.assertEqual(await self.failure_of(answer), "TlsFailed")
