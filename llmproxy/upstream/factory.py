"""Makes the clients for one backend: the data path's, and one for checks, apart from it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from treq.client import HTTPClient
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from llmproxy.config.model import BackendTls
from llmproxy.descriptors import DescriptorShortage
from llmproxy.upstream.agent import BackendAgent
from llmproxy.upstream.client import GatewayClient
from llmproxy.upstream.pool import ConnectionPool
from llmproxy.upstream.tls import tls_connections
from llmproxy.values import Backend


@implementer(IPolicyForHTTPS)
class BackendTlsPolicy:
    """Makes the TLS side of every connection the same way.

    Args:
        connections: That way.
    """

    def __init__(self, connections: IOpenSSLClientConnectionCreator) -> None:
        self._connections = connections

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        """Give it, whoever is asked for: only one backend ever is."""
        del hostname, port
        return self._connections


class BackendClients:
    """The clients for one backend.

    Args:
        reactor: Connects and keeps time.
        backend: Which.
        tls: How its certificate is checked, and ours shown.
        shortage: As `BackendAgent` has it.

    Attributes:
        gateway: The data path's client, over a pool of connections.
        checks: A treq client that makes a connection for each request, for checks.
        pool: The data path's connections.
    """

    def __init__(
        self, reactor: Any, backend: Backend, tls: BackendTls, shortage: DescriptorShortage
    ) -> None:
        parts = urlsplit(backend.url.decode("ascii"))
        connections = None
        policy: IPolicyForHTTPS = BrowserLikePolicyForHTTPS()
        if parts.scheme == "https":
            connections = tls_connections(tls, parts.hostname or "")
            policy = BackendTlsPolicy(connections)
        self.pool = ConnectionPool(reactor)
        self.gateway = GatewayClient(
            BackendAgent(
                reactor,
                backend.url,
                self.pool,
                connect_timeout_s=backend.connect_timeout_s,
                host=backend.host,
                tls=connections,
                shortage=shortage,
            )
        )
        self.checks = HTTPClient(
            Agent(reactor, policy, connectTimeout=backend.connect_timeout_s or None)
        )
