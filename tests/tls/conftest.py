"""Certificates for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmproxy.config.model import ServerTls
from tests.tls.pair import NAME
from tests.upstream.certificates import Authority


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder for certificates."""
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    """Make an authority."""
    return Authority(folder, "authority")


@pytest.fixture(scope="module")
def settings(authority: Authority) -> ServerTls:
    """Give settings with a good certificate."""
    cert_file, key_file = authority.issue(NAME)
    return ServerTls(enabled=True, cert_file=cert_file, key_file=key_file)
