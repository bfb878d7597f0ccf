"""Measures one workload against one gateway: what the client saw, and what it cost."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import msgspec

from benchmarks.gateways import KEY, Running
from benchmarks.processes import cpu_s, memory
from benchmarks.workloads import Workload

_GRACE_S = 90.0  # over what a run should take; the client gives up after 30 s of silence itself


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
    most_open: int = 0
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
        connections: How many there were.
        rss_bytes: Resident memory while the streams were open; 0 unless asked for.
        bytes_each: Growth of the memory (PSS) per open stream; 0 unless asked for.
    """

    gateway: str
    workload: str
    seen: Seen
    cpu_s: float
    cpu_us: float
    per_s: float
    connections: int = 0
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
            if workload.holds_open:
                time.sleep(workload.middle_s)
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
        connections=workload.connections,
        rss_bytes=during.rss_bytes if workload.holds_open else 0,
        bytes_each=(during.pss_bytes - before.pss_bytes) / workload.connections,
    )
