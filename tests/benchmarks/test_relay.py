"""A miniature measurement of LLMProxy: its structure and its errors, never its times."""

import re
from pathlib import Path

import attrs
import msgspec
import pytest

from benchmarks import relay
from benchmarks.measure import WORKLOADS
from benchmarks.report import OURS, Results
from benchmarks.toolchain import compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="the load tools need a C compiler: cc")

MINIATURES = tuple(
    attrs.evolve(one, connections=3, events=min(one.events, 10), pace_us=min(one.pace_us, 2000))
    for one in WORKLOADS
)
COMMAND = ("--gateways", OURS, "--rounds", "1", "--seconds", "0.2")


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pause before idle memory is read: it only steadies the figure."""
    monkeypatch.setattr(relay, "_SETTLE_S", 0.0)


def test_every_workload_is_relayed_without_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every workload gives figures, no error, a line of the table, and a line in both files."""
    raw, table = tmp_path / "raw.json", tmp_path / "results.md"
    table.write_text("# Results\n")
    arguments = [*COMMAND, "--json", str(raw), "--output", str(table)]
    status = relay.main(arguments, MINIATURES)
    printed = capsys.readouterr()
    assert status == 0, printed.err

    results = msgspec.json.decode(raw.read_bytes(), type=Results)
    assert results.problems == []
    ours = {one.workload: one for one in results.measured if one.gateway == OURS}
    assert set(ours) == {workload.name for workload in WORKLOADS}
    for workload in MINIATURES:
        seen = ours[workload.name].seen
        assert seen.errors == 0
        assert seen.requests >= workload.connections
        assert seen.events == seen.requests * workload.events
        assert seen.first_byte_us is not None
        assert (seen.event_us is not None) == (workload.pace_us > 0)
    assert results.idle[0].rss_bytes > 0

    lines = [line for line in printed.out.splitlines() if line.startswith("| ")]
    assert all(line.count("|") == 6 for line in lines)
    for title in ("json: CPU", "sse, usage withheld", "flood: events/s", "big,", "idle memory"):
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
    assert "'jsno' is none of open, json" in capsys.readouterr().err
