"""Tests of `llmproxy.stores.sql_connection`."""

from __future__ import annotations

import socket

from llmproxy.stores.sql_connection import Lifeline


def test_a_cut_line_is_at_its_end() -> None:
    """Both ends see it, whoever holds the connection itself; cutting it again is nothing."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        lifeline = Lifeline(ours.fileno())
        lifeline.cut()
        assert (ours.recv(1), theirs.recv(1)) == (b"", b"")
        lifeline.cut()
        lifeline.drop()


def test_a_dropped_line_cuts_nothing() -> None:
    """Not even the connection that has got the same number since."""
    ours, theirs = socket.socketpair()
    lifeline = Lifeline(ours.fileno())
    lifeline.drop()
    with ours, theirs:
        lifeline.cut()
        lifeline.drop()
        ours.sendall(b"x")
        assert theirs.recv(1) == b"x"


def test_the_number_is_its_own() -> None:
    """A connection that was closed by its owner, and its number given away, is not hit."""
    ours, theirs = socket.socketpair()
    lifeline = Lifeline(ours.fileno())
    number = ours.fileno()
    ours.close()
    others = socket.socketpair()
    with theirs, others[0], others[1]:
        assert number in (others[0].fileno(), others[1].fileno())
        lifeline.cut()
        others[0].sendall(b"x")
        assert others[1].recv(1) == b"x"
        lifeline.drop()
