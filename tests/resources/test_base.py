"""What all resources share."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from llmproxy.errors import ModelNotFound, NoBackend
from llmproxy.resources.base import EdgeResource, ErrorResource, Identify, answer_json
from llmproxy.site import EdgeRequest
from llmproxy.values import ANONYMOUS, Principal
from tests.edge import Answer, Edge, EdgeClient, get


class Named(EdgeResource):
    """Answers with the name of who asks."""

    methods = (b"GET", b"PUT")

    def answer(self, request: EdgeRequest, principal: Principal) -> None:
        """Answer, or fail."""
        if principal.key_id == "fault":
            raise ZeroDivisionError
        if principal.key_id == "none":
            raise ModelNotFound
        answer_json(request, 200, principal.key_id)


class Shared(SynchronousTestCase):
    """A resource below a root."""

    def setUp(self) -> None:
        """Nobody is known yet."""
        self.known: Deferred[Principal] = Deferred()

    def root(self, identify: Identify | None = None) -> Resource:
        """Put a resource below a plain node."""
        root = EdgeResource()
        root.putChild(b"named", Named(identify))
        root.putChild(b"wrong", ErrorResource(NoBackend()))
        return root

    def ask(self, method: str, path: str) -> Answer:
        """Ask an open tree."""
        with Edge(resource=self.root()) as edge:
            return edge.connect().send(get(path, method=method)).answer(method)

    def begin(self, edge: Edge) -> EdgeClient:
        """Ask a guarded tree; nobody is known yet."""
        return edge.connect().send(get("/named"))

    def guarded(self) -> Edge:
        """Make an edge over a guarded tree."""
        return Edge(resource=self.root(lambda request: self.known))

    def test_without_a_guard(self) -> None:
        """Everybody is anonymous."""
        answer = self.ask("GET", "/named")
        self.assertEqual(answer.json, ANONYMOUS.key_id)
        self.assertEqual(answer.field(b"cache-control"), b"no-store")

    def test_other_methods(self) -> None:
        """A 405 tells which there are, in JSON."""
        for method in ("POST", "HEAD", "DELETE", "TRACE", "PROPFIND"):
            answer = self.ask(method, "/named")
            self.assertEqual(answer.status, 405)
            self.assertEqual(answer.field(b"allow"), b"GET, PUT, OPTIONS")
            if method != "HEAD":
                self.assertEqual(answer.error_code, "method_not_allowed")

    def test_options(self) -> None:
        """It is answered here, without a body."""
        answer = self.ask("OPTIONS", "/named")
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertEqual(answer.field(b"allow"), b"GET, PUT, OPTIONS")

    def test_plain_nodes(self) -> None:
        """What only stands above others is not there, whatever the method."""
        for method in ("GET", "OPTIONS", "POST"):
            self.assertEqual(self.ask(method, "/").error_code, "unknown_url")
            self.assertEqual(self.ask(method, "/other/path").error_code, "unknown_url")
            self.assertEqual(self.ask(method, "/named/below").error_code, "unknown_url")

    def test_error_resource(self) -> None:
        """It answers the same to all, below it as well."""
        for path in ("/wrong", "/wrong/below"):
            self.assertEqual(self.ask("POST", path).error_code, "no_backend")

    def test_who_asks(self) -> None:
        """The answer waits until that is known."""
        with self.guarded() as edge:
            client = self.begin(edge)
            self.assertEqual(client.received, b"")
            self.known.callback(Principal("me"))
            self.assertEqual(client.answer().json, "me")

    def test_who_may_not(self) -> None:
        """What keeps them out is the answer; so is what the resource raises."""
        with self.guarded() as edge:
            client = self.begin(edge)
            self.known.errback(Failure(NoBackend()))
            self.assertEqual(client.answer().error_code, "no_backend")
        self.known = Deferred()
        with self.guarded() as edge:
            client = self.begin(edge)
            self.known.callback(Principal("none"))
            self.assertEqual(client.answer().error_code, "model_not_found")

    def test_a_fault(self) -> None:
        """It is logged, and answered without telling."""
        with self.guarded() as edge:
            client = self.begin(edge)
            self.known.callback(Principal("fault"))
            self.assertEqual(client.answer().error_code, "internal_error")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_the_client_leaves(self) -> None:
        """Then nobody needs to know who it was."""
        ended: list[bool] = []
        self.known = Deferred(lambda _: ended.append(True))
        with self.guarded() as edge:
            self.begin(edge).leave()
            self.assertEqual(ended, [True])
