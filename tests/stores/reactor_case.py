"""What tests with the real reactor share: waiting for something, but not for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

reactor: Any = global_reactor


class ReactorTestCase(TestCase):
    """Runs the real reactor; trial sees that nothing is left in it."""

    timeout = 60

    async def until(self, is_so: Callable[[], bool], what: str = "", timeout_s: float = 15) -> None:
        """Wait, not for ever, until something is so."""
        end_s = reactor.seconds() + timeout_s
        while not is_so():
            if reactor.seconds() > end_s:
                self.fail(f"not so within {timeout_s} seconds: {what}")
            await self.sleep(0.005)

    async def sleep(self, seconds: float) -> None:
        """Let the reactor run for a while."""
        await deferLater(reactor, seconds, lambda: None)

    async def aside(self, call: Callable[[], Any]) -> Any:
        """Do something that blocks while the reactor runs."""
        return await deferToThread(call)
