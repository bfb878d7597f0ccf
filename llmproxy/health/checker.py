"""Active checks: every backend is asked for its health, now and again.

It knows how to ask and what an answer says, and tells a sink; it knows nothing of requests, of
routing or of what follows from a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any, Final

import attrs
import msgspec
from treq.client import HTTPClient
from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import TimeoutError as ConnectTimedOut
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IResponse

from llmproxy.backends.bounded_body import BodyTooLong, read_bounded
from llmproxy.backends.identity import own_headers
from llmproxy.backends.reasons import AskTimedOut, reason_of
from llmproxy.config.model import HealthCheck
from llmproxy.health.thresholds import Health, HealthThresholds, Result
from llmproxy.interfaces import IBackendActivity, IHealthSink
from llmproxy.rounds import Rounds
from llmproxy.values import Backend

LIMIT_BYTES: Final = 64 * 1024
"""How much of an answer's body is read."""

JITTER: Final = 0.1
"""By which part of the interval a check may come later than its turn."""

MAX_FIRST_DELAY_S: Final = 1.0
"""The first checks come within this time, or within one interval if that is shorter."""


class HealthChecker(Service):
    """Checks every backend, each in a loop of its own, and tells the sink what changes.

    The checks of one backend never overlap; those of different backends, and of several gateways,
    are kept apart by chance. Stopping cancels the checks that run, whose results then do not count.

    Args:
        backends: Whom to check.
        settings: The section ``health_check``; that it is enabled is the caller's decision.
        client_for: Gives the treq client for a backend, on connections of its own.
        sink: Learns of every change of state, and of a new reason while a backend is down.
        activity: Tells which backends are at work although they do not answer.
        is_ours: Says whether a backend could not be asked for a lack of ours.
        clock: The reactor's time.
        random: Spreads the checks.
        known: What was known of them before, by name: their state and the reason for it.
    """

    _log = Logger()

    def __init__(
        self,
        backends: Sequence[Backend],
        settings: HealthCheck,
        *,
        client_for: Callable[[Backend], HTTPClient],
        sink: IHealthSink,
        activity: IBackendActivity,
        is_ours: Callable[[Exception], bool],
        clock: IReactorTime,
        random: Random,
        known: Mapping[str, tuple[Health, str]] | None = None,
    ) -> None:
        known = known or {}
        self._settings = settings
        self._sink = sink
        self._activity = activity
        self._is_ours = is_ours
        self._clock = clock
        self._random = random
        self._patients = []
        for backend in backends:
            health, reason = known.get(backend.name, ("up", ""))
            thresholds = HealthThresholds(
                settings.unhealthy_threshold, settings.healthy_threshold, health
            )
            self._patients.append(_Patient(backend, client_for(backend), thresholds, reason))
        self._rounds = [
            Rounds(
                partial(self._round, patient),
                clock=clock,
                interval_s=settings.interval,
                log=self._log,
            )
            for patient in self._patients
        ]

    def __repr__(self) -> str:
        states = ", ".join(
            f"{patient.backend.name}: {patient.thresholds.health}" for patient in self._patients
        )
        return f"<HealthChecker {states}>"

    def startService(self) -> None:
        """Begin; the first checks come within a second."""
        super().startService()
        for rounds in self._rounds:
            rounds.start(self._random.uniform(0, min(self._settings.interval, MAX_FIRST_DELAY_S)))

    def stopService(self) -> Deferred[Any]:
        """Check nobody any more."""
        super().stopService()
        return gatherResults([rounds.stop() for rounds in self._rounds])

    async def _round(self, patient: _Patient) -> None:
        """Check one backend, a little after its turn."""
        if patient.checked:
            # The loop itself is not moved: one turn's delay does not add to the next one's.
            delay_s = self._random.uniform(0, JITTER * self._settings.interval)
            await deferLater(self._clock, delay_s)
        patient.checked = True
        asked = Deferred.fromCoroutine(_ask(patient, self._settings))
        asked.addTimeout(self._settings.timeout, self._clock, AskTimedOut.instead)
        try:
            verdict = await asked
        except Exception as error:  # noqa: BLE001 - a backend that cannot be asked is not healthy
            if self._is_ours(error):
                return
            verdict = _Verdict("failed", reason_of(Failure()))
            if isinstance(error, AskTimedOut | ConnectTimedOut) and self._is_at_work(patient):
                self._log.debug(
                    "a check of backend {backend} does not count, for its answers move: {reason}",
                    backend=patient.backend.name,
                    reason=verdict.reason,
                )
                return
        if self.running:
            self._judge(patient, verdict)

    def _is_at_work(self, patient: _Patient) -> bool:
        """Say whether an answer of a backend has moved while it was asked, or since its last turn.

        Servers that work in one thread answer nothing else while they compute, and accept no
        connections once enough of them wait.
        """
        settings = self._settings
        lately_s = max(settings.interval, settings.timeout)
        last_s = self._activity.last_piece_s(patient.backend.name)
        return self._clock.seconds() - last_s <= lately_s

    def _judge(self, patient: _Patient, verdict: _Verdict) -> None:
        changed = patient.thresholds.observe(verdict.result)
        health = patient.thresholds.health
        name = patient.backend.name
        if changed:
            patient.reason = verdict.reason
            self._sink.set_health(name, health, verdict.reason)
            if health == "down":
                self._log.warn(
                    "backend {backend} is down: {reason}", backend=name, reason=verdict.reason
                )
            else:
                self._log.info("backend {backend} is {health}", backend=name, health=health)
        elif health == "down" and verdict.result == "failed" and verdict.reason != patient.reason:
            patient.reason = verdict.reason
            self._sink.set_health(name, health, verdict.reason)


@attrs.define(eq=False)
class _Patient:
    """One backend that is checked.

    Attributes:
        backend: Its identity.
        client: The client for it.
        thresholds: Its state.
        reason: Why it is in that state, as the sink was told.
        checked: Whether its first check was begun.
    """

    backend: Backend
    client: HTTPClient
    thresholds: HealthThresholds
    reason: str = ""
    checked: bool = False


@attrs.frozen
class _Verdict:
    """What one check says, and why; there is no reason for passing."""

    result: Result
    reason: str = ""


async def _ask(patient: _Patient, settings: HealthCheck) -> _Verdict:
    backend = patient.backend
    response: IResponse = await patient.client.request(
        settings.method,
        backend.url + b"/" + settings.path.lstrip("/").encode("utf-8"),
        headers=own_headers(backend),
        unbuffered=True,
        allow_redirects=False,
    )
    try:
        body = await read_bounded(response, LIMIT_BYTES)
    except BodyTooLong:
        body = b""  # the status says enough
    if response.code == settings.expected_status:
        return _Verdict("passed")
    if response.code == 503 and is_loading(body):
        return _Verdict("loading", "it is loading its model")
    return _Verdict("failed", f"it answered {response.code}, not {settings.expected_status}")


def is_loading(body: bytes) -> bool:
    """Say whether a 503's body is the one of a llama-server that is still loading its model.

    That is ``{"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}``.
    """
    try:
        tree = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    error = tree.get("error") if isinstance(tree, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return isinstance(message, str) and "loading model" in message.lower()
