"""Usage records, whatever happens: the daemon killed over and over, a receiver that misbehaves.

Every request whose answer a client has whole has exactly one record, of its own tokens, and no
record is of a request that nobody made.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import attrs
import pytest

from benchmarks.toolchain import CannotBuild, build
from tests.daemon import KEY, Daemon, free_port, gateway_config
from tests.end_to_end.usage_receiver import MOODS, UsageReceiver

REQUESTS = 20_000
CLIENTS = 32
KILLS_S = (0.1, 1.2)
"""The daemon is killed so long after it was started."""

MOODS_S = (0.2, 1.0)
"""The receiver changes its mood so often."""

SEED = int(os.environ.get("LLMPROXY_TEST_SEED", "20260117"))


@attrs.define
class Sent:
    """One request.

    Attributes:
        tokens: What its answer's usage says in total.
        whole: Whether its answer came to its end.
    """

    tokens: int
    whole: bool = False


class Clients:
    """Clients that ask until enough answers have come whole.

    Args:
        port: The gateway's.
        random: Says what they ask.
    """

    def __init__(self, port: int, random: Random) -> None:
        self._port = port
        self._random = random
        self.sent: dict[str, Sent] = {}
        self.whole = 0

    async def run(self) -> None:
        """Ask, all at once, until the end."""
        await asyncio.gather(*(self._ask(number) for number in range(CLIENTS)))

    async def _ask(self, number: int) -> None:
        count = 0
        while self.whole < REQUESTS:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            try:
                while self.whole < REQUESTS:
                    count += 1
                    name = f"{number}-{count}"
                    events = self._random.choice((0, 1, 5, 20))
                    sent = self.sent[name] = Sent(tokens=events + 10 if events else 30)
                    writer.write(_request(name, events))
                    await _read_answer(reader)
                    sent.whole = True
                    self.whole += 1
            except (OSError, EOFError):
                pass  # the daemon was killed: on with the next one
            finally:
                writer.close()


def _request(name: str, events: int) -> bytes:
    text = f"events={events} pace_us=0" if events else "hello"
    body = json.dumps(
        {
            "model": "bench-model",
            "stream": bool(events),
            "messages": [{"role": "user", "content": text}],
        }
    ).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\nX-Request-ID: %b\r\nContent-Length: %d\r\n\r\n%b"
        % (KEY.encode(), name.encode(), len(body), body)
    )


async def _read_answer(reader: asyncio.StreamReader) -> None:
    """Read an answer to its end; EOFError when it has none."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    if b"content-length" in fields:
        await reader.readexactly(int(fields[b"content-length"]))
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        await reader.readexactly(size + 2)
    await reader.readexactly(2)


@contextmanager
def model_server() -> Iterator[int]:
    """Run the benchmarks' model server; give its port."""
    try:
        program = build().model
    except CannotBuild as reason:
        pytest.skip(str(reason))
    with subprocess.Popen([str(program)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


class Troubles:
    """Kills the daemon and spoils the receiver's mood, at random moments, until it is stopped."""

    def __init__(self, daemon: Daemon, receiver: UsageReceiver, random: Random) -> None:
        self._daemon = daemon
        self._receiver = receiver
        self._random = random
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._kill, self._spoil)
        ]
        self.kills = 0
        self.errors: list[Exception] = []

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, with a daemon that runs and a receiver that is well."""
        self._over.set()
        for thread in self._threads:
            thread.join(60)
        assert not self.errors
        self._receiver.become("well")

    def _kill(self) -> None:
        try:
            while not self._over.wait(self._random.uniform(*KILLS_S)):
                assert self._daemon.process is not None
                self._daemon.process.kill()
                self._daemon.process.wait()
                self.kills += 1
                self._daemon.start()
        except Exception as error:  # noqa: BLE001 - told by `stop`
            self.errors.append(error)

    def _spoil(self) -> None:
        while not self._over.wait(self._random.uniform(*MOODS_S)):
            self._receiver.become(self._random.choice(MOODS))


def config(folder: Path, model_port: int, url: str) -> dict[str, Any]:
    """Give the daemon's configuration: batches small and fast, tries as well."""
    backend = {"name": "model", "url": f"http://127.0.0.1:{model_port}"}
    webhook = {"url": url, "batch_size": 200, "batch_interval": "200ms", "max_backoff": "1s"}
    return gateway_config(
        free_port(),
        [backend],
        usage={
            "spool_dir": str(folder / "spool"),
            "reporters": [{"name": "billing", "type": "webhook", "webhook": webhook}],
        },
        logging={"access": {"enabled": False}},
    )


@pytest.mark.slow
def test_each_answer_has_its_one_record(tmp_path: Path) -> None:
    """Over kill -9 at random moments, and a receiver down, slow, in error and cutting off."""
    random = Random(SEED)
    with (
        model_server() as model_port,
        UsageReceiver() as receiver,
        Daemon(tmp_path, config(tmp_path, model_port, receiver.url)) as daemon,
    ):
        clients = Clients(daemon.port, Random(random.random()))
        troubles = Troubles(daemon, receiver, random)
        troubles.start()
        asyncio.run(clients.run())
        troubles.stop()
        whole = {name for name, sent in clients.sent.items() if sent.whole}
        end = time.monotonic() + 60
        while whole - receiver.ids().keys() and time.monotonic() < end:
            time.sleep(0.2)
        assert daemon.stop(30) == 0, f"seed {SEED}: {daemon.log()}"
    recorded = receiver.ids()
    assert troubles.kills >= 5
    assert len(whole) >= REQUESTS
    lost = whole - recorded.keys()
    assert not lost, f"seed {SEED}, {troubles.kills} kills: {len(lost)} lost, {sorted(lost)[:5]}"
    assert recorded.keys() <= clients.sent.keys(), f"seed {SEED}: records of nothing"
    twice = [name for name, ids in recorded.items() if len(ids) > 1]
    assert not twice, f"seed {SEED}: {len(twice)} requests with two records, {twice[:5]}"
    wrong = [
        record
        for record in receiver.records
        if record["request_id"] in whole
        and (record["outcome"], record["total_tokens"])
        != ("ok", clients.sent[record["request_id"]].tokens)
    ]
    assert not wrong, f"seed {SEED}: {len(wrong)} records say something else, {wrong[:2]}"
    assert sum(receiver.deliveries[mood] for mood in ("slow", "error", "cut")) > 0
