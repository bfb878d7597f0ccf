"""The real clients, where they are installed."""

from __future__ import annotations

import pytest

from tests.end_to_end import node_clients


@pytest.fixture(scope="session")
def opencode_program() -> str:
    """OpenCode's program; skips the test where there is none."""
    try:
        return node_clients.find_opencode()
    except node_clients.NotInstalled as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def node_program() -> str:
    """Node.js beside the packages of tests/clients; skips the test where there is none."""
    try:
        return node_clients.find_node()
    except node_clients.NotInstalled as reason:
        pytest.skip(str(reason))
