"""The operations on backends: what state they are in, and to drain one or to enable it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from llmproxy.interfaces import IBackendControl, IBackendStatuses
from llmproxy.resources.admin import operations
from llmproxy.resources.admin.envelope import Refusal
from llmproxy.resources.admin.operations import Done, Note, Operation, Run
from llmproxy.values import Backend, BackendStatus
from llmproxy.wire.admin import BackendList, BackendNamed, BackendShown


class BackendOperations:
    """Shows backends, drains and enables them.

    Args:
        identities: What the configuration says of them.
        statuses: Their states.
        control: Drains and enables them.
        is_alone: Whether this process has all requests; else others would not know of a change.
    """

    def __init__(
        self,
        identities: Sequence[Backend],
        statuses: IBackendStatuses,
        control: IBackendControl,
        is_alone: bool,
    ) -> None:
        self._identities = {identity.name: identity for identity in identities}
        self._statuses = statuses
        self._control = control
        self._is_alone = is_alone

    def runs(self) -> Mapping[Operation, Run]:
        """Give what does each operation."""
        return {
            operations.LIST_BACKENDS: self._list,
            operations.DRAIN_BACKEND: self._drain,
            operations.ENABLE_BACKEND: self._enable,
        }

    async def _list(self, request: None, note: Note) -> Done:
        del request, note
        backends = tuple(map(self._shown, self._statuses.statuses()))
        return Done("These are the backends.", BackendList(backends=backends))

    async def _drain(self, request: BackendNamed, note: Note) -> Done:
        self._change(self._control.drain, request.name)
        note(f"drained backend {request.name}")
        return Done("The backend gets no further requests.", self._state_of(request.name))

    async def _enable(self, request: BackendNamed, note: Note) -> Done:
        self._change(self._control.enable, request.name)
        note(f"enabled backend {request.name}")
        return Done("The backend gets requests again.", self._state_of(request.name))

    def _change(self, change: Callable[[str], None], name: str) -> None:
        if not self._is_alone:
            raise Refusal(
                409,
                "There are several workers, and only one would know of it; take the backend out of "
                "the configuration, or put it back, and reload.",
            )
        try:
            change(name)
        except KeyError:
            raise Refusal(404, "There is no backend of that name.", param="name") from None

    def _state_of(self, name: str) -> BackendShown:
        (status,) = (one for one in self._statuses.statuses() if one.name == name)
        return self._shown(status)

    def _shown(self, status: BackendStatus) -> BackendShown:
        identity = self._identities[status.name]
        return BackendShown(
            name=status.name,
            url=identity.url.decode("ascii"),
            state=status.state,
            in_flight=status.in_flight,
            reason=status.reason,
            weight=identity.weight,
            models=identity.models,
            breaker=status.breaker,
            ejected=status.ejected,
            times_opened=status.times_opened,
            share_percent=status.share_percent,
            latency_ms=status.latency_ms,
        )
