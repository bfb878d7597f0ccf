"""Tests of `llmproxy.auth.ip_rules`."""

from __future__ import annotations

import pytest

from llmproxy.auth.ip_rules import IpRules


@pytest.mark.parametrize(
    ("allowed", "denied", "ip", "permitted"),
    [
        ([], [], "192.0.2.7", True),
        ([], [], "", True),
        (["10.0.0.0/8"], [], "10.1.2.3", True),
        (["10.0.0.0/8"], [], "11.1.2.3", False),
        (["10.1.2.3"], [], "10.1.2.3", True),
        (["10.1.2.3/8"], [], "10.9.9.9", True),
        (["fd00::/8"], [], "fd12::1", True),
        (["fd00::/8"], [], "fe12::1", False),
        (["fe80::/10"], [], "fe80::1%eth0", True),
        (["10.0.0.0/8"], [], "fd12::1", False),
        (["fd00::/8"], [], "10.1.2.3", False),
        (["::/0"], [], "10.1.2.3", False),
        (["10.0.0.0/8", "fd00::/8"], [], "fd12::1", True),
        ([], ["10.0.0.0/8"], "10.1.2.3", False),
        ([], ["10.0.0.0/8"], "11.1.2.3", True),
        (["10.0.0.0/8"], ["10.1.0.0/16"], "10.1.2.3", False),
        (["10.0.0.0/8"], ["10.1.0.0/16"], "10.2.2.3", True),
        (["10.1.2.3"], ["10.0.0.0/8"], "10.1.2.3", False),
    ],
)
def test_rules(allowed: list[str], denied: list[str], ip: str, permitted: bool) -> None:
    """Allowed networks open, denied ones close, and denied ones are stronger."""
    assert IpRules(allowed, denied).permits(ip) is permitted


@pytest.mark.parametrize("network", ["10.0.0.0/8", "::ffff:10.0.0.0/104"])
@pytest.mark.parametrize("ip", ["10.1.2.3", "::ffff:10.1.2.3", "::ffff:a01:203"])
def test_mapped_addresses_are_ipv4(network: str, ip: str) -> None:
    """An IPv4 client meets IPv4 rules on whichever socket it comes, however the rule is written."""
    assert IpRules([network]).permits(ip)
    assert not IpRules([], [network]).permits(ip)
    assert not IpRules([network]).permits("::ffff:11.1.2.3")


@pytest.mark.parametrize("ip", ["", "unknown", "10.0.0", "/run/llmproxy.sock"])
def test_unknown_address(ip: str) -> None:
    """An address that is not known passes only when none need be."""
    assert not IpRules(["0.0.0.0/0", "::/0"]).permits(ip)
    assert IpRules([], ["10.0.0.0/8"]).permits(ip)


def test_not_a_network() -> None:
    """A rule that is no network is refused when it is made."""
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/99"):
        IpRules(["10.0.0.0/99"])


def test_repr_shows_the_rules() -> None:
    """The networks are no secret."""
    assert repr(IpRules(["10.0.0.0/8"], ["fd00::1"])) == (
        "<IpRules allowed=['10.0.0.0/8'] denied=['fd00::1/128']>"
    )
