"""What no single value of ``opencode`` shows: that clients can be sent where it says, safely."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from llmproxy.config.addresses import check_gateway_url
from llmproxy.config.findings import Findings, KeyPath, quoted
from llmproxy.config.model import Config
from llmproxy.config.names import check_reference


def check_opencode(config: Config, findings: Findings) -> None:
    """Check the gateway's own URL, and the models.

    Args:
        config: The configuration.
        findings: Takes the problems.
    """
    settings = config.opencode
    at: KeyPath = ("opencode", "url")
    if settings.url:
        try:
            check_gateway_url(settings.url)
        except ValueError as error:
            findings.check(at, f"{quoted(settings.url)} {error}")
        else:
            _check_safety(config, findings)
    elif settings.enabled:
        findings.check(
            ("opencode", "enabled"),
            "is true, but there is no opencode.url, which clients are sent to; "
            'want one such as "https://gateway.example.org"',
            needs=(at,),
        )
    known = [model.id for model in config.models]
    for name in ("default_model", "small_model"):
        model = getattr(settings, name)
        if model and known:
            path: KeyPath = ("opencode", name)
            check_reference(findings, path, model, known, ("models",), "the id of a model")


def _check_safety(config: Config, findings: Findings) -> None:
    """What clients are sent is a command to run, and what comes back is their key."""
    settings = config.opencode
    parts = urlsplit(settings.url)
    if not settings.enabled or parts.scheme == "https":
        return
    at: KeyPath = ("opencode", "url")
    enabled: KeyPath = ("opencode", "enabled")
    if config.server.tls.enabled:
        findings.check(
            at,
            f"{quoted(settings.url)} is not https, but server.tls.enabled is true; want https",
            needs=(enabled, ("server", "tls", "enabled")),
        )
    elif not _is_loopback(parts.hostname or ""):
        findings.check(
            at,
            f"{quoted(settings.url)} is neither https nor on this machine: anybody on the way "
            "could have clients run commands; want https, here (server.tls) or in front",
            needs=(enabled,),
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
