"""Tests of `llmproxy.config.checks_auth`."""

from __future__ import annotations

import pytest

from tests.config.conftest import Load, Problems


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("header_names: []", "auth.header_names: is empty; want at least one"),
        ("header_names: ['X Key']", 'auth.header_names[0]: "X Key" is not a header\'s name'),
        (
            "skip_paths: [/health, /v1/models]",
            'auth.skip_paths[1]: "/v1/models" cannot be served without a key; want only some of: '
            "/health, /ready, /metrics",
        ),
        (
            "header_names: [x-admin-TOKEN]",
            'auth.header_names[0]: "x-admin-TOKEN" is the header of the admin token; want another',
        ),
        ("skip_paths: [/]", 'auth.skip_paths[0]: "/" cannot be served'),
        (
            "pipeline: [{name: s, type: static, static: {keys: [{key: sk-one}]}}, "
            "{name: s, type: static}]",
            'auth.pipeline[1].name: "s" is taken by auth.pipeline[0].name',
        ),
    ],
)
def test_auth(problems: Problems, text: str, expected: str) -> None:
    """No open door, and header fields that can be."""
    start = "backends: [{name: a, url: 'demo:'}]\napi_keys: [{key: sk-two}]\n"
    (told,) = problems(f"{start}auth: {{storage: file, {text}}}\n")
    assert told.startswith(f"x.yaml:3: {expected}")


def test_metrics_may_be_served_to_all_under_another_name(problems: Problems) -> None:
    """``skip_paths`` takes ``metrics.path``, whatever it is."""
    text = "backends: [{name: a, url: 'demo:'}]\nauth: {enabled: false, skip_paths: [/numbers]}\n"
    (told,) = problems(text)
    assert "want only some of: /health, /ready, /metrics" in told
    assert not problems(text + "metrics: {path: /numbers}\n")


def test_header_names_may_be_empty_without_authentication(problems: Problems) -> None:
    """Nobody reads them."""
    text = "backends: [{name: a, url: 'demo:'}]\nauth: {enabled: false, header_names: []}\n"
    assert not problems(text)


START = "backends: [{name: a, url: 'demo:'}]\n"
STORES = """\
storage:
  databases: [{name: sales, path: x.db}, {name: people, path: y.db}]
  caches: [{name: primary}, {name: other}]
"""


def source(text: str, stores: str = STORES) -> str:
    """Write a file with this source of keys in line 3."""
    return f"{START}auth: {{pipeline: [\n  {text}\n]}}\n{stores}"


REDIS = "{{name: r, type: redis, redis: {{storage: primary, {}}}}}"
DATABASE = "{{name: d, type: database, database: {{storage: people, {}}}}}"
WEBHOOK = "{{name: w, type: webhook, webhook: {{url: 'https://h/k?a=b', {}}}}}"


