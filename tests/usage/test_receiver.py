"""Tests of `llmproxy.usage.receiver`: what is counted, and what is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmproxy.usage.receiver import Receiver
from tests.stores.logged import Logged
from tests.usage.rig import POLICY, FakeSink


@pytest.fixture
def logged() -> Iterator[Logged]:
    """Give what is logged of receivers."""
    logged = Logged("Receiver")
    yield logged
    logged.stop()


@pytest.fixture
def receiver() -> Receiver:
    """Give one."""
    return Receiver("billing", "webhook", FakeSink(), POLICY)


def test_an_outage_is_told_once(receiver: Receiver, logged: Logged) -> None:
    """Its beginning, each new reason, its end."""
    receiver.took(5)
    for reason in ("refused", "refused", "it answered 500", "it answered 500"):
        receiver.failed(reason)
    receiver.took(7)
    receiver.took(1)
    assert logged.lines == [
        "reporter billing does not take records: refused; they wait in the spool",
        "reporter billing does not take records: it answered 500; they wait in the spool",
        "reporter billing takes records again",
    ]
    assert (receiver.delivered_batches, receiver.delivered_records) == (3, 13)
    assert (receiver.failed_tries, receiver.last_error) == (4, "")


def test_what_ends_well_for_nobody(receiver: Receiver, logged: Logged) -> None:
    """Dead letters are told of each, a receiver that is gone once."""
    receiver.gave_up("msg_1", "it answered 400")
    receiver.gone("it answered 410")
    receiver.gone("it answered 410")
    assert receiver.dead_letters == 1
    assert receiver.is_gone
    assert len(logged.lines) == 2
    assert "delivery msg_1 to reporter billing is given up" in logged.lines[0]
    assert "it answered 410" in logged.lines[1]
