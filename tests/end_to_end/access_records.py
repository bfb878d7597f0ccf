"""What a daemon that logs JSON has written of its requests."""

from __future__ import annotations

import json
from typing import Any

from tests.daemon import Daemon


def records(daemon: Daemon) -> list[dict[str, Any]]:
    """Give the access log's records so far."""
    return [json.loads(line) for line in daemon.log().splitlines() if line.startswith('{"id"')]
