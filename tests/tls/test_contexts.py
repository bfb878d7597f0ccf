"""What one certificate's handshakes agree to; the versions and ciphers are `test_transport`'s."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL

from llmproxy.config.model import ServerTls, TlsCertificate
from llmproxy.tls.contexts import Certificate, load_certificate, reasons
from tests.tls.pair import NAME, Pair, trusting
from tests.upstream.certificates import Authority


def load(settings: ServerTls, source: TlsCertificate | None = None) -> Certificate:
    """Load a certificate; None: the default one."""
    return load_certificate(settings, source or settings, lambda _: None)


def test_what_is_known_of_it(settings: ServerTls, authority: Authority) -> None:
    """Its names, in lower case, and its end."""
    cert_file, key_file = authority.issue("a.test", days=79)
    pair = TlsCertificate(
        server_names=("A.test", "*.b.Test"), cert_file=cert_file, key_file=key_file
    )
    loaded, default = load(settings, pair), load(settings)
    assert (loaded.names, default.names) == (("a.test", "*.b.test"), ())
    assert loaded.cert_file == cert_file
    assert 18.9 * 86400 < loaded.not_after_s - default.not_after_s < 19.1 * 86400


def test_missing(settings: ServerTls, folder: Path) -> None:
    """An `OSError`, with the file's name."""
    missing = str(folder / "missing")
    for faulty in (
        attrs.evolve(settings, cert_file=missing),
        attrs.evolve(settings, key_file=missing),
        attrs.evolve(settings, client_auth="request", client_ca_file=missing),
    ):
        with pytest.raises(FileNotFoundError, match="missing"):
            load(faulty)


def test_not_usable(settings: ServerTls, authority: Authority, folder: Path) -> None:
    """A `ValueError` with both names and OpenSSL's reason; nobody is asked for a passphrase."""
    garbage = folder / "garbage"
    garbage.write_text("no PEM")
    other_key = authority.issue("other.test")[1]
    for cert_file, key_file, reason in (
        (str(garbage), settings.key_file, "no start line"),
        (settings.cert_file, str(garbage), "unsupported"),
        (settings.cert_file, other_key, "key values mismatch"),
        (settings.key_file, settings.cert_file, ""),
    ):
        with pytest.raises(ValueError, match=f"{cert_file} and {key_file} .*{reason}"):
            load(ServerTls(cert_file=cert_file, key_file=key_file))
    with pytest.raises(ValueError, match=f"{garbage} cannot be used: .*no certificate"):
        load(attrs.evolve(settings, client_auth="request", client_ca_file=str(garbage)))


@pytest.mark.parametrize(
    ("wished", "agreed"),
    [
        ("ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384", "AES256-GCM-SHA384"),
        ("ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305", "AES128-GCM-SHA256"),
        ("ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384", "CHACHA20-POLY1305"),
    ],
)
def test_whose_order_counts(
    settings: ServerTls, authority: Authority, wished: str, agreed: str
) -> None:
    """Ours, but that a client that wants ChaCha20 before all else knows why."""
    context = trusting(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(wished)
    pair = Pair(settings, context)
    pair.shake_hands()
    cipher = pair.client.cipher()
    assert cipher is not None
    assert cipher[0] == f"ECDHE-ECDSA-{agreed}"


def asked(settings: ServerTls, authority: Authority, wanted: Any) -> ServerTls:
    """Give settings that ask clients for certificates."""
    return attrs.evolve(settings, client_auth=wanted, client_ca_file=authority.cert_file)


def showing(authority: Authority, pair: tuple[str, str] | None) -> ssl.SSLContext:
    """Make a client's context with a certificate of its own."""
    context = trusting(authority)
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


def speak(connection: Pair) -> None:
    """Shake hands, say something, and hear what is answered."""
    connection.shake_hands()
    connection.client.write(b"ping")
    connection.read()


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("wanted", ["none", "request", "require"])
@pytest.mark.parametrize("kind", ["none", "good", "expired", "of another CA", "of a server"])
def test_clients_certificates(
    settings: ServerTls,
    authority: Authority,
    folder: Path,
    version: ssl.TLSVersion,
    wanted: Any,
    kind: str,
) -> None:
    """A good one passes, a bad one never; none passes unless one is required.

    Where none are asked for, nobody looks at them.
    """
    pair = {
        "none": lambda: None,
        "good": lambda: authority.issue("alice", usage=ExtendedKeyUsageOID.CLIENT_AUTH),
        "expired": lambda: authority.issue("alice", days=-1),
        "of another CA": lambda: Authority(folder, "another").issue("alice"),
        "of a server": lambda: authority.issue("alice", usage=ExtendedKeyUsageOID.SERVER_AUTH),
    }[kind]()
    context = showing(authority, pair)
    context.maximum_version = version
    ours = settings if wanted == "none" else asked(settings, authority, wanted)
    connection = Pair(ours, context)
    passes = wanted == "none" or kind == "good" or (kind == "none" and wanted == "request")
    if passes:
        connection.shake_hands()
        connection.client.write(b"ping")
        connection.pump()
        assert connection.above.received == b"ping"
        known = "CN=alice" if kind == "good" and wanted != "none" else ""
        assert connection.tls.client_subject() == known
    else:
        # In TLS 1.3 a client has done its part before it hears what is thought of its certificate.
        with pytest.raises(ssl.SSLError, match="alert"):
            speak(connection)
        assert connection.above.received == b""
        assert connection.transport.disconnecting


@pytest.mark.parametrize("version", VERSIONS)
def test_clients_are_verified_every_time(
    settings: ServerTls, authority: Authority, version: ssl.TLSVersion
) -> None:
    """No session is taken up again: its certificate may have ended meanwhile."""
    context = showing(authority, authority.issue("alice"))
    context.maximum_version = version
    first = Pair(asked(settings, authority, "require"), context)
    first.shake_hands()
    first.tls.write(b"a ticket would come before this")
    first.read()
    again = Pair(settings, context, session=first.client.session)
    again.factory = first.factory
    again.connect()
    again.shake_hands()
    assert not again.client.session_reused
    assert again.tls.client_subject() == "CN=alice"


def test_clients_are_told_which_cas(settings: ServerTls, authority: Authority) -> None:
    """So that a browser with several certificates offers the right one."""
    context = load(asked(settings, authority, "request")).context
    (name,) = SSL.Connection(context, None).get_client_ca_list()
    assert name.CN == "authority"


def test_reasons() -> None:
    """OpenSSL's, where there are some; what an error says by itself, else."""
    assert reasons(SSL.Error([("lib", "f", "one"), ("lib", "f", "two")])) == "one; two"
    assert reasons(ValueError("three")) == "three"


def test_the_name_is_in_the_certificate(settings: ServerTls, authority: Authority) -> None:
    """Which a client that knows our CA checks."""
    pair = Pair(settings, trusting(authority), name=f"other.{NAME}")
    with pytest.raises(ssl.SSLCertVerificationError):
        pair.shake_hands()
