"""The operations on backends."""

from __future__ import annotations

import pytest
from twisted.logger import capturedLogs

from tests.resources.admin.tree import AdminTree

GPU_A = {
    "name": "gpu-a",
    "url": "http://10.0.0.1:8001/v1",
    "state": "up",
    "in_flight": 3,
    "reason": "",
    "weight": 2,
    "models": ["qwen-*"],
    "breaker": "half_open",
    "ejected": True,
    "times_opened": 4,
    "share_percent": 55,
    "latency_ms": 120,
}


def test_the_list() -> None:
    """In the order of the configuration, with what it says of them."""
    answer = AdminTree().ask("GET", "/admin/backends")
    first, second = answer.json["data"]["backends"]
    assert first == GPU_A
    assert (second["name"], second["weight"], second["models"]) == ("gpu-b", 1, [])


def test_drain_and_enable() -> None:
    """Both give the backend as it then is, may be said twice, and are in the log."""
    tree = AdminTree()
    with capturedLogs() as events:
        for _ in range(2):
            drained = tree.done("/admin/backends/drain", {"name": "gpu-a"})
            assert drained == {**GPU_A, "state": "drained"}
            assert tree.backends.drained == {"gpu-a"}
        assert tree.done("/admin/backends/enable", {"name": "gpu-a"}) == GPU_A
    assert tree.backends.drained == set()
    assert [event["change"] for event in events if "change" in event] == [
        "drained backend gpu-a",
        "drained backend gpu-a",
        "enabled backend gpu-a",
    ]


@pytest.mark.parametrize("verb", ["drain", "enable"])
@pytest.mark.parametrize(
    ("content", "status"),
    [({"name": "gpu-c"}, 404), ({"name": ""}, 400), ({}, 400), ({"name": None}, 400)],
)
def test_which_backend(verb: str, content: object, status: int) -> None:
    """It must be one of those that there are."""
    assert AdminTree().refused(f"/admin/backends/{verb}", content)[:2] == (status, "name")


@pytest.mark.parametrize("operation", ["drain", "enable"])
def test_one_of_several_workers(operation: str) -> None:
    """Others would not know of it: nothing is changed, and that is said."""
    tree = AdminTree(is_alone=False)
    status, _, message = tree.refused(f"/admin/backends/{operation}", {"name": "gpu-a"})
    assert status == 409
    assert "several workers" in message
    assert tree.backends.drained == set()
