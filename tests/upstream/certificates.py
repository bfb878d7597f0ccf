"""Certificates made for a test: a small authority, and what it signs."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Authority:
    """Signs certificates, and keeps them in a folder.

    Args:
        folder: Where the files go.
        name: Its own name, and the beginning of its files' names.
        issuer: Who signs its own certificate; None: itself.

    Attributes:
        cert_file: Its own certificate, PEM.
    """

    def __init__(self, folder: Path, name: str, issuer: Authority | None = None) -> None:
        self._folder = folder
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        signer = issuer or self
        builder = self._builder(_name(name), self._key, signer._name).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.pem = builder.sign(signer._key, hashes.SHA256()).public_bytes(
            serialization.Encoding.PEM
        )
        self.cert_file = str(folder / f"{name}.pem")
        Path(self.cert_file).write_bytes(self.pem)

    @staticmethod
    def _builder(
        subject: x509.Name, key: ec.EllipticCurvePrivateKey, issuer: str, days: float = 60
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(_name(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=30))
            .not_valid_after(now + timedelta(days=days))
        )

    def issue(
        self,
        *names: str,
        days: float = 60,
        subject: x509.Name | None = None,
        usage: x509.ObjectIdentifier | None = None,
    ) -> tuple[str, str]:
        """Sign a certificate; give its file and its key's.

        Args:
            names: Host names or addresses that it is for; the first is its subject's.
            days: For how long, from now; below 0 it has ended already.
            subject: Instead of that.
            usage: What alone it may be used for; None: anything.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(
            _name(names[0]) if subject is None else subject, key, self._name, days
        ).add_extension(
            x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        stem = self._folder / f"{self._name}-{certificate.serial_number:x}"
        cert_path, key_path = stem.with_suffix(".crt"), stem.with_suffix(".key")
        cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return str(cert_path), str(key_path)

    def server_context(self, *names: str) -> ssl.SSLContext:
        """Make a server's context with a certificate for these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(*names))
        return context
