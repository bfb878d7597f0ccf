"""Who a client is by its certificate: the subject, as it is written for a key.

The form is that of RFC 4514 in ASCII, as ``openssl x509 -noout -subject -nameopt RFC2253`` prints
it. It knows nothing of keys or of whom to trust: a certificate that comes here has been verified.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID
from OpenSSL import crypto

# RFC 4514 has short names for the most usual types only; these are OpenSSL's.
_NAMES: Final = {
    NameOID.EMAIL_ADDRESS: "emailAddress",
    NameOID.GIVEN_NAME: "GN",
    NameOID.SERIAL_NUMBER: "serialNumber",
    NameOID.STREET_ADDRESS: "street",
    NameOID.SURNAME: "SN",
    NameOID.TITLE: "title",
}


def subject_of(certificate: crypto.X509) -> str:
    r"""Give the subject of a certificate; empty: it has none.

    What is no visible ASCII is written as ``\XX`` for each byte of it in UTF-8, so that two
    subjects are never written alike and none can hold a line's end.
    """
    name = certificate.to_cryptography().subject
    return "".join(
        character if " " <= character <= "~" else _escaped(character)
        for character in _written(name)
    )


def _written(name: x509.Name) -> str:
    return name.rfc4514_string(_NAMES)


def _escaped(character: str) -> str:
    return "".join(f"\\{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
