"""What a key's record says of a request: the judgement that all sources have in common.

What does not change is prepared once, for most requests come with a key that was seen before. It
knows nothing of where records come from.
"""

from __future__ import annotations

from typing import Final

import attrs

from llmproxy.auth.ip_rules import IpRules
from llmproxy.errors import (
    GatewayError,
    IpNotAllowed,
    KeyDisabled,
    KeyExpired,
    KeyNotStarted,
    MalformedRecord,
    QuotaExceeded,
)
from llmproxy.key_records import KeyRecord
from llmproxy.values import Principal

_REFUSED_AFTER_DATES: Final[dict[str, type[GatewayError]]] = {
    "expired": KeyExpired,
    "quota_exceeded": QuotaExceeded,
}


@attrs.frozen(eq=False)
class PreparedKey:
    """A record, ready to be held against requests.

    Attributes:
        record: What it was made of.
        principal: Who the key stands for; always the same object.
    """

    record: KeyRecord
    principal: Principal
    _ip_rules: IpRules | None
    _always_good: bool

    def refusal(self, now_s: float, client_ip: str) -> GatewayError | None:
        """Say why a request with this key may not pass; None: it may.

        The first that applies of: disabled, not started, expired, called expired or spent by its
        source, address not allowed.

        Args:
            now_s: Seconds since the epoch.
            client_ip: Where it comes from.
        """
        if not self._always_good and (refusal := self.refusal_anywhere(now_s)) is not None:
            return refusal
        if self._ip_rules is not None and not self._ip_rules.permits(client_ip):
            return IpNotAllowed()
        return None

    def refusal_anywhere(self, now_s: float) -> GatewayError | None:
        """Say why the key is no good, wherever it is used; as `refusal`."""
        record = self.record
        if record.status == "disabled":
            return KeyDisabled()
        if record.starts_at_s is not None and now_s < record.starts_at_s:
            return KeyNotStarted()
        if record.expires_at_s is not None and now_s >= record.expires_at_s:
            return KeyExpired()
        if record.status != "active":
            return _REFUSED_AFTER_DATES[record.status]()
        return None


def prepare(record: KeyRecord) -> PreparedKey:
    """Make a record ready.

    Raises:
        MalformedRecord: One of its networks is none.
    """
    rules = None
    if record.allowed_ips or record.denied_ips:
        try:
            rules = IpRules(record.allowed_ips, record.denied_ips)
        except ValueError as error:
            raise MalformedRecord(f"the key's record has a network that is none: {error}") from None
    return PreparedKey(
        record=record,
        principal=Principal(
            key_id=record.id,
            key_name=record.name,
            user_id=record.user_id,
            allowed_models=(record.allowed_models,) if record.allowed_models else (),
            own_limits=record.own_limits,
            quota=record.quota,
            expires_at_s=record.expires_at_s,
        ),
        ip_rules=rules,
        always_good=(
            record.status == "active" and record.starts_at_s is None and record.expires_at_s is None
        ),
    )
