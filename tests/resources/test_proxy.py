"""The relayed paths."""

from __future__ import annotations

import pytest

from llmproxy.resources.proxy import RELAYED_PATHS
from tests.edge import get
from tests.resources.tree import Tree

PATHS = [path.decode() for path in RELAYED_PATHS]


@pytest.mark.parametrize("path", PATHS)
def test_a_post_reaches_the_data_path(path: str) -> None:
    """As it came, whoever asks: the exchange finds that out."""
    tree = Tree()
    for key in ("sk-all", ""):
        assert tree.ask("POST", path + "?a=%2F", key=key).body == b"relayed"
    assert tree.begun == [(b"POST", path.encode() + b"?a=%2F")] * 2


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "PURGE"])
def test_other_methods_do_not(path: str, method: str) -> None:
    """They are told what does."""
    tree = Tree()
    answer = tree.ask(method, path)
    assert (answer.status, answer.field(b"allow")) == (405, b"POST, OPTIONS")
    assert tree.begun == []


@pytest.mark.parametrize("path", PATHS)
def test_options_is_answered_here(path: str) -> None:
    """It never reaches a backend (RFC 9110, section 9.3.7)."""
    tree = Tree()
    answer = tree.ask("OPTIONS", path, key="")
    assert (answer.status, answer.field(b"allow")) == (204, b"POST, OPTIONS")
    assert tree.begun == []


def test_the_exchange_writes_the_access_log() -> None:
    """So the site must not; what is answered here it logs."""
    tree = Tree()
    with tree.edge() as edge:
        edge.connect().send(get("/tokenize", method="POST") + get("/tokenize"))
        assert [request.method for request in edge.logged] == [b"GET"]
