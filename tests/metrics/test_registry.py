"""The metrics: counted, watched, read; over several processes as well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from llmproxy.metrics import catalogue
from llmproxy.metrics.registry import REFRESH_INTERVAL_S, Metrics
from tests.metrics.counting import make_metrics, read_samples, samples

OPEN_METRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
ROOT = Path(__file__).resolve().parent.parent.parent


def test_nothing_is_served_before_it_is_fed() -> None:
    """What is only declared is no metric yet."""
    metrics = make_metrics()
    assert samples(metrics) == {}
    metrics.counter(catalogue.RETRIES, "m").inc()
    assert samples(metrics) == {'llmproxy_retries_total{model="m"}': 1.0}
    assert repr(metrics) == "<Metrics 1 metrics, 0 watched>"


def test_a_watched_gauge_is_what_it_is_now() -> None:
    """It is read when somebody looks."""
    metrics, value = make_metrics(), 5.0
    metrics.watch(catalogue.BODY_BYTES, lambda: value)
    assert samples(metrics) == {"llmproxy_request_body_bytes": 5.0}
    value = 2.0
    assert samples(metrics) == {"llmproxy_request_body_bytes": 2.0}


def test_a_watched_counter_only_grows() -> None:
    """A part that was made anew began to count at zero."""
    metrics, values = make_metrics(), iter((0, 3, 3, 7, 2, 4))
    metrics.watch(catalogue.UNCHECKED, lambda: next(values))
    seen = [samples(metrics)["llmproxy_unchecked_requests_total"] for _ in range(6)]
    assert seen == [0, 3, 3, 7, 9, 11]


def test_what_is_gone_is_served_no_more() -> None:
    """A backend that was taken out, for example; what was counted of it stays."""
    metrics = make_metrics()
    names = ["a", "b"]
    metrics.watch_each(catalogue.BACKEND_UP, lambda: [((name,), 1.0) for name in names])
    metrics.watch_each(catalogue.BREAKER_STATE, lambda: [((name,), 0.0) for name in names[:1]])
    metrics.watch_each(catalogue.DEAD_LETTERS, lambda: [((name,), 4.0) for name in names])
    assert samples(metrics)['llmproxy_backend_up{backend="a"}'] == 1.0
    del names[0]
    assert samples(metrics) == {
        'llmproxy_backend_up{backend="b"}': 1.0,
        'llmproxy_breaker_state{backend="b"}': 0.0,
        'llmproxy_dead_letters_total{reporter="a"}': 4.0,
        'llmproxy_dead_letters_total{reporter="b"}': 4.0,
    }
    names[:] = ["a"]
    assert samples(metrics)['llmproxy_dead_letters_total{reporter="a"}'] == 4.0


def test_custom_labels_are_on_every_sample() -> None:
    """On counted and on watched ones, in both formats."""
    metrics = make_metrics(custom_labels={"site": "berlin", "tier": 'a"b'})
    metrics.counter(catalogue.RETRIES, "m").inc()
    metrics.histogram(catalogue.QUEUE_WAIT, "m").observe(1)
    metrics.watch(catalogue.DRAINING, lambda: 0)
    found = samples(metrics)
    assert found
    assert all('site="berlin",tier="a"b"' in name for name in found)


@pytest.mark.parametrize(
    ("accept", "content_type", "end"),
    [
        ("", "text/plain; version=0.0.4", b"\n"),
        ("*/*", "text/plain; version=0.0.4", b"\n"),
        (OPEN_METRICS, "application/openmetrics-text; version=1.0.0", b"\n# EOF\n"),
    ],
)
def test_formats(accept: str, content_type: str, end: bytes) -> None:
    """As it is asked for."""
    metrics = make_metrics()
    scraped: list[Any] = []
    metrics.counter(catalogue.RETRIES, "m").inc()
    metrics.scrape(accept).addBoth(scraped.append)
    ((told, text),) = scraped
    assert told.startswith(content_type)
    assert text.endswith(end)
    assert b'\nllmproxy_retries_total{model="m"} 1.0\n' in text
    assert b"_created" not in text


def test_one_scrape_at_a_time() -> None:
    """However many ask, one thread writes; who leaves while waiting is not waited for."""
    threads: list[Deferred[Any]] = []

    def in_thread(*arguments: Any) -> Deferred[Any]:
        threads.append(Deferred())
        return threads[-1]

    metrics = Metrics(latency_buckets=(1,), custom_labels={}, in_thread=in_thread, clock=Clock())
    told: list[Any] = []
    scrapes = [metrics.scrape("").addBoth(told.append) for _ in range(3)]
    assert len(threads) == 1
    scrapes[1].cancel()
    assert len(told) == 1
    threads[0].callback(("text", b"1"))
    threads[1].callback(("text", b"3"))
    assert told[1:] == [("text", b"1"), ("text", b"3")]
    assert len(threads) == 2


class FailingTests(SynchronousTestCase):
    """What trial's log of errors is needed for."""

    def test_what_cannot_be_read_does_not_hide_the_rest(self) -> None:
        """It is left as it was, and logged."""
        metrics, broken = make_metrics(), False

        def read() -> float:
            if broken:
                raise ZeroDivisionError
            return 5.0

        metrics.watch(catalogue.BODY_BYTES, read)
        metrics.watch(catalogue.DRAINING, lambda: broken)
        assert samples(metrics) == {"llmproxy_request_body_bytes": 5, "llmproxy_draining": 0}
        broken = True
        assert samples(metrics) == {"llmproxy_request_body_bytes": 5, "llmproxy_draining": 1}
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1


