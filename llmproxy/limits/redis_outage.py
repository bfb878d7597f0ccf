"""Whether Redis counts: told once when it stops, once when it is back.

It knows nothing of what is asked of Redis.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from llmproxy.errors import RedisReplyError


class RedisOutage:
    """Notes the failures and successes of calls.

    A Redis that is full, or a replica, still answers questions: an outage ends when something was
    written. An error that belongs to what was asked, as of a key that holds something else, is no
    outage: others are counted.

    Args:
        on_back: Called after an outage, at the first call that has written something.

    Attributes:
        failures: Calls that failed, ever.
        lasts: Whether a call has failed, and nothing was written since.
    """

    _log = Logger()

    def __init__(self, on_back: Callable[[], None]) -> None:
        self._on_back = on_back
        self.failures = 0
        self.lasts = False
        self._complaint = ""

    def __repr__(self) -> str:
        return f"<RedisOutage lasts={self.lasts} failures={self.failures}>"

    def failed(self, error: BaseException | None) -> None:
        """Note a call that failed."""
        self.failures += 1
        reason = str(error)
        if isinstance(error, RedisReplyError):
            if reason == self._complaint:
                return
            self._complaint = reason
        elif self.lasts:
            return
        else:
            self.lasts = True
        self._log.warn("limits cannot be counted in redis: {reason}", reason=reason)

    def succeeded(self, *, wrote: bool = True) -> None:
        """Note a call that was answered; ``wrote``: and that has changed something."""
        if self.lasts and wrote:
            self.lasts = False
            self._log.info("limits are counted in redis again")
            self._on_back()
