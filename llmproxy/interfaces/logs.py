"""The seam of the logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zope.interface import Interface

if TYPE_CHECKING:
    from llmproxy.values import LogLine


class ILogSink(Interface):
    """Where the lines of a log go: a stream, a file, the journal."""

    def write(lines: Sequence[LogLine]) -> None:
        """Write lines, together; nothing of them is held back.

        Raises:
            OSError: They cannot be written; some or all of them are lost.
        """
