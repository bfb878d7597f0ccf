"""The watch over streams: which last too long, and which have fallen silent.

It looks at what runs, again and again, so that no stream pays for it; each is told of once for each
kind. It ends nothing: that is for the clocks of the relay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from llmproxy.interfaces import IAlerts
from llmproxy.values import AlertKind, StreamAlert

SHORTEST_INTERVAL_S: Final = 1.0
LONGEST_INTERVAL_S: Final = 10.0
"""Between two looks: a tenth of what is watched for, within these."""


class Watched(Protocol):
    """An exchange, as far as it is looked at."""

    def stream_age(self, now_s: float) -> tuple[float, float] | None:
        """Say how long its stream has lasted, and been silent; None when there is none."""

    def stream_alert(self, kind: AlertKind, duration_s: float, silent_s: float) -> StreamAlert:
        """Make the alert that tells of it."""


class StreamWatch(Service):
    """Raises the alerts of streams.

    Args:
        running: The exchanges that have not concluded.
        long_s: A stream that lasts longer is told of; 0: none.
        stalled_s: So is one that is silent for longer; 0: none. While the client takes nothing it
            is the client that is slow, and the stream is not silent.
        alerts: Take the alerts.
        clock: Of the streams, and of the looking.

    Attributes:
        told: How many alerts there were, ever, by kind and backend.
    """

    _log = Logger()

    def __init__(
        self,
        running: Collection[Watched],
        *,
        long_s: float,
        stalled_s: float,
        alerts: Sequence[IAlerts],
        clock: IReactorTime,
    ) -> None:
        self._running = running
        self._told_of: Mapping[AlertKind, set[Watched]] = {
            "long_stream": set(),
            "stalled_stream": set(),
        }
        self._alerts = alerts
        self._clock = clock
        self._loop = LoopingCall(self._look)
        self._loop.clock = clock
        self.told: Counter[tuple[AlertKind, str]] = Counter()
        self.watch_for(long_s, stalled_s)

    def __repr__(self) -> str:
        told = {kind: len(streams) for kind, streams in self._told_of.items()}
        return f"<StreamWatch {told}>"

    def watch_for(self, long_s: float, stalled_s: float) -> None:
        """Go by other limits from now on; arguments as the constructor's.

        A stream that was told of once is told of no more.
        """
        self._limits: Mapping[AlertKind, float] = {
            "long_stream": long_s,
            "stalled_stream": stalled_s,
        }
        if self.running:
            self._end_looking()
            self._begin_looking()

    def startService(self) -> None:
        """Begin to look, if there is anything to look for."""
        super().startService()
        self._begin_looking()

    def _begin_looking(self) -> None:
        limits_s = [limit_s for limit_s in self._limits.values() if limit_s]
        if limits_s:
            interval_s = min(max(min(limits_s) / 10, SHORTEST_INTERVAL_S), LONGEST_INTERVAL_S)
            self._loop.start(interval_s, now=False)

    def stopService(self) -> None:
        """Look no more."""
        super().stopService()
        self._end_looking()

    def _end_looking(self) -> None:
        if self._loop.running:
            self._loop.stop()

    def _look(self) -> None:
        try:
            now_s = self._clock.seconds()
            for told_of in self._told_of.values():
                told_of.intersection_update(self._running)
            for exchange in tuple(self._running):
                age = exchange.stream_age(now_s)
                if age is not None:
                    self._judge(exchange, *age)
        except Exception:  # noqa: BLE001 - the outermost edge: the next look comes all the same
            self._log.failure("streams cannot be looked at")

    def _judge(self, exchange: Watched, duration_s: float, silent_s: float) -> None:
        ages: tuple[tuple[AlertKind, float], ...] = (
            ("long_stream", duration_s),
            ("stalled_stream", silent_s),
        )
        for kind, age_s in ages:
            limit_s, told_of = self._limits[kind], self._told_of[kind]
            if limit_s and age_s > limit_s and exchange not in told_of:
                told_of.add(exchange)
                self._tell(exchange.stream_alert(kind, duration_s, silent_s))

    def _tell(self, alert: StreamAlert) -> None:
        self.told[alert.kind, alert.backend] += 1
        self._log.warn(
            "{kind}: request {request_id} to {model} at {backend} lasts for {duration} s "
            "and is silent for {silent} s",
            kind=alert.kind,
            request_id=alert.request_id,
            model=alert.model,
            backend=alert.backend,
            duration=round(alert.duration_s),
            silent=round(alert.silent_s),
        )
        for taker in self._alerts:
            taker.alert(alert)
