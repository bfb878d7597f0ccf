"""Several sources of keys that must agree: a key is good when all of them know it and take it.

It knows nothing of what the sources are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Final, TypeGuard

import attrs
from twisted.internet.defer import Deferred

from llmproxy.auth.verdicts import UNSAID, Unsaid, Verdict, Verdicts
from llmproxy.entitlements import Limits, OwnLimits
from llmproxy.errors import GatewayError
from llmproxy.values import Principal

MAX_KEYS: Final = 10_000
"""For how many keys what was put together is kept."""


@attrs.frozen(eq=False)
class CombinedKey:
    """What all sources say of one key.

    Attributes:
        parts: Their verdicts, in order.
        principal: The first one's, as restricted by the others.
    """

    parts: tuple[Verdict, ...]
    principal: Principal

    def refusal(self, now_s: float, client_ip: str) -> GatewayError | None:
        """Give the first source's refusal that there is; see `Verdict`."""
        for part in self.parts:
            if (refusal := part.refusal(now_s, client_ip)) is not None:
                return refusal
        return None


class AllOf:
    """Asks all sources, and is itself `Verdicts`.

    A key that one of them does not know is unknown. One that cannot say ends it.

    Args:
        sources: At least one; the principal is called as the first calls it.
        per_key: The limits of keys without limits of their own.
    """

    def __init__(self, sources: Sequence[Verdicts], per_key: Limits) -> None:
        self._sources = tuple(sources)
        self._per_key = per_key
        self._changes = 0
        self._made: OrderedDict[bytes, CombinedKey] = OrderedDict()
        self._behind: dict[str, tuple[str, ...]] = {}

    def __repr__(self) -> str:
        return f"<AllOf {list(self._sources)!r}>"

    def recall(self, digest: bytes) -> Verdict | Unsaid | None:
        """Say at once what is known; see `Verdicts`."""
        parts = [source.recall(digest) for source in self._sources]
        if None in parts or not parts:
            return None
        return self._combined(digest, parts) if _all_said(parts) else UNSAID

    def ask(self, credential: str, digest: bytes) -> Deferred[Verdict | None]:
        """Find out; see `Verdicts`."""
        return Deferred.fromCoroutine(self._ask(credential, digest))

    async def _ask(self, credential: str, digest: bytes) -> Verdict | None:
        while True:
            changes = self._changes
            parts: list[Verdict] = []
            for source in self._sources:
                part = source.recall(digest)
                if part is UNSAID:
                    part = await source.ask(credential, digest)
                if part is None:
                    return None
                parts.append(part)
            if changes == self._changes:
                return self._combined(digest, parts)
            # While one source was waited for, the key may have been disabled in one asked before.

    def _combined(self, digest: bytes, parts: Sequence[Verdict]) -> CombinedKey:
        """Put verdicts together, unless the same ones have been."""
        made = self._made.get(digest)
        if made is None or any(a is not b for a, b in zip(made.parts, parts, strict=True)):
            made = CombinedKey(
                tuple(parts), combine([part.principal for part in parts], self._per_key)
            )
            self._made[digest] = made
            self._behind[made.principal.key_id] = tuple(part.principal.key_id for part in parts)
            if len(self._made) > MAX_KEYS:
                _, gone = self._made.popitem(last=False)
                self._behind.pop(gone.principal.key_id, None)
        self._made.move_to_end(digest)
        return made

    def has_record(self, digest: bytes) -> bool:
        """Say whether any source has it; see `Verdicts`."""
        return any(source.has_record(digest) for source in self._sources)

    def forget(self, key_ids: Collection[str] | None) -> None:
        """Have all sources forget; see `Verdicts`."""
        self._changes += 1
        for source in self._sources:
            source.forget(key_ids)

    def ids_behind(self, key_id: str) -> tuple[str, ...]:
        """Give the ids by which the sources call that key; see `Verdicts`."""
        return self._behind.get(key_id, (key_id,))

    def principal_id(self, digest: bytes, key_id: str) -> str:
        """Give the id by which the first source calls the key; see `Verdicts`."""
        made = self._made.get(digest)
        return key_id if made is None else made.principal.key_id


def _all_said(parts: Sequence[Verdict | Unsaid | None]) -> TypeGuard[Sequence[Verdict]]:
    return not any(part is None or part is UNSAID for part in parts)


def combine(principals: Sequence[Principal], per_key: Limits) -> Principal:
    """Make one principal of those that the sources give.

    Args:
        principals: At least one; id, name and user are the first's.
        per_key: What stands where a key has no limit of its own.

    Returns:
        One who may do what all of them may: a model must be allowed by all, the stricter of each
        limit holds, and the earliest end; the budget is the first that there is.
    """
    first = principals[0]
    ends = [one.expires_at_s for one in principals if one.expires_at_s is not None]
    return Principal(
        key_id=first.key_id,
        key_name=first.key_name,
        user_id=first.user_id,
        allowed_models=tuple(group for one in principals for group in one.allowed_models),
        own_limits=_strictest([one.own_limits for one in principals], per_key),
        quota=next((one.quota for one in principals if one.quota is not None), None),
        expires_at_s=min(ends, default=None),
    )


def _strictest(limits: Sequence[OwnLimits | None], per_key: Limits) -> OwnLimits | None:
    """Take the strictest of each limit; 0 is none, and None the limit of every key."""
    own = [OwnLimits() if one is None else one for one in limits]
    strictest: dict[str, int | None] = {}
    for field in attrs.fields(OwnLimits):
        given = [getattr(one, field.name) for one in own]
        if all(value is None for value in given):
            strictest[field.name] = None
            continue
        base = getattr(per_key, field.name)
        in_force = [base if value is None else value for value in given]
        strictest[field.name] = min((value for value in in_force if value), default=0)
    combined = OwnLimits(**strictest)
    return None if combined == OwnLimits() else combined
