"""The fuzzer's loop: makes inputs, feeds them to a target, and keeps what is found.

Each input has a generator of its own, seeded with the run's seed and the input's number, so that
any of them can be made again alone.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Protocol, cast

import attrs

from tests.fuzz import backend_target, edge_target, stream_target
from tests.fuzz.case import Case, Difference, smaller
from tests.fuzz.watch import Hang, LogWatch, Memory, no_hang

WARM_AFTER = 1500
"""Inputs after which caches are filled, so that memory should grow no more."""


class Target(Protocol):
    """What is fuzzed."""

    def generate(self, rng: random.Random) -> Case:
        """Make an input."""

    def check(self, case: Case) -> None:
        """Raise if something does not hold."""


def _target(module: ModuleType) -> Target:
    return cast("Target", module)


TARGETS: Mapping[str, Target] = {
    "edge": _target(edge_target),
    "backend": _target(backend_target),
    "stream": _target(stream_target),
}


@attrs.frozen
class Found:
    """An input that shows a fault.

    Attributes:
        target: Whose.
        number: The input's number in its run.
        kind: What is wrong, in few words.
        case: The input, made smaller where that could be done.
        text: All there is to say.
    """

    target: str
    number: int
    kind: str
    case: Case
    text: str


@attrs.define
class Run:
    """One run of the fuzzer.

    Args:
        seed: Of everything.
        targets: Names, used in turn.
        first: Number of the first input.
        hang_after_s: How long one input may take.
        leak_check_every: Inputs between two looks at what is left over.
        shrink_s: How long to make a failing input smaller.

    Attributes:
        inputs: How many there were.
        found: One for each kind of fault.
        seen_again: How often each kind was seen.
    """

    seed: int
    targets: Sequence[str]
    first: int = 0
    hang_after_s: float = 10.0
    leak_check_every: int = 500
    shrink_s: float = 10.0
    inputs: int = 0
    found: list[Found] = attrs.field(factory=list, init=False)
    seen_again: dict[str, int] = attrs.field(factory=dict, init=False)
    memory: Memory = attrs.field(factory=Memory, init=False)
    _log: LogWatch = attrs.field(factory=LogWatch, init=False)

    def inputs_until(self, done: Callable[[], bool]) -> Iterator[Found | None]:
        """Feed inputs until it is done; give each new kind of fault, and None now and then."""
        with self._log.watching():
            while not done():
                number = self.first + self.inputs
                name = self.targets[number % len(self.targets)]
                case = self.case(name, number)
                fault = self._fault(name, case)
                self.inputs += 1
                if fault is not None:
                    new = self._keep(name, number, case, *fault)
                    if new is not None:
                        yield new
                if self.inputs == WARM_AFTER:
                    self.memory.settled()
                if self.inputs % self.leak_check_every == 0:
                    leak = self._leak()
                    if leak is not None:
                        new = self._keep("memory", number, Case(()), *leak)
                        if new is not None:
                            yield new
                    yield None
            leak = self._leak()
            if leak is not None:
                new = self._keep("memory", self.first + self.inputs, Case(()), *leak)
                if new is not None:
                    yield new

    def case(self, name: str, number: int) -> Case:
        """Make the input of that number."""
        return TARGETS[name].generate(random.Random(f"{self.seed}/{name}/{number}"))

    def _fault(self, name: str, case: Case) -> tuple[str, str] | None:
        """Feed an input; give the kind of fault that it shows, and the whole story."""
        self._log.forget()
        try:
            with no_hang(self.hang_after_s):
                TARGETS[name].check(case)
            self._log.check()
        except Hang as error:
            return "a hang", "".join(traceback.format_exception(error))
        except Difference as error:
            return error.kind, str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what we look for
            frames = traceback.extract_tb(error.__traceback__)
            ours = [one for one in frames if "llmproxy/" in one.filename]
            last = (ours or frames)[-1]
            where = f"{last.name}, line {last.lineno}"
            return f"{type(error).__name__} in {where}", "".join(traceback.format_exception(error))
        return None

    def _leak(self) -> tuple[str, str] | None:
        try:
            self.memory.check()
        except Difference as error:
            return error.kind, str(error)
        return None

    def _keep(self, name: str, number: int, case: Case, kind: str, text: str) -> Found | None:
        key = f"{name}: {kind}"
        self.seen_again[key] = self.seen_again.get(key, 0) + 1
        if self.seen_again[key] > 1:
            return None

        def fails_alike(tried: Case) -> bool:
            fault = self._fault(name, tried)
            return fault is not None and fault[0] == kind

        if name in TARGETS and self.shrink_s:
            case = smaller(case, fails_alike, self.shrink_s)
            fault = self._fault(name, case)
            text = fault[1] if fault is not None else text
        self.found.append(Found(name, number, kind, case, text))
        return self.found[-1]
