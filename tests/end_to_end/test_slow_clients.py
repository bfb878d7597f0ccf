"""A thousand slow clients: others go on as if they were not there, and the deadlines end them.

The attacker is `slowhttptest` (tests/setup installs it). Authentication is off here: it can send no
key, and strangers' requests would be refused before any of the deadlines could be seen to work.
"""

from __future__ import annotations

import csv
import http.client
import json
import os
import re
import resource
import shutil
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from tests.daemon import Daemon, free_port, gateway_config

ATTACKER = shutil.which("slowhttptest")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ATTACKER is None, reason="slowhttptest is not installed: see tests/setup"),
]

CONNECTIONS = 1000
STALLING = 40
DEADLINE_S = 3
IDLE_S = 6
TARDY_S = (
    DEADLINE_S / 2
)  # an ordinary answer takes milliseconds; this leaves room for busy machines
SPARE_FILES = 300  # what both processes open besides the attack's connections
OTHERS = 8  # connections that come and go: to the backend, of the ordinary client
STALLED = "a client that takes nothing is cut off"
GROWTH_LIMIT_BYTES = 96 * 1024 * 1024
# Four of these, asked for ten times, are more than the kernel's buffers take (4 MiB by default);
# only then is there something left in the gateway that the client does not take.
DESCRIPTION = "d" * 128 * 1024
MODELS = 4


@pytest.fixture
def connections() -> Iterator[int]:
    """How many connections attack: a thousand where so many files may be open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # what is started inherits it
    count = min(CONNECTIONS, hard - SPARE_FILES)
    if count < CONNECTIONS:
        warnings.warn(f"the limit of open files allows for {count} slow clients", stacklevel=1)
    yield count
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def daemon(tmp_path: Path, connections: int) -> Iterator[Daemon]:
    """The gateway over its demo backend, with short deadlines."""
    models = [
        {"id": f"model-{number}", "upstream_model": "demo", "description": DESCRIPTION}
        for number in range(MODELS)
    ]
    config = gateway_config(
        free_port(),
        [{"name": "demo", "url": "demo:"}],
        auth={"enabled": False},
        models=models,
        log={"level": "info"},
    )
    config["server"] |= {
        "header_timeout": f"{DEADLINE_S}s",
        "body_timeout": f"{DEADLINE_S}s",
        "write_stall_timeout": f"{DEADLINE_S}s",
        "idle_timeout": f"{IDLE_S}s",
    }
    with Daemon(tmp_path, config) as running:
        yield running


@attrs.define
class OrdinaryClient:
    """Makes completions, plain and streamed in turn, each on a connection of its own.

    Attributes:
        took_s: How long each took.
        wrong: What was not as it should be.
    """

    port: int
    took_s: list[float] = attrs.field(factory=list)
    wrong: list[str] = attrs.field(factory=list)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Ask all the time until the block ends."""
        ended = threading.Event()

        def work() -> None:
            while not ended.wait(0.05):
                stream = len(self.took_s) % 2 == 1
                begun_s = time.monotonic()
                try:
                    self._complete(stream)
                except (OSError, http.client.HTTPException, AssertionError) as error:
                    self.wrong.append(f"stream={stream}: {error!r}")
                self.took_s.append(time.monotonic() - begun_s)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(30)

    def _complete(self, stream: bool) -> None:
        messages = [{"role": "user", "content": "hello"}]
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            body = json.dumps({"model": "model-0", "stream": stream, "messages": messages})
            connection.request("POST", "/v1/chat/completions", body)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        assert response.status == 200, answer[:500]
        if stream:
            assert answer.endswith(b"data: [DONE]\n\n"), answer[-500:]
        else:
            assert json.loads(answer)["choices"][0]["message"]["content"]


@attrs.define
class Attack:
    """A run of slowhttptest.

    Attributes:
        process: The program.
        prefix: Where it writes, without the suffixes.
    """

    process: subprocess.Popen[bytes]
    prefix: Path

    def wait(self, timeout_s: float) -> None:
        """Wait until it has nothing more to do."""
        self.process.wait(timeout_s)

    @property
    def printed(self) -> str:
        """What it has printed, without its colours."""
        return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", self.prefix.with_suffix(".log").read_text())

    def rows(self) -> list[dict[str, int]]:
        """Its statistics, second by second."""
        with self.prefix.with_suffix(".csv").open() as file:
            return [
                {name: int(value) for name, value in row.items()} for row in csv.DictReader(file)
            ]


