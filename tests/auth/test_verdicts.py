"""Tests of `llmproxy.auth.verdicts`: who promises them, keeps them."""

from __future__ import annotations

from twisted.internet.task import Clock

from llmproxy.auth.all_of import AllOf
from llmproxy.auth.cached import CachedSource, CacheTimes
from llmproxy.auth.first_match import FirstMatch
from llmproxy.auth.static import StaticSource
from llmproxy.auth.verdicts import UNSAID, Unsaid, Verdicts
from llmproxy.entitlements import NO_LIMITS
from tests.auth.fakes import DIGESTS, AskedSource


def test_nothing_said_is_neither_known_nor_unknown() -> None:
    """There is one such value, and nobody can take it for None or for a key."""
    assert list(Unsaid) == [UNSAID]
    assert UNSAID is not None
    assert bool(UNSAID)


def test_all_verdicts_without_keys() -> None:
    """Each kind says the same of a key that it never met, on all questions."""
    static = StaticSource("s", (), digests=DIGESTS)
    cached = CachedSource(
        AskedSource(),
        CacheTimes(1.0, 1.0),
        clock=Clock(),
        now=lambda: 0.0,
        on_revoked=lambda *_: None,
    )
    digest = DIGESTS.of("sk-one")
    every: list[Verdicts] = [
        static,
        cached,
        FirstMatch([static, cached]),
        AllOf([cached], NO_LIMITS),
    ]
    for verdicts in every:
        verdicts.forget(None)
        assert not verdicts.has_record(digest)
        assert verdicts.ids_behind("k") == ("k",)
        assert verdicts.principal_id(digest, "k") == "k"
        assert verdicts.recall(digest) is (None if verdicts is static else UNSAID)