@pytest.mark.parametrize(
    "text",
    [
        "{name: l, type: builtin}",
        REDIS.format(""),
        REDIS.format("key_pattern: '{sha256}'"),
        REDIS.format("key_pattern: 'a:{api_key}:b', recheck_interval: 60s"),
        DATABASE.format("fields: [status]"),
        DATABASE.format("fields: [status], table: iam.keys, key_column: Token, key_hash: sha256"),
        DATABASE.format("fields: [status, 'models as allowed_models', 'plan AS metadata']"),
        WEBHOOK.format(""),
        WEBHOOK.format("headers: {Authorization: Bearer x}, recheck_interval: 0, cache_ttl: 0"),
    ],
)
def test_sources_that_are_good(problems: Problems, text: str) -> None:
    """Each is enough to let somebody in."""
    assert not problems(source(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "{name: r, type: redis}",
            'redis.storage: "" is not a name of storage.caches; want one of: primary, other',
        ),
        (
            REDIS.format("").replace("primary", "primry"),
            'redis.storage: "primry" is not a name of storage.caches; did you mean "primary"?',
        ),
        (REDIS.format("").replace("primary", "people"), 'redis.storage: "people" is not a name of'),
        (
            REDIS.format("key_pattern: keys"),
            'redis.key_pattern: "keys" cannot be filled in; want {api_key} or {sha256} in it once',
        ),
        (REDIS.format("key_pattern: '{api_key}{sha256}'"), "redis.key_pattern: "),
        (REDIS.format("key_pattern: '{api_key}:{api_key}'"), "redis.key_pattern: "),
        (REDIS.format("key_pattern: '{{api_key}}'"), "redis.key_pattern: "),
        (REDIS.format("key_pattern: '{tag}:{api_key}'"), "redis.key_pattern: "),
        (REDIS.format("key_pattern: '{API_KEY}'"), "redis.key_pattern: "),
        (REDIS.format("key_pattern: ''"), "redis.key_pattern: "),
        (
            REDIS.format("recheck_interval: 2m"),
            "redis.recheck_interval: 120 seconds is longer than cache_ttl; want at most 60 seconds",
        ),
        (
            "{name: d, type: database}",
            'database.storage: "" is not a name of storage.databases; want one of: sales, people',
        ),
        (
            DATABASE.format("fields: [status]").replace("people", "peopel"),
            'database.storage: "peopel" is not a name of storage.databases; did you mean "people"?',
        ),
        (
            DATABASE.format("fields: [status], table: 'keys; drop table x'"),
            'database.table: "keys; drop table x" is not the name of a table; want NAME or',
        ),
        (
            DATABASE.format("fields: [status], key_column: 'k=k or'"),
            'database.key_column: "k=k or" is not the name of a column; want letters, digits',
        ),
        (
            DATABASE.format(""),
            "database.fields: is empty: every key in the table would be good, come what may; want",
        ),
        (
            DATABASE.format("fields: [status, models]"),
            'database.fields[1]: "models" is no field of a key by that name; want "COLUMN as',
        ),
        (
            DATABASE.format("fields: ['1=1 as status']"),
            'database.fields[0]: "1=1 as status" has no name of a column',
        ),
        (
            DATABASE.format("fields: [status, 'state as status']"),
            'database.fields[1]: "state as status" gives status, as auth.pipeline[0].data',
        ),
        (
            DATABASE.format("fields: [status], recheck_interval: 5s, cache_ttl: 500ms"),
            "database.recheck_interval: 5 seconds is longer than cache_ttl; want at most 0.5 sec",
        ),
        ("{name: w, type: webhook}", 'webhook.url: "" is empty; want "https://host/path" or'),
        (
            WEBHOOK.format("").replace("https", "ftp"),
            'webhook.url: "ftp://h/k?(hidden)" is not a URL of http or https',
        ),
        (
            WEBHOOK.format("").replace("//h", "//u:s3cret@h"),
            'webhook.url: "https://(hidden)@h/k?(hidden)" has a user or a password in it',
        ),
        (
            WEBHOOK.format("headers: {Host: x}"),
            "webhook.headers.Host: belongs to the connection, not to the request",
        ),
        (
            WEBHOOK.format("recheck_interval: 61s"),
            "webhook.recheck_interval: 61 seconds is longer than cache_ttl; want at most 60",
        ),
        (
            "{name: l, type: builtin, webhook: {url: 'http://h'}}",
            "webhook: is given, but the type is builtin; want it removed, or type: webhook",
        ),
        (
            REDIS.format("").replace("redis: {", "database: {storage: people}, redis: {"),
            "database: is given, but the type is redis; want it removed, or type: database",
        ),
    ],
)
def test_sources(problems: Problems, text: str, expected: str) -> None:
    """Each fits to what it names, and nothing comes into a statement that is not an identifier."""
    (told,) = problems(source(text))
    assert told.startswith(f"x.yaml:3: auth.pipeline[0].{expected}")


def test_the_key_store_is_asked_once(problems: Problems) -> None:
    """There is only one."""
    text = "{name: l, type: builtin}, {name: m, type: builtin}"
    assert problems(source(text)) == [
        "x.yaml:3: auth.pipeline[1].type: is builtin, and so is auth.pipeline[0]; want only one"
    ]


@pytest.mark.parametrize(
    ("stores", "count"), [("", 1), ("storage: {caches: 5}\n", 1), ("storage: {caches: [5]}\n", 1)]
)
def test_stores_that_are_not_there(problems: Problems, stores: str, count: int) -> None:
    """None at all is told; a store that cannot be read may be the one that is meant."""
    told = problems(source(REDIS.format(""), stores))
    assert len(told) == count
    if not stores:
        assert told[0].endswith("; want one of storage.caches, where there is none")
    else:
        assert "storage.caches" in told[0].split(": ")[1]


def test_nothing_follows_from_a_type_that_cannot_be_read(problems: Problems) -> None:
    """The settings may be those of the type that was meant."""
    (told,) = problems(source("{name: r, type: redys, redis: {storage: primary}}"))
    assert 'auth.pipeline[0].type: "redys" cannot stand here' in told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "not_found: {http_code: 200}",
            "not_found.http_code: 200 is too small; want at least 400",
        ),
        (
            "disabled: {http_code: 500}",
            "disabled.http_code: 500 is no status of a refusal; want 400 to 499, or 503",
        ),
        ("expired: {http_code: 504}", "expired.http_code: 504 is no status of a refusal"),
        (
            'quota_exceeded: {message: "one\\ntwo"}',
            'quota_exceeded.message: "one\\ntwo" cannot be printed; want one line',
        ),
        ("ip_not_alowed: {}", 'ip_not_alowed: is an unknown key; did you mean "ip_not_allowed"?'),
    ],
)
def test_own_answers(problems: Problems, text: str, expected: str) -> None:
    """Statuses that refuse, and messages that fit in a line."""
    (told,) = problems(f"{START}auth: {{enabled: false, status_codes: {{{text}}}}}\n")
    assert told.startswith(f"x.yaml:2: auth.status_codes.{expected}")


def test_own_answers_that_are_good(load: Load) -> None:
    """Any refusal, and any language."""
    text = "{disabled: {http_code: 401, message: Clé désactivée.}, expired: {http_code: 503}}"
    codes = load(f"{START}auth: {{enabled: false, status_codes: {text}}}\n").auth.status_codes
    assert (codes.disabled.http_code, codes.disabled.message) == (401, "Clé désactivée.")
    assert (codes.expired.http_code, codes.not_found.http_code) == (503, None)
