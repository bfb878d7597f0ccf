"""Tests of `llmproxy.config.model_stores`; that the reference shows it is tested with the model."""

from __future__ import annotations

from llmproxy.config.addresses import parse_host_port, parse_listen
from llmproxy.config.model_stores import Admin, Cache, Database, Limits, RateLimit
from llmproxy.config.setting import Secret


def test_secrets_are_not_in_the_repr() -> None:
    """Neither passwords nor connection strings, tokens and secrets for hashing."""
    secret = Secret("s3cret")
    database = Database(name="d", dsn=secret, password=secret)
    cache = Cache(name="c", password=secret)
    admin = Admin(token=secret, key_secret=secret)
    assert "s3cret" not in repr((database, cache, admin))


def test_the_defaults_limit_nothing_and_open_nothing() -> None:
    """No figure is set, and the admin API is off, on loopback."""
    limits = RateLimit()
    assert limits.global_ == limits.per_key == Limits()
    assert not any((limits.per_model, limits.redis))
    assert not Admin().enabled
    assert parse_listen(Admin().listen) == ("127.0.0.1", 8010)
    assert parse_host_port(Cache(name="c").addr) == ("127.0.0.1", 6379)
