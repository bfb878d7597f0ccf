"""Admission: from a request's head to the right to send it to a backend.

In this order, so that nothing is held for those who do not belong: loops and draining, the key, the
body up to its limits, the facts in it, the model, rates and budgets. What is known so far is noted
as it becomes known, for the record of a request that is refused halfway.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from llmproxy.errors import Draining, GatewayError, Overloaded, UnsupportedEncoding
from llmproxy.interfaces import (
    IAuthenticator,
    IByteBudget,
    IClientRequest,
    IGrant,
    ILimiter,
    IRouter,
)
from llmproxy.proxy.meter import NOTHING_COUNTED, NOTHING_GENERATED
from llmproxy.values import Demand, ModelRoute, Principal, RequestFacts
from llmproxy.wire.estimate import estimate_prompt, longest_answer
from llmproxy.wire.facts import read_facts
from llmproxy.wire.fields import FieldRules


@attrs.define
class Admitted:
    """What is known of a request, as far as its admission came.

    Attributes:
        body: Counts against the budget until `Admission.release`.
        body_bytes: Its size, still known after the release.
        prompt_tokens: An estimate of its prompt.
        tokens: That, and its longest answer where one is generated.
        grant: What the limits gave; to be settled.
    """

    principal: Principal = Principal()
    body: bytes = attrs.field(default=b"", repr=False)
    body_bytes: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    grant: IGrant | None = None
    facts: RequestFacts | None = None
    route: ModelRoute | None = None


@attrs.frozen
class Admission:
    """Decides who and what may pass.

    Attributes:
        authenticator: Knows the keys.
        read_credential: Finds the credential, given a function from field name to value, and the
            subject of the client's certificate.
        router: Knows the models.
        rules: Know our name in Via.
        budget: Bytes that all bodies together may hold.
        max_body_bytes: Largest body.
        is_draining: Whether new requests are turned away.
        is_late: Whether the event loop has more to do than it can.
        limiter: Holds requests to rates and budgets.
        restate: Puts the operator's own words and statuses in.
    """

    authenticator: IAuthenticator
    read_credential: Callable[[Callable[[bytes], bytes], str], str]
    router: IRouter
    rules: FieldRules
    budget: IByteBudget
    max_body_bytes: int
    is_draining: Callable[[], bool]
    is_late: Callable[[], bool]
    limiter: ILimiter
    restate: Callable[[GatewayError], GatewayError]

    def identify(self, request: IClientRequest) -> Deferred[Principal]:
        """Say who a request is for; see `IAuthenticator.authenticate` for what it fails with."""
        return self._authenticate(request).addErrback(self._restate)

    def _authenticate(self, request: IClientRequest) -> Deferred[Principal]:
        credential = self.read_credential(request.header, request.certificate_subject)
        return self.authenticator.authenticate(credential, request.client_ip)

    def _restate(self, failure: Failure) -> Failure:
        error = failure.value
        return Failure(self.restate(error)) if isinstance(error, GatewayError) else failure

    async def admit(self, request: IClientRequest, admitted: Admitted) -> None:
        """Let a request in, noting in ``admitted`` what becomes known.

        Raises:
            GatewayError: It may not pass; the class says why.
            ClientGone: The client left.
        """
        try:
            await self._admit(request, admitted)
        except GatewayError as error:
            raise self.restate(error) from None

    async def _admit(self, request: IClientRequest, admitted: Admitted) -> None:
        if self.is_draining():
            raise Draining
        if request.surplus or self.is_late():
            raise Overloaded
        self.rules.check_loop(request.raw_headers)
        admitted.principal = principal = await self._authenticate(request)
        if request.header(b"content-encoding").lower() not in (b"", b"identity"):
            raise UnsupportedEncoding
        admitted.body = await request.read_body(self.max_body_bytes, self.budget)
        admitted.body_bytes = len(admitted.body)
        admitted.facts = facts = read_facts(admitted.body)
        admitted.route = route = self.router.route(facts.model, principal)
        admitted.prompt_tokens = prompt_tokens = estimate_prompt(admitted.body_bytes, route.context)
        answers = request.path not in NOTHING_GENERATED and request.path not in NOTHING_COUNTED
        answer_tokens = longest_answer(facts.max_tokens, route.output) if answers else 0
        admitted.tokens = tokens = prompt_tokens + answer_tokens
        admitted.grant = await self.limiter.acquire(Demand(principal, route.model_id, tokens))

    def release(self, admitted: Admitted) -> None:
        """Give the body's bytes back."""
        if admitted.body:
            self.budget.give_back(len(admitted.body))
            admitted.body = b""
