"""Requests of the admin API: what is taken, and what is said of the rest."""

from __future__ import annotations

import msgspec
import pytest

from llmproxy.errors import InvalidBody, InvalidJson
from llmproxy.wire.admin import (
    BackendNamed,
    Failure,
    Request,
    Success,
    read_request,
    wrong,
)
from llmproxy.wire.admin_keys import CreateKey, KeyNamed, ListKeys, SyncKeys
from llmproxy.wire.admin_usage import SummarizeUsage

CANARY = "sk-Canary7"


def refusal(kind: type[Request], body: str | bytes) -> tuple[str, str]:
    """Read a wrong request; give the field and what is said of it."""
    raw = body if isinstance(body, bytes) else body.encode()
    with pytest.raises(InvalidBody) as caught:
        read_request(raw, kind)
    return caught.value.param or "", str(caught.value)


def test_a_good_request() -> None:
    """It is read, whitespace and all."""
    assert read_request(b' {"name": "gpu-a"} ', BackendNamed) == BackendNamed(name="gpu-a")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nope",
        b"{",
        b'{"name": "a"} x',
        b'{"name": NaN}',
        b'{"name": "\xff"}',
        b'{"name": "\\ud83d"}',
        b"\xef\xbb\xbf{}",
    ],
)
def test_no_json(body: bytes) -> None:
    """What is not JSON in UTF-8 is said to be that."""
    with pytest.raises(InvalidJson):
        read_request(body, BackendNamed)


@pytest.mark.parametrize("body", ["[]", "1", "null", '"x"', "true"])
def test_no_object(body: str) -> None:
    """The body is an object."""
    assert refusal(BackendNamed, body) == ("", "The request body must be a JSON object.")


def test_a_missing_field() -> None:
    """It is named, with what it is to be."""
    assert refusal(BackendNamed, "{}") == (
        "name",
        "name is missing; it must be the name of a backend.",
    )
    param, message = refusal(SyncKeys, "{}")
    assert (param, message) == ("keys", "keys is missing; it must be a list of keys.")


def test_an_unknown_field() -> None:
    """It is named beside those that there are; inner ones with their place."""
    assert refusal(KeyNamed, '{"ident": "a"}') == (
        "ident",
        '"ident" is not a field; there are: id, key.',
    )
    param, message = refusal(CreateKey, '{"rate_limit": {"burst": 1}}')
    assert param == "rate_limit.burst"
    assert message.startswith('"burst" is not a field of rate_limit; there are: requests_per_sec')
    param, message = refusal(SyncKeys, '{"keys": [{"key": "abcdef"}, {"kee": "abcdef"}]}')
    assert param == "keys[1].kee"
    assert '"kee" is not a field of keys[1]' in message


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (CreateKey, f'{{"{CANARY}": 1}}'),
        (CreateKey, f'{{"key": "{CANARY} {CANARY}"}}'),
        (CreateKey, f'{{"status": "{CANARY}"}}'),
        (CreateKey, f'{{"quota_reset_period": "{CANARY}"}}'),
        (CreateKey, f'{{"expires_at": "{CANARY}"}}'),
        (CreateKey, f'{{"allowed_ips": ["{CANARY}"]}}'),
        (CreateKey, f'{{"metadata": {{"{CANARY}": 1e999}}}}'),
        (CreateKey, f'{{"rate_limit": {{"{CANARY}": 1}}}}'),
        (KeyNamed, f'{{"id": "{CANARY}", "key": "{CANARY}"}}'),
        (SyncKeys, f'{{"keys": [{{"key": "{CANARY}", "prefix": "{CANARY}"}}]}}'),
        (SyncKeys, f'{{"keys": [{{"key_hash": "{CANARY}"}}]}}'),
        (SyncKeys, f'{{"keys": ["{CANARY}"]}}'),
        (SummarizeUsage, f'{{"group_by": ["{CANARY}"]}}'),
    ],
)
def test_what_was_sent_is_never_said(kind: type[Request], body: str) -> None:
    """Whatever is wrong: it may be a key, in a field's place even."""
    param, message = refusal(kind, body)
    assert "Canary" not in param + message


@pytest.mark.parametrize("depth", [300, 5000, 100_000])
def test_deep_nesting(depth: int) -> None:
    """It is refused, or read where it is not too deep; nothing worse happens."""
    body = b'{"metadata": {"a": ' + b"[" * depth + b"]" * depth + b"}}"
    try:
        request = read_request(body, CreateKey)
    except InvalidBody:
        return
    assert request.metadata
    assert depth < 5000


@pytest.mark.parametrize(
    ("kind", "body", "param", "wanted"),
    [
        (ListKeys, '{"offset": -1}', "offset", "must be a whole number from 0 to"),
        (ListKeys, '{"offset": 1.5}', "offset", "must be a whole number from 0 to"),
        (ListKeys, '{"offset": true}', "offset", "must be a whole number from 0 to"),
        (ListKeys, '{"offset": 9007199254740993}', "offset", "must be a whole number from 0 to"),
        (ListKeys, '{"limit": 0}', "limit", "must be a whole number, at least 1"),
        (ListKeys, '{"include_hash": 1}', "include_hash", "must be true or false"),
        (SyncKeys, '{"keys": [], "mode": "all"}', "mode", "must be full or incremental"),
        (SyncKeys, '{"keys": {}}', "keys", "must be a list of keys"),
        (SyncKeys, '{"keys": [3]}', "keys[0]", "must be an object"),
        (CreateKey, '{"rate_limit": 3}', "rate_limit", "must be an object of limits"),
        (
            SyncKeys,
            '{"keys": [{"key": "abcdef", "rate_limit": {"burst_size": "a"}}]}',
            "keys[0].rate_limit.burst_size",
            "must be a whole number from 0 to",
        ),
        (CreateKey, '{"metadata": {"a": {"b": 1e999}}}', "metadata", "must be an object of at"),
    ],
)
def test_a_wrong_value(kind: type[Request], body: str, param: str, wanted: str) -> None:
    """The field's whole place is named, and what is wanted there."""
    found, message = refusal(kind, body)
    assert found == param
    assert message.startswith(f"{param} {wanted}")
    assert message.endswith(".")


def test_wrong() -> None:
    """The error of a field carries its path twice: for programs and for people."""
    error = wrong("keys[0].", "name", "short")
    assert (error.status, error.param) == (400, "keys[0].name")
    assert str(error) == "keys[0].name must be short."


def test_envelopes() -> None:
    """Their shapes are the contract's."""
    assert msgspec.json.encode(Success(message="done", data={"a": 1})) == (
        b'{"success":true,"message":"done","data":{"a":1}}'
    )
    assert msgspec.json.encode(Failure(error="no", code="not_found")) == (
        b'{"success":false,"error":"no","code":"not_found","param":""}'
    )
