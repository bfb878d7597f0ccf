"""What a daemon that logs JSON has written of its requests."""

from __future__ import annotations

import json
import time
from typing import Any, Final

from tests.daemon import Daemon

FLUSHED_S: Final = 0.5
"""Lines are written a tenth of a second after the first of them; the client may be done before."""


def records(daemon: Daemon) -> list[dict[str, Any]]:
    """Give the access log's records of all that has ended so far."""
    time.sleep(FLUSHED_S)
    return [json.loads(line) for line in daemon.log().splitlines() if line.startswith('{"id"')]
