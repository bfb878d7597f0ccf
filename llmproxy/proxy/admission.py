"""Admission: from a request's head to the right to send it to a backend.

In this order, so that nothing is held for those who do not belong: loops and draining, the key, the
body up to its limits, the facts in it, the model. What is known so far is noted as it becomes
known, for the record of a request that is refused halfway.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred

from llmproxy.errors import Draining, UnsupportedEncoding
from llmproxy.interfaces import IAuthenticator, IByteBudget, IClientRequest, IRouter
from llmproxy.values import ModelRoute, Principal, RequestFacts
from llmproxy.wire.facts import read_facts
from llmproxy.wire.fields import FieldRules


@attrs.define
class Admitted:
    """What is known of a request, as far as its admission came.

    Attributes:
        body: Counts against the budget until `Admission.release`.
        body_bytes: Its size, still known after the release.
    """

    principal: Principal = Principal()
    body: bytes = attrs.field(default=b"", repr=False)
    body_bytes: int = 0
    facts: RequestFacts | None = None
    route: ModelRoute | None = None


@attrs.frozen
class Admission:
    """Decides who and what may pass.

    Attributes:
        authenticator: Knows the keys.
        read_credential: Finds the credential, given a function from field name to value.
        router: Knows the models.
        rules: Know our name in Via.
        budget: Bytes that all bodies together may hold.
        max_body_bytes: Largest body.
        is_draining: Whether new requests are turned away.
    """

    authenticator: IAuthenticator
    read_credential: Callable[[Callable[[bytes], bytes]], str]
    router: IRouter
    rules: FieldRules
    budget: IByteBudget
    max_body_bytes: int
    is_draining: Callable[[], bool]

    def identify(self, request: IClientRequest) -> Deferred[Principal]:
        """Say who a request is for; see `IAuthenticator.authenticate` for what it fails with."""
        credential = self.read_credential(request.header)
        return self.authenticator.authenticate(credential, request.client_ip)

    async def admit(self, request: IClientRequest, admitted: Admitted) -> None:
        """Let a request in, noting in ``admitted`` what becomes known.

        Raises:
            GatewayError: It may not pass; the class says why.
            ClientGone: The client left.
        """
        if self.is_draining():
            raise Draining
        self.rules.check_loop(request.raw_headers)
        admitted.principal = await self.identify(request)
        if request.header(b"content-encoding").lower() not in (b"", b"identity"):
            raise UnsupportedEncoding
        admitted.body = await request.read_body(self.max_body_bytes, self.budget)
        admitted.body_bytes = len(admitted.body)
        admitted.facts = facts = read_facts(admitted.body)
        admitted.route = self.router.route(facts.model, admitted.principal)

    def release(self, admitted: Admitted) -> None:
        """Give the body's bytes back."""
        if admitted.body:
            self.budget.give_back(len(admitted.body))
            admitted.body = b""
