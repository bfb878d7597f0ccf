"""Turns measurements into the table: medians over the rounds, ratios, and the contract's targets.

It measures nothing and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Literal

import attrs
import msgspec

from benchmarks.machine import Machine
from benchmarks.measure import Measured

MB = 1_000_000
OURS, PEER, DIRECT = "LLMProxy", "nginx", "direct"


class IdleMemory(msgspec.Struct):
    """Memory of a gateway that has relayed one request and idles.

    Attributes:
        gateway: Its name.
        rss_bytes: Resident.
        pss_bytes: Resident, shared pages divided among their users.
    """

    gateway: str
    rss_bytes: int
    pss_bytes: int


class Results(msgspec.Struct):
    """All that one run of the benchmark found.

    Attributes:
        command: The command line.
        machine: What it ran on.
        rounds: How many rounds were wanted.
        seconds: Of each workload.
        measured: In the order in which they were measured.
        idle: Likewise.
        problems: What went wrong; the figures of such a run are not to be trusted.
    """

    command: str
    machine: Machine
    rounds: int
    seconds: float
    measured: list[Measured] = []
    idle: list[IdleMemory] = []
    problems: list[str] = []


@attrs.frozen
class Target:
    """What the contract asks for (its section "Speed and size").

    Attributes:
        bound: The number.
        kind: ``ratio``: LLMProxy's figure over nginx's; ``figure``: LLMProxy's own.
        sense: Whether the bound is the most or the least that is allowed.
        text: How the contract says it.
    """

    bound: float
    kind: Literal["ratio", "figure"]
    sense: Literal["most", "least"]
    text: str

    def is_met(self, ours: float | None, ratio: float | None) -> bool | None:
        """Tell whether the target is met; None when what it needs was not measured."""
        value = ratio if self.kind == "ratio" else ours
        if value is None:
            return None
        return value <= self.bound if self.sense == "most" else value >= self.bound


TARGET_JSON = Target(6.0, "ratio", "most", "<= 6 x")
TARGET_SSE = Target(2.5, "ratio", "most", "<= 2.5 x")
TARGET_FLOOD = Target(1 / 3, "ratio", "least", ">= 1/3")
TARGET_FIRST_BYTE_P50 = Target(1.0, "figure", "most", "<= 1 ms")
TARGET_FIRST_BYTE_P99 = Target(5.0, "figure", "most", "<= 5 ms")
TARGET_BIG = Target(2.0, "ratio", "most", "<= 2 x")
TARGET_OPEN = Target(25.0, "figure", "most", "<= 25 kB")
TARGET_IDLE = Target(60.0, "figure", "most", "<= 60 MB")


@attrs.frozen
class Row:
    """One line of the table.

    Attributes:
        title: What it shows, with the unit.
        ours: LLMProxy's figure; None: not measured.
        peer: nginx's.
        target: What LLMProxy's should be; None: shown for information.
        digits: After the decimal point.
    """

    title: str
    ours: float | None
    peer: float | None
    target: Target | None = None
    digits: int = 1

    @property
    def ratio(self) -> float | None:
        """LLMProxy's figure over nginx's; None without both."""
        if self.ours is None or not self.peer or self.peer < 0:
            return None
        return self.ours / self.peer

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None without a target or without figures."""
        return self.target.is_met(self.ours, self.ratio) if self.target else None

    def __str__(self) -> str:
        def shown(value: float | None, digits: int) -> str:
            return "-" if value is None else f"{value:,.{digits}f}".replace(",", " ")

        verdict = {True: ", met", False: ", **missed**", None: ""}[self.is_met]
        target = self.target.text + verdict if self.target else ""
        cells = (self.title, shown(self.peer, self.digits), shown(self.ours, self.digits))
        return "| " + " | ".join((*cells, shown(self.ratio, 2), target)) + " |"


