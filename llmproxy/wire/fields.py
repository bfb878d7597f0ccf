"""Header fields on their way through: what an intermediary drops, keeps and adds.

RFC 9110, section 7.6: fields of one hop end here, everything else passes, in its order. Fields are
``(lower-case name, value)`` pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

import attrs

from llmproxy.errors import LoopDetected

Field = tuple[bytes, bytes]

_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"proxy-connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    )
)

# A Connection field may name these, but they are not of one hop: it is ignored then.
_END_TO_END = frozenset(
    (
        b"authorization",
        b"content-length",
        b"content-type",
        b"content-encoding",
        b"host",
        b"cache-control",
        b"date",
        b"via",
        b"x-request-id",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"forwarded",
    )
)

# Set anew on every request that goes up, whatever the client sent.
_REPLACED_UPSTREAM = frozenset(
    (b"host", b"content-length", b"expect", b"accept-encoding", b"via", b"x-request-id")
)

_FORWARDED = frozenset(
    (
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-forwarded-port",
        b"x-forwarded-server",
        b"x-forwarded-prefix",
        b"x-real-ip",
    )
)

_REPLACED_DOWNSTREAM = frozenset((b"content-length", b"x-request-id", b"via"))


def _nominated(fields: Iterable[Field]) -> frozenset[bytes]:
    """Names that the Connection fields give to this hop (RFC 9110, section 7.6.1)."""
    named = {
        token.strip().lower()
        for name, value in fields
        if name == b"connection"
        for token in value.split(b",")
    }
    return frozenset(named - _END_TO_END) if named else frozenset()


def encode_fields(fields: Iterable[Field]) -> bytes:
    """Write fields as they stand in a head, each line with its CR LF (RFC 9112, section 5)."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])


@attrs.frozen
class Caller:
    """What the gateway says of the client to the backend.

    Attributes:
        client_ip: Its address; empty when it has none (a Unix socket).
        secure: Whether it came over TLS.
        host: The Host that it asked for.
        trusted: Whether the peer is a trusted proxy, whose own word is passed on.
        peer_ip: The address at the other end of the connection.
    """

    client_ip: str
    secure: bool
    host: bytes
    trusted: bool = False
    peer_ip: str = ""


@attrs.frozen
class FieldRules:
    """Rewrites the fields of requests and of answers.

    Attributes:
        pseudonym: Our name in ``Via``; its like in a request means a loop.
        credential_names: Lower-case names of fields that may hold a client's key: they never go up.
    """

    pseudonym: bytes
    credential_names: frozenset[bytes]

    def check_loop(self, fields: Iterable[Field]) -> None:
        """Refuse a request that has been here before.

        Raises:
            LoopDetected: Its Via names us.
        """
        for name, value in fields:
            if name == b"via" and self.pseudonym in value:
                raise LoopDetected

    def upstream(
        self,
        fields: Sequence[Field],
        caller: Caller,
        backend_fields: Sequence[Field],
    ) -> list[Field]:
        """Give the fields of the request that goes to a backend.

        Host, length and ``X-Request-ID`` are not among them: they are not the same for every
        request that has these fields.

        ``Accept-Encoding`` becomes ``identity``: a compressed answer could not be metered.

        Args:
            fields: The client's, in order.
            caller: What is said of the client.
            backend_fields: The backend's own (its key among them); they replace the client's, and
                what is said here of the client.
        """
        own = {name.lower() for name, _ in backend_fields}
        drop = _nominated(fields) | own
        kept: list[Field] = []
        vias: list[bytes] = []
        forwarded_for: list[bytes] = []
        for name, value in fields:
            if name == b"via":
                vias.append(value)
            elif name in _FORWARDED:
                if not caller.trusted:
                    continue
                if name == b"x-forwarded-for":
                    forwarded_for.append(value)
                else:
                    kept.append((name, value))
            elif not (
                name in _HOP_BY_HOP
                or name in _REPLACED_UPSTREAM
                or name in self.credential_names
                or name in drop
                or name.startswith(b"proxy-")
                or (b"_" in name and self._is_like_one_of(name, drop))
            ):
                kept.append((name, value))
        vias.append(b"1.1 " + self.pseudonym)
        # A trusted proxy on a Unix socket has no address, and its client's stands there already.
        address = caller.peer_ip or ("" if caller.trusted else caller.client_ip)
        if address:
            forwarded_for.append(address.encode("ascii"))
        given = {name for name, _ in kept}
        if forwarded_for:
            kept.append((b"x-forwarded-for", b", ".join(forwarded_for)))
        if b"x-forwarded-proto" not in given:
            kept.append((b"x-forwarded-proto", b"https" if caller.secure else b"http"))
        if caller.host and b"x-forwarded-host" not in given:
            kept.append((b"x-forwarded-host", caller.host))
        kept.append((b"accept-encoding", b"identity"))
        if own:
            kept = [field for field in kept if field[0] not in own]
        kept.append((b"via", b", ".join(vias)))
        kept.extend(backend_fields)
        return kept

    def _is_like_one_of(self, name: bytes, names: AbstractSet[bytes]) -> bool:
        """Say whether a server that folds "_" into "-" reads a name as one that is ours to set."""
        folded = name.replace(b"_", b"-")
        return folded in names or folded in self.credential_names or folded in _FORWARDED

    def downstream(self, fields: Sequence[Field], *, drop_cors: bool) -> list[Field]:
        """Give the fields of the answer that goes to the client, without length and request id.

        Args:
            fields: The backend's, in order.
            drop_cors: Whether its ``Access-Control-*`` make way for our own.
        """
        drop = _nominated(fields)
        kept: list[Field] = []
        vias: list[bytes] = []
        for name, value in fields:
            if name == b"via":
                vias.append(value)
            elif not (
                name in _HOP_BY_HOP
                or name in _REPLACED_DOWNSTREAM
                or name in drop
                or name.startswith(b"proxy-")
                or (drop_cors and name.startswith(b"access-control-"))
            ):
                kept.append((name, value))
        vias.append(b"1.1 " + self.pseudonym)
        kept.append((b"via", b", ".join(vias)))
        return kept
