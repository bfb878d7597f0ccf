"""The addresses of a configuration: where to listen, and where servers of others are. Syntax only.

It resolves nothing and connects to nothing, and knows nothing of where in a file an address stands.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

import attrs

DEMO_URL: Final = "demo:"
"""The URL of the model stand-in inside the daemon."""

HIGHEST_PORT: Final = 65535

LONGEST_UNIX_PATH_BYTES: Final = 107
"""Of a Unix socket, by unix(7)."""

MYSQL_OPTIONS: Final = ("ssl_ca", "ssl_cert", "ssl_key", "unix_socket")
"""What may be said behind the "?" of a URL of MySQL; all of them are paths."""

WANTED_LISTEN: Final = (
    '":port", "ip:port", "[ipv6]:port", "unix:/path" or a Twisted endpoint such as "tcp:8000"'
)
WANTED_UNIX: Final = '"unix:/run/llmproxy/sock" or "unix:/run/llmproxy/sock:mode=660"'
WANTED_URL: Final = '"http://host:port", "https://host:port" or "demo:"'
WANTED_SERVICE_URL: Final = '"https://host/path" or "http://host/path"'
WANTED_GATEWAY_URL: Final = '"https://host" or "http://127.0.0.1:8000"'
WANTED_HOST_PORT: Final = '"host:port" or "[ipv6]:port"'
WANTED_MYSQL_DSN: Final = '"mysql://user:password@host:port/database"'

_IP_PORT = re.compile(r"(\[[^\[\]]*\]|[0-9.]*):([0-9]{1,5})", re.ASCII)
_ENDPOINT = re.compile(r"(tcp|tcp4|tcp6|unix|systemd):(.+)", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?", re.ASCII)
_URL_CHARACTERS = re.compile(r"[!-~]+", re.ASCII)
_API_PATHS = ("/v1", "/chat/completions", "/completions", "/embeddings")


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
        if port > HIGHEST_PORT:
            raise ValueError(f"has the port {port}; want one of 0 to {HIGHEST_PORT}")
        if found[1] and not _is_address(host, v6=found[1].startswith("[")):
            raise ValueError(f"has no IP address before its port; want {WANTED_LISTEN}")
        return host, port
    if listen.startswith("haproxy:"):
        raise ValueError("would be on this address alone; want server.proxy_protocol: true")
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
    if kind == "unix":
        parse_unix(f"unix:{arguments}")
        return
    parts, named = _endpoint_arguments(arguments)
    if kind == "systemd":
        if "domain" not in named:
            raise ValueError('has no domain; want "systemd:domain=INET:index=0"')
        return
    port = named.get("port", parts[0])
    if not _PORT.fullmatch(port) or int(port) > HIGHEST_PORT:
        raise ValueError(f'has no port of 0 to {HIGHEST_PORT}; want for example "{kind}:8000"')


@attrs.frozen
class UnixListen:
    """A Unix socket to listen on.

    Attributes:
        path: Where it is.
        mode: Who may connect, as the bits of a file's mode.
        backlog: How many connections may wait; None: as many as elsewhere.
    """

    path: str
    mode: int = 0o666
    backlog: int | None = None


def parse_unix(listen: str) -> UnixListen | None:
    """Read ``unix:PATH``, ``mode=`` and ``backlog=`` behind it; None: it is another address.

    Raises:
        ValueError: It cannot be used; the message says why, and what is wanted.
    """
    kind, _, arguments = listen.partition(":")
    if kind != "unix":
        return None
    parts, named = _endpoint_arguments(arguments)
    path = _unescaped(named.get("address", "" if "=" in parts[0] else parts[0]))
    if not path:
        raise ValueError(f"has no path; want for example {WANTED_UNIX}")
    if (size := len(path.encode("utf-8", "replace"))) > LONGEST_UNIX_PATH_BYTES:
        raise ValueError(
            f"has a path of {size} bytes; want at most {LONGEST_UNIX_PATH_BYTES}, "
            "or no socket can be there"
        )
    if not set(named) <= {"address", "mode", "backlog"} or len(parts) - len(named) > 1:
        raise ValueError(f"has other arguments than mode and backlog; want {WANTED_UNIX}")
    mode, backlog = named.get("mode", "666"), named.get("backlog", "")
    if not re.fullmatch("[0-7]{3,4}", mode):
        raise ValueError(f"has a mode that is none; want octal digits: {WANTED_UNIX}")
    if backlog and not (_PORT.fullmatch(backlog) and int(backlog)):
        raise ValueError("has a backlog that is none; want for example backlog=4096")
    return UnixListen(path, int(mode, 8), int(backlog) if backlog else None)


def _unescaped(argument: str) -> str:
    return re.sub(r"\\(.)", r"\1", argument, flags=re.DOTALL)


def _endpoint_arguments(arguments: str) -> tuple[list[str], dict[str, str]]:
    """Take the arguments of a Twisted endpoint apart: all of them, and those that have names."""
    # A colon or an equals sign inside an argument is escaped with a backslash.
    parts = re.split(r"(?<!\\):", arguments)
    named = {
        name: value for name, equals, value in (part.partition("=") for part in parts) if equals
    }
    return parts, named


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
    parts = _split_http(url, WANTED_URL)
    if "@" in parts.netloc:
        raise ValueError("has a user or a password in it; want the key in api_key instead")
    if "?" in url or "#" in url:
        raise ValueError("has a query or a fragment; want it without")
    _check_host(parts, WANTED_URL)
    path = parts.path.rstrip("/")
    for ending in _API_PATHS:
        if path.endswith(ending):
            raise ValueError(
                f"ends in {ending}, but LLMProxy appends the request's own path: "
                + ("drop the /v1" if ending == "/v1" else "want it without the API's path")
            )


def check_service_url(url: str) -> None:
    """Check the URL of a service that is asked, or told, something; any path and query will do.

    Raises:
        ValueError: It is none; the message says what is wrong and what is wanted, and shows nothing
            of the URL.
    """
    parts = _split_http(url, WANTED_SERVICE_URL)
    if "@" in parts.netloc:
        raise ValueError("has a user or a password in it; want it in headers instead")
    if "#" in url:
        raise ValueError("has a fragment; want it without")
    _check_host(parts, WANTED_SERVICE_URL)


def check_gateway_url(url: str) -> None:
    """Check where clients find the gateway: the part of their base URL before ``/v1``.

    Raises:
        ValueError: It is none; the message says what is wrong and what is wanted.
    """
    parts = _split_http(url, WANTED_GATEWAY_URL)
    if "@" in parts.netloc or "?" in url or "#" in url or "{" in url:
        raise ValueError(f"has more than a host and a path; want {WANTED_GATEWAY_URL}")
    _check_host(parts, WANTED_GATEWAY_URL)
    if parts.path.rstrip("/").endswith("/v1"):
        raise ValueError("ends in /v1, which is appended; want it without")


def parse_host_port(address: str) -> tuple[str, int]:
    """Read where a server listens: ``host:port`` or ``[ipv6]:port``.

    Returns:
        The host, without brackets, and the port.

    Raises:
        ValueError: It is neither; the message says what is wrong and what is wanted.
    """
    host, colon, digits = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not _is_host(bare, host):
        raise ValueError(f"is not an address; want {WANTED_HOST_PORT}")
    if not _PORT.fullmatch(digits) or not 1 <= int(digits) <= HIGHEST_PORT:
        raise ValueError(f"has no valid port; want one of 1 to {HIGHEST_PORT}")
    return bare, int(digits)


def check_mysql_dsn(dsn: str) -> None:
    """Check the URL of a MySQL database; user, password and port may be left out.

    Raises:
        ValueError: It is none; the message says what is wrong and what is wanted, and shows nothing
            of the URL.
    """
    parts = _split(dsn, WANTED_MYSQL_DSN)
    if parts.scheme not in ("mysql", "mariadb") or "://" not in dsn:
        raise ValueError(f"is not a URL of mysql; want {WANTED_MYSQL_DSN}")
    if "#" in dsn:
        raise ValueError('has a "#"; want it without, in a password as %23')
    options = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    if not options <= set(MYSQL_OPTIONS):
        raise ValueError(
            f"has other options than {', '.join(MYSQL_OPTIONS)}; "
            'want it without, and a "?" in a password as %3F'
        )
    if parts.hostname or "unix_socket" not in options:
        _check_host(parts, WANTED_MYSQL_DSN)
    if not re.fullmatch(r"/[^/]+", parts.path):
        raise ValueError(f"names no database; want {WANTED_MYSQL_DSN}")


def check_postgres_dsn(dsn: str) -> None:
    """Check what libpq connects by: a URL, or ``name=value`` pairs.

    Raises:
        ValueError: It is neither; the message shows nothing of it.
    """
    is_url = dsn.startswith(("postgres://", "postgresql://"))
    if not is_url and not re.match(r"\s*\w+\s*=", dsn, re.ASCII):
        raise ValueError(
            'is not a connection string; want "postgresql://user:password@host:port/database" '
            'or "host=... dbname=..."'
        )


def _split(url: str, wanted: str) -> SplitResult:
    """Take a URL apart, if it has only characters that a URL may have, and a port that is one."""
    if not _URL_CHARACTERS.fullmatch(url):
        raise ValueError(
            "has characters that no URL may have; a host name beyond ASCII is written as xn--..."
            if url
            else f"is empty; want {wanted}"
        )
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(f"is not a URL; want {wanted}") from None
    return parts


def _split_http(url: str, wanted: str) -> SplitResult:
    parts = _split(url, wanted)
    if parts.scheme not in ("http", "https") or "://" not in url:
        raise ValueError(f"is not a URL of http or https; want {wanted}")
    if "_" in (parts.hostname or ""):
        raise ValueError("has a host with an underscore, which no host name has; want another name")
    return parts


def _check_host(parts: SplitResult, wanted: str) -> None:
    """Check the host and the port of a URL."""
    netloc = parts.netloc.rpartition("@")[2]
    if not _is_host(parts.hostname or "", netloc):
        raise ValueError(f"has no valid host; want {wanted}")
    if parts.port == 0 or netloc.endswith(":"):
        raise ValueError("has no valid port; want one of 1 to 65535, or none")


def _is_host(host: str, netloc: str) -> bool:
    if netloc.startswith("["):
        return _is_address(host, v6=True)
    if re.fullmatch(r"[0-9.]+", host):
        return _is_address(host, v6=False)
    return bool(_HOST.fullmatch(host))
