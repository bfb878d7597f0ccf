"""The error tree: what each class is answered with, and that its words start no retry storm."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmproxy
from llmproxy.errors import (
    BodyTooLarge,
    ConfigError,
    GatewayError,
    InvalidApiKey,
    LLMProxyError,
    NoBackend,
    Problem,
    RateLimited,
    RelayBroken,
)

TABLE = {
    "GatewayError": (500, "server_error", "internal_error"),
    "InternalError": (500, "server_error", "internal_error"),
    "BadRequest": (400, "invalid_request_error", "bad_request"),
    "InvalidBody": (400, "invalid_request_error", "invalid_body"),
    "InvalidJson": (400, "invalid_request_error", "invalid_json"),
    "UnsupportedEncoding": (415, "invalid_request_error", "unsupported_content_encoding"),
    "InvalidApiKey": (401, "authentication_error", "invalid_api_key"),
    "PermissionDenied": (403, "permission_error", "permission_denied"),
    "KeyDisabled": (403, "permission_error", "key_disabled"),
    "KeyNotStarted": (403, "permission_error", "key_not_started"),
    "KeyExpired": (403, "permission_error", "key_expired"),
    "IpNotAllowed": (403, "permission_error", "ip_not_allowed"),
    "ModelNotAllowed": (403, "permission_error", "model_not_allowed"),
    "QuotaExceeded": (402, "insufficient_quota", "quota_exceeded"),
    "RateLimited": (429, "rate_limit_error", "rate_limit_exceeded"),
    "QuotaReserved": (429, "rate_limit_error", "rate_limit_exceeded"),
    "TooManyFailures": (429, "rate_limit_error", "rate_limit_exceeded"),
    "ModelNotFound": (404, "invalid_request_error", "model_not_found"),
    "UnknownUrl": (404, "invalid_request_error", "unknown_url"),
    "MethodNotAllowed": (405, "invalid_request_error", "method_not_allowed"),
    "RequestTimeout": (408, "invalid_request_error", "request_timeout"),
    "BodyTooLarge": (413, "invalid_request_error", "request_too_large"),
    "UriTooLong": (414, "invalid_request_error", "uri_too_long"),
    "ExpectationFailed": (417, "invalid_request_error", "expectation_failed"),
    "HeadersTooLarge": (431, "invalid_request_error", "headers_too_large"),
    "LoopDetected": (508, "invalid_request_error", "loop_detected"),
    "NotImplementedHere": (501, "invalid_request_error", "not_implemented"),
    "VersionNotSupported": (505, "invalid_request_error", "version_not_supported"),
    "UpstreamError": (502, "upstream_error", "upstream_error"),
    "ConnectFailed": (502, "upstream_error", "connect_failed"),
    "TlsFailed": (502, "upstream_error", "tls_failed"),
    "ReusedConnectionDied": (502, "upstream_error", "connection_lost"),
    "ConnectionDied": (502, "upstream_error", "connection_lost"),
    "BadResponse": (502, "upstream_error", "bad_response"),
    "NoBackend": (503, "overloaded_error", "no_backend"),
    "BackendsFull": (503, "overloaded_error", "queue_full"),
    "QueueFull": (503, "overloaded_error", "queue_full"),
    "QueueTimeout": (503, "overloaded_error", "queue_timeout"),
    "Overloaded": (503, "overloaded_error", "overloaded"),
    "MemoryBudgetSpent": (503, "overloaded_error", "queue_full"),
    "AuthUnavailable": (503, "overloaded_error", "auth_unavailable"),
    "LimitsUnavailable": (503, "overloaded_error", "limits_unavailable"),
    "Draining": (503, "overloaded_error", "draining"),
    "GatewayTimeout": (504, "timeout_error", "timeout"),
    "FirstByteTimeout": (504, "timeout_error", "first_byte_timeout"),
    "StallTimeout": (504, "timeout_error", "stall_timeout"),
}
"""The contract's table: class -> status, type, code."""

RETRYABLE = {"ConnectFailed", "TlsFailed", "ReusedConnectionDied"}
"""Where the backend provably did not take the request."""

CLOSING = {
    "BadRequest",
    "RequestTimeout",
    "BodyTooLarge",
    "UriTooLong",
    "HeadersTooLarge",
    "NotImplementedHere",
    "VersionNotSupported",
    "MemoryBudgetSpent",
    "Draining",
    "Overloaded",
}
"""Where the client's connection cannot go on, or had better not."""

INVITING = {429, 503}
"""Statuses that mean "later": these answers say when."""

STORMY = re.compile(
    r"[0-9]|rate.?limit|overload|try again|token.{0,10}(limit|exceed)|exceeds? the limit"
    r"|maximum context|context length|too many|quota|server_error|unavailable",
    re.IGNORECASE,
)
"""What clients read in a message, whatever the status, and take for a reason to ask again."""


FOR_ADMINISTRATORS = ("wire/admin", "resources/admin/")
"""Where what is raised is answered on the admin listener: no assistant calls there."""