@contextmanager
def attack(daemon: Daemon, folder: Path, name: str, path: str, *words: str) -> Iterator[Attack]:
    """Run slowhttptest against a path until the block ends."""
    assert ATTACKER is not None
    prefix = folder / name
    command = [ATTACKER, *words, "-u", daemon.url + path, "-p", "3", "-g", "-o", str(prefix)]
    with (
        prefix.with_suffix(".log").open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            yield Attack(process, prefix)
        finally:
            if process.poll() is None:
                process.kill()


def open_files(daemon: Daemon) -> int:
    """Count the daemon's open files, its sockets among them."""
    assert daemon.process is not None
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def wait_for_files(daemon: Daemon, least: int, most: int, timeout_s: float) -> int:
    """Wait until so many files are open; give how many."""
    end = time.monotonic() + timeout_s
    while not least <= (now := open_files(daemon)) <= most and time.monotonic() < end:
        time.sleep(0.1)
    assert least <= now <= most, f"{now} open files"
    return now


def lines_with(daemon: Daemon, text: str, wanted: int) -> int:
    """Wait until the daemon has written something so often, if it does; give how often it has."""
    end = time.monotonic() + 10
    while (now := daemon.log().count(text)) < wanted and time.monotonic() < end:
        time.sleep(0.1)
    return now


def most_memory_bytes(daemon: Daemon) -> int:
    """Give the most memory that was ever resident in the daemon."""
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@contextmanager
def unharmed(daemon: Daemon) -> Iterator[int]:
    """Hold the daemon, in the block and after it, to what it owes others; gives its open files."""
    client = OrdinaryClient(daemon.port)
    with client.at_work():
        time.sleep(0.3)  # its connection to the backend is there now
    before, memory_bytes = open_files(daemon), most_memory_bytes(daemon)
    client = OrdinaryClient(daemon.port)
    with client.at_work():
        yield before
    assert client.wrong == []
    assert len(client.took_s) >= 8
    # All but the odd one: the machines are shared.
    assert sorted(client.took_s)[len(client.took_s) * 9 // 10 - 1] < TARDY_S
    wait_for_files(daemon, 0, before + OTHERS, timeout_s=5)
    assert most_memory_bytes(daemon) - memory_bytes < GROWTH_LIMIT_BYTES


def attack_until_cut_off(
    daemon: Daemon, folder: Path, connections: int, path: str, *words: str
) -> None:
    """Attack with connections that do not end by themselves, until all have been closed."""
    words = (*words, "-c", str(connections), "-r", "1000", "-l", "30")
    with (
        unharmed(daemon) as before,
        attack(daemon, folder, "attack", path, *words) as attacker,
    ):
        wait_for_files(daemon, before + connections * 9 // 10, before + 2 * connections, 5)
        attacker.wait(20)
        assert "No open connections left" in attacker.printed
        rows = attacker.rows()
        assert max(row["Connected"] for row in rows) == connections
        # Its own probes, requests that are whole, were answered in every second.
        assert all(row["Service Available"] for row in rows)
        assert rows[-1]["Seconds"] <= 3 * DEADLINE_S
    assert lines_with(daemon, '"status":408,', connections) >= connections


def test_slow_heads(daemon: Daemon, tmp_path: Path, connections: int) -> None:
    """A field a second does not keep a head from its deadline, which is absolute."""
    attack_until_cut_off(daemon, tmp_path, connections, "/v1/models", "-H", "-i", "1")


def test_slow_bodies(daemon: Daemon, tmp_path: Path, connections: int) -> None:
    """A body that pauses for longer than allowed is cut off."""
    words = ("-B", "-i", "10", "-s", "100000", "-f", "application/json")
    attack_until_cut_off(daemon, tmp_path, connections, "/v1/chat/completions", *words)


def test_slow_readers(daemon: Daemon, tmp_path: Path, connections: int) -> None:
    """Answers that nobody takes: in the kernel they do not keep us, in the gateway a deadline does.

    The thousand ask for what the kernel's buffers hold: for the gateway these answers are sent, and
    `idle_timeout` ends the connections. A few ask for more than fits: `write_stall_timeout`.
    """
    slowly = ("-X", "-w", "16", "-y", "64", "-n", "1", "-z", "5", "-l", "30")
    # Not too many a second: what is made for them is honest work, and would be felt by others.
    some = ("-c", str(connections), "-r", "300", "-k", "1")
    few = ("-c", str(STALLING), "-r", "10", "-k", "10")
    with (
        unharmed(daemon) as before,
        attack(daemon, tmp_path, "readers", "/v1/models/model-1", *slowly, *some) as attacker,
        attack(daemon, tmp_path, "stalling", "/v1/models", *slowly, *few),
    ):
        wait_for_files(daemon, before + connections * 9 // 10, before + 2 * connections, 9)
        # They read so slowly that they do not notice: only the daemon knows that they are gone.
        wait_for_files(daemon, 0, before + OTHERS, timeout_s=20)
        assert lines_with(daemon, STALLED, STALLING) == STALLING
        rows = attacker.rows()
        assert max(row["Connected"] for row in rows) == connections
        assert all(row["Service Available"] for row in rows)
