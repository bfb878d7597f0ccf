"""X-Forwarded-For: whose word counts."""

from __future__ import annotations

import pytest

from llmproxy.wire.forwarded import TrustedProxies, parse_address

PROXIES = TrustedProxies(["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"])


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("", "None"),
        ("unknown", "None"),
        ("192.0.2.256", "None"),
        ("192.0.2.1/8", "None"),
    ],
)
def test_addresses(text: str, address: str) -> None:
    """IPv4 in an IPv6 coat is IPv4; what is no address is None."""
    assert str(parse_address(text)) == address


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        ("10.255.0.1", True),
        ("::ffff:10.255.0.1", True),
        ("192.0.2.1", True),
        ("192.0.2.2", False),
        ("2001:db8:1::1", True),
        ("2001:db9::1", False),
        ("", False),
    ],
)
def test_who_is_trusted(peer: str, trusted: bool) -> None:
    """By network, in both families; the client of a Unix socket is not."""
    assert PROXIES.trusts(peer) is trusted
    assert not TrustedProxies(()).trusts(peer)


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        # nothing to believe
        ("198.51.100.1", [b"203.0.113.1"], "198.51.100.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [b""], "10.0.0.1"),
        ("", [b"203.0.113.1"], ""),
        # the last that is no proxy of ours; what stands before it anybody may have written
        ("10.0.0.1", [b"203.0.113.1"], "203.0.113.1"),
        ("10.0.0.1", [b"1.1.1.1, 203.0.113.1"], "203.0.113.1"),
        ("10.0.0.1", [b"1.1.1.1", b"203.0.113.1"], "203.0.113.1"),
        ("10.0.0.1", [b"203.0.113.1, 10.0.0.2 ,192.0.2.1"], "203.0.113.1"),
        ("10.0.0.1", [b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # junk ends the chain
        ("10.0.0.1", [b"203.0.113.1, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [b"203.0.113.1, \xff\xfe"], "10.0.0.1"),
        ("10.0.0.1", [b"203.0.113.1, "], "10.0.0.1"),
        # ports, as some proxies write them
        ("10.0.0.1", [b"203.0.113.1:1234"], "203.0.113.1"),
        ("10.0.0.1", [b"[2001:db9::1]:1234"], "2001:db9::1"),
        ("10.0.0.1", [b"[2001:db9::1]"], "2001:db9::1"),
        ("10.0.0.1", [b"2001:db9::1"], "2001:db9::1"),
    ],
)
def test_the_client(peer: str, forwarded_for: list[bytes], client: str) -> None:
    """The nearest address that is not ours."""
    assert PROXIES.client_ip(peer, forwarded_for) == client


def test_repr() -> None:
    """It shows the networks."""
    assert repr(PROXIES) == "<TrustedProxies ['10.0.0.0/8', '192.0.2.1/32', '2001:db8::/32']>"


def test_unix_sockets() -> None:
    """Who comes by one is trusted when that is said, and only then."""
    assert TrustedProxies(["unix:"]).trusts("")
    assert not TrustedProxies(["10.0.0.0/8"]).trusts("")
    assert not TrustedProxies(["unix:"]).trusts("10.0.0.1")
    both = TrustedProxies(["unix:", "10.0.0.0/8"])
    assert both.client_ip("", [b"192.0.2.7, 10.0.0.9"]) == "192.0.2.7"
    assert both.client_ip("", []) == ""
    assert repr(both) == "<TrustedProxies ['10.0.0.0/8', 'unix:']>"
