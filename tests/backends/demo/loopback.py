"""A demo server on loopback, and a client for it."""

from __future__ import annotations

from typing import Any

import msgspec
import treq
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent
from twisted.web.iweb import IResponse

from llmproxy.backends.demo.server import DemoServer


class LoopbackTestCase(TestCase):
    """Starts a server for each test; nothing of it may be left after."""

    word_interval_s = 0.0

    def setUp(self) -> None:
        """Start it."""
        self.server = DemoServer(reactor, word_interval_s=self.word_interval_s)
        self.server.startService()
        self.addCleanup(self.server.stopService)
        self.client = HTTPClient(Agent(reactor))

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[IResponse, bytes]:
        """Send a request and read the whole answer.

        Args:
            method: The method.
            path: The path.
            body: Bytes, or what is to be sent as JSON.
        """
        sent = body if isinstance(body, bytes) else msgspec.json.encode(body)
        url = self.server.url.decode() + path
        response = await self.client.request(method, url, data=None if body is None else sent)
        return response, await treq.content(response)

    async def chat(self, **keys: Any) -> dict[str, Any]:
        """Ask for a plain answer to a conversation."""
        response, body = await self.ask("POST", "/v1/chat/completions", keys)
        self.assertEqual(response.code, 200, body)
        answer: dict[str, Any] = msgspec.json.decode(body)
        return answer
