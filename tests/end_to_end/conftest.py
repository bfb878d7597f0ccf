"""The real clients, where they are installed; and what packages are made and installed from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end import node_clients
from tests.end_to_end.packages import NoIndex, build_wheel, copy_sources, download_dependencies


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


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout."""
    return copy_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="session")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel made of it, by the build backend that pyproject.toml names."""
    return build_wheel(sources, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every package that an installation needs; skips the test where none can be downloaded."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    try:
        download_dependencies(folder)
    except NoIndex:
        pytest.skip("no server of Python packages can be reached")
    return folder
