"""Measures one workload against one gateway: what the client saw, and what it cost."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import attrs
import msgspec

from benchmarks.gateways import KEY, Running
from benchmarks.processes import cpu_s, memory

_GRACE_S = 90.0  # over what a run should take; the client gives up after 30 s of silence itself
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
        once: Each connection makes one request, and memory is read while all are open.
    """

    name: str
    unit: str
    connections: int
    stream: bool = False
    events: int = 0
    pace_us: int = 0
    ask_usage: bool = True
    prompt_bytes: int = 0
    once: bool = False

    def arguments(self, seconds: float) -> list[str]:
        """Give the client's command line, but for port and key."""
        words = ["--connections", str(self.connections)]
        words += ["--seconds", "0" if self.once else f"{seconds:g}"]
        words += ["--prompt-bytes", str(self.prompt_bytes)]
        if self.stream:
            words += ["--stream", "--events", str(self.events), "--pace-us", str(self.pace_us)]
            words += ["--ask-usage"] if self.ask_usage else []
        if self.once:
            words += ["--period-us", "1000000"]
        elif self.pace_us:
            # A stream's own length and a pause, so that nearly all streams are always open.
            words += ["--period-us", str((self.events + 1) * self.pace_us)]
        return words


WORKLOADS: tuple[Workload, ...] = (
    Workload("open", "stream", 1000, stream=True, events=4, pace_us=1_000_000, once=True),
    Workload("json", "request", 32),
    Workload("sse", "event", 100, stream=True, events=100, pace_us=10_000),
    Workload(
        "sse-withheld", "event", 100, stream=True, events=100, pace_us=10_000, ask_usage=False
    ),
    Workload("sse-short", "event", 100, stream=True, events=20, pace_us=10_000),
    Workload("flood", "event", 100, stream=True, events=200),
    Workload("big", "request", 32, prompt_bytes=256 * KIB),
)
"""In the order in which they run: ``open`` first, while memory is as fresh as it was started."""


class Percentiles(msgspec.Struct):
    """Microseconds."""

    p50: float
    p99: float
    max: float


class Seen(msgspec.Struct):
    """What the client saw; the head of ``tools/load.c`` says what each is."""

    requests: int
    events: int
    errors: int
    error: str
    reconnects: int
    seconds: float
    first_byte_us: Percentiles | None = None
    event_us: Percentiles | None = None


class Measured(msgspec.Struct):
    """One workload, once, against one gateway.

    Attributes:
        gateway: Its name.
        workload: The workload's name.
        seen: What the client saw.
        cpu_s: CPU seconds of the gateway's process tree meanwhile.
        cpu_us: The same in microseconds per unit of the workload.
        per_s: Units per second.
        rss_bytes: Resident memory while the streams were open; 0 unless asked for.
        bytes_each: Growth of the memory (PSS) per open stream; 0 unless asked for.
    """

    gateway: str
    workload: str
    seen: Seen
    cpu_s: float
    cpu_us: float
    per_s: float
    rss_bytes: int = 0
    bytes_each: float = 0.0


class LoadFailed(Exception):
    """The client itself failed; the message says how."""


def measure(load: Path, gateway: Running, workload: Workload, seconds: float) -> Measured:
    """Run a workload against a gateway.

    Args:
        load: The compiled client.
        gateway: What to measure.
        workload: What to do.
        seconds: For how long new requests are begun.

    Raises:
        LoadFailed: The client gave no result.
    """
    command = [str(load), "--port", str(gateway.port), "--key", KEY, *workload.arguments(seconds)]
    before, cpu_before_s = memory(gateway.pid), cpu_s(gateway.pid)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as client:
        try:
            during = before
            if workload.once:
                # All are open after a second; the first ends after as many as it has events.
                time.sleep(1.0 + workload.events * workload.pace_us / 2e6)
                during = memory(gateway.pid)
            printed, complaint = client.communicate(timeout=seconds + _GRACE_S)
        except subprocess.TimeoutExpired:
            raise LoadFailed(f"the client did not end within {seconds + _GRACE_S:g} s") from None
        finally:
            if client.poll() is None:
                client.kill()
    used_s = cpu_s(gateway.pid) - cpu_before_s
    try:
        seen = msgspec.json.decode(printed, type=Seen)
    except msgspec.DecodeError:
        raise LoadFailed(f"exit status {client.returncode}: {complaint or printed!r}") from None
    units = seen.events if workload.unit == "event" else seen.requests
    return Measured(
        gateway=gateway.name,
        workload=workload.name,
        seen=seen,
        cpu_s=used_s,
        cpu_us=used_s * 1e6 / max(1, units),
        per_s=units / seen.seconds,
        rss_bytes=during.rss_bytes if workload.once else 0,
        bytes_each=(during.pss_bytes - before.pss_bytes) / workload.connections,
    )
