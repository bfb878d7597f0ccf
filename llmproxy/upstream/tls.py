"""TLS towards backends: which certificates are trusted, which is shown, which name is asked for."""

from __future__ import annotations

import re
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet.error import VerifyError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    PrivateCertificate,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from zope.interface import implementer

from llmproxy.config.model import BackendTls

_CERTIFICATE = re.compile(b"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@implementer(IOpenSSLClientConnectionCreator)
class UncheckedConnections:
    """Makes TLS connections that trust whoever answers: for ``tls.verify: false`` only.

    Args:
        context: The TLS context.
        name: Sent as SNI.
    """

    def __init__(self, context: SSL.Context, name: str) -> None:
        self._context = context
        is_address = re.fullmatch(r"[0-9.]+|.*:.*", name)
        self._server_name = b"" if is_address else name.encode("idna")

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Make the TLS side of one connection."""
        del tlsProtocol
        connection = SSL.Connection(self._context, None)
        if self._server_name:
            connection.set_tlsext_host_name(self._server_name)
        return connection


def tls_connections(settings: BackendTls, host: str) -> IOpenSSLClientConnectionCreator:
    """Make the TLS side of a backend's connections.

    Args:
        settings: ``backends[].tls``; its files are there, the loader has looked.
        host: The URL's host.

    Raises:
        OSError: A file cannot be read.
        ValueError: It holds no certificate or key, or the two do not belong together.
    """
    name = settings.server_name or host
    try:
        shown = _shown_certificate(settings)
        # What OpenSSL will not take is found here, not at the first request.
        unchecked = CertificateOptions(**shown).getContext()
        if not settings.verify:
            return UncheckedConnections(unchecked, name)
        trust_root = None
        if settings.ca_file:
            blocks = _CERTIFICATE.findall(_read(settings.ca_file))
            if not blocks:
                raise ValueError(f"{settings.ca_file} holds no certificate")
            trust_root = trustRootFromCertificates([Certificate.loadPEM(pem) for pem in blocks])
    except (SSL.Error, crypto.Error, VerifyError) as error:
        raise ValueError(f"{settings} cannot be used: {error}") from error
    return optionsForClientTLS(name, trustRoot=trust_root, extraCertificateOptions=shown)


def _shown_certificate(settings: BackendTls) -> dict[str, Any]:
    """Load our own certificate, with those between it and its authority, and its key."""
    if not settings.cert_file:
        return {}
    pem = _read(settings.cert_file)
    chain = _CERTIFICATE.findall(pem)[1:]
    if settings.key_file:
        pem += b"\n" + _read(settings.key_file)
    own = PrivateCertificate.loadPEM(pem)
    return {
        "certificate": own.original,
        "privateKey": own.privateKey.original,
        "extraCertChain": [Certificate.loadPEM(block).original for block in chain],
    }


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
