"""The spool in the admin API's JSON. Its answers are tested with the operations."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from llmproxy.errors import InvalidBody
from llmproxy.wire.admin import Request, read_request
from llmproxy.wire.admin_spool import AskDeadLetters, ReplaySpool, ShowSpool


def test_what_may_be_said() -> None:
    """Null is the same as nothing."""
    assert read_request(b"{}", ShowSpool) == ShowSpool()
    asked = read_request(b'{"since": "2030-01-01T00:00:00Z", "until": null}', ReplaySpool)
    assert asked == ReplaySpool(since=datetime(2030, 1, 1, tzinfo=UTC))
    assert read_request(b'{"reporter": null}', AskDeadLetters) == AskDeadLetters()


@pytest.mark.parametrize(
    ("kind", "body", "param"),
    [
        (ShowSpool, {"reporter": "x"}, "reporter"),
        (ReplaySpool, {"since": None}, "since"),
        (ReplaySpool, {"since": "2030-01-01T00:00:00Z", "reporter": "x" * 65}, "reporter"),
        (AskDeadLetters, {"redeliver": "yes"}, "redeliver"),
        (AskDeadLetters, {"ids": ["x"]}, "ids"),
    ],
)
def test_wrong_fields(kind: type[Request], body: object, param: str) -> None:
    """The field that is wrong is named."""
    with pytest.raises(InvalidBody) as caught:
        read_request(json.dumps(body).encode(), kind)
    assert caught.value.param == param
