"""What no single value of ``server.tls`` shows: that names, certificates and clients fit together.

The files themselves are looked at in `llmproxy.config.files`. It opens none, and knows nothing of
handshakes.
"""

from __future__ import annotations

import re
from typing import Final

from llmproxy.config.findings import Findings, KeyPath, path_text, quoted
from llmproxy.config.keys import SUBJECT_PREFIX, static_keys
from llmproxy.config.model import Config, ServerTls

WANTED_NAME: Final = '"llm.example.org" or "*.example.org"'

_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"(?:\*\.)?(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*", re.ASCII | re.IGNORECASE)


def check_tls(config: Config, findings: Findings) -> None:
    """Check the names of certificates, and what is wanted of clients.

    Args:
        config: The configuration.
        findings: Takes the problems.
    """
    tls = config.server.tls
    _check_names(tls, findings)
    _check_clients(config, findings)


def _check_names(tls: ServerTls, findings: Findings) -> None:
    at: KeyPath = ("server", "tls", "certificates")
    first: dict[str, KeyPath] = {}
    for index, certificate in enumerate(tls.certificates):
        path = (*at, index, "server_names")
        if not certificate.server_names and not findings.suspect(path):
            findings.check(
                (*at, index),
                "has no server_names, so nobody would be shown it; want at least one",
                needs=(path,),
            )
        for position, name in enumerate(certificate.server_names):
            here = (*path, position)
            if not _NAME.fullmatch(name) or re.search(r"(?:^|\.)[0-9.]+$", name):
                findings.check(
                    here,
                    f"{quoted(name)} is not a host name that clients can ask for; "
                    f"want one like {WANTED_NAME}",
                )
            elif name.lower() in first:
                findings.check(
                    here,
                    f"{quoted(name)} is that of {path_text(first[name.lower()])} already; "
                    "want each name once",
                )
            else:
                first[name.lower()] = here


def _check_clients(config: Config, findings: Findings) -> None:
    tls = config.server.tls
    at: KeyPath = ("server", "tls")
    client_auth, client_ca_file = (*at, "client_auth"), (*at, "client_ca_file")
    if tls.client_auth != "none" and not tls.client_ca_file:
        findings.check(
            client_auth,
            f"is {tls.client_auth}; want client_ca_file with it",
            needs=(client_ca_file,),
        )
    elif tls.client_auth == "none" and tls.client_ca_file:
        findings.check(
            client_ca_file,
            "is given, but client_auth is none; want request or require there, or no file",
            needs=(client_auth,),
        )
    if tls.client_auth != "none" and not tls.enabled:
        findings.check(
            client_auth,
            f"is {tls.client_auth}, but there is no TLS; want server.tls.enabled: true",
            needs=((*at, "enabled"),),
        )
    if tls.enabled and tls.client_auth != "none":
        return
    for path, key in static_keys(config):
        if key.key.startswith(SUBJECT_PREFIX):
            findings.check(
                (*path, "key_file" if key.key_file else "key"),
                "is the subject of a client's certificate, but nobody is asked for one; "
                "want server.tls.client_auth: request or require",
                needs=(client_auth,),
            )
