"""Tests of `llmproxy.rights`: the parts that say who may do what, joined."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from llmproxy.config.load import parse_config
from llmproxy.config.model import Config
from llmproxy.config.model_auth import StaticProvider
from llmproxy.entitlements import Quota
from llmproxy.errors import GatewayError, InvalidApiKey, KeyDisabled, RateLimited
from llmproxy.key_records import KeyDraft, KeyRecord
from llmproxy.limits.memory_limiter import MemoryLimiter
from llmproxy.limits.redis_limiter import RedisLimiter
from llmproxy.rights import Rights
from llmproxy.values import Demand, Principal, Usage, UsageFilter, UsageRecord, UsageTotal

KEY = "sk-llmp-of-a-test"


def configured(folder: Path, more: str = "", auth: str = "") -> Config:
    """Make a configuration with a key store, and one key in the file."""
    text = f"""
backends: [{{name: a, url: "http://127.0.0.1:1"}}]
auth:
  pipeline:
    - {{name: b, type: builtin}}
    - {{name: s, type: static, static: {{keys: [{{key: sk-static}}]}}}}
  {auth}
admin: {{db_path: "{folder}/own.db"}}
{more}"""
    return parse_config(
        text,
        {},
        read_file=lambda path: Path(path).read_text(),
        is_directory=lambda path: Path(path).is_dir(),
    )


@attrs.define
class FakeRunning:
    """A request under way.

    Attributes:
        key_id: Of its key.
        cut_by: What it was cut by.
    """

    key_id: str = ""
    cut_by: GatewayError | None = None

    def cut(self, error: GatewayError) -> None:
        """Note it."""
        self.cut_by = error


class RightsTests(TestCase):
    """Over a real file, on the real reactor."""

    folder: Path

    @pytest.fixture(autouse=True)
    def use_folder(self, tmp_path: Path) -> None:
        """Give the test a folder."""
        self.folder = tmp_path

    def made(self, running: list[FakeRunning] | None = None, **sections: str) -> Rights:
        """Make and start the parts; they are stopped in the end."""
        from twisted.internet import reactor

        rights = Rights(configured(self.folder, **sections), reactor, running or [])
        rights.startService()
        self.addCleanup(lambda: rights.stopService() if rights.running else None)
        return rights

    async def until(self, fact: Callable[[], bool]) -> None:
        """Wait until something is so."""
        from twisted.internet import reactor

        for _ in range(500):
            if fact():
                return
            await deferLater(reactor, 0.01)
        self.fail("it did not come")

    async def verdict(self, rights: Rights, key: str = KEY) -> Principal | type[Exception]:
        """Say what a key is, or what it is refused with."""
        try:
            return await rights.rules.authenticator.authenticate(key, "192.0.2.1")
        except GatewayError as error:
            return type(error)

    async def test_a_key_is_known_at_once_and_off_at_once(self) -> None:
        """Whatever was said of it before."""
        rights = self.made()
        keys = rights.storage.keys
        assert keys is not None
        assert await self.verdict(rights) is InvalidApiKey
        stored = await keys.create(KeyDraft(record=KeyRecord(id="", name="n"), key=KEY))
        principal = await self.verdict(rights)
        assert isinstance(principal, Principal)
        assert (principal.key_id, principal.key_name) == (stored.record.id, "n")
        await keys.update(stored.record.id, lambda record: attrs.evolve(record, status="disabled"))
        assert await self.verdict(rights) is KeyDisabled
        await keys.delete(stored.record.id)
        assert await self.verdict(rights) is InvalidApiKey
        assert isinstance(await self.verdict(rights, "sk-static"), Principal)

    async def test_running_requests_are_cut_where_that_is_wanted(self) -> None:
        """Those of the key, in the operator's own words; nobody else's."""
        running = [FakeRunning() for _ in range(3)]
        rights = self.made(
            running, auth="on_revoke: cut\n  status_codes: {disabled: {message: Gone.}}"
        )
        keys = rights.storage.keys
        assert keys is not None
        stored = await keys.create(KeyDraft(record=KeyRecord(id=""), key=KEY))
        principal = await self.verdict(rights)
        assert isinstance(principal, Principal)
        running[0].key_id = principal.key_id
        running[1].key_id = "another"
        await keys.update(stored.record.id, lambda record: attrs.evolve(record, status="disabled"))
        await self.until(lambda: running[0].cut_by is not None)
        assert isinstance(running[0].cut_by, KeyDisabled)
        assert str(running[0].cut_by) == "Gone."
        assert (running[1].cut_by, running[2].cut_by) == (None, None)

    async def test_running_requests_finish_otherwise(self) -> None:
        """That is the default."""
        running = [FakeRunning()]
        rights = self.made(running)
        keys = rights.storage.keys
        assert keys is not None
        stored = await keys.create(KeyDraft(record=KeyRecord(id=""), key=KEY))
        running[0].key_id = stored.record.id
        await keys.delete(stored.record.id)
        assert await self.verdict(rights) is InvalidApiKey
        assert running[0].cut_by is None

    async def test_what_was_used_is_written_before_the_file_closes(self) -> None:
        """Budgets and totals, all of it, however soon the end comes after the last request."""
        quota = Quota(1000)
        principal = Principal(key_id="k", quota=quota)
        rights = self.made()
        grants = [await rights.limiter.acquire(Demand(principal, "m", 100)) for _ in range(5)]
        for grant in grants:
            grant.settle(30)
            rights.totals.report(
                UsageRecord(
                    id="i",
                    time=0.0,
                    request_id="r",
                    endpoint="/v1/completions",
                    key_id="k",
                    outcome="ok",
                    status=200,
                    usage=Usage(20, 10, 30),
                )
            )
        await rights.stopService()
        again = self.made()
        assert await again.limiter.quota_used({"k": quota}) == {"k": 150}
        ((_, total),) = await again.totals.usage(UsageFilter(key_id="k"))
        assert total == UsageTotal(5, 100, 50, 150, 0)

    async def test_where_limits_are_counted(self) -> None:
        """In memory, or in the Redis that is named."""
        assert isinstance(self.made().limiter, MemoryLimiter)
        rights = self.made(
            more="rate_limit: {storage: redis, redis: c}\n"
            'storage: {caches: [{name: c, addr: "127.0.0.1:1"}]}\n'
        )
        assert isinstance(rights.limiter, RedisLimiter)
        assert "127.0.0.1" not in repr(rights)
        stopped: Deferred[Any] = maybeDeferred(rights.stopService)
        await stopped

    async def test_everybody_is_let_in_without_authentication(self) -> None:
        """And keys that change are nobody's concern."""
        text = configured(self.folder)
        from twisted.internet import reactor

        opened = attrs.evolve(text, auth=attrs.evolve(text.auth, enabled=False))
        rights = Rights(opened, reactor, [])
        rights.startService()
        self.addCleanup(rights.stopService)
        assert rights.storage.keys is not None
        await rights.storage.keys.create(KeyDraft(record=KeyRecord(id=""), key=KEY))
        assert isinstance(await self.verdict(rights, "whatever"), Principal)

    async def test_another_configuration(self) -> None:
        """Keys, limits and words change at once; what was used, and what is known, stays."""
        rights = self.made()
        keys = rights.storage.keys
        assert keys is not None
        await keys.create(KeyDraft(record=KeyRecord(id="", name="n"), key=KEY))
        principal = await self.verdict(rights)
        assert isinstance(principal, Principal)
        grant = await rights.limiter.acquire(Demand(principal, "m", 1))
        changed = configured(self.folder, more="rate_limit: {per_key: {max_concurrent: 1}}")
        other = attrs.evolve(changed.auth.pipeline[1], name="t", static=StaticProvider(keys=()))
        changed = attrs.evolve(
            changed, auth=attrs.evolve(changed.auth, pipeline=(changed.auth.pipeline[0], other))
        )
        rules = rights.prepare(changed)
        assert isinstance(await self.verdict(rights, "sk-static"), Principal)
        rights.adopt(rules)
        assert await self.verdict(rights, "sk-static") is InvalidApiKey
        assert await self.verdict(rights) is principal
        await rights.limiter.acquire(Demand(principal, "m", 1))
        with self.assertRaises(RateLimited):
            await rights.limiter.acquire(Demand(principal, "m", 1))
        grant.settle(0)
        await keys.update(
            (await self.only_id(rights)), lambda record: attrs.evolve(record, status="disabled")
        )
        assert await self.verdict(rights) is KeyDisabled

    async def only_id(self, rights: Rights) -> str:
        """Give the id of the only stored key."""
        assert rights.storage.keys is not None
        stored = await rights.storage.keys.identify(KEY)
        assert stored is not None
        return stored.record.id

    async def test_keys_that_leave_the_file_while_requests_run(self) -> None:
        """They are cut where the new configuration wants that, else they finish."""
        for word, cut in (("cut", InvalidApiKey), ("finish", type(None))):
            running = [FakeRunning(), FakeRunning("another")]
            rights = self.made(running)
            principal = await self.verdict(rights, "sk-static")
            assert isinstance(principal, Principal)
            running[0].key_id = principal.key_id
            after = configured(self.folder, auth=f"on_revoke: {word}")
            none = attrs.evolve(after.auth.pipeline[1], static=StaticProvider(keys=()))
            auth = attrs.evolve(after.auth, pipeline=(after.auth.pipeline[0], none))
            rights.adopt(rights.prepare(attrs.evolve(after, auth=auth)))
            assert type(running[0].cut_by) is cut
            assert running[1].cut_by is None
            await rights.stopService()
