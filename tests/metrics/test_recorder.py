"""The recorder: records, counted."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from llmproxy.errors import UriTooLong
from llmproxy.interfaces import IReporter
from llmproxy.metrics.bounded import OTHER
from llmproxy.metrics.recorder import MOST_FUNCTIONS, MOST_MODELS, Recorder
from llmproxy.metrics.sessions import SessionSums
from llmproxy.values import TriedBackend, Usage, UsageRecord
from tests.metrics.counting import Samples, make_metrics, samples

RECORD = UsageRecord(
    id="i",
    time=0.0,
    request_id="r",
    endpoint="/v1/chat/completions",
    key_id="key-secret",
    user_id="user-secret",
    model="m",
    upstream_model="org/m",
    backend="b",
    stream=True,
    usage=Usage(10, 20, 30, 4, 5),
    usage_source="exact",
    outcome="ok",
    status=200,
    first_byte_ms=50.0,
    duration_ms=500.0,
    queue_ms=5.0,
    attempts=1,
    session_id="session-secret",
)
PLACE = '{backend="b",model="m",path="/v1/chat/completions",stream="true"}'


class Counted:
    """A recorder, and what it has counted."""

    def __init__(self) -> None:
        self.metrics = make_metrics()
        self.ends: list[float] = []
        self.sessions = SessionSums(self.ends.append, Clock())
        self.recorder = Recorder(self.metrics, self.sessions)

    def samples(self) -> Samples:
        """Give what is counted, buckets left out."""
        return {
            name: value for name, value in samples(self.metrics).items() if "_bucket{" not in name
        }


def counted(*records: UsageRecord) -> Samples:
    """Count records; give what is counted, but for what a plain good one counts."""
    made = Counted()
    for record in records:
        made.recorder.report(record)
    return made.samples()


def test_a_good_answer() -> None:
    """Everything that is counted of it, and nothing else; none of it tells whose it was."""
    found = counted(RECORD, RECORD)
    assert found == {
        'llmproxy_requests_total{backend="b",model="m",outcome="ok",'
        'path="/v1/chat/completions",status="200",stream="true"}': 2,
        f"llmproxy_latency_ms_count{PLACE}": 2,
        f"llmproxy_latency_ms_sum{PLACE}": 1000,
        'llmproxy_first_byte_ms_count{backend="b",model="m",stream="true"}': 2,
        'llmproxy_first_byte_ms_sum{backend="b",model="m",stream="true"}': 100,
        'llmproxy_queue_wait_ms_count{model="m"}': 2,
        'llmproxy_queue_wait_ms_sum{model="m"}': 10,
        'llmproxy_usage_source_total{backend="b",source="exact"}': 2,
        'llmproxy_usage_tokens_total{backend="b",model="m",type="prompt"}': 20,
        'llmproxy_usage_tokens_total{backend="b",model="m",type="completion"}': 40,
        'llmproxy_usage_tokens_total{backend="b",model="m",type="cached"}': 8,
        'llmproxy_usage_tokens_total{backend="b",model="m",type="reasoning"}': 10,
    }
    assert "secret" not in repr(found)


def test_times_fall_into_their_buckets() -> None:
    """The bounds are those that were given, each bucket with all that is below."""
    made = Counted()
    for duration_ms in (10.0, 10.1, 100.0, 1e9):
        made.recorder.report(attrs.evolve(RECORD, duration_ms=duration_ms))
    found = samples(made.metrics)
    labels = PLACE[1:-1].split(",")
    buckets = {
        bound: found[
            "llmproxy_latency_ms_bucket{" + ",".join(sorted([*labels, f'le="{bound}"'])) + "}"
        ]
        for bound in ("10.0", "100.0", "1000.0", "+Inf")
    }
    assert buckets == {"10.0": 1, "100.0": 3, "1000.0": 3, "+Inf": 4}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"outcome": "rejected", "error_code": "quota_exceeded", "status": 402, "attempts": 0},
            {'llmproxy_rejections_total{code="quota_exceeded",model="m"}': 1},
        ),
        (
            {"outcome": "upstream_error", "error_code": "connection_lost", "status": 502},
            {'llmproxy_errors_total{backend="b",code="connection_lost",model="m"}': 1},
        ),
        (
            {"outcome": "timeout", "error_code": "stall_timeout"},
            {
                'llmproxy_errors_total{backend="b",code="stall_timeout",model="m"}': 1,
                'llmproxy_stream_stalls_total{backend="b",model="m"}': 1,
            },
        ),
        (
            {"outcome": "upstream_error", "status": 500},
            {'llmproxy_errors_total{backend="b",code="backend_error",model="m"}': 1},
        ),
        ({"outcome": "rejected", "status": 400}, {}),  # a backend's own refusal, passed on
        ({"outcome": "client_abort", "status": 499}, {}),
        (
            {
                "attempts": 3,
                "tried": (
                    TriedBackend("a", "connect_failed"),
                    TriedBackend("c", "connect_failed"),
                ),
            },
            {
                'llmproxy_retries_total{model="m"}': 2,
                'llmproxy_attempt_failures_total{backend="a",code="connect_failed"}': 1,
                'llmproxy_attempt_failures_total{backend="c",code="connect_failed"}': 1,
            },
        ),
        (
            {"tool_calls": {"read": 2, "write": 1}},
            {
                'llmproxy_tool_calls_total{function="read",model="m"}': 2,
                'llmproxy_tool_calls_total{function="write",model="m"}': 1,
            },
        ),
    ],
)
def test_what_only_some_records_count(changes: dict[str, Any], expected: dict[str, float]) -> None:
    """Refusals, failures, stalls, retries and tool calls, each where it belongs."""
    names = {name.partition("{")[0] for name in counted(RECORD)}
    found = counted(attrs.evolve(RECORD, **changes))
    more = {name: value for name, value in found.items() if name.partition("{")[0] not in names}
    assert more == expected


def test_a_request_that_reached_no_backend() -> None:
    """It has no times of backends and no tokens."""
    refused = attrs.evolve(
        RECORD,
        backend="",
        upstream_model="",
        model="whatever the client wrote",
        usage=Usage(),
        usage_source="none",
        outcome="rejected",
        status=404,
        error_code="model_not_found",
        first_byte_ms=None,
        attempts=0,
    )
    place = '{backend="",model="",path="/v1/chat/completions",stream="true"}'
    assert counted(refused) == {
        'llmproxy_requests_total{backend="",model="",outcome="rejected",'
        'path="/v1/chat/completions",status="404",stream="true"}': 1,
        f"llmproxy_latency_ms_count{place}": 1,
        f"llmproxy_latency_ms_sum{place}": 500,
        'llmproxy_rejections_total{code="model_not_found",model=""}': 1,
    }


def test_models_and_functions_are_bounded() -> None:
    """Whatever clients and models invent; all of it is counted."""
    found = counted(
        *(
            attrs.evolve(RECORD, model=f"m{number}", tool_calls={f"f{number}\ud800": 1})
            for number in range(MOST_MODELS + MOST_FUNCTIONS)
        )
    )
    requests = {
        name: value
        for name, value in found.items()
        if name.startswith(("llmproxy_requests", "llmproxy_tool"))
    }
    assert len(requests) <= 2 * (MOST_MODELS + MOST_FUNCTIONS)
    others = [value for name, value in requests.items() if f'model="{OTHER}"' in name]
    assert sum(others) == 2 * MOST_FUNCTIONS
    assert sum(requests.values()) == 2 * (MOST_MODELS + MOST_FUNCTIONS)


def test_tokens_that_make_no_sense() -> None:
    """A backend may tell anything; a counter only grows."""
    found = counted(attrs.evolve(RECORD, usage=Usage(-5, 0, -5)))
    assert not [name for name in found if name.startswith("llmproxy_usage_tokens")]


def test_sessions_are_summed() -> None:
    """Where a request belongs to one, and its key is known: strangers have none."""
    made = Counted()
    made.recorder.report(RECORD)
    made.recorder.report(attrs.evolve(RECORD, session_id=""))
    made.recorder.report(attrs.evolve(RECORD, session_id="another", key_id=""))
    assert made.sessions.active() == 1


def test_what_could_not_be_read() -> None:
    """By the status that it was answered with."""
    made = Counted()
    made.recorder.refused(UriTooLong())
    assert made.samples() == {'llmproxy_unreadable_requests_total{status="414"}': 1}


class FailingTests(SynchronousTestCase):
    """What trial's log of errors is needed for."""

    def test_a_failure_is_logged_once_and_raises_nothing(self) -> None:
        """Other reporters must get the record."""
        made = Counted()
        verifyObject(IReporter, made.recorder)
        long: Any = "long"
        broken = attrs.evolve(RECORD, duration_ms=long)
        made.recorder.report(broken)
        made.recorder.report(broken)
        (failure,) = self.flushLoggedErrors(TypeError)
        assert failure is not None
        assert repr(made.recorder) == "<Recorder 1 kinds of requests>"
