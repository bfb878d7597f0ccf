"""Tests of `llmproxy.config.keys`."""

from __future__ import annotations

import pytest

from llmproxy.config.keys import is_open_to_all, static_keys
from tests.config.conftest import Load, Problems

BACKENDS = "backends: [{name: a, url: 'demo:'}]\n"
PIPELINE = """\
auth:
  pipeline:
    - name: s
      type: static
      static:
        keys:
"""


def keys(*items: str) -> str:
    """Write a file with these items of a static provider, from line 8 on."""
    return BACKENDS + PIPELINE + "".join(f"          - {item}\n" for item in items)


def test_keys_of_the_pipeline_and_the_short_form(load: Load) -> None:
    """Both are in force with ``storage: file``, each with its place."""
    text = keys("key: sk-one", "key: sk-two") + "  storage: file\napi_keys: [{key: sk-three}]\n"
    found = [(path, key.key) for path, key in static_keys(load(text))]
    assert found == [
        (("auth", "pipeline", 0, "static", "keys", 0), "sk-one"),
        (("auth", "pipeline", 0, "static", "keys", 1), "sk-two"),
        (("api_keys", 0), "sk-three"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "x.yaml:1: auth.enabled: is true, but there is no key; want one in auth.pipeline"),
        ("auth: {pipeline: []}\n", "x.yaml:2: auth.enabled: is true, but there is no key"),
        (
            "auth: {pipeline: [{name: s, type: static}]}\n",
            "x.yaml:2: auth.enabled: is true, but there is no key",
        ),
        (
            "auth: {storage: file}\n",
            "x.yaml:2: auth.storage: is file, but there are no api_keys; want some",
        ),
        (
            "auth: {enabled: false}\napi_keys: [{key: sk-one}]\n",
            "x.yaml:3: api_keys: are given, but nobody reads them; want auth.storage: file with",
        ),
    ],
)
def test_there_must_be_a_key(problems: Problems, text: str, expected: str) -> None:
    """An empty list is a problem, not an open door."""
    (told,) = problems(BACKENDS + text)
    assert told.startswith(expected)


def test_keys_that_nobody_reads_are_no_keys(problems: Problems) -> None:
    """Both problems are told: the keys are there, and yet there is none."""
    told = problems(BACKENDS + "api_keys: [{key: sk-one}]\n")
    assert [one.split(": ")[1] for one in told] == ["auth.enabled", "api_keys"]


def test_without_authentication_no_key_is_needed(load: Load) -> None:
    """Who says so gets an open door."""
    assert not load(BACKENDS + "auth: {enabled: false}\n").auth.enabled


@pytest.mark.parametrize(
    ("type_", "settings", "knows"),
    [
        ("builtin", "", True),
        ("redis", ", redis: {storage: c}", True),
        ("database", ", database: {storage: d, fields: [status]}", True),
        ("webhook", ", webhook: {url: 'http://h'}", True),
        ("static", "", False),
    ],
)
def test_another_source_may_know_keys(
    problems: Problems, type_: str, settings: str, knows: bool
) -> None:
    """Only of static ones it is known whether there is a key."""
    text = BACKENDS + "storage: {caches: [{name: c}], databases: [{name: d, path: x}]}\n"
    told = problems(f"{text}auth: {{pipeline: [{{name: s, type: {type_}{settings}}}]}}\n")
    assert [one.split(": ")[1] for one in told] == ([] if knows else ["auth.enabled"])


@pytest.mark.parametrize(
    ("start", "end", "good"),
    [
        ("2030-01-01", "2030-01-02", True),
        ("2030-01-01T00:00:00", "2030-01-01T00:00:01Z", True),
        ("2030-01-01", "2030-01-01", False),
        ("2030-01-02", "2030-01-01", False),
        ("null", "2030-01-01", True),
        ("2030-01-01", "null", True),
    ],
)
def test_a_life_ends_after_it_begins(problems: Problems, start: str, end: str, good: bool) -> None:
    """Also of keys that nobody reads yet."""
    told = problems(keys(f"{{key: sk-123456, starts_at: {start}, expires_at: {end}}}"))
    expected = (
        "x.yaml:8: auth.pipeline[0].static.keys[0].expires_at: is not after starts_at; "
        "want a later time"
    )
    assert told == ([] if good else [expected])


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("name: alice", "keys[0]: has no key; want key or key_file"),
        ("key: ''", "keys[0]: has no key; want key or key_file"),
        ("key: sk-12", "keys[0].key: is a key of 5 characters; want 6 to 4096"),
        ("key: " + "x" * 4097, "keys[0].key: is a key of 4097 characters; want 6 to 4096"),
        ("key: 'sk 123456'", "keys[0].key: is a key (hidden) with characters that clients cannot"),
        ('key: "sk-123456\\n"', "keys[0].key: is a key (hidden) with characters"),
        ("key: sk-12345ä", "keys[0].key: is a key (hidden) with characters"),
    ],
)
def test_keys_that_cannot_be_used(problems: Problems, item: str, expected: str) -> None:
    """Too short, too long, or with characters that no client can send."""
    (told,) = problems(keys(item))
    assert told.startswith(f"x.yaml:8: auth.pipeline[0].static.{expected}")


def test_keys_are_unique_over_all_lists(problems: Problems) -> None:
    """The first one is named by its place."""
    text = keys("key: sk-same", "key: sk-same") + "  storage: file\napi_keys: [{key: sk-same}]\n"
    assert problems(text) == [
        "x.yaml:9: auth.pipeline[0].static.keys[1].key: is the same key as "
        "auth.pipeline[0].static.keys[0]",
        "x.yaml:11: api_keys[0].key: is the same key as auth.pipeline[0].static.keys[0]",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "auth: {pipline: []}",
        "auth: {pipeline: 5}",
        "auth: {storage: 5}\napi_keys: [{key: sk-one}]",
        "auth: {storage: file}\napi_keys: 5",
        "auth: {storage: file}\napi_keys: [{key: '${NONE}'}]",
        "atuh: {}",
    ],
)
def test_a_key_that_may_be_there_is_not_missed(problems: Problems, text: str) -> None:
    """Where its place is broken, only that is told."""
    assert len(problems(BACKENDS + text)) == 1


@pytest.mark.parametrize(
    ("more", "is_open"),
    [
        ("server: {listen: ':8000'}", True),
        ("server: {listen: ['127.0.0.1:1', '10.0.0.7:8000']}", True),
        ("server: {listen: '[::]:8000'}", True),
        ("server: {listen: 'systemd:domain=INET:index=0'}", True),
        ("server: {listen: 'tcp:8000'}", True),
        ("server: {listen: ['127.0.0.1:1', '[::1]:1', 'unix:/run/x']}", False),
        ("server: {listen: 'tcp:1:interface=127.0.0.1'}", False),
    ],
)
def test_the_key_of_the_sample(load: Load, more: str, is_open: bool) -> None:
    """It is good for this machine; with another key nobody is told anything."""
    assert is_open_to_all(load(f"{keys('key: sk-demo')}{more}\n")) is is_open
    assert not is_open_to_all(load(f"{keys('key: sk-demo2')}{more}\n"))
    assert not is_open_to_all(load(f"{BACKENDS}auth: {{enabled: false}}\n{more}\n"))
