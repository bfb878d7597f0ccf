"""One input of the fuzzer: bytes and how they are cut; made, mutated and made smaller.

It must not know what the bytes are for; that is the targets' matter.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import attrs

_WORTH_CUTTING = re.compile(rb"[\r\n:;,{}\[\]\" ]")
_SINGLE_BYTES_UP_TO = 600


class Difference(Exception):
    """What should be the same, or should be so at all, is not.

    Attributes:
        kind: What, in a few words that are the same for every input that shows it.
    """

    def __init__(self, kind: str, text: str = "") -> None:
        super().__init__(f"{kind}: {text}" if text else kind)
        self.kind = kind


def cut_at(octets: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut bytes into reads at those places; what lies outside of them does not count."""
    inner = {place for place in places if 0 < place < len(octets)}
    edges = sorted({0, len(octets), *inner})
    return [octets[start:end] for start, end in pairwise(edges)]


@attrs.frozen
class Part:
    """Bytes that are sent.

    Attributes:
        octets: All of them.
        cuts: Where they are cut into reads.
        word: What the target wants to know with them, as a request's method.
        expected: What whoever wrote the bytes says that comes of them; None: nobody knows.
    """

    octets: bytes
    cuts: tuple[int, ...] = ()
    word: str = ""
    expected: tuple[object, ...] | None = None

    @property
    def whole(self) -> list[bytes]:
        """The bytes as one read."""
        return [self.octets] if self.octets else []

    @property
    def reads(self) -> list[bytes]:
        """The bytes as they are cut."""
        return cut_at(self.octets, self.cuts)

    def without(self, start: int, end: int) -> Part:
        """Leave a stretch out; the cuts behind it move along."""
        gone = end - start
        moved = {place if place <= start else max(start, place - gone) for place in self.cuts}
        return attrs.evolve(
            self,
            octets=self.octets[:start] + self.octets[end:],
            cuts=tuple(sorted(moved)),
            expected=None,
        )


@attrs.frozen
class Case:
    """One input.

    Attributes:
        parts: What is sent, in order.
        word: What the target does with it.
        seed: Of whatever else the target decides.
    """

    parts: tuple[Part, ...]
    word: str = ""
    seed: int = 0


def random_cuts(rng: random.Random, octets: bytes) -> tuple[int, ...]:
    """Choose where to cut: everywhere, at random, in equal steps, or at the bytes that matter."""
    size = len(octets)
    style = rng.randrange(5)
    if style == 0 and size <= _SINGLE_BYTES_UP_TO:
        return tuple(range(1, size))
    if style == 1:
        step = rng.choice((2, 3, 5, 7, 16, 61, 1021))
        if size // step <= _SINGLE_BYTES_UP_TO:
            return tuple(range(step, size, step))
    if style == 2:
        places = [found.start() + rng.randrange(2) for found in _WORTH_CUTTING.finditer(octets)]
        return tuple(sorted(rng.sample(places, min(len(places), rng.randrange(1, 60)))))
    return tuple(sorted(rng.randrange(size + 1) for _ in range(rng.choice((1, 1, 2, 3, 8, 30)))))


def mutated(rng: random.Random, octets: bytes, tokens: Sequence[bytes]) -> bytes:
    """Change bytes here and there: some left out, twice, other, or a token in their place."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        size = len(octets)
        at = rng.randrange(size + 1)
        end = min(size, at + rng.choice((1, 1, 2, 4, 17, 80)))
        way = rng.randrange(9)
        if way == 0:
            octets = octets[:at] + octets[end:]
        elif way == 1:
            octets = octets[:end] + octets[at:end] * rng.choice((1, 1, 2, 9)) + octets[end:]
        elif way in (2, 3, 4):
            octets = octets[:at] + rng.choice(tokens) + octets[at if way < 4 else end :]
        elif way == 5:
            octets = octets[:at] + bytes((rng.randrange(256),)) + octets[at + 1 :]
        elif way == 6:
            found = [match.start() for match in re.finditer(rb"\r\n|\n", octets)]
            if found:
                at = rng.choice(found)
                length = 2 if octets[at] == 0x0D else 1
                ending = rng.choice((b"\n", b"\r", b"\r\n", b"\r\n\r\n", b"\n\n", b""))
                octets = octets[:at] + ending + octets[at + length :]
        elif way == 7:
            octets = octets[:at]
        else:
            octets = octets[:at] + rng.randbytes(rng.choice((1, 2, 8))) + octets[at:]
    return octets


def smaller(case: Case, still_fails: Callable[[Case], bool], for_s: float) -> Case:
    """Make a failing input smaller, as long as it fails.

    Args:
        case: It.
        still_fails: Whether another fails in the same way.
        for_s: How long to try.
    """
    until = time.monotonic() + for_s
    for number in range(len(case.parts) - 1, -1, -1):
        if len(case.parts) > 1:
            fewer = attrs.evolve(case, parts=case.parts[:number] + case.parts[number + 1 :])
            if still_fails(fewer):
                case = fewer
    for number in range(len(case.parts)):
        step = max(len(case.parts[number].octets) // 2, 1)
        while step and time.monotonic() < until:
            at = 0
            while at < len(case.parts[number].octets) and time.monotonic() < until:
                part = case.parts[number]
                tried = _with_part(case, number, part.without(at, min(at + step, len(part.octets))))
                if still_fails(tried):
                    case = tried
                else:
                    at += step
            step //= 2
        for place in case.parts[number].cuts:
            part = case.parts[number]
            fewer_cuts = tuple(other for other in part.cuts if other != place)
            tried = _with_part(case, number, attrs.evolve(part, cuts=fewer_cuts))
            if time.monotonic() < until and still_fails(tried):
                case = tried
    return case


def _with_part(case: Case, number: int, part: Part) -> Case:
    return attrs.evolve(case, parts=(*case.parts[:number], part, *case.parts[number + 1 :]))
