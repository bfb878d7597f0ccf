"""Usage records and sessions asked for by command, from a real daemon with a builtin reporter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.entitled import Entitled, entitled_config
from tests.stores.sqlite_case import run_python

ADD = """
import sys
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from llmproxy.stores.sqlite import SqliteFile
from llmproxy.stores.usage_records import SqliteRecords
from llmproxy.usage.builtin_sink import BuiltinSink
from tests.usage.samples import START_S, batch, record

async def run():
    file = SqliteFile(sys.argv[1], reactor=reactor)
    store = SqliteRecords(file, retention_days=0, clock=reactor, now=lambda: START_S)
    sink = BuiltinSink("other", store)
    for _ in range(2):
        await sink.deliver(batch([record(n, key_id="key_x", outcome=("ok", "timeout")[n % 2])
            for n in range(150)]))
    await sink.deliver(batch([record(500, key_id="key_x", session_id="child",
        parent_session_id="ses_1")]))
    await file.stopService()

def begin():
    done = Deferred.fromCoroutine(run())
    done.addErrback(lambda failure: failure.printTraceback())
    done.addBoth(lambda _: reactor.stop())

reactor.callWhenRunning(begin)
reactor.run()
"""


@pytest.mark.slow
def test_records_and_sessions(tmp_path: Path) -> None:
    """What another daemon on the same file delivered, twice, is there once."""
    config = entitled_config(
        tmp_path,
        [{"name": "vllm-1", "url": "demo:"}],
        usage={
            "reporters": [{"name": "local", "type": "builtin", "builtin": {"retention_days": 0}}],
            "spool_dir": str(tmp_path / "spool"),
        },
    )
    with Entitled(tmp_path / "daemon", config) as gateway:
        added = run_python(ADD, config["admin"]["db_path"])
        assert (added.returncode, added.stderr) == (0, "")
        words = ("usage", "records", "--key", "key_x", "--json", "--limit", "120")
        found = json.loads(gateway.command(*words))
        ids = [int(one["id"].rpartition("-")[2]) for one in found["records"]]
        assert ids == [500, *range(149, 30, -1)]
        timeouts = json.loads(
            gateway.command("usage", "records", "--outcome", "timeout", "--limit", "999", "--json")
        )
        assert len(timeouts["records"]) == 75
        table = gateway.command("usage", "sessions", "ses_1")
        assert "tool calls  read 300" in table
        children = json.loads(
            gateway.command("usage", "sessions", "--children-of", "ses_1", "--json")
        )
        assert [one["session_id"] for one in children["sessions"]] == ["child"]
        assert "Traceback" not in gateway.daemon.log()
