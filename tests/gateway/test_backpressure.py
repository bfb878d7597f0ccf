"""A client that does not read stops the backend's flow, and memory stays flat."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

from tests.gateway.conftest import Start
from tests.gateway.ends import at_rest
from tests.gateway.raw_client import RawClient, chat_body
from tests.scripted_backend import Connection

TOTAL_BYTES = 200 * 1024 * 1024
PIECE = bytes(range(256)) * 1024
MEGABYTE = 1024 * 1024


def resident_bytes(pid: int) -> int:
    """Give a process's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def test_slow_reader(start: Start) -> None:
    """200 MB for a client that reads 1 MB/s: the backend waits; then all of it arrives, intact."""
    sent = [0]

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % TOTAL_BYTES)
        while sent[0] < TOTAL_BYTES:
            connection.send(PIECE)
            sent[0] += len(PIECE)

    daemon = start(script)
    assert daemon.process is not None
    pid = daemon.process.pid
    with RawClient(daemon.port, timeout_s=30) as client:
        before = resident_bytes(pid)
        client.post(chat_body())
        assert client.head() == 200
        digest = hashlib.sha256()
        received = 0
        highest = before
        began = time.monotonic()
        for second in range(4):
            part = client._take(MEGABYTE)
            digest.update(part)
            received += len(part)
            highest = max(highest, resident_bytes(pid))
            time.sleep(max(0.0, began + second + 1 - time.monotonic()))
        # What is under way sits in socket buffers, ours stays small.
        assert sent[0] - received < 40 * MEGABYTE
        assert highest - before < 16 * MEGABYTE
        while received < TOTAL_BYTES:
            part = client._take(min(MEGABYTE, TOTAL_BYTES - received))
            digest.update(part)
            received += len(part)
        highest = max(highest, resident_bytes(pid))
    assert highest - before < 32 * MEGABYTE
    wanted = hashlib.sha256()
    for _ in range(TOTAL_BYTES // len(PIECE)):
        wanted.update(PIECE)
    assert digest.digest() == wanted.digest()


def test_client_that_takes_nothing_is_cut_off(start: Start) -> None:
    """After write_stall_timeout of no progress the client and its backend are let go."""
    cut = threading.Event()

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % TOTAL_BYTES)
        try:
            while True:
                connection.send(PIECE)
        except (ConnectionResetError, BrokenPipeError):
            cut.set()

    daemon = start(script, server={"write_stall_timeout": "500ms"})
    with RawClient(daemon.port) as client:
        client.post(chat_body())
        assert client.head() == 200
        line = daemon.wait_for_log('"client_abort"', timeout_s=10)
        assert cut.wait(1)
    assert '"status":499' in line
    assert at_rest(daemon)
