"""Who the client is when other proxies stand in front: X-Forwarded-For, believed or not."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address

UNIX_PEERS: Final = "unix:"
"""Stands among networks for who comes by a Unix socket."""


def parse_address(text: str) -> Address | None:
    """Read an IP address; IPv4 in an IPv6 coat is IPv4; None when it is none."""
    try:
        address = ip_address(text.split("%", 1)[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class TrustedProxies:
    """The networks whose word on the client's address is taken.

    Args:
        networks: CIDRs; ``unix:`` is who comes by a Unix socket, and has no address.
    """

    def __init__(self, networks: Sequence[str]) -> None:
        self._trusts_unix = UNIX_PEERS in networks
        self._networks = tuple(
            ip_network(text, strict=False) for text in networks if text != UNIX_PEERS
        )

    def __repr__(self) -> str:
        networks = [*map(str, self._networks), *([UNIX_PEERS] if self._trusts_unix else [])]
        return f"<TrustedProxies {networks}>"

    def trusts(self, peer: str) -> bool:
        """Say whether a peer is such a proxy; an empty address is a Unix socket's."""
        if not peer:
            return self._trusts_unix
        if not self._networks:
            return False
        address = parse_address(peer)
        if address is None:
            return False
        return any(
            address in network
            for network in self._networks
            if isinstance(network, IPv6Network) == isinstance(address, IPv6Address)
        )

    def client_ip(self, peer: str, forwarded_for: Sequence[bytes]) -> str:
        """Find the client: the last address of the chain that is not a trusted proxy.

        Args:
            peer: The address at the other end of the connection.
            forwarded_for: The values of all X-Forwarded-For fields, in order.

        Returns:
            An address; the peer's own when it is not trusted or says nothing usable.
        """
        if not self.trusts(peer):
            return peer
        chain = b",".join(forwarded_for).decode("latin-1").split(",")
        client = peer
        for entry in reversed(chain):
            address = parse_address(_without_port(entry.strip()))
            if address is None:
                break
            client = str(address)
            if not self.trusts(client):
                break
        return client


def _without_port(entry: str) -> str:
    """Cut ``:port`` off, as some proxies append it: ``1.2.3.4:5``, ``[::1]:5``."""
    if entry.startswith("["):
        return entry[1:].split("]", 1)[0]
    if entry.count(":") == 1:
        return entry.split(":", 1)[0]
    return entry
