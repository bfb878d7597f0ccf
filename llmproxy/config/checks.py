"""What no single value shows: that the parts of a configuration fit together.

Each check records what it finds and goes on. It sees the finished model, with stand-ins where a
problem is on record already; it opens no file, and knows nothing of YAML.
"""

from __future__ import annotations

import re

from llmproxy.config.addresses import check_url, parse_listen, shown_url
from llmproxy.config.findings import Findings, KeyPath, quoted
from llmproxy.config.header_fields import check_header_fields, is_field_name
from llmproxy.config.model import Backend, BackendTls, Config, Cors, Server
from llmproxy.config.names import check_names, check_reference

_VISIBLE_ASCII = re.compile(r"[!-~]+", re.ASCII)
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[!-~]+", re.ASCII)
_NOT_IN_ORIGINS = re.compile(r"://.*[/?#@*,A-Z]")
_HIGHEST_STATUS = 599


def check(config: Config, findings: Findings) -> None:
    """Check listeners, backends, models and health checks, as far as no file is needed.

    Args:
        config: The configuration.
        findings: Takes the problems.
    """
    _check_server(config.server, findings)
    _check_backends(config, findings)
    _check_models(config, findings)
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
    _check_cors(server.cors, findings)


def _check_cors(cors: Cors, findings: Findings) -> None:
    at: KeyPath = ("server", "cors")
    for index, origin in enumerate(cors.allowed_origins):
        if not _ORIGIN.fullmatch(origin) or _NOT_IN_ORIGINS.search(origin):
            findings.check(
                (*at, "allowed_origins", index),
                f"{quoted(origin)} is not an origin as browsers send it; "
                'want one like "https://host" or "https://host:port" in small letters, or "*"',
            )
    for key, names in (
        ("allowed_methods", cors.allowed_methods),
        ("allowed_headers", cors.allowed_headers),
        ("expose_headers", cors.expose_headers),
    ):
        what = "method's" if key == "allowed_methods" else "header's"
        for index, name in enumerate(names):
            if not is_field_name(name):
                findings.check(
                    (*at, key, index),
                    f"{quoted(name)} is not a {what} name; want letters, digits and dashes",
                )
    if cors.allow_credentials and "*" in cors.allowed_origins:
        findings.check(
            (*at, "allow_credentials"),
            'is true, but allowed_origins has "*"; want the origins by name with it',
            needs=((*at, "allowed_origins"),),
        )


def _check_backends(config: Config, findings: Findings) -> None:
    if not config.backends:
        findings.check(("backends",), "is empty; want at least one backend")
    at: KeyPath = ("backends",)
    check_names(findings, [((*at, i, "name"), one.name) for i, one in enumerate(config.backends)])
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
    at: KeyPath = (*path, source)
    if backend.api_key and not _VISIBLE_ASCII.fullmatch(backend.api_key):
        findings.check(
            at, "has a key (hidden) that no header can carry; want visible ASCII without spaces"
        )
    given = backend.api_key or backend.api_key_file
    check_header_fields(
        backend.headers, (*path, "headers"), findings, credential=at if given else ()
    )


def _check_models(config: Config, findings: Findings) -> None:
    names: list[tuple[KeyPath, str]] = []
    for index, model in enumerate(config.models):
        names.append((("models", index, "id"), model.id))
        names.extend(
            (("models", index, "aliases", position), alias)
            for position, alias in enumerate(model.aliases)
        )
    check_names(findings, names)
    known = [backend.name for backend in config.backends]
    for index, model in enumerate(config.models):
        for position, name in enumerate(model.backends):
            path: KeyPath = ("models", index, "backends", position)
            check_reference(findings, path, name, known, ("backends",), "the name of a backend")
    ids = [model.id for model in config.models]
    wanted: list[tuple[KeyPath, str]] = [
        (("models", index, "fallback", position), name)
        for index, model in enumerate(config.models)
        for position, name in enumerate(model.fallback)
    ]
    if ids and not findings.suspect(("models",)):
        wanted += [
            (("routing", "fallback", position), name)
            for position, name in enumerate(config.routing.fallback)
        ]
    for path, name in wanted:
        check_reference(findings, path, name, ids, ("models",), "the id of a model")


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
