"""The treq client of the data path: treq's API, and nothing that a gateway must not do.

Stock `treq.client.HTTPClient` keeps one cookie jar for all (one tenant's cookie would go up with
another's request), follows redirects, asks for gzip and decodes it, and normalises URLs. This one
cannot: what it is given goes out, what comes back is what the backend sent.
"""

from __future__ import annotations

from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer, IResponse
from zope.interface import implementer

from llmproxy.interfaces import IUpstreamClient
from llmproxy.upstream.agent import BackendAgent


@implementer(IUpstreamClient)
class GatewayClient(HTTPClient):
    """A treq client without cookies, redirects, decoding, buffering or URL rewriting.

    Args:
        agent: What it sends with.
    """

    def __init__(self, agent: BackendAgent) -> None:
        super().__init__(agent)
        self._gateway_agent = agent

    def request(  # type: ignore[override]
        self,
        method: str,
        url: bytes,
        *,
        headers: Headers | bytes | None = None,
        data: IBodyProducer | None = None,
        unbuffered: bool = True,
        _stacklevel: int = 2,
        **refused: Any,
    ) -> Deferred[IResponse]:
        """Send a request; see `IUpstreamClient.request`.

        Args:
            method: The method.
            url: The URL, as it is to be asked for.
            headers: Encoded field lines, which the data path gives, or as treq takes them.
            data: The body.
            unbuffered: Must be true.
            _stacklevel: treq's own, for its warnings.
            **refused: Anything else that treq takes.

        Raises:
            TypeError: An argument of treq's asks for what this client cannot do.
        """
        if refused or not unbuffered:
            raise TypeError(f"the gateway's client does not take {sorted(refused) or 'buffering'}")
        agent = self._gateway_agent
        if isinstance(headers, bytes):
            return agent.send(method.encode("ascii"), url, headers, data)
        return agent.request(method.encode("ascii"), url, headers, data)
