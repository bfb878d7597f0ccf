"""Tests of `llmproxy.metering`: the parts together, over a real receiver."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook
from twisted.web.server import Site

from llmproxy.config.load import parse_config
from llmproxy.config.model_usage import Usage
from llmproxy.metering import Metering
from tests.resources.admin.fakes import FakeRecords
from tests.stores.reactor_case import ReactorTestCase, reactor
from tests.usage.rig import alert, record
from tests.usage.test_webhook_sink import Receiver

SECRETS = ["whsec_" + b64encode(letter * 24).decode() for letter in (b"n", b"o")]


def usage(folder: Path, *reporters: str, more: str = "") -> Usage:
    """Read a section ``usage``."""
    text = f"""
backends: [{{name: a, url: "http://127.0.0.1:1"}}]
auth: {{enabled: false}}
storage: {{databases: [{{name: d, driver: sqlite, path: "{folder}/d.db"}}]}}
admin: {{db_path: "{folder}/own.db"}}
usage:
  spool_dir: {folder}/spool
  {more}
  reporters: [{", ".join(reporters)}]
"""
    return parse_config(
        text, {}, read_file=lambda path: Path(path).read_text(), is_directory=os.path.isdir
    ).usage


class MeteringTests(ReactorTestCase):
    """On the real reactor."""

    folder: Path

    @pytest.fixture(autouse=True)
    def use_folder(self, tmp_path: Path) -> None:
        """Give the test a folder."""
        self.folder = tmp_path

    def setUp(self) -> None:
        """Listen."""
        self.receiver = Receiver()
        port = reactor.listenTCP(0, Site(self.receiver), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.url = f"http://127.0.0.1:{port.getHost().port}/"

    def webhook(self, more: str = "") -> str:
        """Give a reporter that posts to the receiver, at once."""
        keys = f"url: '{self.url}', batch_interval: 10ms, max_backoff: 20ms{more}"
        return f"{{name: billing, type: webhook, webhook: {{{keys}}}}}"

    def started(self, settings: Usage, records: FakeRecords | None = None) -> Metering:
        """Make and start it; it is stopped in the end."""
        metering = Metering(settings, reactor, records=records, databases={})
        metering.startService()
        self.addCleanup(lambda: metering.stopService() if metering.running else None)
        return metering

    def came(self) -> list[str]:
        """Give the ids of the records that came."""
        bodies = [json.loads(body) for _, body in self.receiver.came]
        return [one["id"] for body in bodies for one in body["data"].get("records", ())]

    async def test_from_the_report_to_the_receiver(self) -> None:
        """Signed with both secrets; all that can be seen of it, before and after."""
        more = f", secret: {SECRETS[0]}, previous_secret: {SECRETS[1]}"
        metering = self.started(usage(self.folder, self.webhook(more), "{name: l, type: log}"))
        self.receiver.answer = lambda count: (500 if count < 3 else 200, {}, b"")
        metering.spool.report(record("a"))
        metering.spool.alert(alert("x"))
        billing, log = metering.receiver_statuses()
        assert (billing.name, billing.type, log.name, log.type) == (
            "billing",
            "webhook",
            "l",
            "log",
        )
        assert (billing.backlog_records, log.backlog_records) == (2, 2)
        assert billing.backlog_bytes == metering.spool_status().size_bytes > 500
        await self.until(lambda: len(self.receiver.came) == 4)
        await self.until(lambda: metering.receiver_statuses()[0].state == "idle")
        for number, secret in enumerate((*SECRETS, *SECRETS)):
            request, body = self.receiver.came[number]
            fields = request.requestHeaders.getAllRawHeaders()
            headers = {name.decode(): values[0].decode() for name, values in fields}
            assert Webhook(secret).verify(body, headers)["type"] == (
                "usage.batch" if number < 3 else "stream.alert"
            )
        billing = metering.receiver_statuses()[0]
        assert (billing.delivered_batches, billing.delivered_records) == (2, 2)
        assert (billing.failed_tries, billing.dead_letters, billing.last_error) == (2, 0, "")
        assert (billing.backlog_records, billing.backlog_bytes, billing.oldest_s) == (0, 0, 0.0)
        spool = metering.spool_status()
        assert (spool.written_records, spool.lost_records, spool.damaged_records) == (2, 0, 0)
        assert (spool.waiting_records, spool.max_bytes) == (0, 1 << 30)
        assert "written=2" in repr(metering)
        assert SECRETS[0][6:20] not in repr(metering)

    async def test_the_end_and_a_new_beginning(self) -> None:
        """What is left is delivered at the end, or after the next start."""
        slow = self.webhook().replace("10ms", "1h")
        metering = self.started(usage(self.folder, slow))
        metering.spool.report(record("a"))
        await metering.stopService()
        assert self.came() == ["a"]
        self.receiver.answer = lambda _: (500, {}, b"")
        metering = self.started(usage(self.folder, slow))
        metering.spool.report(record("b"))
        await metering.stopService()
        self.receiver.answer = lambda _: (200, {}, b"")
        metering = self.started(usage(self.folder, slow))
        await self.until(lambda: len(self.receiver.came) == 3)
        assert self.came() == ["a", "b", "b"]
        ids = [one.requestHeaders.getRawHeaders("webhook-id") for one, _ in self.receiver.came]
        assert ids[1] == ids[2] != ids[0]
        await metering.stopService()

    async def test_what_a_killed_daemon_left_behind(self) -> None:
        """It is delivered by another one, and counts in what is shown; so does a replay of it."""
        settings = usage(self.folder, self.webhook(), more="spool_sync_interval: 0")
        self.receiver.answer = lambda _: (503, {}, b"")
        gone = Metering(settings, reactor, records=None, databases={})
        for name in "abc":
            gone.spool.report(record(name))
        other = self.started(settings)
        other.spool.report(record("d"))
        await other.stopService()
        gone._slot.close()  # as the end of its process does
        self.receiver.came.clear()
        # Takes the first part again.
        third = Metering(settings, reactor, records=None, databases={})
        fourth = self.started(settings)  # takes the second
        assert third.receiver_statuses()[0].backlog_records == 3
        third._slot.close()
        await fourth._adoption._look()
        assert fourth.receiver_statuses()[0].backlog_records == 4
        self.receiver.answer = lambda _: (200, {}, b"")
        await self.until(lambda: {"a", "b", "c", "d"} <= set(self.came()))
        await self.until(lambda: fourth.receiver_statuses()[0].backlog_records == 0)
        self.receiver.came.clear()
        fourth.resends.replay("billing", None, None)
        await self.until(lambda: fourth.receiver_statuses()[0].resending is None)
        assert sorted(self.came()) == ["a", "b", "c", "d"]

    async def test_several_daemons_on_one_directory(self) -> None:
        """Each is asked for what waits in all parts, and sends again what any of them delivered."""
        settings = usage(self.folder, self.webhook())
        one, other = self.started(settings), self.started(settings)
        for metering, name in ((one, "a"), (other, "b")):
            metering.spool.report(record(name))
        await self.until(lambda: sorted(self.came()) == ["a", "b"])
        await self.until(lambda: other.receiver_statuses()[0].backlog_records == 0)
        self.receiver.came.clear()
        one.resends.replay("billing", None, None)
        await self.until(lambda: one.receiver_statuses()[0].resending is None)
        assert sorted(self.came()) == ["a", "b"]
        self.receiver.answer = lambda _: (500, {}, b"")
        other.spool.report(record("c"))
        await self.until(lambda: other.receiver_statuses()[0].state == "waiting")
        spool, (billing,) = await one.whole_status()
        assert (billing.backlog_records, billing.state) == (1, "idle")
        assert billing.backlog_bytes == other.receiver_statuses()[0].backlog_bytes
        assert 0 < billing.oldest_s < 60
        both = [metering.spool_status().size_bytes for metering in (one, other)]
        assert spool.size_bytes == sum(both)
        await one.stopService()
        await other.stopService()

    async def test_reporters_that_keep_records(self) -> None:
        """The gateway's own store and databases are delivered to like all others."""
        records = FakeRecords()
        records.outage.down = True
        local = "{name: local, type: builtin}"
        metering = self.started(usage(self.folder, local), records=records)
        metering.spool.report(record("a"))
        await self.until(lambda: metering.receiver_statuses()[0].state == "waiting")
        assert metering.receiver_statuses()[0].last_error
        records.outage.down = False
        await self.until(lambda: [one.id for one in records.added] == ["a"])

    async def test_a_receiver_that_is_gone(self) -> None:
        """It is shown as disabled."""
        self.receiver.answer = lambda _: (410, {}, b"")
        metering = self.started(usage(self.folder, self.webhook()))
        metering.spool.report(record("a"))
        await self.until(lambda: metering.receiver_statuses()[0].state == "disabled")
        assert metering.receiver_statuses()[0].backlog_records == 1
