"""Batches of usage records read for those who store them one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from twisted.logger import Logger

from llmproxy.deliveries import Batch
from llmproxy.wire.usage_record import UsageRecordJson, decode_record

_log: Final = Logger()


def records_of(batch: Batch, receiver: str) -> Sequence[UsageRecordJson]:
    """Read the records of a batch.

    What is no record, or one without an id, cannot be stored at the next try either: it is told in
    the log, and the others go on.

    Args:
        batch: Of the kind ``usage``.
        receiver: Who stores them, for the log.
    """
    records = []
    for number, event in enumerate(batch.events):
        try:
            record = decode_record(event)
        except ValueError as error:
            _log.error(
                "{receiver}: event {number} of batch {batch} is no usage record: {error}",
                receiver=receiver,
                number=number,
                batch=batch.id,
                error=str(error),
            )
            continue
        if record.id:
            records.append(record)
        else:
            _log.error(
                "{receiver}: event {number} of batch {batch} has no id",
                receiver=receiver,
                number=number,
                batch=batch.id,
            )
    return records