def test_alone_it_has_no_timer() -> None:
    """Nothing is read that nobody asks for."""
    clock = Clock()
    metrics = make_metrics(clock)
    metrics.startService()
    assert clock.getDelayedCalls() == []
    metrics.stopService()


WORKER = textwrap.dedent(
    """
    import json, os, sys
    from llmproxy.metrics import catalogue
    from llmproxy.metrics.registry import REFRESH_INTERVAL_S, worker_ended
    from tests.metrics.counting import make_metrics, samples
    from twisted.internet.task import Clock

    clock = Clock()
    folder = os.environ["PROMETHEUS_MULTIPROC_DIR"]
    metrics = make_metrics(clock, shared_folder=folder, custom_labels={"site": "here"})
    values = {}
    gone = []

    def backends():
        return [((name,), value) for name, value in values["up"].items()]

    for line in sys.stdin:
        order, *rest = json.loads(line)
        answer = None
        if order == "begin":
            (values,) = rest
            metrics.watch(catalogue.BODY_BYTES, lambda: values["bytes"])
            metrics.watch(catalogue.UNCHECKED, lambda: values["unchecked"])
            metrics.watch(catalogue.LOOP_WORST, lambda: values["worst"])
            metrics.watch_each(catalogue.BACKEND_UP, backends)
            metrics.startService()
        elif order == "set":
            values.update(rest[0])
        elif order == "count":
            metrics.counter(catalogue.RETRIES, "m").inc(rest[0])
            metrics.histogram(catalogue.QUEUE_WAIT, "m").observe(rest[0])
        elif order == "pass":
            clock.advance(REFRESH_INTERVAL_S)
        elif order == "ended":
            worker_ended(rest[0], folder)
        elif order == "scrape":
            answer = samples(metrics)
        elif order == "stop":
            metrics.stopService()
        print(json.dumps(answer), flush=True)
    """
)