def tree(root: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    """Walk the class tree."""
    yield root
    for below in root.__subclasses__():
        yield from tree(below)


def all_classes() -> list[type[GatewayError]]:
    """Give every class of the package, wherever it is defined."""
    for module in pkgutil.walk_packages(llmproxy.__path__, "llmproxy."):
        importlib.import_module(module.name)
    return [one for one in tree() if one.__module__.startswith("llmproxy.")]


CLASSES = all_classes()


def test_the_table_is_whole() -> None:
    """Each class stands in it, and each of it is a class."""
    assert {one.__name__ for one in CLASSES} == set(TABLE)
    assert len(CLASSES) == len(TABLE)


@pytest.mark.parametrize("error", CLASSES, ids=lambda one: one.__name__)
def test_what_each_class_is_answered_with(error: type[GatewayError]) -> None:
    """Status, type and code are the contract's, and the policies hang on the class alone."""
    name = error.__name__
    assert (error.status, error.type, error.code) == TABLE[name]
    assert error.retryable is (name in RETRYABLE)
    assert error.close is (name in CLOSING)
    assert (error.default_retry_after_s is not None) is (error.status in INVITING)
    assert error.__doc__


@pytest.mark.parametrize("error", CLASSES, ids=lambda one: one.__name__)
def test_messages_are_plain_sentences(error: type[GatewayError]) -> None:
    """One line for a person."""
    message = str(error())
    assert re.fullmatch(r"[A-Z][ -~]+\.", message)


def words_of(source: str, names: set[str]) -> Iterator[str]:
    """Find the string constants that errors of those names are made with."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            for part in node.args:
                for text in ast.walk(part):
                    if isinstance(text, ast.Constant) and isinstance(text.value, str):
                        yield text.value


def test_4xx_messages_start_no_retries() -> None:
    """No numbers, no words that clients match on: not in the classes, nor where they are raised.

    A 429 is left out: there a retry is wanted. So is the admin API, whose fields have such names.
    """
    quiet = [one for one in CLASSES if 400 <= one.status < 500 and one.status != 429]
    messages = [one.message for one in quiet]
    names = {one.__name__ for one in quiet}
    package = Path(llmproxy.__path__[0])
    for path in package.rglob("*.py"):
        if not str(path.relative_to(package)).startswith(FOR_ADMINISTRATORS):
            messages += words_of(path.read_text("utf-8"), names)
    assert len(messages) > len(quiet), "no message was found where errors are raised"
    assert [message for message in messages if STORMY.search(message)] == []


def test_an_error_can_say_more() -> None:
    """Message, parameter, waiting time and fields override what the class has."""
    error = NoBackend("Other words.", param="model", retry_after_s=0, headers=((b"a", b"b"),))
    assert str(error) == "Other words."
    assert (error.param, error.retry_after_s, error.headers) == ("model", 0, ((b"a", b"b"),))
    plain = NoBackend()
    assert (str(plain), plain.retry_after_s, plain.headers) == (NoBackend.message, 5, ())
    assert BodyTooLarge().retry_after_s is None


def test_an_error_can_be_restated() -> None:
    """With another status, another message, or both; all else is as it was, and so is the first."""
    first = InvalidApiKey("Who are you?")
    other = first.restated(404, "Nothing here.")
    assert type(other) is InvalidApiKey
    assert (other.status, str(other)) == (404, "Nothing here.")
    assert (other.type, other.code) == (InvalidApiKey.type, InvalidApiKey.code)
    assert (other.headers, other.param) == (first.headers, None)
    assert (first.status, str(first), InvalidApiKey.status) == (401, "Who are you?", 401)


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (None, "", (429, RateLimited.message)),
        (None, "Later.", (429, "Later.")),
        (503, "", (503, RateLimited.message)),
    ],
)
def test_what_is_not_restated_stays(
    status: int | None, message: str, expected: tuple[int, str]
) -> None:
    """Neither a status nor a message takes the other away, nor when to come again."""
    first = RateLimited(param="model", retry_after_s=1.5, headers=((b"a", b"b"),))
    other = first.restated(status, message)
    assert other is not first
    assert (other.status, str(other)) == expected
    assert (other.param, other.retry_after_s, other.headers) == ("model", 1.5, ((b"a", b"b"),))


def test_a_missing_key_names_the_scheme() -> None:
    """A 401 has WWW-Authenticate (RFC 9110, section 15.5.2)."""
    assert InvalidApiKey().headers == ((b"WWW-Authenticate", b"Bearer"),)


def test_a_broken_relay_tells_why() -> None:
    """Its code goes to the record; whether a clock ended it decides the outcome."""
    broken = RelayBroken("stalled", "It stalled.", timeout=True)
    assert (broken.code, str(broken), broken.timeout) == ("stalled", "It stalled.", True)
    assert not RelayBroken("x", "y").timeout
    assert not isinstance(broken, GatewayError)


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("a.b", "bad", 3, "f.yaml"), "f.yaml:3: a.b: bad"),
        (Problem("", "bad", 0, "f.yaml"), "f.yaml: bad"),
        (Problem("a", "bad"), "a: bad"),
    ],
)
def test_problems_are_lines(problem: Problem, text: str) -> None:
    """A configuration error is one line per problem, with what is known of the place."""
    assert str(problem) == text
    error = ConfigError((problem, problem))
    assert str(error) == f"{text}\n{text}"
    assert error.problems == (problem, problem)
    assert isinstance(error, LLMProxyError)
