"""The list of operations: no path twice, and each with a shape of its own."""

from __future__ import annotations

import msgspec

from llmproxy.resources.admin.operations import OPERATIONS, SHOW_OPENAPI


def test_the_contract() -> None:
    """The paths and methods are those that front ends know."""
    assert {(operation.method, operation.path) for operation in OPERATIONS} == {
        ("POST", "/admin/keys/create"),
        ("POST", "/admin/keys/update"),
        ("POST", "/admin/keys/delete"),
        ("POST", "/admin/keys/get"),
        ("POST", "/admin/keys/list"),
        ("POST", "/admin/keys/sync"),
        ("POST", "/admin/usage/summary"),
        ("POST", "/admin/usage/query"),
        ("POST", "/admin/usage/sessions"),
        ("POST", "/admin/spool/status"),
        ("POST", "/admin/spool/replay"),
        ("POST", "/admin/spool/dead-letters"),
        ("GET", "/admin/backends"),
        ("POST", "/admin/backends/drain"),
        ("POST", "/admin/backends/enable"),
        ("GET", "/admin/config"),
        ("GET", "/admin/openapi.json"),
    }
    assert len({operation.path for operation in OPERATIONS}) == len(OPERATIONS)


def test_each_is_whole() -> None:
    """What is posted has a shape, what is got has none; and each has words for people."""
    for operation in OPERATIONS:
        assert (operation.request is not None) == (operation.method == "POST")
        assert operation.summary.endswith(".")
        if operation is not SHOW_OPENAPI:
            assert issubclass(operation.answer, msgspec.Struct)
        assert not (operation.changes and operation.method == "GET")
