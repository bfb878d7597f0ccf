"""Tests of `llmproxy.backends.model_lists`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import TestCase

from llmproxy.backends.model_lists import LIMIT_BYTES, ModelLists, NoModelList, parse_model_list
from llmproxy.backends.models import ListedModel
from llmproxy.values import Backend
from tests.backends.fake_agent import Asked, FakeAgent, respond

VLLM = (
    b'{"object":"list","data":[{"id":"tiny","object":"model","root":"tiny","max_model_len":512}]}'
)
LLAMA_SERVER = (
    b'{"models":[{"name":"tiny","model":"tiny"}],"object":"list",'
    b'"data":[{"id":"tiny","aliases":["tiny"],"meta":{"n_ctx":512}}]}'
)


def of(*names: str) -> bytes:
    """Make an answer that lists these."""
    return json.dumps({"object": "list", "data": [{"id": name} for name in names]}).encode()


@pytest.mark.parametrize(
    ("body", "listed"),
    [
        (VLLM, [ListedModel("tiny", 512)]),
        (LLAMA_SERVER, [ListedModel("tiny")]),
        (b'{"models":[{"name":"one","model":"one"}]}', [ListedModel("one")]),
        (of("b", "a"), [ListedModel("b"), ListedModel("a")]),
        (b'{"data":[{"id":"a","max_model_len":"512"}]}', [ListedModel("a")]),
        (b'{"data":[{"id":"a","max_model_len":null}]}', [ListedModel("a")]),
        (b'{"data":[{"id":"a","max_model_len":0}]}', [ListedModel("a")]),
        (b'{"data":[{"id":"a","max_model_len":true}]}', [ListedModel("a")]),
        (b'{"data":[null,{},{"id":3},"x",{"id":"a"}]}', [ListedModel("a")]),
    ],
)
def test_parse(body: bytes, listed: list[ListedModel]) -> None:
    """The forms that servers use are read; what has no name is passed over."""
    assert list(parse_model_list(body)) == listed


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b'"\xff"', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no list"),
        (b"3", "no list"),
        (b'{"error":"Unauthorized"}', "no list"),
        (b'{"data":null}', "no list"),
        (b'{"data":{"id":"a"}}', "no list"),
        (b'{"object":"list","data":[]}', "empty"),
        (b'{"data":[{}]}', "empty"),
    ],
)
def test_not_a_list(body: bytes, match: str) -> None:
    """Anything else is no list, and an empty one tells nothing."""
    with pytest.raises(NoModelList, match=match):
        parse_model_list(body)


@settings(max_examples=40)
@given(st.recursive(st.none() | st.integers() | st.text(max_size=3), st.lists, max_leaves=3))
def test_any_json(tree: Any) -> None:
    """Whatever JSON stands where the list should be, the error is ours."""
    for body in (tree, {"data": tree}, {"data": [{"id": tree, "max_model_len": tree}]}):
        try:
            listed: Sequence[ListedModel] = parse_model_list(json.dumps(body).encode())
        except NoModelList:
            continue
        assert all(model.id for model in listed)


class ModelListsTests(TestCase):
    """Backends are asked in time, and what they say is passed on."""

    def setUp(self) -> None:
        """Make a clock, an agent, and a place for what is published and logged."""
        self.clock = Clock()
        self.agent = FakeAgent()
        self.published: list[tuple[str, list[str]]] = []
        self.logged: list[str] = []
        self.observer = cast(ILogObserver, self.keep)
        globalLogPublisher.addObserver(self.observer)
        self.addCleanup(globalLogPublisher.removeObserver, self.observer)

    def keep(self, event: LogEvent) -> None:
        """Keep what the lists log: level and backend."""
        if "model_lists" in str(event.get("log_namespace")):
            self.logged.append(f"{event['log_level'].name} {event['backend']}")

    def begin(self, *backends: Backend, rule: Callable[[Asked], None] | None = None) -> ModelLists:
        """Start the service."""
        self.agent.rule = rule
        lists = ModelLists(
            backends or (self.backend("a"),),
            client_for=lambda backend: self.agent.client(),
            publish=lambda name, listed: self.published.append(
                (name, [model.id for model in listed])
            ),
            clock=self.clock,
            retry_interval_s=10.0,
            refresh_s=60.0,
            timeout_s=5.0,
        )
        lists.startService()

        def end() -> None:
            if lists.running:
                self.end(lists)
            self.assertEqual(self.clock.getDelayedCalls(), [])

        self.addCleanup(end)
        return lists

    def end(self, lists: ModelLists) -> None:
        """Stop the service, which must be done at once."""
        done: list[Any] = []
        lists.stopService().addCallback(done.append)
        self.assertEqual(len(done), 1)

    @staticmethod
    def backend(name: str, *models: str) -> Backend:
        """Make an identity."""
        return Backend(
            name=name,
            url=f"http://{name}.test/up".encode(),
            host=b"virtual.test",
            models=models,
            headers=((b"Authorization", b"Bearer up"), (b"X-One", b"1")),
        )

    def test_question(self) -> None:
        """The list is asked for below the prefix, with the backend's own fields."""
        self.begin()
        (asked,) = self.agent.asked
        self.assertEqual((asked.method, asked.url), (b"GET", b"http://a.test/up/v1/models"))
        for name, value in {
            "Host": "virtual.test",
            "Authorization": "Bearer up",
            "X-One": "1",
        }.items():
            self.assertEqual(asked.headers.getRawHeaders(name), [value])

    def test_only_backends_without_names(self) -> None:
        """Who has configured names is not asked."""
        lists = self.begin(self.backend("a", "m"), self.backend("b"), rule=respond(200, of("m")))
        self.assertEqual([asked.url for asked in self.agent.asked], [b"http://b.test/up/v1/models"])
        self.assertEqual(self.published, [("b", ["m"])])
        self.assertEqual(repr(lists), "<ModelLists of 1 backends, known: ['b']>")

    def test_refreshed(self) -> None:
        """A known list is asked for again after a minute, and only then."""
        self.begin(rule=respond(200, of("m")))
        self.clock.pump([1.0] * 59)
        self.assertEqual(len(self.agent.asked), 1)
        self.agent.rule = respond(200, of("n"))
        self.clock.pump([1.0] * 60)
        self.assertEqual(self.published, [("a", ["m"]), ("a", ["n"])])
        self.assertEqual(self.logged, ["info a", "info a"])

    def test_same_list_is_not_logged_again(self) -> None:
        """Nothing new, nothing said."""
        self.begin(rule=respond(200, of("m")))
        self.clock.pump([10.0] * 20)
        self.assertEqual(len(self.agent.asked), 4)
        self.assertEqual(self.logged, ["info a"])

    def test_unknown_list_is_asked_for_often(self) -> None:
        """Until there is a list, every health interval brings a question; one line is logged."""
        self.begin(rule=respond(404, of("m")))
        self.clock.pump([10.0] * 3)
        self.assertEqual(len(self.agent.asked), 4)
        self.assertEqual(self.published, [])
        self.assertEqual(self.logged, ["warn a"])
        self.agent.rule = respond(200, of("m"))
        self.clock.pump([10.0] * 3)
        self.assertEqual(len(self.agent.asked), 5)
        self.assertEqual(self.published, [("a", ["m"])])
        self.assertEqual(self.logged, ["warn a", "info a"])

    def test_failure_keeps_the_last_list(self) -> None:
        """A list that cannot be refreshed stays; recovery and each new reason are logged once."""
        self.begin(rule=respond(200, of("m")))
        self.agent.rule = respond(500)
        self.clock.pump([10.0] * 8)
        self.agent.rule = lambda asked: asked.fail(ConnectionRefusedError())
        self.clock.pump([10.0] * 2)
        self.agent.rule = respond(200, of("m"))
        self.clock.pump([10.0])
        self.assertEqual(self.published, [("a", ["m"])] * 2)
        self.assertEqual(self.logged, ["info a", "warn a", "warn a", "info a"])

    def test_timeout(self) -> None:
        """A backend that does not answer is given up, and asked again."""
        self.begin()
        self.clock.advance(5.0)
        self.assertTrue(self.agent.asked[0].cancelled)
        self.assertEqual(self.logged, ["warn a"])
        self.clock.advance(5.0)
        self.agent.asked[1].answer(200, of("m"))
        self.assertEqual(self.published, [("a", ["m"])])

    def test_timeout_inside_the_body(self) -> None:
        """The time is for the whole answer."""
        self.begin()
        self.agent.asked[0].begin(200, b'{"data":')
        self.clock.advance(5.0)
        self.assertTrue(self.agent.asked[0].transport.closed)
        self.assertEqual(self.logged, ["warn a"])

    def test_too_long(self) -> None:
        """An endless list is not read."""
        self.begin()
        self.agent.asked[0].begin(200, of("m") + b" " * LIMIT_BYTES)
        self.assertTrue(self.agent.asked[0].transport.closed)
        self.assertEqual((self.published, self.logged), ([], ["warn a"]))

    def test_redirects_are_not_followed(self) -> None:
        """The backend's key goes to the backend, nowhere else."""
        self.begin(rule=respond(302))
        self.assertEqual(len(self.agent.asked), 1)
        self.assertEqual(self.logged, ["warn a"])

    def test_failing_listener_does_not_end_the_rounds(self) -> None:
        """A bug in whoever takes the lists is logged, and the next list comes."""
        lists = ModelLists(
            [self.backend("a")],
            client_for=lambda backend: self.agent.client(),
            publish=lambda name, listed: self.published[0],  # type: ignore[arg-type]
            clock=self.clock,
        )
        self.agent.rule = respond(200, of("m"))
        globalLogPublisher.removeObserver(self.observer)
        lists.startService()
        self.clock.pump([60.0])
        globalLogPublisher.addObserver(self.observer)
        self.assertEqual(len(self.flushLoggedErrors(IndexError)), 2)
        self.end(lists)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_cancels(self) -> None:
        """Stopping gives up what is asked, says nothing of it, and asks no more."""
        lists = self.begin(self.backend("a"), self.backend("b"))
        self.agent.asked[1].begin(200, b"{")
        self.end(lists)
        self.assertTrue(self.agent.asked[0].cancelled)
        self.assertTrue(self.agent.asked[1].transport.closed)
        self.assertEqual((self.published, self.logged), ([], []))
        self.assertEqual(self.clock.getDelayedCalls(), [])
