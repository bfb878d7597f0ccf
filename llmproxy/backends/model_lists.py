"""Asking backends which models they serve.

Backends that the configuration gives no names for are asked at ``/v1/models``, now and again. This
module knows how to ask and how to read the answer; what follows from it is the directory's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import attrs
import msgspec
from treq.client import HTTPClient
from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.iweb import IResponse

from llmproxy.backends.bounded_body import read_bounded
from llmproxy.backends.identity import own_headers
from llmproxy.backends.models import ListedModel
from llmproxy.backends.reasons import AskTimedOut, reason_of
from llmproxy.errors import LLMProxyError
from llmproxy.rounds import Rounds
from llmproxy.values import Backend

LIMIT_BYTES: Final = 1024 * 1024
"""The longest list to read."""


class NoModelList(LLMProxyError):
    """What a backend answered is not a list of models."""


class ModelLists(Service):
    """Keeps the lists of all backends that have no configured names.

    Each is asked at the start, then every ``refresh_s`` once it has answered, and every
    ``retry_interval_s`` until it answers. A failure leaves the last known list in force. Only
    changes are logged. Stopping cancels what is asked at that moment, and waits for its end.

    Args:
        backends: All backends; those with configured names are passed over.
        client_for: Gives the treq client for a backend, on connections of its own.
        publish: Takes each list that came, by the backend's name.
        clock: The reactor's time.
        retry_interval_s: The health checks' interval.
        refresh_s: How old a list may get; it is looked at in steps of ``retry_interval_s``.
        timeout_s: For one whole answer.
    """

    _log = Logger()

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        client_for: Callable[[Backend], HTTPClient],
        publish: Callable[[str, Sequence[ListedModel]], None],
        clock: IReactorTime,
        retry_interval_s: float = 10.0,
        refresh_s: float = 60.0,
        timeout_s: float = 5.0,
    ) -> None:
        self._clock = clock
        self._publish = publish
        self._refresh_s = refresh_s
        self._timeout_s = timeout_s
        interval_s = min(retry_interval_s, refresh_s)
        self._sources = [
            _Source(backend, client_for(backend)) for backend in backends if not backend.models
        ]
        self._rounds = [
            Rounds(
                partial(self._round, source),
                clock=clock,
                interval_s=interval_s,
                log=self._log,
            )
            for source in self._sources
        ]

    def __repr__(self) -> str:
        known = [source.backend.name for source in self._sources if source.listed is not None]
        return f"<ModelLists of {len(self._sources)} backends, known: {known}>"

    def startService(self) -> None:
        """Ask every backend for the first time."""
        super().startService()
        for rounds in self._rounds:
            rounds.start()

    def stopService(self) -> Deferred[Any]:
        """Ask nobody any more."""
        super().stopService()
        return gatherResults([rounds.stop() for rounds in self._rounds])

    async def _round(self, source: _Source) -> None:
        """Ask one backend, if it is time to."""
        now_s = self._clock.seconds()
        if source.answered_s is not None and now_s - source.answered_s < self._refresh_s:
            return
        asked = Deferred.fromCoroutine(_ask(source))
        asked.addTimeout(self._timeout_s, self._clock, AskTimedOut.instead)
        # Whatever it is: a backend that cannot be asked tells no list.
        answer: tuple[ListedModel, ...] | str = await asked.addErrback(reason_of)
        if not self.running:
            return
        if isinstance(answer, str):
            self._failed(source, answer)
        else:
            source.answered_s = now_s
            self._answered(source, answer)

    def _answered(self, source: _Source, listed: tuple[ListedModel, ...]) -> None:
        if listed != source.listed or source.problem:
            self._log.info(
                "backend {backend} lists {count} models: {models}",
                backend=source.backend.name,
                count=len(listed),
                models=", ".join(model.id for model in listed[:20]),
            )
        source.listed = listed
        source.problem = ""
        self._publish(source.backend.name, listed)

    def _failed(self, source: _Source, problem: str) -> None:
        if problem != source.problem:
            self._log.warn(
                "backend {backend} does not tell its models: {problem}; {then}",
                backend=source.backend.name,
                problem=problem,
                then="any name goes to it"
                if source.listed is None
                else "its last list stays in force",
            )
        source.problem = problem


@attrs.define(eq=False)
class _Source:
    """One backend that is asked, and what came of it.

    Attributes:
        backend: Its identity.
        client: The client for it.
        listed: Its last list; None before the first.
        answered_s: When that came, on the reactor's clock.
        problem: Why the last answer could not be used; empty when it could.
    """

    backend: Backend
    client: HTTPClient
    listed: tuple[ListedModel, ...] | None = None
    answered_s: float | None = None
    problem: str = ""


async def _ask(source: _Source) -> tuple[ListedModel, ...]:
    backend = source.backend
    response: IResponse = await source.client.request(
        "GET",
        backend.url + b"/v1/models",
        headers=own_headers(backend),
        unbuffered=True,
        allow_redirects=False,
    )
    body = await read_bounded(response, LIMIT_BYTES)
    if response.code != 200:
        raise NoModelList(f"it answered {response.code}")
    return parse_model_list(body)


def parse_model_list(body: bytes) -> tuple[ListedModel, ...]:
    """Read the answer to ``GET /v1/models``.

    OpenAI's form has ``data`` with an ``id`` each, to which vLLM adds ``max_model_len``;
    llama-server has Ollama's ``models`` with a ``name`` each beside it, which is read where
    ``data`` is missing. Entries without a name are passed over.

    Raises:
        NoModelList: It is neither, or it has no entry. An empty list tells nothing: `transformers
            serve` gives one and yet serves any model.
    """
    try:
        tree = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NoModelList("its answer is not JSON") from error
    entries = tree.get("data", tree.get("models")) if isinstance(tree, dict) else None
    if not isinstance(entries, list):
        raise NoModelList("its answer has no list of models")
    listed = tuple(filter(None, map(_listed, entries)))
    if not listed:
        raise NoModelList("its list of models is empty")
    return listed


def _listed(entry: object) -> ListedModel | None:
    if not isinstance(entry, dict):
        return None
    name = entry.get("id") or entry.get("name")
    if not isinstance(name, str):
        return None
    context = entry.get("max_model_len")
    known = isinstance(context, int) and not isinstance(context, bool) and context > 0
    return ListedModel(id=name, context=context if known else None)
