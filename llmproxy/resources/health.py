"""``/health`` and ``/ready``: for load balancers and for people."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs

from llmproxy.interfaces import IBackendStatuses
from llmproxy.resources.base import EdgeResource, Identify, answer_json
from llmproxy.values import ConfigStatus, Principal

if TYPE_CHECKING:
    from llmproxy.site import EdgeRequest


class HealthResource(EdgeResource):
    """Says that the process lives."""

    methods = (b"GET", b"HEAD")

    def answer(self, request: EdgeRequest, principal: Principal) -> None:
        """Answer 200."""
        del principal
        answer_json(request, 200, {"status": "ok"})


class ReadyResource(EdgeResource):
    """Says whether requests can be taken: a backend is up and the daemon is not draining.

    Args:
        backends: Their states.
        is_draining: Whether the daemon is.
        config_status: Says which configuration is in force.
        identify: Says who asks; None: everybody may.
    """

    methods = (b"GET", b"HEAD")

    def __init__(
        self,
        backends: IBackendStatuses,
        is_draining: Callable[[], bool],
        config_status: Callable[[], ConfigStatus],
        identify: Identify | None = None,
    ) -> None:
        super().__init__(identify)
        self._backends = backends
        self._is_draining = is_draining
        self._config_status = config_status

    def answer(self, request: EdgeRequest, principal: Principal) -> None:
        """Answer 200 or 503, with each backend's state and what became of the last reload."""
        del principal
        statuses = self._backends.statuses()
        if self._is_draining():
            status = "draining"
        elif any(backend.state == "up" for backend in statuses):
            status = "ready"
        else:
            status = "no_backend"
        answer_json(
            request,
            200 if status == "ready" else 503,
            {
                "status": status,
                "backends": [attrs.asdict(backend) for backend in statuses],
                "config": _shown(self._config_status()),
            },
        )


def _shown(status: ConfigStatus) -> dict[str, Any]:
    """Show no more of a failed reload than that it failed: whoever asks may be anybody."""
    reload = None
    if status.reloaded_s is not None:
        reload = {
            "time": _moment(status.reloaded_s),
            "result": "failed" if status.problems else "ok",
            "problems": status.problems,
        }
    return {"digest": status.digest, "since": _moment(status.since_s), "last_reload": reload}


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
