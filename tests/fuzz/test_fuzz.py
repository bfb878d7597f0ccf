"""A short run of the fuzzer, and that it finds what it is there to find."""

from __future__ import annotations

import mmap
import random
import time
from contextlib import suppress
from itertools import pairwise

import attrs
import pytest
from twisted.logger import Logger

from llmproxy.wire.withhold import UsageWithholder
from tests.fuzz import __main__ as command
from tests.fuzz.case import Case, Difference, Part, cut_at, mutated, random_cuts, smaller
from tests.fuzz.run import TARGETS, Found, Run
from tests.fuzz.watch import Hang, LogWatch, Memory, no_hang

SEED = 1
INPUTS = 400


@pytest.mark.parametrize("name", TARGETS)
def test_short_run(name: str) -> None:
    """Some hundred inputs, always the same, show no fault."""
    run = Run(SEED, (name,), shrink_s=0)
    found = [one for one in run.inputs_until(lambda: run.inputs >= INPUTS) if one is not None]
    assert not found, command.told(found[0], SEED)
    assert run.inputs == INPUTS


@pytest.mark.parametrize("name", TARGETS)
def test_an_input_can_be_made_again(name: str) -> None:
    """The seed and its number are all that it takes."""
    once, again = (Run(7, (name,)).case(name, 123) for _ in range(2))
    assert once == again
    assert once != Run(8, (name,)).case(name, 123)


@attrs.define
class Faulty:
    """A target with the fault that it is given.

    Attributes:
        fault: Raised for every input that holds ``b"!"``.
    """

    fault: BaseException

    def generate(self, rng: random.Random) -> Case:
        """Make an input, now and then one that shows it."""
        octets = rng.randbytes(20).replace(b"!", b"") + rng.choice((b"", b"!")) + b"and more"
        return Case((Part(octets, random_cuts(rng, octets)),))

    def check(self, case: Case) -> None:
        """Raise it."""
        if any(b"!" in part.octets for part in case.parts):
            raise self.fault


def run_of(target: Faulty, monkeypatch: pytest.MonkeyPatch, inputs: int = 50) -> list[Found]:
    """Run the fuzzer over that target."""
    monkeypatch.setattr("tests.fuzz.run.TARGETS", {"faulty": target})
    run = Run(SEED, ("faulty",))
    list(run.inputs_until(lambda: run.inputs >= inputs))
    return run.found


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Difference("odd"), "odd"),
        (ValueError("x"), "ValueError in check"),
        (Hang("slow"), "a hang"),
    ],
)
def test_a_fault_is_found_once_and_made_small(
    fault: BaseException, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many inputs show it; one is told, with nothing in it that does not matter."""
    (found,) = run_of(Faulty(fault), monkeypatch)
    assert found.kind.startswith(kind)
    assert found.case.parts == (Part(b"!"),)
    told = command.told(found, SEED)
    assert "octets=b'!'" in told
    assert f"--seed 1 --first {found.number} --inputs 1" in told


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints what it did, and ends with 1 if there was a fault."""
    monkeypatch.setattr("tests.fuzz.__main__.globalLogBeginner.beginLoggingTo", lambda *_, **__: 0)
    arguments = ["--seed", "3", "--inputs", "20", "--target", "edge"]
    assert command.main(arguments) == 0
    assert "20 inputs in" in capsys.readouterr().out
    monkeypatch.setitem(TARGETS, "edge", Faulty(Difference("odd")))
    assert command.main(arguments) == 1
    assert "FAULT in edge: odd" in capsys.readouterr().out


def test_a_hang_is_ended() -> None:
    """Even by code that takes every Exception."""

    def hang() -> None:
        while True:
            with suppress(Exception):
                time.sleep(1)

    with pytest.raises(Hang), no_hang(0.05):
        hang()


def test_an_error_in_the_log_is_a_fault() -> None:
    """Others are not."""
    log = Logger()
    with LogWatch().watching() as watch:
        log.info("all is well")
        watch.check()
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            log.failure("a failure")
        with pytest.raises(Difference, match="ZeroDivisionError"):
            watch.check()
        watch.check()


def test_what_is_left_over_is_a_fault() -> None:
    """Objects of a connection must go with it."""
    memory = Memory()
    memory.check()
    kept = UsageWithholder()
    with pytest.raises(Difference, match="UsageWithholder"):
        memory.check()
    del kept
    memory.check()


def test_growing_memory_is_a_fault() -> None:
    """More than the bound since it was warm."""
    memory = Memory(growth_limit_bytes=8 * 1024 * 1024)
    memory.settled()
    memory.check()
    # New pages: what this process used before and gave back would not count.
    with mmap.mmap(-1, 64 * 1024 * 1024) as kept:
        kept.write(b"x" * len(kept))
        with pytest.raises(Difference, match="memory grows"):
            memory.check()


def test_cutting() -> None:
    """Reads are the bytes, and no read is empty."""
    assert cut_at(b"abc", (0, 1, 1, 3, 9)) == [b"a", b"bc"]
    assert cut_at(b"", (0, 1)) == []
    rng = random.Random(SEED)
    for _ in range(300):
        octets = mutated(rng, b"a: b\r\n" * rng.randrange(200), (b"\r\n", b"x"))
        reads = cut_at(octets, random_cuts(rng, octets))
        assert b"".join(reads) == octets
        assert all(reads)


def test_cuts_stay_where_they_were() -> None:
    """When a stretch is left out, the cuts before and behind it are those of the same bytes."""
    part = Part(b"0123456789", (2, 5, 8))
    assert part.without(3, 6).reads == [b"01", b"2", b"67", b"89"]


def test_making_smaller_keeps_the_cut_that_matters() -> None:
    """Of all cuts only the one between the two bytes is left."""

    def fails(case: Case) -> bool:
        reads = [read for part in case.parts for read in part.reads]
        return any(a.endswith(b"x") and b.startswith(b"y") for a, b in pairwise(reads))

    case = Case((Part(b"junk", (1,)), Part(b"aaaxybbb" * 3, tuple(range(1, 24)))))
    assert smaller(case, fails, 5.0) == Case((Part(b"xy", (1,)),))
