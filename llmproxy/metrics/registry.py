"""The metrics of the catalogue as they count, and as Prometheus reads them.

Two ways lead in: what is counted as it happens, through children that the caller keeps; and what is
*watched*, a number that some part keeps anyway and that is read when somebody looks. So nothing is
paid where nothing is asked.

Several processes count together when ``PROMETHEUS_MULTIPROC_DIR`` names a folder, empty at first,
before this module is imported: each writes its own files there, and any of them answers for all.
Then watched values are read every few seconds as well, for the process that is asked cannot see
into the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from llmproxy.metrics.catalogue import Metric

REFRESH_INTERVAL_S: Final = 5.0
"""How old a watched value of another process may be."""

Labels = tuple[str, ...]
InThread = Callable[..., Deferred[Any]]


@attrs.define
class _Watch:
    """A metric whose values are read.

    Attributes:
        metric: Which.
        read: Gives the values, each with its labels.
        seen: What it gave the last time.
    """

    metric: Metric
    read: Callable[[], Iterable[tuple[Labels, float]]]
    seen: dict[Labels, float] = attrs.field(factory=dict)


class Metrics(Service):
    """All metrics of this process.

    Args:
        latency_buckets: Bounds of the histograms that have none of their own.
        custom_labels: Put on every sample.
        in_thread: Calls a function in a thread: writing ten thousand samples takes longer than a
            stream may wait.
        clock: Of the refreshing.
        shared_folder: Where several processes count together; empty: this is the only one.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        latency_buckets: Sequence[float],
        custom_labels: Mapping[str, str],
        in_thread: InThread,
        clock: IReactorTime,
        shared_folder: str = "",
    ) -> None:
        disable_created_metrics()  # a second series for each, which nothing here asks for
        self._latency_buckets = tuple(latency_buckets)
        self._in_thread = in_thread
        self._shared_folder = shared_folder
        self._counted = CollectorRegistry()
        self._made: dict[Metric, Any] = {}
        self._watches: list[_Watch] = []
        read: Any = self._counted
        if shared_folder:
            read = MultiProcessCollector(None, shared_folder)
        self._read = _Labelled(read, custom_labels) if custom_labels else read
        self._one_scrape = DeferredLock()
        self._loop = LoopingCall(self.refresh)
        self._loop.clock = clock

    def __repr__(self) -> str:
        return f"<Metrics {len(self._made)} metrics, {len(self._watches)} watched>"

    def startService(self) -> None:
        """Begin to refresh for others, where there are any."""
        super().startService()
        if self._shared_folder:
            self._loop.start(REFRESH_INTERVAL_S, now=False)

    def stopService(self) -> None:
        """Leave the last values to the others."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
            self.refresh()

    # counting

    def counter(self, metric: Metric, *labels: str) -> Counter:
        """Give the counter with these labels; to be kept by who counts often."""
        assert metric.kind == "counter"
        counter: Counter = self._child(metric, labels)
        return counter

    def histogram(self, metric: Metric, *labels: str) -> Histogram:
        """Give the histogram with these labels; to be kept by who counts often."""
        assert metric.kind == "histogram"
        histogram: Histogram = self._child(metric, labels)
        return histogram

    def _child(self, metric: Metric, labels: Labels) -> Any:
        made = self._made.get(metric)
        if made is None:
            made = self._made[metric] = self._make(metric)
        return made.labels(*labels) if metric.labels else made

    def _make(self, metric: Metric) -> Any:
        names = metric.name, metric.text, metric.labels
        if metric.kind == "counter":
            return Counter(*names, registry=self._counted)
        if metric.kind == "gauge":
            return Gauge(*names, registry=self._counted, multiprocess_mode=metric.over_workers)
        buckets = self._latency_buckets if metric.buckets is None else metric.buckets
        return Histogram(*names, registry=self._counted, buckets=buckets)

    # watching

    def watch(self, metric: Metric, read: Callable[[], float], *labels: str) -> None:
        """Have a number read when somebody looks.

        Args:
            metric: A gauge; or a counter, whose number grows from zero.
            read: Gives the number.
            *labels: Its labels.
        """
        assert len(labels) == len(metric.labels), metric.name
        self.watch_each(metric, lambda: ((labels, read()),))

    def watch_each(
        self, metric: Metric, read: Callable[[], Iterable[tuple[Labels, float]]]
    ) -> None:
        """Have numbers read when somebody looks; what is not given any more is served no more.

        Args:
            metric: A gauge; or a counter, whose numbers grow from zero and stay when they are gone.
            read: Gives each number with its labels.
        """
        assert metric.kind != "histogram", metric.name
        self._watches.append(_Watch(metric, read))

    def refresh(self) -> None:
        """Read all that is watched; what cannot be read is left as it was."""
        for watch in self._watches:
            try:
                values = dict(watch.read())
                for labels, value in values.items():
                    self._take(watch, labels, value)
                for labels in [gone for gone in watch.seen if gone not in values]:
                    self._forget(watch, labels)
            except Exception:  # noqa: BLE001 - the outermost edge: the others are read all the same
                self._log.failure("{name} cannot be read", name=watch.metric.name)

    def _take(self, watch: _Watch, labels: Labels, value: float) -> None:
        child = self._child(watch.metric, labels)
        if watch.metric.kind == "gauge":
            child.set(value)
        else:
            before = watch.seen.get(labels, 0.0)
            # What counts less than before was made anew, and began at zero.
            child.inc(value - before if value >= before else value)
        watch.seen[labels] = value

    def _forget(self, watch: _Watch, labels: Labels) -> None:
        if watch.metric.kind != "gauge":
            return
        del watch.seen[labels]
        if self._shared_folder:
            # Files keep what was written to them: with this value it is like nothing to queries.
            self._child(watch.metric, labels).set(float("nan"))
        else:
            self._made[watch.metric].remove(*labels)

    # reading

    def scrape(self, accept: str) -> Deferred[tuple[str, bytes]]:
        """Give all metrics as text, as they are now; one after the other, whoever asks.

        Args:
            accept: The request's field.

        Returns:
            A Deferred of the content type and the text. Cancelling it leaves the text unread.
        """
        return Deferred.fromCoroutine(self._scrape(accept))

    async def _scrape(self, accept: str) -> tuple[str, bytes]:
        async with self._one_scrape:
            self.refresh()
            text: tuple[str, bytes] = await self._in_thread(self._written, accept)
            return text

    def _written(self, accept: str) -> tuple[str, bytes]:
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._read)


class _Labelled(Collector):
    """Puts the same labels on all samples.

    Args:
        read: Gives the samples.
        labels: The labels.
    """

    def __init__(self, read: Collector, labels: Mapping[str, str]) -> None:
        self._read = read
        self._labels = dict(labels)

    def collect(self) -> Iterator[Any]:
        """Give all metrics, the labels in their samples."""
        for metric in self._read.collect():
            metric.samples = list(map(self._labelled, metric.samples))
            yield metric

    def _labelled(self, sample: Sample) -> Sample:
        return sample._replace(labels={**sample.labels, **self._labels})


def worker_ended(pid: int, shared_folder: str) -> None:
    """Count the gauges of a process no more that has ended; what it counted stays.

    Args:
        pid: Which.
        shared_folder: Where it counted with others.
    """
    mark_process_dead(pid, shared_folder)
