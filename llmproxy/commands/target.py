"""Where the admin API is, and the token that opens it: from a configuration file, or from outside.

Of the file only ``admin`` is looked at, so that the commands work where other parts of it cannot be
read: in a shell without the daemon's environment, by somebody who may not read every secret. The
token is never an argument, which everybody on the machine could see in the list of processes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import attrs
import click

from llmproxy.commands.failures import Unreachable
from llmproxy.commands.text_files import read_text
from llmproxy.config.addresses import parse_listen, parse_unix
from llmproxy.config.files import read_secrets
from llmproxy.config.findings import Findings
from llmproxy.config.model_stores import Admin
from llmproxy.config.structure import structure
from llmproxy.config.yaml_lines import BROKEN, read_tree

TOKEN_VARIABLE: Final = "LLMPROXY_ADMIN_TOKEN"
CONFIG_VARIABLE: Final = "LLMPROXY_CONFIG"
DEFAULT_CONFIGS: Final = ("/etc/llmproxy/llmproxy.yaml", "etc/llmproxy.yaml")
"""In this order: what lies in the working directory, which may be anybody's, must not come before
what is installed and decide where a token is sent."""

_TOKEN = re.compile(r"[!-~]+", re.ASCII)
_TCP = re.compile(r"tcp[46]?:(?:port=)?([0-9]{1,5})(?::interface=(.*))?", re.ASCII)
_USED_KEYS = ("enabled", "token", "token_file", "listen")


@attrs.frozen(kw_only=True)
class Target:
    """An admin API.

    Attributes:
        host: Its name or address; empty with a socket.
        port: Its port.
        socket_path: The UNIX socket that it listens on; empty: none.
        tls: Whether it is spoken to over TLS.
        path: What stands before ``/admin``; no slash at its end.
        token: What opens it.
    """

    host: str = ""
    port: int = 0
    socket_path: str = ""
    tls: bool = False
    path: str = ""
    token: str = attrs.field(repr=False)

    def __str__(self) -> str:
        if self.socket_path:
            return f"unix:{self.socket_path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.tls else ''}://{host}:{self.port}{self.path}"


def find_target(
    *, config_file: str, url: str, token_file: str, environ: Mapping[str, str]
) -> Target:
    """Find the admin API that a command is for.

    Args:
        config_file: The configuration that was named; empty: none.
        url: The address that was named; empty: the configuration's.
        token_file: The file with the token; empty: the environment's, or the configuration's. With
            a named URL it is the configuration's only if that was named, too: a token is not sent
            to where nobody meant it to go.
        environ: The environment.

    Raises:
        click.UsageError: Something named cannot be used.
        Unreachable: The configuration has no admin API.
    """
    token = _read_token(token_file) if token_file else environ.get(TOKEN_VARIABLE, "")
    if url and not (config_file and not token):
        if not token:
            raise click.UsageError(
                f"--url needs a token: in --token-file FILE or in ${TOKEN_VARIABLE}"
            )
        return _at_url(url, _checked_token(token))
    file = configured_file(config_file, environ, instead=", or --url URL with --token-file FILE")
    admin = read_admin(file, environ, token_given=bool(token))
    token = _checked_token(token or admin.token)
    return _at_url(url, token) if url else _at_listener(admin.listen, token, file)


def configured_file(named: str, environ: Mapping[str, str], *, instead: str = "") -> str:
    """Say which configuration file a command reads.

    Args:
        named: The one that was named; empty: the environment's, or one at a usual place.
        environ: The environment.
        instead: What else would do, for the message.

    Raises:
        click.UsageError: There is none.
    """
    if named or environ.get(CONFIG_VARIABLE):
        return named or environ[CONFIG_VARIABLE]
    for file in DEFAULT_CONFIGS:
        if Path(file).exists():
            return file
    raise click.UsageError(
        f"there is no configuration at {' or '.join(DEFAULT_CONFIGS)}; want --config FILE or "
        f"${CONFIG_VARIABLE}{instead}"
    )


def read_admin(file: str, environ: Mapping[str, str], *, token_given: bool) -> Admin:
    """Read the ``admin`` section of a configuration file.

    Args:
        file: The file.
        environ: What ``${NAME}`` refers to.
        token_given: Whether the token comes from elsewhere, so that the file's is not looked at.

    Raises:
        click.UsageError: It cannot be read, or what is said of ``admin`` is wrong.
        Unreachable: ``admin`` is not enabled.
    """
    text = read_text(file, stdin=False)
    findings = Findings(file)
    tree = read_tree(text, environ, findings)
    if tree is BROKEN or not isinstance(tree, dict):
        raise click.UsageError(f"{file} is no configuration; see: llmproxy check-config {file}")
    section = tree.get("admin")
    if isinstance(section, dict):
        used = [key for key in _USED_KEYS if not (token_given and key.startswith("token"))]
        section = {key: section[key] for key in used if key in section}
    config = structure({"backends": [], "admin": section}, findings)
    admin = read_secrets(config, _read_file, findings).admin
    if findings:
        ours = [one for one in findings.error().problems if _is_ours(one.path, token_given)]
        if ours:
            raise click.UsageError("\n".join(map(str, ours)))
    if not admin.enabled:
        raise Unreachable(
            f"the admin API is not enabled in {file}: set admin.enabled to true and admin.token "
            "to a secret of your own, and restart the daemon"
        )
    return admin


def _is_ours(path: str, token_given: bool) -> bool:
    names = [f"admin.{key}" for key in _USED_KEYS if not (token_given and key.startswith("token"))]
    return path in ("", "admin", *names)


def _read_file(path: str) -> str:
    return Path(path).read_text("utf-8")


def _read_token(token_file: str) -> str:
    token = read_text(token_file, called="--token-file", stdin=False).rstrip("\r\n")
    if not token:
        raise click.UsageError(f"--token-file {token_file} is empty")
    return token


def _checked_token(token: str) -> str:
    """Let a token pass that can be sent; nothing of another is shown."""
    if not token:
        raise click.UsageError(
            f"there is no token: neither admin.token in the configuration, --token-file nor "
            f"${TOKEN_VARIABLE} has one"
        )
    if not _TOKEN.fullmatch(token):
        raise click.UsageError("the token has characters that none has: spaces, or beyond ASCII")
    return token


def _at_url(url: str, token: str) -> Target:
    wanted = "want --url http://host:port, https://host:port or unix:/path"
    if url.startswith("unix:/"):
        return Target(socket_path=url.removeprefix("unix:"), token=token)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise click.UsageError(wanted) from None
    # What may be a password is not shown, so nothing of the URL is.
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise click.UsageError(wanted)
    if parts.query or parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        raise click.UsageError(wanted)
    tls = parts.scheme == "https"
    path = parts.path.rstrip("/").removesuffix("/admin")
    return Target(
        host=parts.hostname, port=port or (443 if tls else 80), tls=tls, path=path, token=token
    )


def _at_listener(listen: str, token: str, file: str) -> Target:
    """Turn where the daemon listens into where it can be reached from this machine."""
    try:
        address = parse_listen(listen)
    except ValueError as error:
        raise click.UsageError(f"{file}: admin.listen {error}") from None
    if address is None:
        if unix := parse_unix(listen):
            return Target(socket_path=unix.path, token=token)
        found = _TCP.fullmatch(listen)
        if found is None:
            raise click.UsageError(
                f"{file}: admin.listen does not tell an address that can be called; want --url "
                "with it"
            )
        address = ((found[2] or "").replace("\\", ""), int(found[1]))
    host, port = address
    if host in ("", "localhost"):
        host = "127.0.0.1"
    elif ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    if not port:
        raise click.UsageError(f"{file}: admin.listen leaves the port open; want --url with it")
    return Target(host=host, port=port, token=token)
