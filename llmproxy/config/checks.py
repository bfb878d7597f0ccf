"""What no single value shows: that the parts of a configuration fit together.

Each check records what it finds and goes on. It sees the finished model, with stand-ins where a
problem is on record already; it opens no file, and knows nothing of YAML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from llmproxy.config.addresses import check_url, parse_listen, shown_url
from llmproxy.config.findings import Findings, KeyPath, path_text, quoted
from llmproxy.config.model import Backend, BackendTls, Config, Server
from llmproxy.config.scalars import closest

LOCAL_PATHS: Final = ("/health", "/ready", "/metrics")
"""The paths that may be served without a key."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_VISIBLE_ASCII = re.compile(r"[!-~]+", re.ASCII)
_HIGHEST_STATUS = 599
_NOT_OURS_TO_SET = frozenset(
    (
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)


def check(config: Config, findings: Findings) -> None:
    """Check everything that needs neither keys nor files.

    Args:
        config: The configuration.
        findings: Takes the problems.
    """
    _check_server(config.server, findings)
    _check_backends(config, findings)
    _check_models(config, findings)
    _check_auth(config, findings)
    _check_health(config, findings)


def _check_server(server: Server, findings: Findings) -> None:
    at: KeyPath = ("server", "listen")
    single = (*at, 0) not in findings.lines
    if not server.listen:
        findings.check(at, "is an empty list; want at least one address")
    seen: set[str] = set()
    for index, listen in enumerate(server.listen):
        path = at if single else (*at, index)
        try:
            address = parse_listen(listen)
        except ValueError as error:
            findings.check(path, f"{quoted(listen)} {error}")
            continue
        if listen in seen and (address is None or address[1]):
            findings.check(path, f"{quoted(listen)} is given twice")
        seen.add(listen)
    if server.max_inflight_bytes < server.max_body_size:
        findings.check(
            ("server", "max_inflight_bytes"),
            f"{server.max_inflight_bytes} bytes cannot hold one body of max_body_size; "
            f"want at least {server.max_body_size}",
            needs=(("server", "max_body_size"),),
        )
    if server.cors.allow_credentials and "*" in server.cors.allowed_origins:
        findings.check(
            ("server", "cors", "allow_credentials"),
            'is true, but allowed_origins has "*"; want the origins by name with it',
            needs=(("server", "cors", "allowed_origins"),),
        )


def _check_backends(config: Config, findings: Findings) -> None:
    if not config.backends:
        findings.check(("backends",), "is empty; want at least one backend")
    at: KeyPath = ("backends",)
    _check_names(findings, [((*at, i, "name"), one.name) for i, one in enumerate(config.backends)])
    for index, backend in enumerate(config.backends):
        path = (*at, index)
        try:
            check_url(backend.url)
        except ValueError as error:
            findings.check((*path, "url"), f"{quoted(shown_url(backend.url))} {error}")
        if not backend.url.startswith("https:") and backend.tls != BackendTls():
            findings.check(
                (*path, "tls"),
                "has settings, but the url is not https; want https, or no settings",
                needs=((*path, "url"),),
            )
        if any(not model for model in backend.models):
            findings.check((*path, "models"), "has an empty name; want names or globs of models")
        _check_fields(backend, path, findings)


def _check_fields(backend: Backend, path: KeyPath, findings: Findings) -> None:
    """Check what is sent in the header of every request to a backend; values are never shown."""
    source = "api_key_file" if backend.api_key_file else "api_key"
    if backend.api_key and not _VISIBLE_ASCII.fullmatch(backend.api_key):
        findings.check(
            (*path, source),
            "has a key (hidden) that no header can carry; want visible ASCII without spaces",
        )
    first: dict[str, str] = {}
    for name, value in backend.headers.items():
        at = (*path, "headers", name)
        lower = name.lower()
        if not _TOKEN.fullmatch(name):
            findings.check(at, "is not a header's name; want letters, digits and dashes")
        elif lower in _NOT_OURS_TO_SET:
            findings.check(at, "belongs to the connection, not to the request; want it removed")
        elif lower == "authorization" and (backend.api_key or backend.api_key_file):
            findings.check(
                at, f"is given, and so is {source}; want one of them", needs=((*path, source),)
            )
        elif lower in first:
            findings.check(at, f"is the same header as {quoted(first[lower])}; want one of them")
        elif _CONTROL.search(value):
            findings.check(at, "has a value (hidden) with control characters; want it without")
        first.setdefault(lower, name)


def _check_models(config: Config, findings: Findings) -> None:
    names: list[tuple[KeyPath, str]] = []
    for index, model in enumerate(config.models):
        names.append((("models", index, "id"), model.id))
        names.extend(
            (("models", index, "aliases", position), alias)
            for position, alias in enumerate(model.aliases)
        )
    _check_names(findings, names)
    known = [backend.name for backend in config.backends]
    if "" in known:
        return
    for index, model in enumerate(config.models):
        for position, name in enumerate(model.backends):
            if name not in known:
                near = closest(name, known)
                wanted = f'did you mean "{near}"?' if near else f"want one of: {', '.join(known)}"
                findings.check(
                    ("models", index, "backends", position),
                    f"{quoted(name)} is not the name of a backend; {wanted}",
                    needs=(("backends",),) if not known else (),
                )


def _check_auth(config: Config, findings: Findings) -> None:
    auth = config.auth
    _check_names(
        findings,
        [(("auth", "pipeline", i, "name"), one.name) for i, one in enumerate(auth.pipeline)],
    )
    at: KeyPath = ("auth", "header_names")
    if auth.enabled and not auth.header_names:
        findings.check(at, "is empty; want at least one, such as Authorization")
    for index, name in enumerate(auth.header_names):
        if not _TOKEN.fullmatch(name):
            findings.check(
                (*at, index),
                f"{quoted(name)} is not a header's name; want letters, digits and dashes",
            )
    for index, path in enumerate(auth.skip_paths):
        if path not in LOCAL_PATHS:
            findings.check(
                ("auth", "skip_paths", index),
                f"{quoted(path)} cannot be served without a key; "
                f"want only some of: {', '.join(LOCAL_PATHS)}",
            )


def _check_health(config: Config, findings: Findings) -> None:
    health = config.health_check
    if not health.path.startswith("/") or not _VISIBLE_ASCII.fullmatch(health.path):
        findings.check(
            ("health_check", "path"),
            f'{quoted(health.path)} is not a path; want one like "/health"',
        )
    if health.expected_status > _HIGHEST_STATUS:
        findings.check(
            ("health_check", "expected_status"),
            f"{health.expected_status} is not an HTTP status; want one of 100 to {_HIGHEST_STATUS}",
        )


def _check_names(findings: Findings, names: Iterable[tuple[KeyPath, str]]) -> None:
    """Check that names are there, can be printed, and are unique."""
    first: dict[str, KeyPath] = {}
    for path, name in names:
        if not name.strip():
            findings.check(path, f"{quoted(name)} is empty; want a name")
        elif _CONTROL.search(name):
            findings.check(path, f"{quoted(name)} has control characters; want it without")
        elif name in first:
            findings.check(
                path, f"{quoted(name)} is taken by {path_text(first[name])}; want a unique one"
            )
        else:
            first[name] = path
