"""A miniature measurement of LLMProxy: its structure and its errors, never its times."""

import re
import resource
from pathlib import Path

import attrs
import msgspec
import pytest

from benchmarks import relay, rounds
from benchmarks.results import OURS, Results
from benchmarks.toolchain import build, compiler
from benchmarks.workloads import WORKLOADS

pytestmark = pytest.mark.skipif(compiler() is None, reason="the load tools need a C compiler: cc")

MINIATURES = tuple(
    attrs.evolve(one, connections=3, events=3, pace_us=100_000, opening_s=0.1)
    if one.holds_open
    else attrs.evolve(
        one, connections=3, events=min(one.events, 10), pace_us=min(one.pace_us, 2000)
    )
    for one in WORKLOADS
)
COMMAND = ("--gateways", OURS, "--rounds", "1", "--seconds", "0.2")


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pause before idle memory is read: it only steadies the figure."""
    monkeypatch.setattr(rounds, "_SETTLE_S", 0.0)


def test_every_workload_is_relayed_without_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every workload gives figures, no error, a line of the table, and a line in both files."""
    raw, table = tmp_path / "raw.json", tmp_path / "results.md"
    table.write_text("# Results\n")
    # open-1-tls is left out: what it does, open-1 and open-tls do, and gateways take time to start.
    run = [one for one in MINIATURES if one.by_default and one.name != "open-1-tls"]
    run = [one for one in run if build().with_tls or not one.tls]
    chosen = ",".join(one.name for one in run)
    arguments = [*COMMAND, "--workloads", chosen, "--json", str(raw), "--output", str(table)]
    status = relay.main(arguments, MINIATURES)
    printed = capsys.readouterr()
    assert status == 0, printed.err

    results = msgspec.json.decode(raw.read_bytes(), type=Results)
    assert results.problems == []
    ours = {one.workload: one for one in results.measured if one.gateway == OURS}
    assert set(ours) == {workload.name for workload in run}
    for workload in run:
        seen = ours[workload.name].seen
        assert seen.errors == 0
        assert seen.requests >= workload.connections
        assert seen.events == seen.requests * workload.events
        assert seen.first_byte_us is not None
        assert (seen.event_us is not None) == (workload.pace_us > 0)
        assert (ours[workload.name].rss_bytes > 0) == workload.holds_open
    assert results.idle[0].rss_bytes > 0

    lines = [line for line in printed.out.splitlines() if line.startswith("| ")]
    assert all(line.count("|") == 6 for line in lines)
    for title in (
        "json: CPU",
        "sse, usage withheld",
        "flood: events/s",
        "big,",
        "idle memory",
        "one open",
    ):
        assert any(line.startswith(f"| {title}") for line in lines)
    assert table.read_text().startswith("# Results\n")
    assert printed.out.strip() in table.read_text()


def test_refused_requests_fail_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A gateway that does not answer 200 makes the exit status 1, and the report says why."""
    monkeypatch.setattr("benchmarks.measure.KEY", "sk-another")
    status = relay.main([*COMMAND, "--workloads", "json"], MINIATURES)
    printed = capsys.readouterr()
    assert status == 1
    assert re.search(r"json, LLMProxy: 3 errors, the first: .*401", printed.err)
    assert "Not to be trusted" in printed.out


def test_an_unknown_workload_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt workload is named, with those that there are."""
    with pytest.raises(SystemExit):
        relay.main(["--workloads", "jsno"])
    assert "'jsno' is none of open-1, open, streams-10k" in capsys.readouterr().err


def test_thousands_of_streams_are_as_many_as_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """They are run when chosen, without a gateway as well, and their lines say the count."""
    words = ("--workloads", "streams-10k", "--streams", "5")
    status = relay.main([*COMMAND, *words], MINIATURES)
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert "--streams 5" in printed.out
    for title in ("kB each", "RSS, MB", "CPU µs/event", "added time per event p99, ms"):
        assert f"| 5 open streams: {title} |" in printed.out


def test_more_streams_than_files_may_be_open_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before anything is started, with the number that would do."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    words = ("--workloads", "streams-10k", "--streams", str(limit))
    assert relay.main([*COMMAND, *words], MINIATURES) == 1
    said = capsys.readouterr().err
    assert f"streams-10k takes {2 * limit + 100} open files" in said
    assert f"--streams {(limit - 100) // 2}" in said


def test_streams_that_were_not_open_at_once_fail_the_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Memory of them would be that of fewer streams."""
    (held,) = (one for one in MINIATURES if one.name == "open")
    short = attrs.evolve(held, events=1, pace_us=1000, opening_s=0.6)
    status = relay.main([*COMMAND, "--workloads", "open"], [short])
    assert status == 1
    assert "only 1 of 3 streams were open at the same time" in capsys.readouterr().err


def test_without_openssl_the_lines_of_tls_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report says so, and the rest is measured."""
    monkeypatch.setattr(relay, "build", lambda: attrs.evolve(build(), with_tls=False))
    status = relay.main([*COMMAND, "--workloads", "json,json-tls"], MINIATURES)
    printed = capsys.readouterr().out
    assert status == 0
    assert "- TLS: the headers of OpenSSL are missing" in printed
    assert "| json: CPU" in printed
    assert "json over TLS" not in printed
