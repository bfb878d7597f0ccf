"""A model that streams one word, and the rest when a test lets it."""

from __future__ import annotations

import contextlib
import threading

from tests.scripted_backend import Connection, event

FIRST = event('{"choices":[{"delta":{"content":"one"}}]}')
LAST = event('{"choices":[{"delta":{"content":"two"}}]}') + event("[DONE]")


class Held:
    """A script for `ScriptedBackend`; plain requests are answered at once.

    Attributes:
        let: Set, it lets all streams end.
    """

    def __init__(self) -> None:
        self.let = threading.Event()

    def __call__(self, connection: Connection) -> None:
        """Answer the requests of one connection."""
        with contextlib.suppress(TimeoutError):
            while (seen := connection.read_request()) is not None:
                if b'"stream": true' not in seen.body:
                    connection.answer(b'{"choices":[]}')
                    continue
                connection.stream_head()
                connection.chunk(FIRST)
                assert self.let.wait(120)
                connection.chunk(LAST)
                connection.chunk(b"")
