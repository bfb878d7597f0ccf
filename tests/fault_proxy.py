"""A TCP proxy on loopback that loses, cuts, delays and refuses what goes through it.

It knows nothing of what is said. It runs in a thread of its own, whatever the tests around it run
in; what it is told holds from the next piece, or the next connection, on.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

_PIECE_BYTES = 65536
_POLL_S = 0.01
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing is a reset


class FaultProxy:
    """Stands before a server, and is faithful until told otherwise.

    Bytes towards the server always arrive, unless cut before; connections to it end in
    order when the client's do.

    Args:
        port: The server's, on 127.0.0.1.

    Attributes:
        port: Its own.
        delay_s: How much later each piece of an answer comes.
        drip_bytes: Size of the pieces that answers are handed on in; 0: as they come.
        cut_after_bytes: After so many bytes of answers the connection that brought the last is cut,
            and this is None again, which means never.
        resets: Whether that is a reset, instead of an orderly end.
        swallow: Whether answers are lost.
        deaf: Whether nothing goes on of what clients send, so that soon it is not even read.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self.delay_s = 0.0
        self.drip_bytes = 0
        self.cut_after_bytes: int | None = None
        self.resets = self.swallow = self.deaf = False
        # Bound and not listening: whoever connects is refused, and nobody else gets the port.
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.port = int(self._held.getsockname()[1])
        self._listener: asyncio.Server | None = None
        self._full: list[socket.socket] = []
        self._sides: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self._listen())

    @property
    def addr(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def cut(self) -> None:
        """Reset all connections."""
        self._run(self._cut())

    def refuse(self) -> None:
        """Refuse new connections; those that are open stay."""
        self._run(self._unlisten())

    def ignore(self) -> None:
        """Leave new connections without any answer, as a machine that is off does."""
        self.refuse()
        self._full.append(socket.create_server(("127.0.0.1", self.port), backlog=0))
        for _ in range(2):  # the queue takes one more than its length; what comes then is dropped
            filler = socket.socket()
            self._full.append(filler)
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))

    def accept(self) -> None:
        """Take connections again."""
        self.refuse()
        self._run(self._listen())

    def stop(self) -> None:
        """Cut all connections, and be gone."""
        self.refuse()
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
        self._held.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(5)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _unlisten(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        while self._full:
            self._full.pop().close()

    async def _cut(self) -> None:
        for side in tuple(self._sides):
            _reset(side)
        while self._sides:
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            _reset(client)
            return
        self._sides |= {client, server}
        pumps = [
            asyncio.ensure_future(self._ask(reader, server)),
            asyncio.ensure_future(self._answer(answers, client)),
        ]
        try:
            done, others = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for other in others:
                other.cancel()
            if any(isinstance(pump.exception(), ConnectionError) for pump in done):
                _reset(client)
            client.close()
            server.close()
        finally:
            self._sides -= {client, server}

    async def _ask(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        while piece := await reader.read(_PIECE_BYTES):
            while self.deaf:
                await asyncio.sleep(_POLL_S)
            server.write(piece)
            await server.drain()

    async def _answer(self, answers: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while piece := await answers.read(self.drip_bytes or _PIECE_BYTES):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.swallow:
                continue
            room = self.cut_after_bytes
            if room is not None:
                piece = piece[:room]
                self.cut_after_bytes = room - len(piece) or None
            client.write(piece)
            await client.drain()
            if room is not None and self.cut_after_bytes is None:
                if self.resets:
                    raise ConnectionResetError
                return


def _reset(side: asyncio.StreamWriter) -> None:
    """End a connection with a reset."""
    sock = side.get_extra_info("socket")
    if not side.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    side.transport.abort()
