"""The addresses of a configuration: where to listen, and the URLs of backends. Syntax only.

It resolves nothing and connects to nothing, and knows nothing of where in a file an address stands.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import urlsplit

DEMO_URL: Final = "demo:"
"""The URL of the model stand-in inside the daemon."""

WANTED_LISTEN: Final = '":port", "ip:port", "[ipv6]:port" or a Twisted endpoint such as "tcp:8000"'
WANTED_URL: Final = '"http://host:port", "https://host:port" or "demo:"'

_IP_PORT = re.compile(r"(\[[^\[\]]*\]|[0-9.]*):([0-9]{1,5})", re.ASCII)
_ENDPOINT = re.compile(r"(tcp|tcp4|tcp6|unix|systemd):(.+)", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?", re.ASCII)
_URL_CHARACTERS = re.compile(r"[!-~]+", re.ASCII)
_API_PATHS = ("/v1", "/chat/completions", "/completions", "/embeddings")
_HIGHEST_PORT = 65535


def parse_listen(listen: str) -> tuple[str, int] | None:
    """Read where to listen.

    Returns:
        The IP address (empty: all) and the port, for the short forms; None for the string of a
        Twisted endpoint.

    Raises:
        ValueError: It is neither; the message says what is wrong and what is wanted.
    """
    if found := _IP_PORT.fullmatch(listen):
        host, port = found[1].strip("[]"), int(found[2])
        if port > _HIGHEST_PORT:
            raise ValueError(f"has the port {port}; want one of 0 to {_HIGHEST_PORT}")
        if found[1] and not _is_address(host, v6=found[1].startswith("[")):
            raise ValueError(f"has no IP address before its port; want {WANTED_LISTEN}")
        return host, port
    if listen.startswith("haproxy:"):
        raise ValueError(f"is not available yet: the PROXY protocol; want {WANTED_LISTEN}")
    if listen.startswith("ssl:"):
        raise ValueError("would be TLS of its own; want tcp:, and server.tls for its certificate")
    if found := _ENDPOINT.fullmatch(listen):
        _check_endpoint(found[1], found[2])
        return None
    raise ValueError(f"is not an address to listen on; want {WANTED_LISTEN}")


def _is_address(host: str, *, v6: bool) -> bool:
    try:
        return isinstance(ip_address(host), IPv6Address) is v6
    except ValueError:
        return False


def _check_endpoint(kind: str, arguments: str) -> None:
    """Check the arguments of a Twisted endpoint; those that are not known pass."""
    # A colon or an equals sign inside an argument is escaped with a backslash.
    parts = re.split(r"(?<!\\):", arguments)
    named = {
        name: value for name, equals, value in (part.partition("=") for part in parts) if equals
    }
    if kind == "unix":
        return
    if kind == "systemd":
        if "domain" not in named:
            raise ValueError('has no domain; want "systemd:domain=INET:index=0"')
        return
    port = named.get("port", parts[0])
    if not _PORT.fullmatch(port) or int(port) > _HIGHEST_PORT:
        raise ValueError(f'has no port of 0 to {_HIGHEST_PORT}; want for example "{kind}:8000"')


def shown_url(url: str) -> str:
    """Give a URL as it may be shown: without what may be a password or a token in it."""
    url = re.sub(r"^(\w+:(?://)?)?.*@", r"\1(hidden)@", url, flags=re.DOTALL)
    return re.sub(r"[?#].+", "?(hidden)", url, flags=re.DOTALL)


def check_url(url: str) -> None:
    """Check a backend's URL.

    Raises:
        ValueError: It is none; the message says what is wrong and what is wanted, and shows nothing
            of the URL.
    """
    if url == DEMO_URL:
        return
    if url.lower().startswith("demo:"):
        raise ValueError('is not a URL; the built-in stand-in is exactly "demo:"')
    if not _URL_CHARACTERS.fullmatch(url):
        raise ValueError(
            "has characters that no URL may have; a host name beyond ASCII is written as xn--..."
            if url
            else f"is empty; want {WANTED_URL}"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"is not a URL; want {WANTED_URL}") from None
    if parts.scheme not in ("http", "https") or "://" not in url:
        raise ValueError(f"is not a URL of http or https; want {WANTED_URL}")
    if "@" in parts.netloc:
        raise ValueError("has a user or a password in it; want the key in api_key instead")
    if "?" in url or "#" in url:
        raise ValueError("has a query or a fragment; want it without")
    if not _is_host(parts.hostname or "", parts.netloc):
        raise ValueError(f"has no valid host; want {WANTED_URL}")
    if "_" in (parts.hostname or ""):
        raise ValueError("has a host with an underscore, which no host name has; want another name")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("has no valid port; want one of 1 to 65535, or none")
    path = parts.path.rstrip("/")
    for ending in _API_PATHS:
        if path.endswith(ending):
            raise ValueError(
                f"ends in {ending}, but LLMProxy appends the request's own path: "
                + ("drop the /v1" if ending == "/v1" else "want it without the API's path")
            )


def _is_host(host: str, netloc: str) -> bool:
    if netloc.startswith("["):
        return _is_address(host, v6=True)
    if re.fullmatch(r"[0-9.]+", host):
        return _is_address(host, v6=False)
    return bool(_HOST.fullmatch(host))
