"""What is new in one part of the spool goes to every reporter, each at its own pace."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.application.service import MultiService

from llmproxy.usage.cursor import Cursor
from llmproxy.usage.delivery import Delivery
from llmproxy.usage.receiver import Receiver
from llmproxy.usage.slot import Slot
from llmproxy.usage.sources import BatchSource


class SlotDeliveries(MultiService):
    """The deliveries from one part of the spool.

    Args:
        slot: The part.
        receivers: Every reporter.
        make_delivery: Makes a delivery to a reporter out of a source.
        now: Seconds since the epoch.
        new_id: Makes ids of batches.

    Attributes:
        slot: The part.
        cursors: The place of each reporter in it, by name.
        deliveries: The delivery to each, by name.

    Raises:
        OSError: The part cannot be used.
    """

    def __init__(
        self,
        slot: Slot,
        receivers: Sequence[Receiver],
        *,
        make_delivery: Callable[[Receiver, BatchSource], Delivery],
        now: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        super().__init__()
        self.slot = slot
        self.cursors: dict[str, Cursor] = {}
        self.deliveries: dict[str, Delivery] = {}
        for receiver in receivers:
            cursor = Cursor(
                slot,
                receiver.name,
                receiver.sink.kinds,
                now=now,
                new_id=new_id,
                is_given_up=lambda receiver=receiver: receiver.is_gone,  # type: ignore[misc]
                skipped=receiver.skipped,
            )
            delivery = make_delivery(receiver, cursor)
            delivery.setServiceParent(self)
            self.cursors[receiver.name] = cursor
            self.deliveries[receiver.name] = delivery

    def __repr__(self) -> str:
        return f"<SlotDeliveries {self.slot!r} {list(self.deliveries.values())!r}>"

    @property
    def has_backlog(self) -> bool:
        """Whether somebody does not have everything."""
        return any(cursor.backlog_records for cursor in self.cursors.values())
