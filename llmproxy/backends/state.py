"""What changes about one backend, beside its identity, which only a reload replaces.

It keeps what is known, and what follows from it for the next request; it chooses nothing, sends
nothing and has no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Literal

import attrs
from twisted.logger import Logger
from zope.interface import implementer

from llmproxy.backends.models import ListedModel, matches_any
from llmproxy.interfaces import ICandidate, IProgress, IUpstreamClient
from llmproxy.values import Backend, BackendStatus, Evidence
from llmproxy.vitals.breaker import Breaker, BreakerSettings
from llmproxy.vitals.latency import PeakEwma
from llmproxy.vitals.slow_start import SlowStart

Health = Literal["up", "down", "loading"]

_LOOK_EVERY_S = 1.0
"""How often the stream of a probe is looked at while somebody waits for how it goes on."""


@implementer(ICandidate)
@attrs.define(eq=False)
class BackendState:
    """The state of one backend.

    Attributes:
        identity: What its configuration says.
        client: The client that reaches it.
        breaker: What requests showed of it.
        slow_start: How much of its weight counts.
        latency: How long its answers take to begin.
        in_flight: Leases that are out.
        health: What the health checks say; up until they say otherwise.
        reason: What the last failed check said; empty when it is up.
        drained: Whether an administrator keeps new requests away from it.
        listed: What its own list says; None while that is not known.
        on_room: Called when there may be room for another request; None: nobody waits for that.
        answers: The answers that are coming, by the request that they answer.
        name: Its identity's name, where strategies look for it.
        full_weight: Likewise its weight.
        weight: What counts of that now.
        settled: Whether requests go there as they always did: the breaker is closed, nothing starts
            slowly, and it did not ask to be left alone. Then nobody need look further.
    """

    _log = Logger()

    identity: Backend
    client: IUpstreamClient = attrs.field(repr=False)
    breaker: Breaker
    slow_start: SlowStart
    latency: PeakEwma = attrs.field(factory=PeakEwma, init=False)
    in_flight: int = attrs.field(default=0, init=False)
    health: Health = attrs.field(default="up", init=False)
    reason: str = attrs.field(default="", init=False)
    drained: bool = attrs.field(default=False, init=False)
    listed: dict[str, ListedModel] | None = attrs.field(default=None, init=False, repr=False)
    on_room: Callable[[], None] | None = attrs.field(default=None, init=False, repr=False)
    answers: dict[object, IProgress] = attrs.field(factory=dict, init=False, repr=False)
    name: str = attrs.field(init=False, repr=False)
    full_weight: int = attrs.field(init=False, repr=False)
    weight: float = attrs.field(init=False, repr=False)
    settled: bool = attrs.field(default=True, init=False, repr=False)
    _last_piece_s: float = attrs.field(default=float("-inf"), init=False, repr=False)
    _rests_until_s: float = attrs.field(default=float("-inf"), init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.name = self.identity.name
        self.full_weight = self.identity.weight
        self.weight = self.full_weight

    def become(
        self,
        identity: Backend,
        client: IUpstreamClient,
        breaker: BreakerSettings,
        slow_start_s: float,
    ) -> None:
        """Take another identity, and other rules; what is known of it stays.

        Leases that are out keep the identity and the client that they began with.
        """
        self.identity = identity
        self.client = client
        self.breaker.settings = breaker
        self.slow_start.length_s = slow_start_s
        self.name = identity.name
        self.full_weight = identity.weight
        self.settled = False  # what counts of the weight is found out with the next look

    def serves(self, model: str) -> bool:
        """Say whether it takes requests for a model, be it up or not.

        Its globs decide when it has any, else its own list; while that is not known it takes any.
        """
        globs = self.identity.models
        if globs:
            return matches_any(model, globs)
        return self.listed is None or model in self.listed

    @property
    def has_room(self) -> bool:
        """Whether it may work on one request more."""
        most = self.identity.max_concurrent
        return not most or self.in_flight < most

    def rests(self, now_s: float) -> bool:
        """Say whether it asked to be left alone for now."""
        return now_s < self._rests_until_s

    def latency_s(self, now_s: float) -> float | None:
        """Say how long its answers take to begin, lately; see `ICandidate`."""
        return self.latency.value_s(now_s)

    # what becomes of it in time, and by what is seen of it

    def look(self, now_s: float) -> None:
        """Bring up to date what changes with the time alone; for one that is not settled."""
        probe = self.breaker.probe
        progress = None if probe is None else self.answers.get(probe)
        # A long stream need not come to its end before others may follow.
        if (
            progress is not None
            and progress.first_piece_s is not None
            and progress.last_piece_s - progress.first_piece_s >= self.breaker.settings.open_for_s
        ):
            self.observe(probe, "good", now_s)
        share = self.slow_start.share(now_s)
        self.weight = self.full_weight if share == 1.0 else self.full_weight * share
        self.settled = share == 1.0 and self.breaker.is_closed and not self.rests(now_s)

    def opens_s(self, now_s: float) -> float:
        """Say when time alone may let requests go there that may not now; infinity: it cannot."""
        moments = [] if self.settled else [self._rests_until_s]
        breaker = self.breaker
        if breaker.probe is not None:
            # By what its stream is then: see `look`.
            progress = self.answers.get(breaker.probe)
            first_s = None if progress is None else progress.first_piece_s
            open_for_s = breaker.settings.open_for_s
            moments.append(
                now_s + open_for_s
                if first_s is None
                else max(first_s + open_for_s, now_s + _LOOK_EVERY_S)
            )
        elif not breaker.is_closed:
            moments.append(breaker.half_open_s)
        return min((moment for moment in moments if moment > now_s), default=inf)

    def rest(self, until_s: float) -> None:
        """Take note that it asked to be left alone until then."""
        self._rests_until_s = max(self._rests_until_s, until_s)
        self.settled = False

    def start_slowly(self, now_s: float) -> None:
        """Count little for a while: it is new, or back."""
        self.slow_start.begin(now_s)
        self.settled = False

    def observe(self, request: object, evidence: Evidence, now_s: float) -> None:
        """Take what a request showed."""
        breaker = self.breaker
        if not breaker.observe(request, evidence, now_s):
            return
        self.settled = False
        if breaker.is_closed:
            self.start_slowly(now_s)
            self._log.info("the breaker of backend {backend} closed", backend=self.name)
        else:
            self._log.warn(
                "the breaker of backend {backend} opened for {seconds} s: too many requests failed",
                backend=self.name,
                seconds=f"{breaker.settings.open_for_s:g}",
            )

    def answered(self, request: object) -> None:
        """Take note that an answer is over."""
        self._last_piece_s = max(self._last_piece_s, self.answers.pop(request).last_piece_s)

    def last_piece_s(self) -> float:
        """Say when the last piece of an answer came; minus infinity: none yet."""
        coming = (progress.last_piece_s for progress in self.answers.values())
        return max(self._last_piece_s, max(coming, default=self._last_piece_s))

    def set_health(self, health: Health, reason: str, now_s: float) -> None:
        """Take what the health checks say."""
        if health == "up" != self.health:
            if self.health == "loading":
                self.breaker.close()  # what did not work then was not broken
            self.start_slowly(now_s)
        self.health = health
        self.reason = "" if health == "up" else reason

    def status(self, now_s: float, *, ejected: bool) -> BackendStatus:
        """Show it.

        Args:
            now_s: The time.
            ejected: Whether it is left out for its breaker.
        """
        latency_s = self.latency_s(now_s)
        return BackendStatus(
            name=self.name,
            state="drained" if self.drained else self.health,
            in_flight=self.in_flight,
            reason=self.reason,
            breaker=self.breaker.position(now_s),
            ejected=ejected,
            times_opened=self.breaker.times_opened,
            share_percent=int(self.slow_start.share(now_s) * 100),
            latency_ms=None if latency_s is None else round(latency_s * 1000),
        )
