"""Tests of `llmproxy.commands.backends`."""

from __future__ import annotations

import re
from typing import Literal

import pytest

from tests.commands.conftest import Operator


def test_backends_are_listed(operator: Operator) -> None:
    """Without a command as well."""
    wanted = [
        "NAME   STATE  BREAKER  IN FLIGHT  WEIGHT  URL                   MODELS           REASON",
        "gpu-1  up     closed           3       1  http://10.0.0.5:8001  qwen-72b, coder  -",
    ]
    assert operator.does("backends").splitlines() == wanted
    assert operator.does("backends", "list").splitlines() == wanted
    (one,) = operator.gives("backends")["backends"]
    assert (one["name"], one["models"]) == ("gpu-1", ["qwen-72b", "coder"])


def test_the_list_fits_a_terminal(operator: Operator) -> None:
    """A long reason is cut."""
    operator.fake.backends["gpu-1"].reason = "no answer within the time that it has " * 5
    lines = operator.does("backends", columns=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].endswith("…")


@pytest.mark.parametrize(
    ("breaker", "ejected", "shown"),
    [("open", True, "open, ejected"), ("open", False, "open"), ("half_open", False, "half-open")],
)
def test_breaker_and_slow_start_are_shown(
    operator: Operator, breaker: Literal["open", "half_open"], ejected: bool, shown: str
) -> None:
    """In words, and with the share of the weight that counts."""
    one = operator.fake.backends["gpu-1"]
    one.breaker, one.ejected, one.share_percent = breaker, ejected, 55
    line = operator.does("backends").splitlines()[1]
    assert re.split(" {2,}", line)[2] == shown
    assert " 1 at 55%  " in line


def test_one_is_drained_and_enabled(operator: Operator) -> None:
    """How many requests still run on it is said."""
    assert operator.does("backends", "drain", "gpu-1") == "gpu-1 is drained, 3 in flight\n"
    operator.fake.backends["gpu-1"].in_flight = 0
    assert operator.does("backends", "enable", "gpu-1") == "gpu-1 is up\n"
    assert operator.gives("backends", "drain", "gpu-1")["state"] == "drained"
    words = operator.fails(1, "backends", "enable", "gpu-2")
    assert words == "Error: There is no backend of that name.\n"


def test_help_is_still_help(operator: Operator) -> None:
    """It names the commands."""
    for flag in ("-h", "--help"):
        assert "drain" in operator.does("backends", flag)
