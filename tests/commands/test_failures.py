"""Tests of `llmproxy.commands.failures`."""

from __future__ import annotations

from llmproxy.commands.failures import Refused, Unreachable


def test_each_has_its_exit_status() -> None:
    """A script can tell them apart."""
    assert Refused("no").exit_code == 1
    assert Unreachable("gone").exit_code == 3


def test_a_terminal_obeys_nothing_in_them() -> None:
    """Words may come from the other side."""
    assert Refused("a\x1b[2J", "not_found").message == "a?[2J"
    assert Unreachable("a\rb").message == "a?b"
