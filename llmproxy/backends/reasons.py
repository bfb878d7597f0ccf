"""Why a backend that was asked something did not answer, in words for an operator.

It knows how Twisted wraps failures, and nothing of what was asked.
"""

from __future__ import annotations

from typing import Any, NoReturn

from twisted.python.failure import Failure

from llmproxy.errors import LLMProxyError


class AskTimedOut(LLMProxyError):
    """The whole answer did not come in time."""

    @classmethod
    def instead(cls, _result: Any, timeout_s: float) -> NoReturn:
        """Raise this whatever the cancelling left behind; for ``Deferred.addTimeout``.

        Twisted's own replacement knows `CancelledError` only, while a cancelled agent fails with
        the connection's error.
        """
        raise cls(f"no answer within {timeout_s:g} s")


def reason_of(failure: Failure) -> str:
    """Give the innermost cause's message, or its name when it has none."""
    error = failure.value
    while inner := getattr(error, "reasons", None):  # twisted.web's wrappers
        error = inner[0].value
    return str(error).strip() or type(error).__name__
