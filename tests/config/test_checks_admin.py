"""Tests of `llmproxy.config.checks_admin`."""

from __future__ import annotations

import pytest

from llmproxy.config.checks_admin import needs_db
from tests.config.conftest import Load, Problems

TOKEN = "k7Qz9!mB2w#L5vX8"
OPEN = "backends: [{name: a, url: 'demo:'}]\nauth: {enabled: false}\n"
BUILTIN = "backends: [{name: a, url: 'demo:'}]\nauth: {pipeline: [{name: l, type: builtin}]}\n"


def admin(text: str, start: str = BUILTIN) -> str:
    """Write a file with these settings of the admin API in line 3."""
    return f"{start}admin: {{{text}}}\n"


@pytest.mark.parametrize(
    "text",
    [
        f"enabled: true, token: '{TOKEN}'",
        "enabled: true, token_file: secret",
        f"enabled: true, token: '{TOKEN}', listen: '127.0.0.1:0', key_secret: 0a1b2c3d4e5f6071",
        f"enabled: true, token: '{TOKEN}', listen: '[::1]:8010'",
        f"enabled: true, token: '{TOKEN}', listen: 'unix:/run/admin'",
        "enabled: false, listen: ':8000'",
    ],
)
def test_admin_that_is_good(problems: Problems, text: str) -> None:
    """With a token, from the file or another."""
    assert not problems(admin(text), files={"secret": f"{TOKEN}\n"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "enabled: true",
            "enabled: is true, but there is no token; want admin.token or admin.token_file",
        ),
        ("enabled: true, token: ''", "enabled: is true, but there is no token"),
        (
            "token: s3cret",
            "token: is a token (hidden) of 6 characters; want at least 16",
        ),
        (
            "enabled: true, token: your-secure-admin-token",
            "token: is a token (hidden) made of well-known words, which is guessed at once; want",
        ),
        (
            "enabled: true, token_file: weak",
            "token_file: holds a token (hidden) made of well-known words",
        ),
        ("enabled: true, token_file: none", 'token_file: "none" cannot be read'),
        (
            f"enabled: true, token: '{TOKEN}', token_file: weak",
            "token_file: is given, and so is admin.token; want one of them",
        ),
        (
            "key_secret: s3cret-s3cret-",
            "key_secret: is a secret (hidden) of 14 characters; want at least 16",
        ),
        ("key_secret_file: short", "key_secret_file: holds a secret (hidden) of 5 characters"),
        ("listen: nowhere", 'listen: "nowhere" is not an address to listen on'),
    ],
)
def test_secrets_and_address(problems: Problems, text: str, expected: str) -> None:
    """The token is looked at whether or not it is needed yet; it is never shown."""
    files = {"weak": "adminadminpassword\n", "short": "s3cre"}
    (told,) = problems(admin(text), files=files)
    assert told.startswith(f"x.yaml:3: admin.{expected}")
    assert "s3" not in told


@pytest.mark.parametrize(
    ("theirs", "ours", "collide"),
    [
        (":8000", ":8000", True),
        (":8000", "127.0.0.1:8000", True),
        ("127.0.0.1:8000", "0.0.0.0:8000", True),
        ("0.0.0.0:8000", ":8000", True),
        ("[::]:8000", "127.0.0.1:8000", True),
        ("[::1]:8000", "[::]:8000", True),
        ("[::]:8000", ":8000", True),
        ("tcp:8000", "tcp:8000", True),
        ("127.0.0.1:8000", "127.0.0.2:8000", False),
        (":8000", "[::1]:8000", False),
        ("127.0.0.1:8000", "[::1]:8000", False),
        (":8000", ":8001", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("unix:/run/a", "unix:/run/b", False),
        ("systemd:domain=INET:index=0", ":8000", False),
    ],
)
def test_an_address_of_its_own(problems: Problems, theirs: str, ours: str, collide: bool) -> None:
    """What the clients' listeners take is not free any more; only where it is listened on."""
    server = f"server: {{listen: [':7000', '{theirs}']}}\n"
    told = problems(admin(f"enabled: true, token: '{TOKEN}', listen: '{ours}'") + server)
    expected = f'x.yaml:3: admin.listen: "{ours}" is taken by "{theirs}" of server.listen; want a'
    assert [one.startswith(expected) for one in told] == [True] * collide
    assert not problems(admin(f"token: '{TOKEN}', listen: '{ours}'") + server)


STATIC = """\
backends: [{{name: a, url: 'demo:'}}]
auth: {{pipeline: [{{name: s, type: static, static: {{keys: [{{key: sk-123456{}}}]}}}}]}}
"""


def test_keys_that_would_open_nothing(problems: Problems) -> None:
    """Who administers keys wants them asked for; with no authentication it does not matter."""
    text = f"enabled: true, token: '{TOKEN}'"
    (told,) = problems(admin(text, STATIC.format("")))
    assert told == (
        "x.yaml:3: admin.enabled: is true, but auth.pipeline has no source of type builtin: keys "
        "made there would open nothing; want one, such as {name: local, type: builtin}"
    )
    assert not problems(admin(text, OPEN))


def test_a_source_that_cannot_be_read_may_be_the_one(problems: Problems) -> None:
    """Only what is wrong with it is told."""
    start = BUILTIN.replace("builtin", "bultin")
    (told,) = problems(admin(f"enabled: true, token: '{TOKEN}'", start))
    assert "auth.pipeline[0].type" in told


SHORT = """\
backends: [{name: a, url: 'demo:'}]
auth: {storage: file}
api_keys: [{key: sk-123456, total_quota: 5}]
"""


CACHES = "storage: {caches: [{name: c}]}\n"
WEBHOOK = f"""\
backends: [{{name: a, url: 'demo:'}}]
auth: {{pipeline: [{{name: w, type: webhook, webhook: {{url: 'http://127.0.0.1/'}}}}]}}
{CACHES}"""


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        (OPEN, False),
        (admin(f"enabled: true, token: '{TOKEN}'", OPEN), True),
        (BUILTIN, True),
        (STATIC.format(""), False),
        (STATIC.format(", used_quota: 5"), False),
        (STATIC.format(", total_quota: 0"), True),
        (SHORT, True),
        (WEBHOOK, True),
        (WEBHOOK + "rate_limit: {storage: redis, redis: c}\n", False),
        (SHORT + "rate_limit: {storage: redis, redis: c}\n" + CACHES, False),
    ],
)
def test_who_keeps_something_in_a_file(load: Load, text: str, needed: bool) -> None:
    """The admin API, its keys, and budgets that are not counted in Redis; nobody else."""
    assert needs_db(load(text)) is needed
