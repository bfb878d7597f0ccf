"""docs/billing.md: the receiver that stands there, run as it stands, behind the real daemon."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import KEY, ROOT, Daemon, free_port, gateway_config

SECRET = "whsec_" + "c2VjcmV0LW9mLWEtdGVzdC0wMTIzNDU2Nzg5"
OLD_SECRET = "whsec_" + "b2xkLXNlY3JldC1vZi1hLXRlc3QtMDEyMzQ1"
TIMEOUT_S = 60.0


def until(is_so: Callable[[], bool], what: str) -> None:
    """Wait, not for ever, until something is so."""
    end_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < end_s, what
        time.sleep(0.05)


class Guide:
    """The receiver of the guide, in a process of its own.

    Attributes:
        port: Its port.
    """

    def __init__(self, folder: Path, port: int) -> None:
        (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/billing.md").read_text(), re.S)
        self._file = folder / "receiver.py"
        self._file.write_text(code)
        self._db = folder / "usage.db"
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, secret: str = SECRET) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(
            [sys.executable, str(self._file)],
            env={
                **os.environ,
                "USAGE_SECRET": secret,
                "USAGE_DB": str(self._db),
                "PORT": str(self.port),
            },
            stderr=subprocess.DEVNULL,
        )
        until(self._answers, "the receiver does not start")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        return False

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def records(self) -> list[dict[str, Any]]:
        """Give what it has stored."""
        if not self._db.exists():
            return []
        with contextlib.closing(sqlite3.connect(self._db)) as db:
            return [json.loads(one) for (one,) in db.execute("SELECT record FROM usage")]


@pytest.fixture
def guide(tmp_path: Path) -> Iterator[Guide]:
    """Give the receiver; it is not started."""
    guide = Guide(tmp_path, free_port())
    yield guide
    guide.stop()


def daemon_in(folder: Path, spool_dir: Path, guide: Guide) -> Daemon:
    """Make a daemon that reports to the receiver."""
    reporter = {
        "name": "billing",
        "type": "webhook",
        "webhook": {
            "url": f"http://127.0.0.1:{guide.port}/usage",
            "secret": SECRET,
            "previous_secret": OLD_SECRET,
            "batch_size": 5,
            "batch_interval": "50ms",
            "max_backoff": "200ms",
        },
    }
    return Daemon(
        folder,
        gateway_config(
            free_port(),
            [{"name": "demo", "url": "demo:"}],
            usage={"reporters": [reporter], "spool_dir": str(spool_dir)},
        ),
    )


@pytest.fixture
def daemon(tmp_path: Path, guide: Guide) -> Iterator[Daemon]:
    """Give a daemon that reports to it, not started either."""
    daemon = daemon_in(tmp_path, tmp_path / "spool", guide)
    yield daemon
    if daemon.process is not None:
        daemon.stop()


def ask(daemon: Daemon, key: str = KEY) -> str:
    """Make a request; give its id."""
    request = urllib.request.Request(
        f"{daemon.url}/v1/chat/completions",
        json.dumps({"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            answer.read()
            return str(answer.headers["x-request-id"])
    except urllib.error.HTTPError as error:
        return str(error.headers["x-request-id"])


def spooled(folder: Path) -> int:
    """Say how many records are in the spool's files."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("spool/*/*.log"))


def test_the_receiver_of_the_guide(tmp_path: Path, guide: Guide, daemon: Daemon) -> None:
    """Every request is stored once: while it is down, after kill -9, with either secret."""
    guide.start()
    daemon.start()
    asked = [ask(daemon) for _ in range(7)] + [ask(daemon, "sk-nobody-knows-it")]
    until(lambda: len(guide.records()) == 8, "records do not come")
    assert {one["request_id"] for one in guide.records()} == set(asked)
    by_request = {one["request_id"]: one for one in guide.records()}
    assert by_request[asked[0]]["usage_source"] == "exact"
    assert by_request[asked[0]]["total_tokens"] > 0
    assert (by_request[asked[7]]["outcome"], by_request[asked[7]]["status"]) == ("rejected", 401)

    guide.stop()
    asked += [ask(daemon) for _ in range(7)]
    until(lambda: spooled(tmp_path) == 15, "records are not on the disk")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait()
    guide.start(OLD_SECRET)
    daemon.start()
    asked.append(ask(daemon))
    until(lambda: len(guide.records()) == 16, "what was reported before the kill does not come")
    assert sorted(one["request_id"] for one in guide.records()) == sorted(asked)
    assert daemon.stop(timeout_s=30) == 0


def test_what_the_receiver_refuses(guide: Guide, daemon: Daemon) -> None:
    """A message under another secret is not stored, and comes again until it is."""
    guide.start("whsec_" + "YW5vdGhlci1zZWNyZXQtb2YtYS10ZXN0LTAx")
    daemon.start()
    ask(daemon)
    daemon.wait_for_log("reporter billing does not take records: it answered 401", TIMEOUT_S)
    assert guide.records() == []
    guide.stop()
    guide.start()
    until(lambda: len(guide.records()) == 1, "the record does not come")
    daemon.wait_for_log("reporter billing takes records again", TIMEOUT_S)


def test_two_daemons_on_one_spool(tmp_path: Path, guide: Guide, daemon: Daemon) -> None:
    """One of them is killed and stays away: the other delivers what it left behind."""
    folder = tmp_path / "other"
    folder.mkdir()
    daemon.start()
    with daemon_in(folder, tmp_path / "spool", guide) as other:
        asked = [ask(one) for one in (daemon, other) for _ in range(6)]
        until(lambda: spooled(tmp_path) == 12, "records are not on the disk")
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGKILL)
        daemon.process.wait()
        guide.start()
        until(lambda: len(guide.records()) == 12, "not everything comes")
    assert sorted(one["request_id"] for one in guide.records()) == sorted(asked)
