"""The clients of the soak: streams that are looked at byte by byte, some of which are left midway.

A stream may end in three ways: whole, with a clear error, or because its client left. Anything else
is a fault, and so is a byte that belongs to another stream.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Any

import attrs

from benchmarks.gateways import KEY

STUCK_S = 90.0
"""A stream that takes longer has no end: it is a fault."""

_MOST_TOLD = 20


@attrs.define
class Seen:
    """What became of the streams.

    Attributes:
        ends: How many ended in which way.
        faults: What must not happen; at most `_MOST_TOLD` of them in words.
        fault_count: How many there were.
    """

    ends: Counter[str] = attrs.field(factory=Counter)
    faults: list[str] = attrs.field(factory=list)
    fault_count: int = 0

    def fault(self, what: str) -> None:
        """Note what must not happen."""
        self.fault_count += 1
        self.ends["fault"] += 1
        if len(self.faults) < _MOST_TOLD:
            self.faults.append(what)


@attrs.frozen
class Wish:
    """What one stream is asked for.

    Attributes:
        mark: Its own, in each of its events.
        events: How many.
        pace_us: Microseconds between two.
        leaves_after: The client leaves after so many events; None: it stays.
    """

    mark: str
    events: int
    pace_us: int
    leaves_after: int | None

    def request(self) -> bytes:
        """Give the request that asks for it."""
        text = f"events={self.events} pace_us={self.pace_us} mark={self.mark}"
        body = json.dumps(
            {
                "model": "bench-model",
                "stream": True,
                "messages": [{"role": "user", "content": text}],
            }
        ).encode()
        return (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\n"
            b"Content-Type: application/json\r\nAuthorization: Bearer %b\r\n"
            b"X-Session-ID: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (KEY.encode(), self.mark.encode(), len(body), body)
        )


class _NoAnswerError(Exception):
    """The connection, which had been used before, closed before a byte of the answer came."""


class Clients:
    """So many clients, each with one stream after the other, until the time is over.

    Args:
        port: The gateway's.
        count: How many streams there are at once.
        leaving: The share of the streams that their clients leave.
        until_s: The end, on the monotonic clock; streams that run then are waited for.
        random: Says what is asked for.
        seen: Takes what became of them.
    """

    def __init__(
        self, port: int, *, count: int, leaving: float, until_s: float, random: Random, seen: Seen
    ) -> None:
        self._port = port
        self._count = count
        self._leaving = leaving
        self._until_s = until_s
        self._random = random
        self._seen = seen

    async def run(self) -> None:
        """Run to the end of the last stream."""
        await asyncio.gather(*(self._client(number) for number in range(self._count)))

    async def _client(self, number: int) -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        turn = 0
        while time.monotonic() < self._until_s:
            turn += 1
            reused = connection is not None
            try:
                if connection is None:
                    connection = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError as error:
                self._seen.fault(f"no connection: {error}")
                await asyncio.sleep(1.0)
                continue
            wish = self._wish(f"c{number}t{turn}x")
            try:
                async with asyncio.timeout(STUCK_S):
                    stays = await _stream(*connection, wish, self._seen, reused=reused)
            except _NoAnswerError:
                stays = False
            except TimeoutError:
                self._seen.fault(f"{wish.mark}: no end after {STUCK_S:g} s")
                stays = False
            if not stays:
                connection[1].transport.abort()
                connection = None
        if connection is not None:
            connection[1].close()

    def _wish(self, mark: str) -> Wish:
        random = self._random
        events = random.randint(10, 150)
        leaves = random.random() < self._leaving
        return Wish(
            mark=mark,
            events=events,
            pace_us=random.choice((20_000, 50_000, 100_000)),
            leaves_after=random.randrange(events) if leaves else None,
        )


async def _stream(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    wish: Wish,
    seen: Seen,
    *,
    reused: bool,
) -> bool:
    """Ask for a stream and look at all of it.

    Returns:
        Whether the connection may be used again.
    """
    try:
        writer.write(wish.request())
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if reused and not error.partial:
            raise _NoAnswerError from None
        seen.fault(f"{wish.mark}: the connection closed instead of an answer")
        return False
    except ConnectionError:
        if reused:
            raise _NoAnswerError from None
        seen.fault(f"{wish.mark}: the connection was reset instead of an answer")
        return False
    status = int(head.split(b" ", 2)[1])
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    try:
        if status != 200:
            body = await reader.readexactly(int(fields[b"content-length"]))
            _refused(status, body, wish, seen)
            return b"close" not in fields.get(b"connection", b"")
        return await _Look(wish, seen).follow(reader)
    except (asyncio.IncompleteReadError, ConnectionError, KeyError, ValueError) as error:
        seen.fault(f"{wish.mark}: {status} and then {error!r}")
        return False


def _refused(status: int, body: bytes, wish: Wish, seen: Seen) -> None:
    error: Mapping[str, Any] = json.loads(body).get("error", {})
    if status < 500 or not error.get("message"):
        seen.fault(f"{wish.mark}: refused with {status} {body[:200]!r}")
    else:
        seen.ends[f"{status} {error.get('code')}"] += 1


@attrs.define
class _Look:
    """One stream, as far as it has been looked at."""

    wish: Wish
    seen: Seen
    events: int = 0
    finished: bool = False
    done: bool = False
    error: str = ""

    async def follow(self, reader: asyncio.StreamReader) -> bool:
        """Look at a stream up to its end; say whether its connection may be used again."""
        rest = b""
        while True:
            try:
                size = int(await reader.readuntil(b"\r\n"), 16)
                piece = await reader.readexactly(size + 2)
            except (asyncio.IncompleteReadError, ConnectionError):
                self._broken()
                return False
            if not size:
                self._ended(rest)
                return True
            *events, rest = (rest + piece[:-2]).split(b"\n\n")
            for event in events:
                self._look(event)
            leaves_after = self.wish.leaves_after
            if leaves_after is not None and self.events > leaves_after:
                self.seen.ends["left"] += 1
                return False

    def _look(self, event: bytes) -> None:
        payload = event.removeprefix(b"data: ")
        if payload == b"[DONE]":
            self.done = True
            return
        message = json.loads(payload)
        if "error" in message:
            self.error = message["error"]["code"]
            return
        (choice,) = message["choices"]
        if choice["finish_reason"]:
            self.finished = True
            return
        wanted = f" {self.wish.mark}token-{self.events:06d}"
        if choice["delta"]["content"] != wanted:
            self.seen.fault(f"{choice['delta']['content']!r} came instead of {wanted!r}")
        self.events += 1

    def _broken(self) -> None:
        if self.error:
            self.seen.ends[f"stream {self.error}"] += 1
        else:
            self.seen.fault(f"{self.wish.mark}: broken off without an error")

    def _ended(self, rest: bytes) -> None:
        whole = self.events == self.wish.events and self.finished and self.done and not rest
        if self.error or not whole:
            self.seen.fault(
                f"{self.wish.mark}: shown as complete after {self.events} of {self.wish.events} "
                f"events, error {self.error!r}"
            )
        else:
            self.seen.ends["whole"] += 1
