"""Turns measurements into the table: medians over the rounds, ratios, and the contract's targets.

It measures nothing and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Literal

import attrs

from benchmarks.measure import Measured
from benchmarks.results import DIRECT, OURS, PEER, IdleMemory, Results

MB = 1_000_000
Read = Callable[[Measured], float | None]


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
        others: Those of further peers, each in a column after the others.
    """

    title: str
    ours: float | None
    peer: float | None
    target: Target | None = None
    digits: int = 1
    others: tuple[float | None, ...] = ()

    @property
    def figures(self) -> tuple[float | None, ...]:
        """Those of all columns."""
        return (self.ours, self.peer, *self.others)

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
        others = [shown(one, self.digits) for one in self.others]
        return "| " + " | ".join((*cells, shown(self.ratio, 2), target, *others)) + " |"


@attrs.frozen
class _Figures:
    """Medians over the rounds, a figure for each column: LLMProxy, nginx, and the further peers."""

    results: Results

    @property
    def columns(self) -> tuple[str, ...]:
        """The gateways."""
        return (OURS, PEER, *self.results.others)

    def of(self, gateway: str, workload: str, read: Read) -> float | None:
        """Give one figure."""
        return _median(
            read(one)
            for one in self.results.measured
            if one.gateway == gateway and one.workload == workload
        )

    def each(self, workload: str, read: Read) -> list[float | None]:
        """Give what was measured."""
        return [self.of(gateway, workload, read) for gateway in self.columns]

    def added_ms(self, workload: str, read: Read) -> list[float | None]:
        """Give milliseconds over those of the same workload without a gateway, where it was run."""
        base = self.of(DIRECT, workload, read) or 0.0
        return [None if one is None else (one - base) / 1000 for one in self.each(workload, read)]

    def idle(self, read: Callable[[IdleMemory], float]) -> list[float | None]:
        """Give megabytes."""
        return [
            _median(read(one) / MB for one in self.results.idle if one.gateway == gateway)
            for gateway in self.columns
        ]

    def connections(self, workload: str) -> int:
        """Give how many connections a workload had; 0 when it was not run."""
        counts = [one.connections for one in self.results.measured if one.workload == workload]
        return counts[0] if counts else 0


def rows(results: Results) -> list[Row]:
    """Give the table's lines, those without any figure left out."""
    found = _Figures(results)
    each, added_ms = found.each, found.added_ms
    first_byte = "sse: added first-byte time"
    event = "sse: added time per event"
    table = [
        _row("json: CPU µs/request", each("json", _cpu_us), TARGET_JSON),
        _row("json: requests/s", each("json", _per_s), digits=0),
        _row("sse, usage asked for: CPU µs/event", each("sse", _cpu_us), TARGET_SSE),
        _row("sse, usage withheld: CPU µs/event", each("sse-withheld", _cpu_us), TARGET_SSE),
        _row("sse, streams of 20 events: CPU µs/event", each("sse-short", _cpu_us), TARGET_SSE),
        _row("sse: share of a core, %", each("sse", _busy_percent)),
        _row(f"{first_byte} p50, ms", added_ms("sse", _first_byte_p50), TARGET_FIRST_BYTE_P50, 2),
        _row(f"{first_byte} p99, ms", added_ms("sse", _first_byte_p99), TARGET_FIRST_BYTE_P99, 2),
        _row(f"{event} p50, ms", added_ms("sse", _event_p50), digits=2),
        _row(f"{event} p99, ms", added_ms("sse", _event_p99), digits=2),
        _row("flood: events/s", each("flood", _per_s), TARGET_FLOOD, 0),
        _row("flood: CPU µs/event", each("flood", _cpu_us), digits=2),
        _row("big, 256 KiB prompts: CPU µs/request", each("big", _cpu_us), TARGET_BIG),
        _row("json over TLS: CPU µs/request", each("json-tls", _cpu_us)),
        _row("json over TLS: requests/s", each("json-tls", _per_s), digits=0),
        _row("sse over TLS: CPU µs/event", each("sse-tls", _cpu_us)),
        *_held(found, "open", TARGET_OPEN),
        *_held(found, "open-tls"),
        _row("idle memory, RSS, MB", found.idle(lambda one: one.rss_bytes), TARGET_IDLE),
        _row("idle memory, PSS, MB", found.idle(lambda one: one.pss_bytes)),
        *_thousands(found, "streams-10k", TARGET_OPEN),
        *_thousands(found, "streams-10k-tls"),
    ]
    return [one for one in table if any(figure is not None for figure in one.figures)]


def _row(
    title: str, figures: Sequence[float | None], target: Target | None = None, digits: int = 1
) -> Row:
    return Row(title, figures[0], figures[1], target, digits, tuple(figures[2:]))


def _held(found: _Figures, workload: str, target: Target | None = None) -> list[Row]:
    """Give the lines of memory for one open stream, and for many."""
    tls = ", TLS" if workload.endswith("-tls") else ""
    return [
        _row(f"open streams{tls}: kB each", found.each(workload, _kb_each), target),
        _row(
            f"one open stream{tls}: RSS, MB",
            found.each(workload.replace("open", "open-1"), _rss_mb),
        ),
    ]


def _thousands(found: _Figures, workload: str, target: Target | None = None) -> list[Row]:
    """Give the lines of thousands of streams that go on for a minute."""
    tls = ", TLS" if workload.endswith("-tls") else ""
    title = f"{found.connections(workload):,} open streams{tls}".replace(",", " ", 1)
    # What is over the direct answer is known without TLS only: the model server speaks none.
    added = "" if tls else "added "
    return [
        _row(f"{title}: kB each", found.each(workload, _kb_each), target),
        _row(f"{title}: RSS, MB", found.each(workload, _rss_mb)),
        _row(f"{title}: CPU µs/event", found.each(workload, _cpu_us)),
        _row(
            f"{title}: {added}time per event p50, ms",
            found.added_ms(workload, _event_p50),
            digits=2,
        ),
        _row(
            f"{title}: {added}time per event p99, ms",
            found.added_ms(workload, _event_p99),
            digits=2,
        ),
    ]


def markdown(results: Results) -> str:
    """Give the whole report: command, machine, table, and what went wrong."""
    others = "".join(f" {name} |" for name in results.others)
    versions = "".join(f"; {name} {results.peers[name]}" for name in results.others)
    lines = [
        f"    {results.command}",
        "",
        f"Medians of {results.rounds} rounds, {results.seconds:g} s a workload. "
        f"{results.machine}{versions}.",
        "",
        f"| workload | {PEER} | {OURS} | ratio | target |{others}",
        "|---|---:|---:|---:|---|" + "---:|" * len(results.others),
        *(str(one) for one in rows(results)),
    ]
    if results.left_out:
        lines += ["", "Left out:", "", *(f"- {one}" for one in results.left_out)]
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


def _kb_each(one: Measured) -> float:
    return one.bytes_each / 1000


def _rss_mb(one: Measured) -> float:
    return one.rss_bytes / MB


def _cpu_us(one: Measured) -> float:
    return one.cpu_us


def _per_s(one: Measured) -> float:
    return one.per_s
