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
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import msgspec

from benchmarks import gateways
from benchmarks.gateways import CannotStart, Running
from benchmarks.machine import this_machine
from benchmarks.measure import WORKLOADS, LoadFailed, Measured, Workload, measure
from benchmarks.processes import memory
from benchmarks.report import DIRECT, OURS, PEER, IdleMemory, Results, markdown
from benchmarks.toolchain import CannotBuild, Tools, build

Say = Callable[[str], None]
Start = Callable[[Path, int], AbstractContextManager[Running]]

GATEWAYS: dict[str, Start] = {PEER: gateways.nginx, OURS: gateways.llmproxy}
_DIRECT_TOO = ("sse",)  # measured without a gateway as well: what the tools themselves take
_WARM_UP_S = 0.5
_SETTLE_S = 1.0


def run_round(
    results: Results,
    number: int,
    tools: Tools,
    names: Sequence[str],
    workloads: Iterable[Workload],
    say: Say,
) -> None:
    """Start every gateway afresh and run every workload against each in turn.

    Args:
        results: Where to add what is found.
        number: Of the round, from 0; every other one takes the gateways the other way round, so
            that none always comes first.
        tools: The compiled tools.
        names: The gateways.
        workloads: What to run.
        say: Told of each step.

    Raises:
        CannotStart: A gateway or the model server.
    """
    order = list(names) if number % 2 == 0 else list(reversed(names))
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmproxy-benchmark-")))
        root.chmod(0o755)  # nginx's worker may run as another user
        model_port = stack.enter_context(gateways.model_server(tools.model))
        running = []
        for name in order:
            folder = root / name
            folder.mkdir()
            running.append(stack.enter_context(GATEWAYS[name](folder, model_port)))
        time.sleep(_SETTLE_S)
        for gateway in running:
            now = memory(gateway.pid)
            results.idle.append(IdleMemory(gateway.name, now.rss_bytes, now.pss_bytes))
        direct = Running(DIRECT, model_port, pid=0, folder=root)
        answered = Counter({gateway.name: 1 for gateway in running})  # each has shown that it works
        for workload in workloads:
            subjects = [*running, direct] if workload.name in _DIRECT_TOO else running
            for gateway in subjects:
                where = f"round {number + 1}, {workload.name}, {gateway.name}"
                if not workload.once:
                    warm_up_s = min(_WARM_UP_S, results.seconds)
                    warmed = _run(results, tools, gateway, workload, warm_up_s, where)
                    answered[gateway.name] += warmed.seen.requests if warmed else 0
                one = _run(results, tools, gateway, workload, results.seconds, where)
                if one is None:
                    continue
                answered[gateway.name] += one.seen.requests
                results.measured.append(one)
                say(
                    f"{where}: {one.cpu_us:.1f} CPU µs/{workload.unit}, "
                    f"{one.per_s:.0f} {workload.unit}s/s, {one.seen.errors} errors"
                )
        for gateway in running:
            logged = gateways.logged_answers(gateway, wanted=answered[gateway.name])
            if logged != answered[gateway.name]:
                results.problems.append(
                    f"round {number + 1}, {gateway.name}: {answered[gateway.name]} requests were "
                    f"answered, the access log has {logged} with {gateway.log_mark.decode()!r}"
                )


def _run(
    results: Results, tools: Tools, gateway: Running, workload: Workload, seconds: float, where: str
) -> Measured | None:
    """Run one workload; what goes wrong is added to the problems."""
    try:
        one = measure(tools.load, gateway, workload, seconds)
    except LoadFailed as error:
        results.problems.append(f"{where}: {error}")
        return None
    if one.seen.errors:
        results.problems.append(f"{where}: {one.seen.errors} errors, the first: {one.seen.error}")
    return one


def _options(arguments: Sequence[str], workloads: Sequence[Workload]) -> argparse.Namespace:
    names = [workload.name for workload in workloads]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="medians are taken over these (3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each workload (5)")
    parser.add_argument(
        "--workloads", default=",".join(names), help=f"which, of {','.join(names)} (all)"
    )
    parser.add_argument(
        "--gateways", default=f"{PEER},{OURS}", help=f"which, of {PEER},{OURS} (both)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures here")
    parser.add_argument("--output", type=Path, metavar="FILE", help="append the table to this")
    options = parser.parse_args(arguments)
    options.workloads = options.workloads.split(",")
    options.gateways = options.gateways.split(",")
    for given, known in ((options.workloads, names), (options.gateways, list(GATEWAYS))):
        for name in given:
            if name not in known:
                parser.error(f"{name!r} is none of {', '.join(known)}")
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return options


def _command(options: argparse.Namespace) -> str:
    """Give the command line that measures the same; where figures are written is left out."""
    words = ["python", "-m", "benchmarks.relay"]
    words += ["--rounds", str(options.rounds), "--seconds", f"{options.seconds:g}"]
    words += ["--workloads", ",".join(options.workloads)]
    return shlex.join([*words, "--gateways", ",".join(options.gateways)])


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

    names = options.gateways
    if PEER in names and gateways.nginx_path() is None:
        say("nginx is not installed (Debian: apt-get install nginx-light): LLMProxy alone")
        names = [name for name in names if name != PEER]
    results = Results(
        command=_command(options),
        machine=this_machine(),
        rounds=options.rounds,
        seconds=options.seconds,
    )
    chosen = [one for one in workloads if one.name in options.workloads]
    try:
        tools = build()
        for number in range(options.rounds):
            run_round(results, number, tools, names, chosen, say)
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
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


if __name__ == "__main__":
    prepare_process()
    sys.exit(main(sys.argv[1:]))
