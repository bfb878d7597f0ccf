"""Tests of `llmproxy.workers.orders`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.error import ConnectionLost
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from llmproxy.config.load import load_file
from llmproxy.workers.orders import Order, Orders, Serve, decode, encode, first_order
from tests.workers.test_worker import FIRST, SECOND, THIRD

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe whose ends the test closes."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


@pytest.mark.parametrize("name", ["llmproxy.yaml", "llmproxy.reference.yaml"])
def test_a_configuration_is_the_same_on_the_other_side(name: str) -> None:
    """Whatever is in it."""
    order = Serve(load_file(str(ROOT / "etc" / name), {}))
    (received,) = decode(bytearray(encode(order)))
    assert received == order
    assert isinstance(received, Serve)
    assert received.loaded.lines == order.loaded.lines


def test_pieces() -> None:
    """Orders are taken once they are whole, wherever what is read is cut."""
    text = encode(SECOND) + encode(THIRD)
    unread = bytearray()
    taken: list[Order] = []
    for byte in text:
        unread.append(byte)
        taken.extend(decode(unread))
    assert (taken, unread) == ([SECOND, THIRD], bytearray())
    assert list(decode(bytearray(text))) == [SECOND, THIRD]


def test_the_first_order(pipe: tuple[int, int]) -> None:
    """It is waited for, and what comes after it is left there."""
    os.write(pipe[1], encode(FIRST) + encode(SECOND))
    assert first_order(pipe[0]) == FIRST
    assert os.read(pipe[0], 10_000) == encode(SECOND)


@pytest.mark.parametrize("written", [b"", encode(FIRST)[:-1]])
def test_the_parent_ends_before_the_first_order(pipe: tuple[int, int], written: bytes) -> None:
    """There is nothing to begin with."""
    os.write(pipe[1], written)
    os.close(pipe[1])
    with pytest.raises(EOFError):
        first_order(pipe[0])


class InTheReactor(TestCase):
    """Orders that are read as they come."""

    def setUp(self) -> None:
        """Make the pipe, and read from it."""
        descriptor, self.parents = os.pipe()
        self.obeyed: list[Order] = []
        self.lost: list[bool] = []
        self.orders = Orders(
            global_reactor, self.obeyed.append, lambda: self.lost.append(True), descriptor
        )
        self.addCleanup(os.close, descriptor)
        self.addCleanup(self.orders.stopReading)
        self.orders.startReading()

    async def turn(self) -> None:
        """Let the reactor read."""
        await deferLater(global_reactor, 0.05, lambda: None)

    async def test_each_is_obeyed(self) -> None:
        """When it has come."""
        self.addCleanup(os.close, self.parents)
        os.write(self.parents, encode(FIRST) + encode(SECOND)[:-1])
        await self.turn()
        self.assertEqual(self.obeyed, [FIRST])
        os.write(self.parents, encode(SECOND)[-1:])
        await self.turn()
        self.assertEqual(self.obeyed, [FIRST, SECOND])
        self.assertEqual(self.lost, [])

    async def test_the_parent_is_gone(self) -> None:
        """What it has said before is obeyed."""
        os.write(self.parents, encode(SECOND))
        os.close(self.parents)
        await self.turn()
        self.assertEqual((self.obeyed, self.lost), ([SECOND], [True]))

    async def test_the_end_of_the_worker(self) -> None:
        """The parent is not gone for that."""
        self.addCleanup(os.close, self.parents)
        self.orders.connectionLost(Failure(ConnectionLost()))
        await self.turn()
        self.assertEqual(self.lost, [])
