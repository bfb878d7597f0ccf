"""TLS towards backends: which certificates are trusted, which is shown, which name is asked for."""

from __future__ import annotations

import re
from typing import Any

from OpenSSL import SSL
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
        self._name = name

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Make the TLS side of one connection."""
        del tlsProtocol
        connection = SSL.Connection(self._context, None)
        if not re.fullmatch(r"[0-9.]+|.*:.*", self._name):
            connection.set_tlsext_host_name(self._name.encode("idna"))
        return connection


def tls_connections(settings: BackendTls, host: str) -> IOpenSSLClientConnectionCreator:
    """Make the TLS side of a backend's connections.

    Args:
        settings: ``backends[].tls``; its files are there, the loader has looked.
        host: The URL's host.

    Raises:
        OSError: A file cannot be read.
        ValueError: It holds no certificate or key.
    """
    name = settings.server_name or host
    client_certificate = None
    if settings.cert_file:
        pem = _read(settings.cert_file)
        if settings.key_file:
            pem += b"\n" + _read(settings.key_file)
        client_certificate = PrivateCertificate.loadPEM(pem)
    if not settings.verify:
        options = client_certificate.options() if client_certificate else CertificateOptions()
        return UncheckedConnections(options.getContext(), name)
    trust_root = None
    if settings.ca_file:
        blocks = _CERTIFICATE.findall(_read(settings.ca_file))
        if not blocks:
            raise ValueError(f"{settings.ca_file} holds no certificate")
        trust_root = trustRootFromCertificates([Certificate.loadPEM(pem) for pem in blocks])
    return optionsForClientTLS(name, trustRoot=trust_root, clientCertificate=client_certificate)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
