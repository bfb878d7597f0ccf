"""Tests of `llmproxy.config.checks_tls`."""

from __future__ import annotations

import pytest

from tests.config.conftest import Load, Problems

START = "backends: [{name: a, url: 'demo:'}]\nauth: {enabled: false}\n"
PAIR = "cert_file: c.pem, key_file: k.pem"
FILES = {"c.pem": "x", "k.pem": "y", "ca.pem": "z"}


def tls(more: str, enabled: str = "true") -> str:
    """Write a configuration with TLS on the listeners."""
    return f"{START}server: {{tls: {{enabled: {enabled}, {PAIR}, {more}}}}}\n"


def certificates(*names: str) -> str:
    """Write certificates, each with a list of names."""
    items = ", ".join(f"{{server_names: [{one}], {PAIR}}}" for one in names)
    return tls(f"certificates: [{items}]")


@pytest.mark.parametrize(
    "name", ["llm.example.org", "'*.example.org'", "LLM.Example.ORG", "gateway", "xn--bcher-kva.de"]
)
def test_names_of_certificates(load: Load, name: str) -> None:
    """Host names, and those with a star for their first label."""
    config = load(certificates(name), files=FILES)
    assert config.server.tls.certificates[0].server_names == (name.strip("'"),)


@pytest.mark.parametrize(
    "name",
    [
        *("''", "'*'", "'*.*.org'", "a.*.org", "'*a.org'", "a..b", "a.b.", "-a.b", "bücher.de"),
        *("a b", "192.0.2.7", "'[::1]'", "'a:443'", "x" * 64, "'https://a.b'"),
    ],
)
def test_what_nobody_can_ask_for(problems: Problems, name: str) -> None:
    """No address, no pattern but one star in front, nothing beyond ASCII."""
    (told,) = problems(certificates(name), files=FILES)
    assert told.startswith("x.yaml:3: server.tls.certificates[0].server_names[0]: ")
    assert 'want one like "llm.example.org" or "*.example.org"' in told


def test_each_name_once(problems: Problems) -> None:
    """In one certificate as in two, in any case."""
    (told,) = problems(certificates("a.org, b.org", "'*.b.org', B.org"), files=FILES)
    assert told == (
        'x.yaml:3: server.tls.certificates[1].server_names[1]: "B.org" is that of '
        "server.tls.certificates[0].server_names[1] already; want each name once"
    )


def test_a_certificate_that_nobody_would_be_shown(problems: Problems) -> None:
    """It has no names."""
    (told,) = problems(tls(f"certificates: [{{{PAIR}}}]"), files=FILES)
    assert told == (
        "x.yaml:3: server.tls.certificates[0]: has no server_names, so nobody would be shown it; "
        "want at least one"
    )


@pytest.mark.parametrize("wanted", ["request", "require"])
def test_clients_need_a_ca(load: Load, problems: Problems, wanted: str) -> None:
    """And a CA needs clients."""
    (told,) = problems(tls(f"client_auth: {wanted}"), files=FILES)
    assert told == (f"x.yaml:3: server.tls.client_auth: is {wanted}; want client_ca_file with it")
    config = load(tls(f"client_auth: {wanted}, client_ca_file: ca.pem"), files=FILES)
    assert config.server.tls.client_auth == wanted
    (told,) = problems(tls("client_ca_file: ca.pem"), files=FILES)
    assert told == (
        "x.yaml:3: server.tls.client_ca_file: is given, but client_auth is none; "
        "want request or require there, or no file"
    )


def test_clients_need_tls(problems: Problems) -> None:
    """Without it nobody shows a certificate."""
    text = tls("client_auth: require, client_ca_file: ca.pem", enabled="false")
    (told,) = problems(text, files=FILES)
    assert told == (
        "x.yaml:3: server.tls.client_auth: is require, but there is no TLS; "
        "want server.tls.enabled: true"
    )


def test_subjects_as_keys(load: Load, problems: Problems) -> None:
    """They may have spaces, which no other key may, and need clients with certificates."""
    keys = (
        "auth: {pipeline: [{name: s, type: static, static: {keys: "
        "[{key: 'tls:CN=Alice Smith,O=Example'}]}}]}"
    )
    text = tls("client_auth: request, client_ca_file: ca.pem").replace(
        "auth: {enabled: false}", keys
    )
    config = load(text, files=FILES)
    assert config.auth.pipeline[0].static.keys[0].key == "tls:CN=Alice Smith,O=Example"
    (told,) = problems(text.replace("tls:CN", "CN"), files=FILES)
    assert "a key (hidden) with characters that clients cannot send" in told
    (told,) = problems(START.replace("auth: {enabled: false}", keys))
    assert told == (
        "x.yaml:2: auth.pipeline[0].static.keys[0].key: is the subject of a client's certificate, "
        "but nobody is asked for one; want server.tls.client_auth: request or require"
    )
