"""Own answers for refused keys: ``auth.status_codes``.

It knows which of our errors each of its keys means, and nothing of requests.
"""

from __future__ import annotations

from llmproxy.config.model_auth import OwnAnswer, StatusCodes
from llmproxy.errors import (
    GatewayError,
    InvalidApiKey,
    IpNotAllowed,
    KeyDisabled,
    KeyExpired,
    KeyNotStarted,
    ModelNotAllowed,
    QuotaExceeded,
)


class Refusals:
    """Restates the errors that the configuration has own answers for.

    Args:
        status_codes: The section ``auth.status_codes``.
    """

    def __init__(self, status_codes: StatusCodes) -> None:
        by_class: dict[type[GatewayError], OwnAnswer] = {
            InvalidApiKey: status_codes.not_found,
            KeyDisabled: status_codes.disabled,
            KeyExpired: status_codes.expired,
            KeyNotStarted: status_codes.expired,
            IpNotAllowed: status_codes.ip_not_allowed,
            ModelNotAllowed: status_codes.model_not_allowed,
            QuotaExceeded: status_codes.quota_exceeded,
        }
        self._answers = {
            error: answer for error, answer in by_class.items() if answer != OwnAnswer()
        }

    def __repr__(self) -> str:
        return f"<Refusals {sorted(error.__name__ for error in self._answers)}>"

    def restate(self, error: GatewayError) -> GatewayError:
        """Give the error as it is to be answered: the same, or with an own status or message."""
        answer = self._answers.get(type(error))
        return error if answer is None else error.restated(answer.http_code, answer.message)
