"""The seams of who may do what: keys and limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from llmproxy.entitlements import Quota, Standing
    from llmproxy.key_records import KeyRecord
    from llmproxy.values import Demand, Principal


class IAuthenticator(Interface):
    """Turns credentials into a principal."""

    def authenticate(credential: str, client_ip: str) -> Deferred[Principal]:
        """Say who a credential stands for.

        Args:
            credential: What the client sent; empty when it sent none.
            client_ip: Where it calls from.

        Returns:
            A Deferred of the principal; it fails with `InvalidApiKey`, `KeyDisabled`,
            `KeyNotStarted`, `KeyExpired`, `IpNotAllowed`, `QuotaExceeded` (the source says so),
            `TooManyFailures` or `AuthUnavailable`. Cancelling it leaves the verdict unknown.
        """


class IKeySource(Interface):
    """Knows keys: one place where their records are."""

    name: str = Attribute("As the configuration calls it.")

    def find(credential: str) -> Deferred[KeyRecord | None]:
        """Look a key up.

        Args:
            credential: What the client sent; not empty, ASCII, at most 4096 characters.

        Returns:
            A Deferred of what is known of it; of None when it is not known. It fails with
            `StoreUnavailable` when that cannot be said. Cancelling it ends the look-up.
        """


class IGrant(Interface):
    """What one request was given by the limits, until it is settled."""

    def settle(tokens: int) -> None:
        """Give back all that was lent, and count the tokens really used; exactly once.

        Never raises; what cannot be written now is written later.
        """


class ILimiter(Interface):
    """Holds requests to rates, numbers at once, and budgets."""

    def acquire(demand: Demand) -> Deferred[IGrant]:
        """Take a request's share of everything that limits it: all or nothing.

        Returns:
            A Deferred of the grant, which must be settled. It fails with `RateLimited`,
            `QuotaReserved`, `QuotaExceeded` or `LimitsUnavailable`, and then nothing stays taken.
            Cancelling it gives everything back.
        """

    def standing(principal: Principal) -> Deferred[Standing]:
        """Say how a key stands; fails with `StoreUnavailable`."""

    def quota_used(quotas: Mapping[str, Quota]) -> Deferred[Mapping[str, int]]:
        """Say by key id how many tokens are used in the running period.

        Counting begins for those that were not met: ``used_before`` counts in this period only.
        Fails with `StoreUnavailable`.
        """

    def set_quota_used(key_id: str, quota: Quota, tokens: int) -> Deferred[None]:
        """Set what is used of a quota in the running period; fails with `StoreUnavailable`."""