def rows(results: Results) -> list[Row]:
    """Give the table's lines, those without any figure left out."""

    def figure(workload: str, read: Callable[[Measured], float | None]) -> tuple[float | None, ...]:
        return tuple(
            _median(
                read(one)
                for one in results.measured
                if one.gateway == gateway and one.workload == workload
            )
            for gateway in (OURS, PEER, DIRECT)
        )

    def added(workload: str, read: Callable[[Measured], float | None]) -> tuple[float | None, ...]:
        """Milliseconds over those of the same workload without a gateway."""
        ours, peer, direct = figure(workload, read)
        base = direct or 0.0
        return tuple(None if one is None else (one - base) / 1000 for one in (ours, peer))

    def idle(read: Callable[[IdleMemory], float]) -> tuple[float | None, ...]:
        return tuple(
            _median(read(one) / MB for one in results.idle if one.gateway == gateway)
            for gateway in (OURS, PEER)
        )

    def row(
        title: str, figures: Sequence[float | None], target: Target | None = None, digits: int = 1
    ) -> Row:
        return Row(title, figures[0], figures[1], target, digits)

    cpu, per_s = (lambda one: one.cpu_us), (lambda one: one.per_s)
    first_byte = "sse: added first-byte time"
    event = "sse: added time per event"
    table = [
        row("json: CPU µs/request", figure("json", cpu), TARGET_JSON),
        row("json: requests/s", figure("json", per_s), digits=0),
        row("sse, usage asked for: CPU µs/event", figure("sse", cpu), TARGET_SSE),
        row("sse, usage withheld: CPU µs/event", figure("sse-withheld", cpu), TARGET_SSE),
        row("sse, streams of 20 events: CPU µs/event", figure("sse-short", cpu), TARGET_SSE),
        row("sse: share of a core, %", figure("sse", _busy_percent)),
        row(f"{first_byte} p50, ms", added("sse", _first_byte_p50), TARGET_FIRST_BYTE_P50, 2),
        row(f"{first_byte} p99, ms", added("sse", _first_byte_p99), TARGET_FIRST_BYTE_P99, 2),
        row(f"{event} p50, ms", added("sse", _event_p50), digits=2),
        row(f"{event} p99, ms", added("sse", _event_p99), digits=2),
        row("flood: events/s", figure("flood", per_s), TARGET_FLOOD, 0),
        row("flood: CPU µs/event", figure("flood", cpu), digits=2),
        row("big, 256 KiB prompts: CPU µs/request", figure("big", cpu), TARGET_BIG),
        row(
            "open streams: kB each", figure("open", lambda one: one.bytes_each / 1000), TARGET_OPEN
        ),
        row("idle memory, RSS, MB", idle(lambda one: one.rss_bytes), TARGET_IDLE),
        row("idle memory, PSS, MB", idle(lambda one: one.pss_bytes)),
    ]
    return [one for one in table if one.ours is not None or one.peer is not None]


def markdown(results: Results) -> str:
    """Give the whole report: command, machine, table, and what went wrong."""
    lines = [
        f"    {results.command}",
        "",
        f"Medians of {results.rounds} rounds, {results.seconds:g} s a workload. {results.machine}.",
        "",
        f"| workload | {PEER} | {OURS} | ratio | target |",
        "|---|---:|---:|---:|---|",
        *(str(one) for one in rows(results)),
    ]
    if results.problems:
        lines += ["", "**Not to be trusted, there were errors:**", ""]
        lines += [f"- {problem}" for problem in results.problems]
    return "\n".join(lines) + "\n"


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _busy_percent(one: Measured) -> float:
    return 100 * one.cpu_s / one.seen.seconds


def _first_byte_p50(one: Measured) -> float | None:
    return one.seen.first_byte_us.p50 if one.seen.first_byte_us else None


def _first_byte_p99(one: Measured) -> float | None:
    return one.seen.first_byte_us.p99 if one.seen.first_byte_us else None


def _event_p50(one: Measured) -> float | None:
    return one.seen.event_us.p50 if one.seen.event_us else None


def _event_p99(one: Measured) -> float | None:
    return one.seen.event_us.p99 if one.seen.event_us else None
