"""Runs LLMProxy for minutes over backends that fail, and looks at every byte that comes out.

``python -m benchmarks.soak`` has 300 streams over three backends, of which one is killed, stalled
or restarted each minute, while three clients in ten leave midway. Every stream must have a true
end: whole, or a clear error. It prints what happened; the exit status is 1 when anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from statistics import linear_regression, median
from typing import Any

import attrs

from benchmarks.gateways import KEY, CannotStart, Running, free_port, started
from benchmarks.processes import memory
from benchmarks.soak_backends import Faults, SoakBackend
from benchmarks.soak_clients import Clients, Seen
from benchmarks.toolchain import CannotBuild, build

BACKENDS = 3
STALL_S = 5.0
FLAT_BYTES_PER_MINUTE = 256 * 1024
"""Memory that grows faster over the second half of the run is a fault."""

SETTLED_S = 5.0
"""How long after the last stream everything may take to be back at zero."""


@attrs.frozen
class Sample:
    """Memory at one moment.

    Attributes:
        at_s: Since the beginning.
        private_bytes: Of the gateway's process tree; what it shares with others would change with
            them.
    """

    at_s: float
    private_bytes: int


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    parser.add_argument("--streams", type=int, default=300, help="at once (300)")
    parser.add_argument("--leaving", type=float, default=0.3, help="share of them left (0.3)")
    parser.add_argument("--fault-every", type=float, default=60.0, help="seconds (60)")
    parser.add_argument("--seed", type=int, default=None, help="repeats a run's choices")
    options = parser.parse_args(arguments)
    if options.minutes <= 0 or options.streams < 1 or options.fault_every <= 0:
        parser.error("--minutes, --streams and --fault-every must be positive")
    return options


def configuration(folder: Path, port: int, backend_ports: Sequence[int]) -> dict[str, Any]:
    """Give the gateway's configuration: short clocks, everything on."""
    return {
        "server": {"listen": f"127.0.0.1:{port}"},
        "backends": [
            {
                "name": f"model-{number}",
                "url": f"http://127.0.0.1:{backend_port}",
                "connect_timeout": "2s",
                "first_byte_timeout": f"{STALL_S}s",
                "stall_timeout": f"{STALL_S}s",
            }
            for number, backend_port in enumerate(backend_ports)
        ],
        "auth": {
            "pipeline": [
                {"name": "static", "type": "static", "static": {"keys": [{"key": KEY}]}},
            ]
        },
        "health_check": {"interval": "2s", "timeout": "1s"},
        "usage": {
            "reporters": [{"name": "local", "type": "builtin"}],
            "spool_dir": str(folder / "spool"),
        },
        "admin": {"db_path": str(folder / "llmproxy.db")},
        "log": {"output": "file", "file": {"path": str(folder / "error.log")}},
        "logging": {
            "access": {"format": "json", "output": "file", "path": str(folder / "access.log")}
        },
    }


async def _watch(pid: int, samples: list[Sample], began_s: float) -> None:
    while True:
        samples.append(Sample(time.monotonic() - began_s, memory(pid).private_bytes))
        await asyncio.sleep(1.0)


async def _load(clients: Clients, pid: int, samples: list[Sample], began_s: float) -> None:
    watching = asyncio.create_task(_watch(pid, samples, began_s))
    try:
        await clients.run()
    finally:
        watching.cancel()


def _in_flight(port: int) -> dict[str, int]:
    """Give what the gateway says that each backend is at work on."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
        return {one["name"]: one["in_flight"] for one in json.load(answer)["backends"]}


def _left_over(port: int) -> list[str]:
    """Give what is not back at zero when everything should be."""
    end_s = time.monotonic() + SETTLED_S
    while True:
        left = [
            f"{name} has {count} in flight" for name, count in _in_flight(port).items() if count
        ]
        if not left or time.monotonic() > end_s:
            return left
        time.sleep(0.1)


def slope_bytes_per_minute(samples: Sequence[Sample]) -> float:
    """Say how fast memory grew over the second half of a run."""
    later = samples[len(samples) // 2 :]
    if len(later) < 2:
        return 0.0
    slope, _ = linear_regression([one.at_s for one in later], [one.private_bytes for one in later])
    return slope * 60


def by_minute(samples: Sequence[Sample]) -> Sequence[str]:
    """Give memory in MB, the median of each minute."""
    minutes: dict[int, list[int]] = {}
    for one in samples:
        minutes.setdefault(int(one.at_s // 60), []).append(one.private_bytes)
    return [f"{median(values) / 1e6:.1f}" for values in minutes.values()]


def run(options: argparse.Namespace, folder: Path) -> int:
    """Run it, and tell; give the exit status."""
    seed = options.seed if options.seed is not None else int(time.time())
    random = Random(seed)
    print(f"seed {seed}")
    seen = Seen()
    samples: list[Sample] = []
    began_s = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began_s:6.0f} s  {what}", flush=True)

    with ExitStack() as stack:
        model = build().model
        backends = [stack.enter_context(SoakBackend(model)) for _ in range(BACKENDS)]
        port = free_port()
        file = folder / "llmproxy.yaml"
        ports = [backend.port for backend in backends]
        file.write_text(json.dumps(configuration(folder, port, ports)))  # JSON is YAML
        twistd = Path(sys.executable).with_name("twistd")
        command = [str(twistd), "-n", "--pidfile=", "llmproxy", "--config", str(file)]
        gateway = stack.enter_context(
            started(Running("LLMProxy", port, 0, folder, log_mark=b""), command)
        )
        clients = Clients(
            port,
            count=options.streams,
            leaving=options.leaving,
            until_s=began_s + options.minutes * 60,
            random=Random(random.random()),
            seen=seen,
        )
        with Faults(backends, options.fault_every, random, say) as faults:
            asyncio.run(_load(clients, gateway.pid, samples, began_s))
        seen.faults += _left_over(port)
    slope = slope_bytes_per_minute(samples)
    if options.minutes >= 5 and slope > FLAT_BYTES_PER_MINUTE:
        seen.faults.append(f"memory grows by {slope / 1024:.0f} KiB a minute")
    for end, count in sorted(seen.ends.items()):
        print(f"{count:8}  {end}")
    print(f"{len(faults.happened):8}  faults of backends")
    print(f"memory: {' '.join(by_minute(samples))} MB, {slope / 1024:+.0f} KiB a minute")
    for fault in seen.faults:
        print(f"WRONG: {fault}")
    return 1 if seen.faults else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = _options(sys.argv[1:] if arguments is None else arguments)
    with tempfile.TemporaryDirectory(prefix="llmproxy-soak-") as folder:
        try:
            return run(options, Path(folder))
        except (CannotBuild, CannotStart) as reason:
            print(f"cannot be run: {reason}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    raise SystemExit(main())
