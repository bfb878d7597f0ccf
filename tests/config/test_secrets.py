"""Which values are secrets."""

from __future__ import annotations

from llmproxy.config.load import parse_config
from llmproxy.config.secrets import secrets_of

TEXT = """
backends:
  - name: a
    url: "http://127.0.0.1:1"
    api_key: "s-backend"
    headers: {X-A: "s-header"}
  - {name: b, url: "http://127.0.0.1:2", api_key_file: "key.txt"}
auth:
  pipeline:
    - {name: static, type: static, static: {keys: [{key: s-static-key, name: alice}]}}
    - {name: iam, type: webhook, webhook: {url: "https://iam.example.org/k?token=s%2Furl&x=s-two"}}
    - {name: local, type: builtin}
storage:
  databases:
    - {name: p, driver: postgres, dsn: "postgresql://u:s%2Fdsn@h/d"}
    - {name: q, driver: postgres, dsn: "host=h password='s q''\\\\'x' dbname=d"}
    - {name: r, driver: postgres, dsn: "host=h password=s-plain dbname=d"}
  caches: [{name: c, addr: "h:6379", password: s-redis}]
admin:
  enabled: true
  token: s-token-of-sixteen-or-more
  key_secret: s-hmac-of-sixteen-or-more
  db_path: x/y.db
"""


def test_all_of_them() -> None:
    """Keys, tokens, passwords, header values, and those in URLs and connection strings."""
    config = parse_config(TEXT, {}, read_file=lambda _: "s-from-file\n", is_directory="x".__eq__)
    found = secrets_of(config)
    assert {
        "s-backend",
        "s-header",
        "s-from-file",
        "s-static-key",
        "s/url",
        "s-two",
        "postgresql://u:s%2Fdsn@h/d",
        "s%2Fdsn",
        "s/dsn",
        "s-plain",
        "s-redis",
        "s-token-of-sixteen-or-more",
        "s-hmac-of-sixteen-or-more",
    } <= found
    assert not found & {"", "a", "alice", "static", "h:6379", "http://127.0.0.1:1", "u"}


def test_nothing_to_hide() -> None:
    """A configuration without secrets has none."""
    config = parse_config(
        'backends: [{name: a, url: "demo:"}]\nauth: {enabled: false}\n', {}, read_file=str
    )
    assert secrets_of(config) == frozenset()
