"""The metrics, over HTTP."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from llmproxy.errors import InvalidApiKey
from llmproxy.interfaces import IClientRequest
from llmproxy.resources.base import EdgeResource
from llmproxy.resources.metrics import MetricsResource
from llmproxy.resources.root import put
from llmproxy.values import Principal
from tests.edge import Answer, Edge, get


class Scraped:
    """What is scraped.

    Attributes:
        accepted: What each request accepts.
        waiting: When a list, the text comes when these fire.
        cancelled: Those of them that nobody waits for any more.
    """

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.waiting: list[Deferred[tuple[str, bytes]]] | None = None
        self.cancelled: list[object] = []

    def scrape(self, accept: str) -> Deferred[tuple[str, bytes]]:
        """Give a text."""
        self.accepted.append(accept)
        if self.waiting is not None:
            self.waiting.append(Deferred(self.cancelled.append))
            return self.waiting[-1]
        return succeed(("text/plain; version=0.0.4", b"metric 1\n"))


def identify(request: IClientRequest) -> Deferred[Principal]:
    """Know one key."""
    good = request.header(b"authorization") == b"Bearer sk-good"
    return succeed(Principal("k")) if good else fail(InvalidApiKey())


def edge(scraped: Scraped, *, with_key: bool = False) -> Edge:
    """Serve the metrics under ``/a/metrics``."""
    root = EdgeResource()
    put(root, b"/a/metrics", MetricsResource(scraped.scrape, identify if with_key else None))
    return Edge(resource=root)


def ask(serving: Edge, path: str, *lines: str, method: str = "GET") -> Answer:
    """Ask on a connection of its own."""
    with serving:
        return serving.connect().send(get(path, *lines, method=method)).answer(method)


def test_the_text_and_its_type() -> None:
    """As the request accepts it; nothing keeps it."""
    scraped = Scraped()
    answer = ask(edge(scraped), "/a/metrics", "Accept: text/plain;q=0.5")
    assert (answer.status, answer.body) == (200, b"metric 1\n")
    assert answer.field(b"content-type") == b"text/plain; version=0.0.4"
    assert answer.field(b"cache-control") == b"no-store"
    assert scraped.accepted == ["text/plain;q=0.5"]


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/a/metrics", "HEAD", 200),
        ("/a/metrics", "POST", 405),
        ("/a/metrics/x", "GET", 404),
        ("/a", "GET", 404),
        ("/", "GET", 404),
        ("/health", "GET", 404),
    ],
)
def test_nothing_else_is_served(path: str, method: str, status: int) -> None:
    """No other path, no other method."""
    answer = ask(edge(Scraped()), path, method=method)
    assert answer.status == status


@pytest.mark.parametrize(("key", "status"), [("sk-good", 200), ("sk-bad", 401)])
def test_with_a_key(key: str, status: int) -> None:
    """Where the configuration wants one; without it nothing is even read."""
    scraped = Scraped()
    answer = ask(edge(scraped, with_key=True), "/a/metrics", f"Authorization: Bearer {key}")
    assert answer.status == status
    assert len(scraped.accepted) == (status == 200)


def test_who_leaves_is_not_waited_for() -> None:
    """The scrape is cancelled."""
    scraped = Scraped()
    scraped.waiting = []
    with edge(scraped) as serving:
        client = serving.connect().send(get("/a/metrics"))
        assert scraped.cancelled == []
        client.leave()
        assert scraped.cancelled == scraped.waiting
