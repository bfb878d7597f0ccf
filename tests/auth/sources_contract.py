"""What every source of keys promises, whatever it asks: one suite, run over each of them.

A rig says how a key gets to where the source looks; the tests know nothing else of it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
from zope.interface.verify import verifyObject

from llmproxy.auth.judge import prepare
from llmproxy.entitlements import OwnLimits, Quota
from llmproxy.errors import (
    GatewayError,
    IpNotAllowed,
    KeyDisabled,
    KeyExpired,
    KeyNotStarted,
    QuotaExceeded,
)
from llmproxy.interfaces import IKeySource
from llmproxy.key_records import KeyRecord
from tests.stores.reactor_case import ReactorTestCase

NOW_S = 1_800_000_000.0

ODD_KEYS = (
    "sk-' OR '1'='1",
    "sk-'; DROP TABLE api_keys; --",
    'sk-"quoted"',
    "sk-`quoted`",
    "sk-\\",
    "sk-%",
    "sk-_ne",
    "sk-%s%(x)s%%",
    "sk-?:1$1",
    "sk-*",
    "sk-[a-z]ne",
    "sk-{api_key}",
    "{sha256}{api_key}",
    "sk-one\r\nDEL llmproxy:key:sk-one\r\n",
    "*1\r\n$8\r\nFLUSHALL\r\n",
    "sk one",
    "sk-one ",
    " sk-one",
    "SK-ONE",
    "sk-one~",
    "sk-on",
    "../sk-one",
    "null",
    "0",
    "1",
    "true",
    "{}",
    "a" * 4096,
)
"""Keys that mean something to whoever takes them for more than text."""


class SourceContract(ReactorTestCase):
    """The suite; each rig overrides `put` and `make_source`.

    Import this module, not the class, or the suite itself is run as well.

    Attributes:
        statuses: What the place can say of a key.
        keeps_nul: Whether a key with a NUL can be kept there.
    """

    statuses: ClassVar[tuple[str, ...]] = ("active", "disabled", "quota_exceeded", "expired")
    keeps_nul: ClassVar[bool] = False

    async def put(self, key: str, record: KeyRecord) -> None:
        """Keep a key where the source looks for it."""
        raise NotImplementedError

    def make_source(self) -> IKeySource:
        """Make the source, after all keys are there."""
        raise NotImplementedError

    async def keep(self, key: str, **fields: Any) -> None:
        """Keep a key with some fields."""
        await self.put(key, KeyRecord(**{"id": "id-1", **fields}))

    async def find(self, key: str) -> KeyRecord | None:
        """Look a key up in a new source."""
        return await self.make_source().find(key)

    async def refusal(self, key: str, client_ip: str = "192.0.2.7") -> type[GatewayError] | None:
        """Look a key up and judge it."""
        record = await self.find(key)
        assert record is not None
        refusal = prepare(record).refusal(NOW_S, client_ip)
        return None if refusal is None else type(refusal)

    async def test_interface(self) -> None:
        """It is what the pipeline asks."""
        assert verifyObject(IKeySource, self.make_source())
        assert self.make_source().name

    async def test_not_found(self) -> None:
        """What is not there is not known, however often it is asked for."""
        source = self.make_source()
        assert await source.find("sk-one") is None
        assert await source.find("sk-one") is None

    async def test_plain_key(self) -> None:
        """A key without anything restricts nothing."""
        await self.keep("sk-one")
        found = await self.find("sk-one")
        assert found is not None
        assert found.id
        assert "sk-one" not in repr(found)
        assert prepare(found).refusal(NOW_S, "") is None
        assert (found.quota, found.own_limits, found.allowed_models) == (None, None, ())

    async def test_id_is_stable(self) -> None:
        """Two look-ups give the same record."""
        await self.keep("sk-one")
        source = self.make_source()
        assert await source.find("sk-one") == await source.find("sk-one")

    async def test_all_is_carried(self) -> None:
        """Whatever is kept of a key comes out."""
        kept = KeyRecord(
            id="id-1",
            name="Ann's laptop",
            user_id="ann",
            allowed_models=("qwen*", "llama-?"),
            allowed_ips=("10.0.0.0/8", "fd00::/8"),
            denied_ips=("10.9.0.1",),
            starts_at_s=NOW_S - 100,
            expires_at_s=NOW_S + 100,
            quota=Quota(1_000_000_000_000, "monthly", 17),
            own_limits=OwnLimits(
                requests_per_second=1,
                requests_per_minute=2,
                tokens_per_minute=0,
                max_concurrent=4,
                burst_size=5,
            ),
            metadata={"team": "a"},
        )
        await self.put("sk-one", kept)
        found = await self.find("sk-one")
        assert found is not None
        assert attrs.evolve(found, id="id-1") == kept

    async def test_statuses(self) -> None:
        """Each refuses in its own way."""
        wanted = {
            "active": None,
            "disabled": KeyDisabled,
            "quota_exceeded": QuotaExceeded,
            "expired": KeyExpired,
        }
        for status in self.statuses:
            await self.keep(f"sk-{status}", id=f"id-{status}", status=status)
        for status in self.statuses:
            assert await self.refusal(f"sk-{status}") is wanted[status]

    async def test_dates(self) -> None:
        """A key lives from its start to its end."""
        await self.keep("sk-over", id="a", expires_at_s=NOW_S - 1)
        await self.keep("sk-early", id="b", starts_at_s=NOW_S + 1)
        await self.keep("sk-now", id="c", starts_at_s=NOW_S, expires_at_s=NOW_S + 1)
        assert await self.refusal("sk-over") is KeyExpired
        assert await self.refusal("sk-early") is KeyNotStarted
        assert await self.refusal("sk-now") is None

    async def test_addresses(self) -> None:
        """Networks of both kinds are held to."""
        await self.keep("sk-one", allowed_ips=("10.0.0.0/8", "fd00::/8"), denied_ips=("10.9.0.1",))
        assert await self.refusal("sk-one", "10.1.1.1") is None
        assert await self.refusal("sk-one", "fd00::1") is None
        assert await self.refusal("sk-one", "10.9.0.1") is IpNotAllowed
        assert await self.refusal("sk-one", "192.0.2.7") is IpNotAllowed

    async def test_odd_keys_are_not_known(self) -> None:
        """Text that is more than text elsewhere finds nothing, and breaks nothing."""
        await self.keep("sk-one")
        source = self.make_source()
        for key in (*ODD_KEYS, "sk-one\x00", "\x00"):
            assert await source.find(key) is None, key
        assert await source.find("sk-one") is not None

    async def test_odd_keys_are_keys(self) -> None:
        """Each is found as itself, and as nothing else."""
        keys = (*ODD_KEYS, "sk-one", *(("sk-one\x00",) if self.keeps_nul else ()))
        for number, key in enumerate(keys):
            await self.keep(key, id=f"id-{number}", name=f"name {number}")
        source = self.make_source()
        for number, key in enumerate(keys):
            found = await source.find(key)
            assert found is not None, key
            assert found.name == f"name {number}", key

    async def test_nothing_shows_a_key(self) -> None:
        """Neither the source nor a record shows the key."""
        await self.keep("sk-canary-0123456789", name="n")
        source = self.make_source()
        found = await source.find("sk-canary-0123456789")
        assert "canary" not in repr(source) + repr(found)
