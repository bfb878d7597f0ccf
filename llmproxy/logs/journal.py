"""Lines to systemd's journal, in its own protocol: one datagram of fields each.

The protocol is https://systemd.io/JOURNAL_NATIVE_PROTOCOL/: ``NAME=value`` and a line end, or, when
the value has line ends of its own, the name, a line end, the value's length in 64 bits and the
value. What is too large for a datagram goes into a sealed memory file, whose descriptor is sent.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from array import array
from collections.abc import Mapping, Sequence
from typing import Final

from zope.interface import implementer

from llmproxy.interfaces import ILogSink
from llmproxy.logs.streams import encoded
from llmproxy.values import LogLine

JOURNAL_SOCKET: Final = "/run/systemd/journal/socket"
IDENTIFIER: Final = "llmproxy"

WAIT_S: Final = 0.2
"""How long a journal that takes nothing may hold up the daemon, once in each of its outages."""


@implementer(ILogSink)
class JournalSink:
    """Sends lines to the journal.

    Args:
        path: The journal's socket.

    Raises:
        OSError: There is none.
    """

    def __init__(self, path: str = JOURNAL_SOCKET) -> None:
        os.stat(path)
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(WAIT_S)

    def __repr__(self) -> str:
        return f"<JournalSink {self._path}>"

    def write(self, lines: Sequence[LogLine]) -> None:
        """Send lines.

        The journal is waited for once; while it takes nothing after that, lines are lost at once.
        """
        for line in lines:
            try:
                self._send(line)
            except TimeoutError:
                self._socket.settimeout(0.0)
                raise
        self._socket.settimeout(WAIT_S)

    def _send(self, line: LogLine) -> None:
        content = encode_fields(
            {
                "MESSAGE": line.text.rstrip("\n"),
                "PRIORITY": str(line.priority),
                "SYSLOG_IDENTIFIER": IDENTIFIER,
                "REQUEST_ID": line.request_id,
                "LLMPROXY_SOURCE": line.source,
            }
        )
        try:
            self._socket.sendto(content, self._path)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_large(content)

    def _send_large(self, content: bytes) -> None:
        file = os.memfd_create("llmproxy-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with os.fdopen(file, "wb", closefd=False) as writer:
                writer.write(content)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
            descriptors = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", (file,)))
            self._socket.sendmsg((), (descriptors,), 0, self._path)
        finally:
            os.close(file)


def encode_fields(fields: Mapping[str, str]) -> bytes:
    """Encode an entry; fields without a value are left out."""
    parts: list[bytes] = []
    for name, text in fields.items():
        value = encoded(text)
        if b"\n" in value:
            parts.append(b"%s\n%s%s\n" % (name.encode(), len(value).to_bytes(8, "little"), value))
        elif value:
            parts.append(b"%s=%s\n" % (name.encode(), value))
    return b"".join(parts)
