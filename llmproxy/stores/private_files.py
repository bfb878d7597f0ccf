"""Files that only the gateway's own user may read: how they and their directory are made.

It knows nothing of what is in them.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import Final

from twisted.logger import Logger

_log: Final = Logger()


def make_directory_of(path: str) -> None:
    """Make a file's directory, for its owner only, unless there is one; not those above it.

    Raises:
        OSError: It cannot be made.
    """
    with suppress(FileExistsError):
        os.mkdir(os.path.dirname(os.path.abspath(path)), 0o700)


def make_empty(path: str) -> bool:
    """Make an empty file, for its owner only, whatever the umask; say whether it was not there.

    Raises:
        OSError: It cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    os.close(descriptor)
    return True


def warn_if_exposed(path: str) -> None:
    """Log a warning when others than a file's owner may read or write it.

    Raises:
        OSError: It cannot be looked at.
    """
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o077:
        _log.warn(
            "{path} is open to others (its mode is {mode}); it holds what only the gateway should "
            "read: chmod 600",
            path=path,
            mode=f"{mode:04o}",
        )
