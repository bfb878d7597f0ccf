"""The rounds of a run: each starts every gateway afresh, and runs every workload against it."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

import attrs

from benchmarks import gateways
from benchmarks.certificate import Certificate, make_certificate
from benchmarks.gateways import CannotStart, Running
from benchmarks.measure import LoadFailed, Measured, measure
from benchmarks.processes import memory
from benchmarks.results import DIRECT, OPEN, OURS, PEER, TWO, IdleMemory, Results
from benchmarks.toolchain import Tools
from benchmarks.workloads import Workload, batches

Say = Callable[[str], None]
Start = Callable[[Path, int, Certificate | None], AbstractContextManager[Running]]

GATEWAYS: dict[str, Start] = {
    PEER: gateways.nginx,
    OURS: gateways.llmproxy,
    OPEN: partial(gateways.llmproxy, name=OPEN, is_open=True),
    TWO: partial(gateways.llmproxy, name=TWO, workers=2),
}
_WARM_UP_S = 0.5
_SETTLE_S = 1.0


@attrs.frozen
class Bench:
    """What all rounds share.

    Attributes:
        results: Where to add what is found.
        tools: The compiled tools.
        starts: How each gateway is started, by its name.
        say: Told of each step.
    """

    results: Results
    tools: Tools
    starts: Mapping[str, Start]
    say: Say

    def run_round(self, number: int, workloads: Iterable[Workload]) -> None:
        """Start every gateway afresh and run every workload against each in turn.

        Args:
            number: Of the round, from 0; every other one takes the gateways the other way round, so
                that none always comes first.
            workloads: What to run.

        Raises:
            CannotStart: LLMProxy, nginx or the model server. Another peer is left out.
        """
        order = list(self.starts)
        if number % 2:
            order.reverse()
        with ExitStack() as stack:
            root = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="llmproxy-benchmark-"))
            )
            root.chmod(0o755)  # nginx's worker may run as another user
            for place, batch in enumerate(batches(list(workloads))):
                folder = root / str(place)
                folder.mkdir()
                self._run_batch(f"round {number + 1}", folder, order, batch)

    def _run_batch(
        self, where: str, folder: Path, names: Sequence[str], batch: Sequence[Workload]
    ) -> None:
        """Run workloads that share their gateways."""
        with ExitStack() as stack:
            model_port = stack.enter_context(gateways.model_server(self.tools.model))
            certificate = make_certificate(folder) if batch[0].tls else None
            running = []
            for name in names:
                place = folder / name
                place.mkdir()
                start = self.starts[name]
                try:
                    one = stack.enter_context(start(place, model_port, certificate))
                except CannotStart as error:
                    if name in GATEWAYS:
                        raise
                    self._leave_out(f"{name} ({where}): {error}")
                    continue
                running.append(one)
            time.sleep(_SETTLE_S)
            for gateway in running if certificate is None else ():
                now = memory(gateway.pid)
                self.results.idle.append(IdleMemory(gateway.name, now.rss_bytes, now.pss_bytes))
            answered = Counter({gateway.name: 1 for gateway in running})  # each has shown it works
            direct = Running(DIRECT, model_port, pid=0, folder=folder)
            for workload in batch:
                for gateway in [*running, direct] if workload.direct else running:
                    answered[gateway.name] += self._measure(
                        gateway, workload, f"{where}, {workload.name}, {gateway.name}"
                    )
            for gateway in filter(lambda one: one.log_mark, running):
                logged = gateways.logged_answers(gateway, wanted=answered[gateway.name])
                if logged != answered[gateway.name]:
                    self.results.problems.append(
                        f"{where}, {gateway.name}: {answered[gateway.name]} requests were answered,"
                        f" the access log has {logged} with {gateway.log_mark.decode()!r}"
                    )

    def _leave_out(self, why: str) -> None:
        self.say(f"left out: {why}")
        self.results.left_out.append(why.partition("\n")[0][:300])  # a program may say a lot

    def _measure(self, gateway: Running, workload: Workload, where: str) -> int:
        """Measure one workload against one gateway; gives how many requests were answered."""
        results, answered = self.results, 0
        if not workload.holds_open:
            warm_up_s = min(_WARM_UP_S, results.seconds)
            warmed = _run(results, self.tools, gateway, workload, warm_up_s, where)
            answered += warmed.seen.requests if warmed else 0
        one = _run(results, self.tools, gateway, workload, results.seconds, where)
        if one is None:
            return answered
        results.measured.append(one)
        if workload.holds_open and one.seen.most_open < workload.connections:
            results.problems.append(
                f"{where}: only {one.seen.most_open} of {workload.connections} streams were open at"
                " the same time"
            )
        self.say(
            f"{where}: {one.cpu_us:.1f} CPU µs/{workload.unit}, "
            f"{one.per_s:.0f} {workload.unit}s/s, {one.seen.errors} errors"
        )
        return answered + one.seen.requests


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
