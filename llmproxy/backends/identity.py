"""From a backend's configuration to its identity, prepared for the data path.

What is the same for every request (the origin, the ``Host`` field, the credentials) is parsed and
encoded here, once. It knows nothing of state, and sends nothing.
"""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

import idna
from twisted.web.http_headers import Headers

from llmproxy.config.model import Backend as BackendConfig
from llmproxy.values import Backend

_DEFAULT_PORTS = {"http": 80, "https": 443}
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


def make_backend(config: BackendConfig, url: bytes | None = None) -> Backend:
    """Prepare one backend.

    The backend's own key goes as ``Authorization: Bearer``, unless ``headers`` has an
    ``Authorization`` of its own; a ``Host`` there replaces the one that the URL gives.

    Args:
        config: Its configuration.
        url: Where it really is, in place of ``config.url``; for ``demo:``, whose port is known only
            once it listens.

    Raises:
        ValueError: The URL is not ``http(s)://host[:port][/prefix]``, or a field cannot be sent.
            No secret is in the message.
    """
    origin, host = _parse(config.name, config.url if url is None else url.decode("ascii"))
    headers: list[tuple[bytes, bytes]] = []
    authorized = False
    for name, value in config.headers.items():
        field = _field(config.name, name, value)
        lower = name.lower()
        if lower == "host":
            host = field[1]
            continue
        authorized = authorized or lower == "authorization"
        headers.append(field)
    if config.api_key and not authorized:
        headers.insert(0, _field(config.name, "Authorization", f"Bearer {config.api_key.strip()}"))
    return Backend(
        name=config.name,
        url=origin,
        host=host,
        weight=config.weight,
        models=tuple(config.models),
        headers=tuple(headers),
        connect_timeout_s=config.connect_timeout,
        first_byte_timeout_s=config.first_byte_timeout,
        stall_timeout_s=config.stall_timeout,
        timeout_s=config.timeout,
        inject_usage=config.inject_usage,
        max_concurrent=config.max_concurrent,
    )


def own_headers(backend: Backend) -> Headers:
    """Give the headers of a request of our own to a backend, as for a check."""
    headers = Headers()
    headers.addRawHeader(b"Host", backend.host)
    for name, value in backend.headers:
        headers.addRawHeader(name, value)
    return headers


def _parse(name: str, url: str) -> tuple[bytes, bytes]:
    """Split a URL into what request targets are appended to, and the ``Host`` field's value."""
    wrong = ValueError(f"backend {name!r}: its url is not http(s)://host[:port][/prefix]")
    try:
        parts = urlsplit(url.strip())
        port = parts.port
        hostname = parts.hostname or ""
        if not hostname.isascii():
            hostname = idna.encode(hostname, uts46=True).decode("ascii")
    except (ValueError, idna.IDNAError):
        # "from None": the cause's message may show a password of the URL.
        raise wrong from None
    default_port = _DEFAULT_PORTS.get(parts.scheme)
    if default_port is None or not hostname or "@" in parts.netloc or parts.query or parts.fragment:
        raise wrong
    authority = f"[{hostname}]" if ":" in hostname else hostname
    if port is not None and port != default_port:
        authority = f"{authority}:{port}"
    prefix = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~-._")
    return f"{parts.scheme}://{authority}{prefix}".encode("ascii"), authority.encode("ascii")


def _field(backend: str, name: str, value: str) -> tuple[bytes, bytes]:
    """Encode one header field; see RFC 9110, section 5, for what it may hold."""
    encoded = (name.encode("utf-8"), value.strip().encode("utf-8"))
    if not _TOKEN.fullmatch(encoded[0]):
        raise ValueError(f"backend {backend!r}: {name!r} is not a header field's name")
    if not _FIELD_VALUE.fullmatch(encoded[1]):
        raise ValueError(f"backend {backend!r}: the value of {name!r} has control characters")
    return encoded
