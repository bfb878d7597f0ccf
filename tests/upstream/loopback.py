"""Scripted backends on loopback, agents for them, and proof that nothing is left of either."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse

from llmproxy.descriptors import DescriptorShortage
from llmproxy.upstream.agent import BackendAgent
from llmproxy.upstream.pool import ConnectionPool
from tests.scripted_backend import Script, ScriptedBackend
from tests.upstream.receiver import Receiver

reactor: Any = global_reactor


class UpstreamTestCase(TestCase):
    """Makes backends and agents, and looks that all connections are gone in the end."""

    timeout = 20

    def backend(self, script: Script, *, may_fail: bool = False) -> ScriptedBackend:
        """Start a backend.

        Args:
            script: What it does with a connection.
            may_fail: Whether the script may end with an error of its own.
        """
        backend = ScriptedBackend(script, raw=True)

        def stop() -> None:
            backend.stop()
            if not may_fail:
                self.assertEqual(backend.errors, [])

        self.addCleanup(stop)
        return backend

    def make_folder(self) -> Path:
        """Make a folder that is gone after the test."""
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return Path(folder.name)

    def pool(self) -> ConnectionPool:
        """Make a pool that must be empty in the end."""
        pool = ConnectionPool(reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(self._emptied(pool)))
        return pool

    def agent(self, url: str, **options: Any) -> BackendAgent:
        """Make an agent."""
        options.setdefault("connect_timeout_s", 5.0)
        return BackendAgent(
            reactor,
            url.encode(),
            options.pop("pool", None) or self.pool(),
            shortage=DescriptorShortage(reactor),
            **options,
        )

    async def _emptied(self, pool: ConnectionPool) -> None:
        pool.close()
        await self.until(lambda: pool.counts == (0, 0), repr(pool))
        gc.collect()  # an error that nobody took is logged now, and fails this test

    async def until(self, is_so: Callable[[], bool], what: str = "") -> None:
        """Wait, not for ever, until something is so."""
        for _ in range(400):
            if is_so():
                return
            await self.sleep(0.005)
        self.fail(f"not so within two seconds: {what}")

    async def sleep(self, seconds: float) -> None:
        """Let the reactor run for a while."""
        await deferLater(reactor, seconds, lambda: None)

    async def ask(
        self,
        agent: IAgent,
        uri: str,
        method: bytes = b"GET",
        headers: Headers | None = None,
        body: IBodyProducer | None = None,
    ) -> IResponse:
        """Send a request and wait for the head."""
        return await agent.request(method, uri.encode(), headers, body)

    async def receive(self, response: IResponse) -> Receiver:
        """Read a body to its end, whichever."""
        receiver = Receiver()
        response.deliverBody(receiver)
        await receiver.ended
        return receiver

    async def failure_of(self, answer: Deferred[IResponse]) -> str:
        """Give the name of the error that a request ends with."""
        try:
            response = await answer
        except Exception as error:  # noqa: BLE001 - its name is what is asked for
            return type(error).__name__
        return f"no failure but {response!r}"
