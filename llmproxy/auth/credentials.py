"""Where a request carries its key: the configured header fields, in order, or its certificate.

Pure: it is given a way to look a field up, and gives back a string. It knows nothing of keys, of
requests or of what the credential opens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from llmproxy.config.keys import SUBJECT_PREFIX

MAX_CREDENTIAL_BYTES: Final = 4096
"""Longer credentials are not looked at: no key is that long."""

UNREADABLE: Final = "\x00"
"""Stands for a credential that was given but can match no key: no header field can carry it."""

_SUBJECT_PREFIX: Final = SUBJECT_PREFIX.encode("ascii")

_ALWAYS_STRIPPED: Final = frozenset((b"authorization", b"x-api-key", b"x-admin-token"))


class CredentialReader:
    """Reads the client's key out of the header fields that the configuration names.

    Attributes:
        header_names_lower: The fields that may hold a client's key and so never go upstream;
            ``authorization``, ``x-api-key`` and ``x-admin-token`` are always among them.

    Args:
        header_names: Field names in the order in which they are tried, in any case.
    """

    def __init__(self, header_names: Sequence[str]) -> None:
        self._names = tuple(name.lower().encode("ascii") for name in header_names)
        self.header_names_lower: frozenset[bytes] = _ALWAYS_STRIPPED.union(self._names)

    def __repr__(self) -> str:
        return f"<CredentialReader {b', '.join(self._names).decode('ascii')}>"

    def read(self, header: Callable[[bytes], bytes], subject: str = "") -> str:
        """Give the first credential that is not empty.

        ``Authorization`` gives what follows ``Bearer`` (RFC 6750, section 2.1; the scheme in any
        case, RFC 9110, section 11.1), and nothing when it holds another scheme. Any other field
        gives its whole value. Where no field has any, the subject of a certificate is one, behind
        `SUBJECT_PREFIX`; no field can carry such a credential.

        Args:
            header: Gives the value of the field of that lower-case name, or ``b""``.
            subject: Of the client's verified certificate; empty: there is none.

        Returns:
            The credential; empty when there is none; `UNREADABLE` when there is one that is not
            ASCII, is longer than any key, or claims to be a subject. Never raises for what a client
            sent.
        """
        for name in self._names:
            value = header(name)
            if not value:
                continue
            credential = _bearer(value) if name == b"authorization" else value.strip()
            if credential:
                if len(credential) > MAX_CREDENTIAL_BYTES or not credential.isascii():
                    return UNREADABLE
                if credential.startswith(_SUBJECT_PREFIX):
                    return UNREADABLE
                return credential.decode("ascii")
        return SUBJECT_PREFIX + subject if subject else ""


def _bearer(value: bytes) -> bytes:
    """Give the token of an ``Authorization`` value with the scheme ``Bearer``, else nothing."""
    scheme, _, token = value.strip().partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""
