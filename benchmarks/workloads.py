"""The workloads: what the clients do."""

from __future__ import annotations

import attrs

KIB = 1024


@attrs.frozen
class Workload:
    """What the clients do.

    Attributes:
        name: Short name, as on the command line.
        unit: What is counted.
        connections: Keep-alive connections.
        stream: Whether the completions are streamed.
        events: Events with content in each stream.
        pace_us: Microseconds between two events of a stream; 0: as fast as they are taken.
        ask_usage: Whether the client asks for token counts itself.
        prompt_bytes: Size of the prompt; 0: a few words.
        opening_s: Seconds over which the connections are opened, each for one request; all are open
            after that, until the first stream ends, and memory is read meanwhile. 0: a workload of
            many requests, without regard to memory.
        tls: Whether the clients speak TLS.
        direct: Whether it is run without a gateway as well: what the tools themselves take.
        by_default: Whether it is run unless others are chosen.
    """

    name: str
    unit: str
    connections: int
    stream: bool = False
    events: int = 0
    pace_us: int = 0
    ask_usage: bool = True
    prompt_bytes: int = 0
    opening_s: float = 0.0
    tls: bool = False
    direct: bool = False
    by_default: bool = True

    @property
    def holds_open(self) -> bool:
        """Whether it is about what open streams cost."""
        return self.opening_s > 0

    @property
    def open_files(self) -> int:
        """How many descriptors a gateway needs for it, with some to spare."""
        return 2 * self.connections + 100

    @property
    def middle_s(self) -> float:
        """When all streams are open: half way between the last opening and the first end."""
        return (self.opening_s + self.events * self.pace_us / 1e6) / 2

    def arguments(self, seconds: float) -> list[str]:
        """Give the client's command line, but for port and key."""
        words = ["--connections", str(self.connections)]
        words += ["--seconds", "0" if self.holds_open else f"{seconds:g}"]
        words += ["--prompt-bytes", str(self.prompt_bytes)]
        words += ["--tls"] if self.tls else []
        if self.stream:
            words += ["--stream", "--events", str(self.events), "--pace-us", str(self.pace_us)]
            words += ["--ask-usage"] if self.ask_usage else []
        if self.holds_open:
            words += ["--period-us", f"{self.opening_s * 1e6:.0f}"]
        elif self.pace_us:
            # A stream's own length and a pause, so that nearly all streams are always open.
            words += ["--period-us", str((self.events + 1) * self.pace_us)]
        return words


def _held(name: str, connections: int, opening_s: float, held_s: int, **further: bool) -> Workload:
    """Streams of an event a second, all open at once for `held_s`."""
    events = round(opening_s) + held_s
    return Workload(
        name,
        "event" if held_s > 10 else "stream",
        connections,
        stream=True,
        events=events,
        pace_us=1_000_000,
        opening_s=opening_s,
        **further,
    )


_SSE = Workload("sse", "event", 100, stream=True, events=100, pace_us=10_000, direct=True)
_JSON = Workload("json", "request", 32)

WORKLOADS: tuple[Workload, ...] = (
    _held("open-1", 1, 1, 2),
    _held("open", 1000, 1, 3),
    _held("streams-10k", 10_000, 20, 60, direct=True, by_default=False),
    _held("open-1-tls", 1, 1, 2, tls=True),
    _held("open-tls", 1000, 4, 3, tls=True),
    _held("streams-10k-tls", 10_000, 40, 60, tls=True, by_default=False),
    _JSON,
    _SSE,
    attrs.evolve(_SSE, name="sse-withheld", ask_usage=False, direct=False),
    attrs.evolve(_SSE, name="sse-short", events=20, direct=False),
    Workload("flood", "event", 100, stream=True, events=200),
    Workload("big", "request", 32, prompt_bytes=256 * KIB),
    attrs.evolve(_JSON, name="json-tls", tls=True),
    attrs.evolve(_SSE, name="sse-tls", tls=True, direct=False),
)


def batches(workloads: list[Workload]) -> list[list[Workload]]:
    """Say which workloads are run against the same gateways, one after the other.

    Where memory is measured, the gateways have been started for that alone: what an earlier
    workload has left behind would be taken again, and not be seen to grow. The others share; TLS
    is served on a port of its own, so by gateways of its own.
    """
    shared = [one for one in workloads if not one.holds_open]
    return [
        *([one] for one in workloads if one.holds_open),
        *filter(None, ([one for one in shared if one.tls is tls] for tls in (False, True))),
    ]
