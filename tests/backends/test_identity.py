"""Tests of `llmproxy.backends.identity`."""

from __future__ import annotations

from typing import Any

import pytest

from llmproxy.backends.identity import make_backend, own_headers
from llmproxy.config.model import Backend as BackendConfig
from llmproxy.values import Backend


def made(url: str = "http://127.0.0.1:8001", real_url: bytes | None = None, **keys: Any) -> Backend:
    """Prepare a backend of that configuration."""
    return make_backend(BackendConfig(**{"name": "b", "url": url, **keys}), real_url)


@pytest.mark.parametrize(
    ("url", "origin", "host"),
    [
        ("http://127.0.0.1:8001", b"http://127.0.0.1:8001", b"127.0.0.1:8001"),
        ("http://gpu.test", b"http://gpu.test", b"gpu.test"),
        ("http://GPU.test:80/", b"http://gpu.test", b"gpu.test"),
        ("HTTP://gpu.test:443", b"http://gpu.test:443", b"gpu.test:443"),
        ("https://gpu.test:443/a/b/", b"https://gpu.test/a/b", b"gpu.test"),
        ("https://gpu.test:80//", b"https://gpu.test:80", b"gpu.test:80"),
        ("http://[::1]", b"http://[::1]", b"[::1]"),
        ("http://[::1]:8001/v", b"http://[::1]:8001/v", b"[::1]:8001"),
        ("http://gpu.test/a b/%20/ä", b"http://gpu.test/a%20b/%20/%C3%A4", b"gpu.test"),
        ("http://bücher.test", b"http://xn--bcher-kva.test", b"xn--bcher-kva.test"),
        (" http://gpu.test ", b"http://gpu.test", b"gpu.test"),
    ],
)
def test_url(url: str, origin: bytes, host: bytes) -> None:
    """Origin and prefix without the slash at the end; Host without a default port."""
    backend = made(url)
    assert (backend.url, backend.host) == (origin, host)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "demo:",
        "gpu.test:8001",
        "ftp://gpu.test",
        "http://",
        "http://:8001",
        "http://gpu.test:port",
        "http://gpu.test:99999",
        "http://[::1",
        "http://user:hunter2@gpu.test",
        "http://user:hunter2@gpu.test:port",
        "http://gpu.test/?a=1",
        "http://gpu.test/#a",
        "http://ä..test",
    ],
)
def test_not_a_url(url: str) -> None:
    """What no request can be sent to is refused, and a password in it is not shown."""
    with pytest.raises(ValueError, match="backend 'b': its url is not http") as caught:
        made(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_real_url() -> None:
    """The built-in stand-in is where the composition says it is."""
    backend = made("demo:", b"http://127.0.0.1:40001")
    assert (backend.url, backend.host) == (b"http://127.0.0.1:40001", b"127.0.0.1:40001")


def test_headers() -> None:
    """The backend's key goes first, then what is configured, in its order."""
    backend = made(api_key=" sk-up \n", headers={"X-One": " 1 ", "X-Two": "zwei ü"})
    assert backend.headers == (
        (b"Authorization", b"Bearer sk-up"),
        (b"X-One", b"1"),
        (b"X-Two", "zwei ü".encode()),
    )
    assert made().headers == ()


def test_own_authorization_outweighs_the_key() -> None:
    """A backend never gets two credentials."""
    backend = made(api_key="sk-up", headers={"authorization": "Basic eDp5"})
    assert backend.headers == ((b"authorization", b"Basic eDp5"),)


def test_own_host() -> None:
    """A configured Host is the Host, and is not sent twice."""
    backend = made(headers={"HOST": "models.test", "X-One": "1"})
    assert backend.host == b"models.test"
    assert backend.headers == ((b"X-One", b"1"),)


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"headers": {"X One": "1"}}, "'X One' is not a header field's name"),
        ({"headers": {"": "1"}}, "'' is not a header field's name"),
        ({"headers": {"X": "a\r\nsecret: 1"}}, "the value of 'X' has control characters"),
        ({"api_key": "secret\n1"}, "the value of 'Authorization' has control characters"),
    ],
)
def test_fields_that_cannot_be_sent(keys: dict[str, Any], match: str) -> None:
    """A field that would break the request is refused, without its value."""
    with pytest.raises(ValueError, match=match) as caught:
        made(**keys)
    assert "secret" not in str(caught.value)


def test_the_rest() -> None:
    """Everything else is taken over."""
    backend = made(
        weight=3,
        models=("qwen*",),
        connect_timeout=1.0,
        first_byte_timeout=2.0,
        stall_timeout=3.0,
        timeout=4.0,
        inject_usage=False,
    )
    assert backend == Backend(
        name="b",
        url=b"http://127.0.0.1:8001",
        host=b"127.0.0.1:8001",
        weight=3,
        models=("qwen*",),
        connect_timeout_s=1.0,
        first_byte_timeout_s=2.0,
        stall_timeout_s=3.0,
        timeout_s=4.0,
        inject_usage=False,
    )


def test_secrets_are_not_shown() -> None:
    """The identity's repr has no credentials in it."""
    assert "sk-up" not in repr(made(api_key="sk-up", headers={"X-Key": "sk-up"}))


def test_own_headers() -> None:
    """A check carries the backend's Host and credentials, and nothing else."""
    backend = made("http://a.test:8001", api_key="sk-b", headers={"X-Org": "1"})
    assert sorted(own_headers(backend).getAllRawHeaders()) == [
        (b"Authorization", [b"Bearer sk-b"]),
        (b"Host", [b"a.test:8001"]),
        (b"X-Org", [b"1"]),
    ]
