"""Tests of `llmproxy.commands.spool`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from llmproxy.wire.admin_spool import DeadLetterShown, ReporterShown, SpoolShown
from tests.commands.conftest import Operator


def reporter(name: str = "billing", **more: Any) -> ReporterShown:
    """Give a reporter that has nothing to do."""
    fields: dict[str, Any] = {
        "type": "webhook",
        "state": "idle",
        "backlog_records": 0,
        "backlog_bytes": 0,
        "oldest_s": 0.0,
        "delivered_batches": 1_300,
        "delivered_records": 123_456,
        "failed_tries": 0,
        "dead_letters": 0,
        "dead_letter_bytes": 0,
        "skipped_records": 0,
        "last_error": "",
        "resending": None,
    }
    return ReporterShown(name=name, **fields | more)


def standing(*reporters: ReporterShown, lost: int = 0, damaged: int = 0) -> SpoolShown:
    """Give a spool."""
    return SpoolShown(
        size_bytes=5 << 20,
        max_bytes=1 << 30,
        written_records=200_000,
        waiting_records=0,
        lost_records=lost,
        damaged_records=damaged,
        reporters=reporters,
    )


def letter(number: int = 1) -> DeadLetterShown:
    """Give a dead letter."""
    return DeadLetterShown(
        reporter="billing",
        id=f"batch-{number}",
        kind="usage",
        events=100,
        size_bytes=70_000,
        first_try=datetime(2026, 11, 24, 10, 0, 0, tzinfo=UTC),
        given_up=datetime(2026, 11, 27, 10, 0, 5, tzinfo=UTC),
        tries=90,
        reason="it answered 500",
    )


WAITING = reporter(
    state="waiting",
    backlog_records=1500,
    backlog_bytes=900_000,
    oldest_s=4000.0,
    failed_tries=7,
    last_error="it answered 503",
)


def test_status(operator: Operator) -> None:
    """A line for each reporter, and one for the spool; without a command as well."""
    operator.fake.spool = standing(WAITING, reporter("local", type="builtin"))
    wanted = [
        "REPORTER  TYPE     STATE    WAITING       SIZE  OLDEST  DELIVERED  FAILED TRIES  "
        "DEAD LETTERS  LAST ERROR",
        "billing   webhook  waiting    1,500  878.9 KiB   1h06m    123,456             7  "
        "           0  it answered 503",
        "local     builtin  idle           0          -       -    123,456             0  "
        "           0  -",
        "",
        "the spool holds 5.0 MiB",
    ]
    assert operator.does("spool").splitlines() == wanted
    assert operator.does("spool", "status").splitlines() == wanted
    assert operator.gives("spool")["reporters"][0]["backlog_records"] == 1500
    lines = operator.does("spool", columns=80).splitlines()
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("trouble", [{"state": "disabled"}, {"dead_letters": 3}])
def test_what_needs_somebody(operator: Operator, trouble: dict[str, Any]) -> None:
    """Its exit status is 1, the table is shown, and programs get their JSON."""
    operator.fake.spool = standing(
        reporter(**trouble, skipped_records=20), reporter("local"), lost=4, damaged=1
    )
    result = operator.run("spool", "status")
    assert (result.exit_code, result.stderr) == (1, "")
    assert result.stdout.splitlines()[-1] == (
        "the spool holds 5.0 MiB, 4 records lost, 1 records damaged, "
        "20 records deleted before their reporters had them"
    )
    result = operator.run("spool", "status", "--json")
    assert result.exit_code == 1
    assert '"reporters"' in result.stdout


def test_no_reporters(operator: Operator) -> None:
    """It says where they are configured."""
    assert "usage.reporters is empty" in operator.does("spool", "status")


def test_replay(operator: Operator) -> None:
    """One reporter, or each; a name that is none is refused."""
    operator.fake.spool = standing(reporter(), reporter("local"))
    said = operator.does("spool", "replay", "--since", "2026-11-01", "--until", "2026-11-02")
    assert said.splitlines() == [
        "billing is being sent its records again",
        "local is being sent its records again",
    ]
    assert operator.gives("spool", "replay", "local", "--since", "1d")["reporters"] == ["local"]
    first, second = operator.asked("spool/replay")
    assert first == {"since": "2026-11-01T00:00:00Z", "until": "2026-11-02T00:00:00Z"}
    assert second["reporter"] == "local"
    words = operator.fails(1, "spool", "replay", "nobody", "--since", "1d")
    assert "There is no reporter of that name" in words
    assert "Missing option '--since'" in operator.fails(2, "spool", "replay")


def test_dead_letters(operator: Operator) -> None:
    """They are listed, and tried again when that is said."""
    assert operator.does("spool", "dead-letters").endswith("\nno dead letters\n")
    operator.fake.letters = [letter()]
    assert operator.does("spool", "dead-letters", "billing").splitlines() == [
        "GIVEN UP             REPORTER  BATCH    EVENTS      SIZE  KIND   REASON",
        "2026-11-27 10:00:05  billing   batch-1     100  68.4 KiB  usage  it answered 500",
    ]
    said = operator.does("spool", "dead-letters", "billing", "--redeliver")
    assert said == "billing is being sent its dead letters\n"
    assert operator.asked("spool/dead-letters")[1:] == [
        {"reporter": "billing", "redeliver": False},
        {"reporter": "billing", "redeliver": True},
    ]
    operator.fake.refused = {"local": "it is disabled until the next start"}
    said = operator.does("spool", "dead-letters", "--redeliver")
    assert said.splitlines()[-1] == "local is not: it is disabled until the next start"


def test_what_is_being_sent_again(operator: Operator) -> None:
    """It is shown how far that is."""
    operator.fake.spool = standing(reporter(resending=1200))
    assert operator.does("spool").splitlines()[1].endswith("1,200 sent again so far")
