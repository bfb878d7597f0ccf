"""The table's arithmetic: medians, ratios, what is added to a direct answer, targets."""

import pytest

from benchmarks.machine import Machine
from benchmarks.measure import Measured, Percentiles, Seen
from benchmarks.report import Row, markdown, rows
from benchmarks.results import DIRECT, OURS, PEER, IdleMemory, Results

MACHINE = Machine(
    cpu="a processor",
    cores=2,
    kernel="6.1",
    python="3.11.7",
    llmproxy="0.1.0",
    packages={"twisted": "26.10.0"},
    nginx="1.22.1",
    load_average=0.5,
)


def measured(gateway: str, workload: str, *, cpu_us: float, p50_us: float = 0.0) -> Measured:
    """Give a measurement of a second."""
    times = Percentiles(p50=p50_us, p99=2 * p50_us, max=3 * p50_us)
    seen = Seen(10, 100, 0, "", 0, 1.0, first_byte_us=times, event_us=times)
    return Measured(gateway, workload, seen, cpu_s=0.25, cpu_us=cpu_us, per_s=1e6 / cpu_us)


def results(*all_measured: Measured, idle: list[IdleMemory] | None = None) -> Results:
    """Give the results of a run."""
    return Results("command", MACHINE, 3, 5.0, list(all_measured), idle or [])


def by_title(found: Results, title: str) -> Row:
    """Give the one row whose title begins so."""
    (row,) = (row for row in rows(found) if row.title.startswith(title))
    return row


def test_a_figure_is_the_median_of_its_rounds() -> None:
    """One bad round does not move it."""
    found = results(
        *(measured(OURS, "json", cpu_us=cpu_us) for cpu_us in (60, 900, 50)),
        *(measured(PEER, "json", cpu_us=cpu_us) for cpu_us in (10, 12, 11)),
    )
    row = by_title(found, "json: CPU")
    assert (row.ours, row.peer, row.ratio) == (60, 11, 60 / 11)


@pytest.mark.parametrize(
    ("workload", "title", "ours", "met"),
    [
        ("json", "json: CPU", 60.0, True),
        ("json", "json: CPU", 60.1, False),
        ("sse", "sse, usage asked", 25.0, True),
        ("sse-withheld", "sse, usage withheld", 25.1, False),
        ("flood", "flood: events/s", 30.0, True),
        ("flood", "flood: events/s", 30.1, False),
        ("big", "big", 20.1, False),
    ],
)
def test_a_ratio_is_held_to_the_target(workload: str, title: str, ours: float, met: bool) -> None:
    """The bound itself is still met; of the flood the rates are compared."""
    found = results(measured(OURS, workload, cpu_us=ours), measured(PEER, workload, cpu_us=10.0))
    assert by_title(found, title).is_met is met


def test_added_time_is_what_is_over_the_direct_answer() -> None:
    """The tools' own share is taken off both gateways."""
    found = results(
        measured(OURS, "sse", cpu_us=1, p50_us=1600),
        measured(PEER, "sse", cpu_us=1, p50_us=300),
        measured(DIRECT, "sse", cpu_us=1, p50_us=100),
    )
    row = by_title(found, "sse: added first-byte time p50")
    assert (row.ours, row.peer, row.is_met) == (1.5, 0.2, False)
    assert by_title(found, "sse: added first-byte time p99").ours == 3.0


def test_without_nginx_there_are_figures_but_no_verdict_on_ratios() -> None:
    """Targets in figures of LLMProxy's own are judged all the same."""
    idle = [IdleMemory(OURS, rss_bytes=50_000_000, pss_bytes=45_000_000)]
    found = results(measured(OURS, "json", cpu_us=100), idle=idle)
    row = by_title(found, "json: CPU")
    assert (row.ours, row.peer, row.ratio, row.is_met) == (100, None, None, None)
    assert str(row) == "| json: CPU µs/request | - | 100.0 | - | <= 6 x |"
    assert by_title(found, "idle memory, RSS").is_met is True


def test_what_was_not_measured_has_no_row() -> None:
    """A run of one workload has only its rows."""
    assert {
        row.title.partition(":")[0] for row in rows(results(measured(OURS, "json", cpu_us=1)))
    } == {"json"}


def test_the_report_says_how_it_was_made_and_what_went_wrong() -> None:
    """Command, machine and problems stand beside the table."""
    found = results(measured(OURS, "json", cpu_us=100), measured(PEER, "json", cpu_us=10))
    found.problems.append("round 1, json, nginx: 3 errors")
    text = markdown(found)
    assert text.startswith("    command\n")
    assert "a processor, 2 cores" in text
    assert "| json: CPU µs/request | 10.0 | 100.0 | 10.00 | <= 6 x, **missed** |" in text
    assert text.endswith("were errors:**\n\n- round 1, json, nginx: 3 errors\n")


def test_a_further_peer_has_a_column_and_no_verdict() -> None:
    """The ratio stays that of LLMProxy and nginx; what a peer was not measured with is a dash."""
    found = results(
        measured(OURS, "json", cpu_us=60),
        measured(PEER, "json", cpu_us=10),
        measured("litellm", "json", cpu_us=7000),
        measured(OURS, "big", cpu_us=100),
    )
    found.peers = {"litellm": "1.0", "vllm-router": "2.0"}
    text = markdown(found)
    assert "| workload | nginx | LLMProxy | ratio | target | litellm |\n" in text
    assert "| json: CPU µs/request | 10.0 | 60.0 | 6.00 | <= 6 x, met | 7 000.0 |" in text
    assert "| big, 256 KiB prompts: CPU µs/request | - | 100.0 | - | <= 2 x | - |" in text
    assert "; litellm 1.0." in text
    assert "vllm-router" not in text


def test_lines_of_open_streams() -> None:
    """Memory of each and of all, and times over the direct answer's only where there is one."""
    streams = measured(OURS, "streams-10k", cpu_us=70, p50_us=500)
    streams.connections, streams.bytes_each, streams.rss_bytes = 10_000, 25_000.0, 300_000_000
    over_tls = measured(OURS, "streams-10k-tls", cpu_us=90, p50_us=700)
    over_tls.connections = 10_000
    one = measured(OURS, "open-1", cpu_us=1)
    one.rss_bytes = 60_000_000
    found = results(streams, measured(DIRECT, "streams-10k", cpu_us=1, p50_us=100), over_tls, one)
    title = "10 000 open streams"
    each = by_title(found, f"{title}: kB each")
    assert (each.ours, each.is_met) == (25.0, True)
    assert by_title(found, f"{title}: RSS, MB").ours == 300.0
    assert by_title(found, f"{title}: added time per event p50").ours == 0.4
    assert by_title(found, f"{title}, TLS: time per event p50").ours == 0.7
    assert by_title(found, "one open stream: RSS").ours == 60.0


def test_what_was_left_out_is_named() -> None:
    """With the reason, beneath the table."""
    found = results(measured(OURS, "json", cpu_us=1))
    found.left_out.append("litellm: it is in no --peers-venv")
    assert markdown(found).endswith("\nLeft out:\n\n- litellm: it is in no --peers-venv\n")
