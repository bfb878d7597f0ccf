"""What the pipeline asks of each source, and what comes back: at once if it can be, else later.

Inside the room only: other rooms see `IAuthenticator`, and give `IKeySource`. A key that is known
already must cost no Deferred, so there are two questions: `Verdicts.recall` and `Verdicts.ask`.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from typing import Final, Protocol

from twisted.internet.defer import Deferred

from llmproxy.errors import GatewayError
from llmproxy.values import Principal


class Unsaid(Enum):
    """The type of `UNSAID`."""

    UNSAID = "unsaid"


UNSAID: Final = Unsaid.UNSAID
"""Nothing can be said at once: ask."""


class Verdict(Protocol):
    """What is known of a key that is known."""

    @property
    def principal(self) -> Principal:
        """Who it stands for."""

    def refusal(self, now_s: float, client_ip: str) -> GatewayError | None:
        """Say why a request with it may not pass; None: it may."""


class Verdicts(Protocol):
    """One source, or several together; all go by the same digests of keys."""

    def recall(self, digest: bytes) -> Verdict | Unsaid | None:
        """Say at once what is known of a key; None: that nobody knows it; else `UNSAID`."""

    def ask(self, credential: str, digest: bytes) -> Deferred[Verdict | None]:
        """Find out about a key of which `recall` has just said nothing.

        It fails with `AuthUnavailable`. Cancelling it leaves the verdict unknown.
        """

    def has_record(self, digest: bytes) -> bool:
        """Say whether a key is in memory as one that was known, however old that may be."""

    def forget(self, key_ids: Collection[str] | None) -> None:
        """Hold nothing for known of those keys, and none for unknown; None: of all."""

    def ids_behind(self, key_id: str) -> tuple[str, ...]:
        """Give the ids of the records that a principal's id stands for."""

    def principal_id(self, digest: bytes, key_id: str) -> str:
        """Give the id of the principal that a key stands for, of the id of one of its records."""
