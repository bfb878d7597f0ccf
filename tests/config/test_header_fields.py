"""Tests of `llmproxy.config.header_fields`; those of backends and webhooks are in their places."""

from __future__ import annotations

import pytest

from llmproxy.config.findings import Findings
from llmproxy.config.header_fields import check_header_fields, is_field_name


def told(headers: dict[str, str], credential: tuple[str, ...] = ()) -> list[str]:
    """Give the problems of header fields as text."""
    findings = Findings("")
    check_header_fields(headers, ("h",), findings, credential=credential)
    return [str(problem) for problem in findings.error().problems] if findings else []


@pytest.mark.parametrize(
    ("name", "good"),
    [("X-A", True), ("a!#$%&'*+.^_`|~9", True), ("", False), ("a b", False), ("ä", False)],
)
def test_names(name: str, good: bool) -> None:
    """Tokens (RFC 9110, section 5.6.2)."""
    assert is_field_name(name) is good


def test_fields_that_are_good() -> None:
    """Any others than those of the connection, with values that may be empty."""
    assert not told({"Authorization": "Basic x", "X-A": "", "User-Agent": "me"})


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X A": "v"}, ['h["X A"]: is not a header\'s name; want letters, digits and dashes']),
        (
            {"TRANSFER-Encoding": "v"},
            ["h.TRANSFER-Encoding: belongs to the connection, not to the request; want it removed"],
        ),
        ({"X-A": "v", "x-a": "w"}, ['h.x-a: is the same header as "X-A"; want one of them']),
        (
            {"X-A": "s3cret\n"},
            ["h.X-A: has a value (hidden) with control characters; want it without"],
        ),
    ],
)
def test_fields_that_are_not(headers: dict[str, str], expected: list[str]) -> None:
    """Each is told once, and no value is shown."""
    assert told(headers) == expected


def test_a_credential_of_its_own_takes_authorization() -> None:
    """Both would be sent in the same field."""
    assert told({"authorization": "x"}, ("backends", "api_key")) == [
        "h.authorization: is given, and so is api_key; want one of them"
    ]
