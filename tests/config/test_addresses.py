"""Tests of `llmproxy.config.addresses`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.config.addresses import check_url, parse_listen, shown_url


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        (":8000", ("", 8000)),
        (":0", ("", 0)),
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("[::1]:65535", ("::1", 65535)),
        ("tcp:8000:interface=127.0.0.1", None),
        ("tcp:port=8000", None),
        ("tcp6:8000:interface=\\:\\:1", None),
        ("unix:/run/llmproxy.sock", None),
        ("systemd:domain=INET:index=0", None),
    ],
)
def test_where_to_listen(listen: str, address: tuple[str, int] | None) -> None:
    """The short forms are taken apart, endpoint strings only looked at."""
    assert parse_listen(listen) == address


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("", "is not an address"),
        ("8000", "is not an address"),
        (":http", "is not an address"),
        (":65536", "has the port 65536"),
        ("localhost:8000", "is not an address"),
        ("300.0.0.1:80", "has no IP address"),
        ("[127.0.0.1]:80", "has no IP address"),
        ("[]:80", "has no IP address"),
        ("::1:80", "is not an address"),
        ("tcp:", "is not an address"),
        ("tcp:interface=127.0.0.1", "has no port"),
        ("tcp:99999", "has no port"),
        ("systemd:index=0", "has no domain"),
        ("haproxy:tcp:8000", "not available yet: the PROXY protocol"),
        ("ssl:443:privateKey=k.pem:certKey=c.pem", "want tcp:, and server.tls"),
        ("udp:53", "is not an address"),
        (":٣", "is not an address"),
    ],
)
def test_where_nobody_can_listen(bad: str, words: str) -> None:
    """The message says what is wrong."""
    with pytest.raises(ValueError, match=words):
        parse_listen(bad)


@pytest.mark.parametrize(
    "url",
    [
        "demo:",
        "http://127.0.0.1:8001",
        "https://gpu-1.example.org/",
        "http://[::1]:8000/prefix",
        "http://vllm-1:8000/v1/gateway",
    ],
)
def test_urls(url: str) -> None:
    """Origins, with or without a path prefix."""
    check_url(url)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("", "is empty"),
        ("127.0.0.1:8000", "not a URL"),
        ("ftp://host", "not a URL of http"),
        ("http:host", "not a URL of http"),
        ("http://", "no valid host"),
        ("http://:80", "no valid host"),
        ("http://300.1.1.1", "no valid host"),
        ("http://-x", "no valid host"),
        ("http://vllm_server:8001", "a host with an underscore"),
        ("http://[::1", "is not a URL"),
        ("http://host:99999", "is not a URL"),
        ("http://host:x", "is not a URL"),
        ("http://host:0", "no valid port"),
        ("http://host:", "no valid port"),
        ("http://user:pw@host", "user or a password"),
        ("http://host/?a=b", "a query"),
        ("http://host#x", "a fragment"),
        ("http://host /x", "characters that no URL"),
        ("http://höst", "xn--"),
        ("http://host/v1", "drop the /v1"),
        ("http://host/v1/", "drop the /v1"),
        ("http://host/prefix/v1", "drop the /v1"),
        ("http://host/v1/chat/completions", "appends the request's own path"),
        ("demo:x", 'exactly "demo:"'),
        ("Demo:", 'exactly "demo:"'),
    ],
)
def test_what_is_no_url_of_a_backend(bad: str, words: str) -> None:
    """The message says what is wrong."""
    with pytest.raises(ValueError, match=words):
        check_url(bad)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://host/x", "http://host/x"),
        ("http://user:s3cret@host/x", "http://(hidden)@host/x"),
        ("http://user:s3/cret@host", "http://(hidden)@host"),
        ("user:s3cret@host", "user:(hidden)@host"),
        ("http://host/x?key=s3cret", "http://host/x?(hidden)"),
    ],
)
def test_shown_urls_have_no_secrets(url: str, shown: str) -> None:
    """Neither passwords nor queries."""
    assert shown_url(url) == shown


@given(st.text(alphabet="htps:/[]@?#.%0123459vx-\\= ", max_size=30) | st.text())
def test_nothing_but_value_error(text: str) -> None:
    """Any text passes, or is told what is wrong with it."""
    for check in (check_url, parse_listen):
        said = "nothing"
        try:
            check(text)
        except ValueError as error:
            said = str(error)
        assert said == "nothing" or said.startswith(("is ", "has ", "ends "))
