"""Tests of `llmproxy.auth.credentials`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.auth.credentials import MAX_CREDENTIAL_BYTES, UNREADABLE, CredentialReader

READER = CredentialReader(["Authorization", "X-API-Key"])


def fields(**values: bytes) -> Callable[[bytes], bytes]:
    """Stand in for a request's fields, given with underscores."""
    by_name = {name.replace("_", "-").encode(): value for name, value in values.items()}
    return lambda name: by_name.get(name, b"")


@pytest.mark.parametrize(
    ("value", "credential"),
    [
        (b"Bearer sk-1", "sk-1"),
        (b"bearer sk-1", "sk-1"),
        (b"BEARER   sk-1  ", "sk-1"),
        (b"  Bearer sk-1", "sk-1"),
        (b"Bearer sk 1", "sk 1"),
        (b"Bearer", ""),
        (b"Bearer   ", ""),
        (b"Bearersk-1", ""),
        (b"Basic c2stMQ==", ""),
        (b"sk-1", ""),
        (b"", ""),
    ],
)
def test_authorization_gives_what_follows_bearer(value: bytes, credential: str) -> None:
    """Only the scheme Bearer counts, in any case, with one or more spaces."""
    assert READER.read(fields(authorization=value)) == credential


def test_another_field_gives_its_whole_value() -> None:
    """A field other than Authorization is the credential itself."""
    assert READER.read(fields(x_api_key=b"  Bearer sk-1 ")) == "Bearer sk-1"


def test_first_non_empty_wins() -> None:
    """Fields are tried in the configured order, and those that give nothing are passed over."""
    both = fields(authorization=b"Bearer one", x_api_key=b"two")
    assert READER.read(both) == "one"
    assert CredentialReader(["X-API-Key", "Authorization"]).read(both) == "two"
    assert READER.read(fields(authorization=b"Basic one", x_api_key=b"two")) == "two"
    assert READER.read(fields(authorization=b"Bearer ", x_api_key=b"two")) == "two"


def test_none_given() -> None:
    """Without any such field the credential is empty."""
    assert READER.read(fields()) == ""
    assert CredentialReader([]).read(fields(authorization=b"Bearer one")) == ""


@pytest.mark.parametrize(
    "value", [b"Bearer sk-\xff", "Bearer ключ".encode(), b"Bearer " + b"a" * 4097]
)
def test_unreadable_counts_as_given(value: bytes) -> None:
    """What can be no key is neither skipped nor raised about."""
    assert READER.read(fields(authorization=value, x_api_key=b"two")) == UNREADABLE


def test_longest_credential() -> None:
    """The limit itself is allowed."""
    longest = b"a" * MAX_CREDENTIAL_BYTES
    assert READER.read(fields(x_api_key=longest)) == longest.decode()


def test_fields_to_strip() -> None:
    """The configured fields go nowhere, and the well-known ones neither."""
    assert CredentialReader(["X-Team-Key"]).header_names_lower == {
        b"x-team-key",
        b"authorization",
        b"x-api-key",
        b"x-admin-token",
    }


@given(st.binary(max_size=50))
def test_never_raises(value: bytes) -> None:
    """Whatever bytes come, a string comes out."""
    assert isinstance(READER.read(fields(authorization=b"Bearer " + value)), str)
    assert isinstance(READER.read(fields(authorization=value, x_api_key=value)), str)


def test_a_certificate_stands_in_for_a_key() -> None:
    """Where no field has a key: who sends one means it."""
    assert READER.read(fields(), "CN=alice") == "tls:CN=alice"
    assert READER.read(fields(authorization=b"Basic x"), "CN=alice") == "tls:CN=alice"
    assert READER.read(fields(authorization=b"Bearer sk-1"), "CN=alice") == "sk-1"
    assert READER.read(fields(), "") == ""


@pytest.mark.parametrize("subject", ["", "CN=alice", "CN=bob"])
@pytest.mark.parametrize(
    "claim",
    [
        fields(authorization=b"Bearer tls:CN=alice"),
        fields(authorization=b"Bearer  tls:CN=alice "),
        fields(authorization=b"Bearer tls:"),
        fields(x_api_key=b" tls:CN=alice"),
    ],
)
def test_no_field_can_claim_a_subject(claim: Callable[[bytes], bytes], subject: str) -> None:
    """It is a credential that nobody has, not even who has that certificate."""
    assert READER.read(claim, subject) == UNREADABLE


@given(st.binary(max_size=60), st.sampled_from([b"Bearer ", b"bearer\t", b""]))
def test_only_certificates_give_subjects(value: bytes, scheme: bytes) -> None:
    """Whatever stands in the fields."""
    for one in (fields(authorization=scheme + value), fields(x_api_key=value)):
        assert not READER.read(one).startswith("tls:")
    spoofed = fields(authorization=scheme + b"tls:" + value, x_api_key=b"tls:" + value)
    assert not READER.read(spoofed).startswith("tls:")
