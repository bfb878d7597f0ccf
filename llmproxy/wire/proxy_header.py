"""HAProxy's PROXY protocol: the header in front of a connection that says whose it is.

"The PROXY protocol, Versions 1 & 2" (HAProxy's doc/proxy-protocol.txt). Version 1 is a line of at
most 107 bytes, ``PROXY TCP4 192.0.2.7 192.0.2.1 50000 8000`` with CR LF; version 2 is binary, with
a length of its own. Of what may follow the addresses in version 2 nothing is looked at. It is read
strictly: what a sender must not send is refused.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Final

import attrs

LONGEST_V1_BYTES: Final = 107
LONGEST_V2_BYTES: Final = 16 + 4096
"""No sender is known whose headers come near; the length could say 64 KiB."""

_V1_START: Final = b"PROXY "
_V2_START: Final = b"\r\n\r\n\0\r\nQUIT\n"
_LOCAL: Final = 0x20
_PROXY: Final = 0x21
_UNSPECIFIED: Final = 0x00
# How many bytes an address has in each family, by its high four bits. The low ones are the kind of
# socket that the client's connection has at the proxy: a stream's or, as with QUIC, datagrams'.
_ADDRESS_BYTES: Final = {0x10: 4, 0x20: 16, 0x30: 108}
_UNIX: Final = 0x30
_SOCKET_KINDS: Final = (1, 2)

_V1_ADDRESSES = re.compile(
    rb"(TCP4|TCP6) ([0-9a-fA-F.:]+) ([0-9a-fA-F.:]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})"
)
_HIGHEST_PORT: Final = 65535


@attrs.frozen
class ProxyHeader:
    """What a header says.

    Attributes:
        size_bytes: Its own size; what follows is the client's.
        ip: The client's address; empty: nothing is said of it. IPv4 in an IPv6 coat is IPv4.
        port: The client's port.
        is_unix: The client came to the proxy by a Unix socket, and has no address.
    """

    size_bytes: int
    ip: str = ""
    port: int = 0
    is_unix: bool = False


def read_proxy_header(data: bytes) -> ProxyHeader | None:
    """Read the header in front of a connection.

    Args:
        data: All that has come so far.

    Returns:
        What it says; None while it is not complete.

    Raises:
        ValueError: There is none, or it is not as it must be; the message says in what.
    """
    if data.startswith(_V1_START):
        return _read_v1(data)
    if data.startswith(_V2_START):
        return _read_v2(data)
    if _V1_START.startswith(data) or _V2_START.startswith(data):
        return None
    raise ValueError("there is no PROXY header")


def _read_v1(data: bytes) -> ProxyHeader | None:
    line, found, _ = data[:LONGEST_V1_BYTES].partition(b"\r\n")
    if not found:
        if len(data) >= LONGEST_V1_BYTES:
            raise ValueError(f"the PROXY line is longer than {LONGEST_V1_BYTES} bytes")
        return None
    size_bytes, said = len(line) + 2, line[len(_V1_START) :]
    if said == b"UNKNOWN" or said.startswith(b"UNKNOWN "):
        return ProxyHeader(size_bytes)
    parts = _V1_ADDRESSES.fullmatch(said)
    if parts is None:
        raise ValueError("the PROXY line is malformed")
    read = IPv4Address if parts[1] == b"TCP4" else IPv6Address
    # AddressValueError is a ValueError, and says what is wrong.
    source, _ = read(parts[2].decode("ascii")), read(parts[3].decode("ascii"))
    port = int(parts[4])
    if max(port, int(parts[5])) > _HIGHEST_PORT:
        raise ValueError("the PROXY line has a port that is none")
    return ProxyHeader(size_bytes, _text(source), port)


def _read_v2(data: bytes) -> ProxyHeader | None:
    start = len(_V2_START)
    if len(data) > start and data[start] not in (_LOCAL, _PROXY):
        raise ValueError(f"the PROXY header's version and command are 0x{data[start]:02x}")
    if len(data) > start + 1 and data[start] == _PROXY and not _is_known_family(data[start + 1]):
        raise ValueError(f"the PROXY header's family and protocol are 0x{data[start + 1]:02x}")
    if len(data) < start + 4:
        return None
    size_bytes = 16 + int.from_bytes(data[start + 2 : start + 4])
    if size_bytes > LONGEST_V2_BYTES:
        raise ValueError(f"the PROXY header has {size_bytes} bytes, more than {LONGEST_V2_BYTES}")
    family = data[start + 1] & 0xF0
    says_nothing = data[start] == _LOCAL or family == _UNSPECIFIED
    width = 0 if says_nothing else _ADDRESS_BYTES[family]
    addresses_bytes = 0 if not width else 2 * width if family == _UNIX else 2 * width + 4
    if size_bytes - 16 < addresses_bytes:
        raise ValueError(f"the PROXY header has {size_bytes} bytes, too few for its addresses")
    if len(data) < size_bytes:
        return None
    if says_nothing:
        return ProxyHeader(size_bytes)
    if family == _UNIX:
        return ProxyHeader(size_bytes, is_unix=True)
    packed = data[16 : 16 + width]
    source = IPv4Address(packed) if width == 4 else IPv6Address(packed)
    port = int.from_bytes(data[16 + 2 * width : 18 + 2 * width])
    return ProxyHeader(size_bytes, _text(source), port)


def _is_known_family(family: int) -> bool:
    return family == _UNSPECIFIED or (
        family & 0xF0 in _ADDRESS_BYTES and family & 0x0F in _SOCKET_KINDS
    )


def _text(address: IPv4Address | IPv6Address) -> str:
    """Write an address; IPv4 in an IPv6 coat is IPv4."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
