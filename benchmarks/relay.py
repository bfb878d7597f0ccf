"""Measures what relaying costs LLMProxy, beside nginx in the same run.

``python -m benchmarks.relay`` prints a Markdown table; ``benchmarks/README.md`` says what each line
means. Exit status 1 when anything was answered, streamed, counted or logged wrongly, whatever the
figures are.
"""

from __future__ import annotations

import argparse
import resource
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import attrs
import msgspec

from benchmarks import gateways
from benchmarks.gateways import CannotStart
from benchmarks.machine import this_machine
from benchmarks.peers import PEERS
from benchmarks.report import markdown
from benchmarks.results import OPEN, OURS, PEER, TWO, Results
from benchmarks.rounds import GATEWAYS, Bench, Say, Start
from benchmarks.toolchain import CannotBuild, build
from benchmarks.workloads import WORKLOADS, Workload


def _options(arguments: Sequence[str], workloads: Sequence[Workload]) -> argparse.Namespace:
    names = [workload.name for workload in workloads]
    usual = [workload.name for workload in workloads if workload.by_default]
    peers = [peer.package for peer in PEERS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="medians are taken over these (3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each workload (5)")
    parser.add_argument(
        "--workloads",
        default=",".join(usual),
        help=f"which, of {','.join(names)} (all but the streams-10k, which take minutes)",
    )
    parser.add_argument(
        "--gateways",
        default=f"{PEER},{OURS}",
        help=f"which, of {','.join((*GATEWAYS, *peers))} ({PEER},{OURS})",
    )
    parser.add_argument(
        "--peers-venv",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help=f"a virtual environment with {', '.join(peers)}; may be given several times",
    )
    parser.add_argument(
        "--streams", type=int, metavar="N", help="how many streams streams-10k opens (10000)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures here")
    parser.add_argument("--output", type=Path, metavar="FILE", help="append the table to this")
    options = parser.parse_args(arguments)
    options.workloads = options.workloads.split(",")
    options.gateways = options.gateways.split(",")
    known_gateways = [*GATEWAYS, *peers]
    for given, known in ((options.workloads, names), (options.gateways, known_gateways)):
        for name in given:
            if name not in known:
                parser.error(f"{name!r} is none of {', '.join(known)}")
    streams = 1 if options.streams is None else options.streams
    if options.rounds < 1 or options.seconds <= 0 or streams < 1:
        parser.error("--rounds, --seconds and --streams must be positive")
    return options


def _command(options: argparse.Namespace) -> str:
    """Give the command line that measures the same; where figures are written is left out."""
    words = ["python", "-m", "benchmarks.relay"]
    words += ["--rounds", str(options.rounds), "--seconds", f"{options.seconds:g}"]
    words += ["--workloads", ",".join(options.workloads)]
    words += ["--streams", str(options.streams)] if options.streams else []
    return shlex.join([*words, "--gateways", ",".join(options.gateways)])


def _chosen(options: argparse.Namespace, workloads: Sequence[Workload]) -> list[Workload]:
    """Give the workloads to run."""
    chosen = [one for one in workloads if one.name in options.workloads]
    if options.streams:
        chosen = [
            attrs.evolve(one, connections=options.streams)
            if one.name.startswith("streams-10k")
            else one
            for one in chosen
        ]
    return chosen


def _too_many_files(workloads: Sequence[Workload]) -> str:
    """Say what is wrong when a workload needs more descriptors than a process may have."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    for one in workloads:
        if one.open_files > limit:
            return (
                f"{one.name} takes {one.open_files} open files of a gateway (two for each stream), "
                f"and a process may have {limit}: raise the hard limit (ulimit -Hn, LimitNOFILE=), "
                f"or open fewer streams with --streams {(limit - 100) // 2}"
            )
    return ""


def _starts(options: argparse.Namespace, results: Results, say: Say) -> dict[str, Start]:
    """Give the gateways to measure, and say which of those wanted are not there."""
    starts: dict[str, Start] = {}
    for name in options.gateways:
        if name == PEER and gateways.nginx_path() is None:
            say("nginx is not installed (Debian: apt-get install nginx-light): it is left out")
        elif name in GATEWAYS:
            starts[name] = GATEWAYS[name]
            if name == OPEN:
                results.peers[name] = "(no keys, limits and quotas)"
            elif name == TWO:
                results.peers[name] = "(two workers)"
    for peer in PEERS:
        if peer.package not in options.gateways:
            continue
        venv = peer.environment(options.peers_venv)
        if venv is None:
            results.left_out.append(f"{peer.package}: it is in no --peers-venv")
            say(f"left out: {results.left_out[-1]}")
        else:
            starts[peer.package] = partial(peer.run, venv)
            results.peers[peer.package] = peer.version(venv)
    return starts


def main(arguments: Sequence[str], workloads: Sequence[Workload] = WORKLOADS) -> int:
    """Run the benchmark.

    Args:
        arguments: The command line, without the program.
        workloads: Those that `--workloads` chooses from.

    Returns:
        The exit status.
    """
    options = _options(arguments, workloads)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    chosen = _chosen(options, workloads)
    complaint = _too_many_files(chosen)
    if complaint:
        say(complaint)
        return 1
    results = Results(
        command=_command(options),
        machine=this_machine(),
        rounds=options.rounds,
        seconds=options.seconds,
    )
    try:
        tools = build()
        if not tools.with_tls and any(one.tls for one in chosen):
            chosen = [one for one in chosen if not one.tls]
            results.left_out.append("TLS: the headers of OpenSSL are missing (libssl-dev)")
            say(f"left out: {results.left_out[-1]}")
        bench = Bench(results, tools, _starts(options, results, say), say)
        for number in range(options.rounds):
            bench.run_round(number, chosen)
    except (CannotBuild, CannotStart) as error:
        say(str(error))
        return 1
    text = markdown(results)
    print(text)
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
    if options.output:
        with options.output.open("a", encoding="utf-8") as file:
            file.write(f"\n## {time.strftime('%Y-%m-%d')}\n\n{text}")
    for problem in results.problems:
        say(f"error: {problem}")
    return 1 if results.problems else 0


def prepare_process() -> None:
    """Take all descriptors that the system grants, and clean up when ended by SIGTERM."""
    # A stream takes two descriptors of a gateway; what is started here inherits the limit.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = max(hard, *(one.open_files for one in WORKLOADS))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    except (ValueError, OSError):  # only root may raise the hard limit, and not everywhere
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


if __name__ == "__main__":
    prepare_process()
    sys.exit(main(sys.argv[1:]))