class Worker:
    """Another process that counts in the same folder."""

    def __init__(self, folder: Path) -> None:
        environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder), "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, *order: Any) -> Any:
        """Have it do something; give what it answers."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(order) + "\n")
        stdin.flush()
        return json.loads(stdout.readline())

    def end(self) -> None:
        """End it as a crash does: nothing more is written."""
        self.process.kill()
        self.process.communicate()


def test_two_processes_count_together(tmp_path: Path) -> None:
    """Whichever is asked; one that has ended is no more, but what it counted stays."""
    one, two = workers = [Worker(tmp_path), Worker(tmp_path)]
    try:
        one.tell("begin", {"bytes": 5, "unchecked": 2, "worst": 0.5, "up": {"a": 1, "b": 1}})
        two.tell("begin", {"bytes": 7, "unchecked": 3, "worst": 0.1, "up": {"a": 0, "b": 1}})
        one.tell("count", 1)
        two.tell("count", 10)
        two.tell("pass")
        expected = {
            'llmproxy_retries_total{model="m",site="here"}': 11,
            'llmproxy_queue_wait_ms_count{model="m",site="here"}': 2,
            'llmproxy_queue_wait_ms_sum{model="m",site="here"}': 11,
            'llmproxy_queue_wait_ms_bucket{le="10.0",model="m",site="here"}': 2,
            'llmproxy_queue_wait_ms_bucket{le="100.0",model="m",site="here"}': 2,
            'llmproxy_queue_wait_ms_bucket{le="1000.0",model="m",site="here"}': 2,
            'llmproxy_queue_wait_ms_bucket{le="+Inf",model="m",site="here"}': 2,
            'llmproxy_request_body_bytes{site="here"}': 12,
            'llmproxy_unchecked_requests_total{site="here"}': 5,
            'llmproxy_event_loop_lag_worst_seconds{site="here"}': 0.5,
            'llmproxy_backend_up{backend="a",site="here"}': 0,
            'llmproxy_backend_up{backend="b",site="here"}': 1,
        }
        assert one.tell("scrape") == expected
        assert two.tell("scrape") == expected

        # A value that changed in the one that is not asked comes with its next look.
        one.tell("set", {"bytes": 0, "unchecked": 4})
        one.tell("pass")
        found = two.tell("scrape")
        assert found['llmproxy_request_body_bytes{site="here"}'] == 7
        assert found['llmproxy_unchecked_requests_total{site="here"}'] == 7

        # The last values are left behind by one that ends well.
        two.tell("set", {"unchecked": 5})
        two.tell("stop")
        two.end()
        one.tell("ended", two.process.pid)
        found = one.tell("scrape")
        assert found['llmproxy_retries_total{model="m",site="here"}'] == 11
        assert found['llmproxy_unchecked_requests_total{site="here"}'] == 9
        assert found['llmproxy_request_body_bytes{site="here"}'] == 0
        assert found['llmproxy_backend_up{backend="a",site="here"}'] == 1

        # A backend that is taken out is like nothing to queries: NaN is neither up nor down.
        one.tell("set", {"up": {"a": 1}})
        found = one.tell("scrape")
        gone = found['llmproxy_backend_up{backend="b",site="here"}']
        assert gone != gone
    finally:
        for worker in workers:
            worker.end()


def test_what_others_see_is_not_old(tmp_path: Path) -> None:
    """The interval is what the documentation says."""
    clock = Clock()
    metrics = make_metrics(clock, shared_folder=str(tmp_path))
    reads: list[float] = []

    def read() -> float:
        reads.append(clock.seconds())
        return 1.0

    metrics.watch(catalogue.BODY_BYTES, read)
    metrics.startService()
    clock.pump([REFRESH_INTERVAL_S] * 2)
    assert reads == [REFRESH_INTERVAL_S, 2 * REFRESH_INTERVAL_S]
    metrics.stopService()
    assert len(reads) == 3
    assert clock.getDelayedCalls() == []


def test_the_text_is_what_prometheus_reads() -> None:
    """Names from outside cannot break out of their label."""
    metrics = make_metrics()
    name = 'a"} 5\nforged_total{x="\\'
    metrics.counter(catalogue.TOOL_CALLS, name, "m").inc()
    found: list[Any] = []
    metrics.scrape("").addBoth(found.append)
    ((_, text),) = found
    assert len(read_samples(text.decode())) == 1
    assert not [line for line in text.splitlines() if line.startswith(b"forged")]
