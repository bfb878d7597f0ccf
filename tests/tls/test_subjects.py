"""How the subject of a certificate is written, held against what openssl prints."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID, ObjectIdentifier
from OpenSSL import crypto

from llmproxy.tls.subjects import subject_of
from tests.upstream.certificates import Authority

Pairs = Sequence[tuple[ObjectIdentifier, str]]
CN, ORG, OU = NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME


def issued(authority: Authority, name: x509.Name) -> str:
    """Give the file of a certificate with that subject."""
    return authority.issue("alice", subject=name)[0]


def written(file: str) -> str:
    """Write the subject of a file's certificate."""
    return subject_of(crypto.load_certificate(crypto.FILETYPE_PEM, Path(file).read_bytes()))


def named(pairs: Pairs) -> x509.Name:
    """Make a name, the most general part first, as certificates have it."""
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in pairs])


SUBJECTS: list[tuple[Pairs, str]] = [
    ([(CN, "alice")], "CN=alice"),
    ([(NameOID.COUNTRY_NAME, "DE"), (ORG, "Example"), (CN, "alice")], "CN=alice,O=Example,C=DE"),
    ([(ORG, "Doe, Inc."), (CN, "Alice Smith")], r"CN=Alice Smith,O=Doe\, Inc."),
    ([(CN, 'a+b"c\\d;<e>')], r"CN=a\+b\"c\\d\;\<e\>"),
    ([(CN, "#one")], r"CN=\#one"),
    ([(CN, " two ")], r"CN=\ two\ "),
    ([(CN, "müller✓")], r"CN=m\C3\BCller\E2\9C\93"),
    ([(CN, "a\nb\x7f")], r"CN=a\0Ab\7F"),
    ([(CN, "a=b")], "CN=a=b"),
    (
        [
            (NameOID.DOMAIN_COMPONENT, "org"),
            (NameOID.STATE_OR_PROVINCE_NAME, "st"),
            (NameOID.LOCALITY_NAME, "l"),
            (NameOID.USER_ID, "u1"),
            (NameOID.EMAIL_ADDRESS, "a@b.org"),
            (NameOID.SERIAL_NUMBER, "77"),
            (NameOID.GIVEN_NAME, "Alice"),
            (NameOID.SURNAME, "Smith"),
            (NameOID.TITLE, "Dr"),
            (NameOID.STREET_ADDRESS, "Road 1"),
        ],
        "street=Road 1,title=Dr,SN=Smith,GN=Alice,serialNumber=77,emailAddress=a@b.org,"
        "UID=u1,L=l,ST=st,DC=org",
    ),
]


@pytest.mark.parametrize(("pairs", "text"), SUBJECTS)
def test_written(authority: Authority, pairs: Pairs, text: str) -> None:
    """In ASCII, the most special part first, as openssl does."""
    file = issued(authority, named(pairs))
    assert written(file) == text
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    printed = subprocess.run(
        ["openssl", "x509", "-in", file, "-noout", "-subject", "-nameopt", "RFC2253"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    assert printed == f"subject={text}\n"


def test_parts_of_one_kind_are_told_apart(authority: Authority) -> None:
    """What one value holds is never read as two parts, nor two parts at once as one by one."""
    pair = [x509.NameAttribute(OU, "a"), x509.NameAttribute(CN, "b")]
    names = (
        x509.Name(pair),
        x509.Name([x509.RelativeDistinguishedName(pair)]),
        x509.Name([x509.NameAttribute(CN, "b,OU=a")]),
        x509.Name([x509.NameAttribute(CN, "b\\,OU=a")]),
    )
    texts = [written(issued(authority, name)) for name in names]
    assert len(set(texts)) == len(texts)


def test_no_subject(authority: Authority) -> None:
    """There are such certificates; they stand for nobody."""
    assert written(issued(authority, x509.Name([]))) == ""
