"""What a configuration may have sent in the header of every request to a server of ours.

No message shows a value. It knows nothing of which server that is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from llmproxy.config.findings import Findings, KeyPath, quoted

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
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


def is_field_name(name: str) -> bool:
    """Say whether a header field can have that name (RFC 9110, section 5.1)."""
    return _TOKEN.fullmatch(name) is not None


def check_header_fields(
    headers: Mapping[str, str], path: KeyPath, findings: Findings, credential: KeyPath = ()
) -> None:
    """Check header fields that are to be sent.

    Args:
        headers: Names and values.
        path: Where they stand.
        findings: Takes the problems.
        credential: Where a key stands that is sent as Authorization; empty: there is none.
    """
    first: dict[str, str] = {}
    for name, value in headers.items():
        at = (*path, name)
        lower = name.lower()
        if not is_field_name(name):
            findings.check(at, "is not a header's name; want letters, digits and dashes")
        elif lower in _NOT_OURS_TO_SET:
            findings.check(at, "belongs to the connection, not to the request; want it removed")
        elif lower == "authorization" and credential:
            findings.check(
                at,
                f"is given, and so is {credential[-1]}; want one of them",
                needs=(credential,),
            )
        elif lower in first:
            findings.check(at, f"is the same header as {quoted(first[lower])}; want one of them")
        elif _CONTROL.search(value):
            findings.check(at, "has a value (hidden) with control characters; want it without")
        first.setdefault(lower, name)
