"""Where the logs go, as the configuration names it: each destination is opened once."""

from __future__ import annotations

from typing import Literal, TextIO

from twisted.logger import Logger

from llmproxy.interfaces import ILogSink
from llmproxy.logs.journal import JOURNAL_SOCKET, JournalSink
from llmproxy.logs.rotating_file import RotatingFile
from llmproxy.logs.streams import StreamSink

Output = Literal["stdout", "stderr", "journal", "file"]


class Outputs:
    """Opens the destinations of logs, and knows all that are open.

    Args:
        stdout: Standard output.
        stderr: Standard error.
        journal_path: The journal's socket.
    """

    _log = Logger()

    def __init__(
        self, stdout: TextIO, stderr: TextIO, *, journal_path: str = JOURNAL_SOCKET
    ) -> None:
        self._streams = {"stdout": stdout, "stderr": stderr}
        self._journal_path = journal_path
        self._open: dict[tuple[str, str], ILogSink] = {}

    def __repr__(self) -> str:
        return f"<Outputs {list(self._open.values())}>"

    def open(
        self, output: Output, path: str = "", max_size_bytes: int = 0, keep: int = 1
    ) -> ILogSink:
        """Open a destination; one that two logs share is the same object.

        Args:
            output: Which.
            path: The file's.
            max_size_bytes: As in `RotatingFile`.
            keep: As in `RotatingFile`.

        Raises:
            OSError: It cannot be written.
        """
        name = (output, path if output == "file" else "")
        sink = self._open.get(name)
        if sink is None:
            if output == "file":
                sink = RotatingFile(path, max_size_bytes, keep)
            elif output == "journal":
                sink = JournalSink(self._journal_path)
            else:
                sink = StreamSink(self._streams[output])
            self._open[name] = sink
        return sink

    def reopen(self) -> None:
        """Begin anew with every file, after somebody moved the old ones away.

        One that cannot be opened is told of in the log, and the old one stays in use.
        """
        for sink in self._open.values():
            try:
                sink.reopen()
            except OSError as error:
                self._log.error(
                    "{sink} cannot be reopened: {error}", sink=sink, error=error.strerror
                )
