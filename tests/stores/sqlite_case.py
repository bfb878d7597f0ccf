"""What tests over a real SQLite file share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmproxy.stores.sqlite import SqliteFile
from tests.stores.reactor_case import ReactorTestCase, reactor


class SqliteTestCase(ReactorTestCase):
    """Has a directory of its own, and closes the files that it opens."""

    path: Path

    @pytest.fixture(autouse=True)
    def use_directory(self, tmp_path: Path) -> None:
        """Give the test the name of a file that is not there yet."""
        self.path = tmp_path / "llmproxy.db"

    def open(self, **options: Any) -> SqliteFile:
        """Open the file, once more if it is open."""
        file = SqliteFile(str(self.path), reactor=reactor, **options)
        file.startService()
        self.addCleanup(self.close, file)
        return file

    async def close(self, file: SqliteFile) -> None:
        """Close a file, unless the test has."""
        if file.running:
            await file.stopService()

    def all_bytes(self) -> bytes:
        """Give the bytes of the file and of all those beside it."""
        return b"".join(path.read_bytes() for path in sorted(self.path.parent.iterdir()))


def run_python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, to its end."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
