"""Where the logs go, as the configuration names it: each destination is opened once."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, TextIO

import attrs
from twisted.logger import Logger

from llmproxy.interfaces import ILogSink
from llmproxy.logs.journal import JOURNAL_SOCKET, JournalSink
from llmproxy.logs.rotating_file import RotatingFile
from llmproxy.logs.streams import StreamSink

Output = Literal["stdout", "stderr", "journal", "file"]


@attrs.frozen
class Destination:
    """A destination as it is configured.

    Attributes:
        output: What it is.
        path: The file's; of no meaning to the others.
        max_size_bytes: As in `RotatingFile`.
        keep: As in `RotatingFile`.
    """

    output: Output
    path: str = ""
    max_size_bytes: int = 0
    keep: int = 1


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
        self._streams = {"stdout": StreamSink(stdout), "stderr": StreamSink(stderr)}
        self._journal_path = journal_path
        self._journal: JournalSink | None = None
        self._files: dict[str, RotatingFile] = {}

    def __repr__(self) -> str:
        return f"<Outputs {list(self._files.values())}>"

    def open(self, destination: Destination) -> ILogSink:
        """Open a destination; one that two logs share is the same object.

        A file that is open stays as it is until `settle`, but must be there to be opened anew.

        Raises:
            OSError: It cannot be written.
        """
        if destination.output == "journal":
            self._journal = self._journal or JournalSink(self._journal_path)
            return self._journal
        if destination.output != "file":
            return self._streams[destination.output]
        path = destination.path
        opened = RotatingFile(path, destination.max_size_bytes, destination.keep)
        if path not in self._files:
            self._files[path] = opened
        else:
            opened.close()
        return self._files[path]

    def settle(self, destinations: Collection[Destination]) -> None:
        """Have these open and no other file, each set aside as it is configured, and opened anew.

        So a file that somebody moved away is let go of, and a new one begun under its name. One
        that cannot be opened is told of in the log, and the old one stays in use.

        Args:
            destinations: Open ones; where two of them are the same file, the first one counts.
        """
        self.close_others(destinations)
        for path, file in self._files.items():
            named = next(one for one in destinations if one.path == path and one.output == "file")
            try:
                file.reopen(named.max_size_bytes, named.keep)
            except OSError as error:
                self._log.error(
                    "{sink} cannot be reopened: {error}", sink=file, error=error.strerror
                )

    def close_others(self, destinations: Collection[Destination]) -> None:
        """Close every file that is none of these."""
        wanted = {one.path for one in destinations if one.output == "file"}
        for path in self._files.keys() - wanted:
            self._files.pop(path).close()
