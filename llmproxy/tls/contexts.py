"""What we agree to in handshakes, for one certificate: versions, ciphers, protocols, clients.

It loads files, and knows nothing of which certificate is whose, or of files that change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs
from OpenSSL import SSL, crypto

from llmproxy.config.model import ServerTls, TlsCertificate

PROTOCOLS: Final = (b"http/1.1", b"http/1.0")
"""What ALPN may choose, the best first."""

_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are all good
_VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
_CLIENTS = {
    "none": SSL.VERIFY_NONE,
    "request": SSL.VERIFY_PEER,
    "require": SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
}
# A client without instructions for AES puts ChaCha20 first, and gets it (SSL_CTX_set_options(3));
# pyOpenSSL has no name for it.
_OP_PRIORITIZE_CHACHA = 1 << 21


@attrs.frozen(eq=False)
class Certificate:
    """A certificate as it was loaded.

    Attributes:
        names: The host names that it is shown for, in lower case; none: it is the default.
        cert_file: Where it came from.
        not_after_s: The end of its life, seconds since the epoch.
        context: What handshakes with it are made of.
    """

    names: tuple[str, ...]
    cert_file: str
    not_after_s: float
    context: SSL.Context = attrs.field(repr=False)


def sources(settings: ServerTls) -> tuple[ServerTls | TlsCertificate, ...]:
    """List what names a certificate and its key, the default one first."""
    return (settings, *settings.certificates)


def load_certificate(
    settings: ServerTls,
    source: ServerTls | TlsCertificate,
    choose_for: Callable[[SSL.Connection], None],
) -> Certificate:
    """Load a certificate and its key.

    Args:
        settings: ``server.tls``.
        source: Where the two files are named: the same for the default certificate, else one of
            its ``certificates``.
        choose_for: Called with a connection whose client may have asked for a name.

    Raises:
        OSError: A file cannot be read.
        ValueError: It holds no certificate or key, or the two do not belong together.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(_VERSIONS[settings.min_version])
    context.set_cipher_list(_CIPHERS)
    context.set_options(
        SSL.OP_NO_COMPRESSION
        | SSL.OP_NO_RENEGOTIATION
        | SSL.OP_CIPHER_SERVER_PREFERENCE
        | _OP_PRIORITIZE_CHACHA
    )
    # An idle connection keeps no buffers. Sessions are the clients' to keep, as tickets.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_alpn_select_callback(_choose_protocol)
    context.set_tlsext_servername_callback(choose_for)
    if settings.client_auth != "none":
        _ask_clients(context, settings)
    cert_file, key_file = source.cert_file, source.key_file
    with open(cert_file, "rb"), open(key_file, "rb") as file:
        pem = file.read()
    try:
        # With a passphrase given, OpenSSL never asks for one at the terminal.
        loaded = crypto.load_privatekey(crypto.FILETYPE_PEM, pem, passphrase=b"")
        key: Any = loaded.to_cryptography_key()
        context.use_certificate_chain_file(cert_file)
        context.use_privatekey(key)
        context.check_privatekey()
    except (SSL.Error, crypto.Error) as error:
        raise ValueError(f"{cert_file} and {key_file} cannot be used: {reasons(error)}") from error
    loaded_certificate = SSL.Connection(context, None).get_certificate()
    assert loaded_certificate is not None
    return Certificate(
        names=(
            tuple(name.lower() for name in source.server_names)
            if isinstance(source, TlsCertificate)
            else ()
        ),
        cert_file=cert_file,
        not_after_s=loaded_certificate.to_cryptography().not_valid_after_utc.timestamp(),
        context=context,
    )


def _ask_clients(context: SSL.Context, settings: ServerTls) -> None:
    """Have clients asked for certificates.

    There are no tickets then: a session that is taken up again is not verified anew, so a
    certificate that has ended meanwhile, or whose CA is not trusted any more, would be good still.
    """
    file = settings.client_ca_file
    with open(file, "rb"):  # OpenSSL does not say why it cannot read one
        pass
    try:
        context.load_verify_locations(file)
        context.load_client_ca(file.encode())
    except SSL.Error as error:
        raise ValueError(f"{file} cannot be used: {reasons(error)}") from error
    context.set_options(SSL.OP_NO_TICKET)
    context.set_verify(_CLIENTS[settings.client_auth])


def _choose_protocol(connection: SSL.Connection, offered: list[bytes]) -> bytes:
    """Choose one of the protocols that a client offers by ALPN.

    Raises:
        SSL.Error: It offers none of ours, which ends the handshake (RFC 7301, section 3.2).
    """
    del connection
    for protocol in PROTOCOLS:
        if protocol in offered:
            return protocol
    raise SSL.Error([("SSL routines", "", "no application protocol")])


def reasons(error: BaseException | None) -> str:
    """Give OpenSSL's reasons in words."""
    queue = error.args[0] if error is not None and error.args else ""
    if isinstance(queue, list):
        return "; ".join(reason for _, _, reason in queue)
    return str(error)
