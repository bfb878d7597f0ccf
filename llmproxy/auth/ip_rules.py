"""From which network addresses a key may be used.

Pure arithmetic on addresses. It knows nothing of keys or of how an address was found out.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

_MAPPED = IPv6Network("::ffff:0:0/96")


class IpRules:
    """A list of networks that may, and a stronger list of networks that may not.

    An IPv4 client on an IPv6 socket shows as ``::ffff:192.0.2.7`` (RFC 4291, section 2.5.5.2); it
    meets the IPv4 rules.

    Args:
        allowed: Networks or addresses; empty: all.
        denied: Networks or addresses that are refused even when allowed.

    Raises:
        ValueError: One of them is not an IP network.
    """

    def __init__(self, allowed: Iterable[str] = (), denied: Iterable[str] = ()) -> None:
        self._allowed = tuple(map(_network, allowed))
        self._denied = tuple(map(_network, denied))

    def __repr__(self) -> str:
        return (
            f"<IpRules allowed={[str(net) for net in self._allowed]}"
            f" denied={[str(net) for net in self._denied]}>"
        )

    def permits(self, ip: str) -> bool:
        """Say whether a client at that address may pass.

        Args:
            ip: Its address. One that is not known (a Unix socket's peer has none) passes only when
                there is no list of allowed networks.
        """
        if not self._allowed and not self._denied:
            return True
        address = _address(ip)
        if address is None:
            return not self._allowed
        # An address of the other family is in no network; ipaddress sees to that.
        if any(address in network for network in self._denied):
            return False
        return not self._allowed or any(address in network for network in self._allowed)


def _address(ip: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(ip.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _network(text: str) -> IPv4Network | IPv6Network:
    network = ip_network(text, strict=False)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        v4 = network.network_address.ipv4_mapped
        return IPv4Network(f"{v4}/{network.prefixlen - 96}")
    return network
