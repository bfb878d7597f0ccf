"""What is run against which gateways, and when memory is read."""

import pytest

from benchmarks.workloads import WORKLOADS, Workload, batches

HELD = [one for one in WORKLOADS if one.holds_open]


@pytest.mark.parametrize("workload", HELD, ids=lambda one: one.name)
def test_memory_is_read_while_all_streams_are_open(workload: Workload) -> None:
    """After the last was opened, and before the first ends, with half a second to spare."""
    first_end_s = workload.events * workload.pace_us / 1e6
    assert workload.opening_s + 0.5 <= workload.middle_s <= first_end_s - 0.5


@pytest.mark.parametrize("name", ["streams-10k", "streams-10k-tls"])
def test_ten_thousand_streams_are_open_for_a_minute(name: str) -> None:
    """An event a second each, and they are not opened at a rate that is a test of its own."""
    (workload,) = (one for one in WORKLOADS if one.name == name)
    assert (workload.connections, workload.pace_us) == (10_000, 1_000_000)
    assert workload.events * workload.pace_us / 1e6 - workload.opening_s == 60
    assert workload.connections / workload.opening_s <= 500
    assert not workload.by_default


def test_memory_is_measured_of_gateways_that_did_nothing_before() -> None:
    """Each workload of memory has gateways of its own; the others share, TLS apart."""
    found = [[one.name for one in batch] for batch in batches(list(WORKLOADS))]
    assert found == [
        *([one.name] for one in HELD),
        ["json", "sse", "sse-withheld", "sse-short", "flood", "big"],
        ["json-tls", "sse-tls"],
    ]


def test_what_is_not_chosen_needs_no_gateways() -> None:
    """No batch is empty."""
    json = next(one for one in WORKLOADS if one.name == "json")
    assert batches([json]) == [[json]]
    assert batches([]) == []


def test_the_clients_of_open_streams_ask_once() -> None:
    """Whatever the length of the run, each asks once, in its turn of the opening time."""
    words = next(one for one in HELD if one.name == "open-tls").arguments(5.0)
    assert words[words.index("--seconds") + 1] == "0"
    assert words[words.index("--period-us") + 1] == "4000000"
    assert "--tls" in words
