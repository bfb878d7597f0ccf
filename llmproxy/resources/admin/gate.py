"""Who may use the admin API: whoever shows its token, and shows no wrong one too often."""

from __future__ import annotations

from hmac import compare_digest
from typing import TYPE_CHECKING, Protocol

from twisted.logger import Logger

from llmproxy.resources.admin.envelope import Refusal, refused_for_now
from llmproxy.wire.admin import TOKEN_HEADER

if TYPE_CHECKING:
    from llmproxy.site import EdgeRequest

_FIELD = TOKEN_HEADER.lower()


class Throttle(Protocol):
    """Remembers which addresses failed of late; `llmproxy.auth` has one."""

    def blocked_s(self, ip: str) -> float:
        """Say for how many seconds an address is not listened to; 0: it is."""

    def note_failure(self, ip: str) -> None:
        """Note that an address has failed."""


class Gate:
    """Lets requests in that show the token.

    Args:
        token: The token; not empty.
        throttle: Remembers the addresses of wrong ones.
    """

    _log = Logger()

    def __init__(self, token: str, throttle: Throttle) -> None:
        assert token, "an empty token would be no gate"
        self._token = token.encode()
        self._throttle = throttle

    def __repr__(self) -> str:
        return "<Gate>"

    def admit(self, request: EdgeRequest) -> None:
        """Let a request in.

        The right token lets in from a blocked address, too: it is too long to be guessed, and
        whoever shares an address with administrators (any program of their host does, over
        loopback) could keep them out otherwise.

        Raises:
            Refusal: It may not come in.
        """
        shown = [value for name, value in request.raw_headers if name == _FIELD]
        # Two tokens are none: who is in front of us may have looked at the other one.
        if len(shown) == 1 and compare_digest(shown[0], self._token):
            return
        blocked_s = self._throttle.blocked_s(request.client_ip)
        if blocked_s > 0:
            raise refused_for_now(blocked_s)
        if any(shown):
            self._throttle.note_failure(request.client_ip)
            self._log.warn(
                "a wrong admin token from {ip}",
                ip=request.client_ip,
                request_id=request.request_id,
            )
        raise Refusal(
            401,
            f"This needs the administrator's token in the field {TOKEN_HEADER.decode()}.",
            headers=((b"WWW-Authenticate", TOKEN_HEADER),),
        )
