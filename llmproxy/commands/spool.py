"""``llmproxy spool``: usage records on their way to reporters, and those that did not arrive."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import click

from llmproxy.commands.admin_api import AdminApi, shaped
from llmproxy.commands.connection import echo_json, json_option, terminal_cells, with_api
from llmproxy.commands.default_command import WithDefault
from llmproxy.commands.moments import WANTED_PAST_MOMENT, shown_second, shown_span
from llmproxy.commands.table import Column, printable, render
from llmproxy.commands.usage_records import PastMoment
from llmproxy.wire.admin_spool import (
    DeadLetterList,
    DeadLetterShown,
    ReporterShown,
    SpoolReplayed,
    SpoolShown,
)

_REPORTER_COLUMNS = (
    Column(title="REPORTER", least_cells=8),
    Column(title="TYPE", spare=2),
    Column(title="STATE"),
    Column(title="WAITING", right=True),
    Column(title="SIZE", right=True, spare=3),
    Column(title="OLDEST", right=True),
    Column(title="DELIVERED", right=True),
    Column(title="FAILED TRIES", right=True, spare=1),
    Column(title="DEAD LETTERS", right=True),
    Column(title="LAST ERROR", least_cells=12),
)
_LETTER_COLUMNS = (
    Column(title="GIVEN UP"),
    Column(title="REPORTER", least_cells=8),
    Column(title="BATCH", least_cells=10),
    Column(title="EVENTS", right=True),
    Column(title="SIZE", right=True, spare=2),
    Column(title="KIND", spare=1),
    Column(title="REASON", least_cells=12),
)
_SIZES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


@click.group(cls=WithDefault, default="status")
def spool() -> None:
    """Usage records on their way to the reporters: status (without a command), replay, ..."""


@spool.command()
@json_option
@with_api
def status(api: AdminApi, *, as_json: bool) -> None:
    """Show how each reporter stands.

    Exits with 1 when a reporter is disabled, or has dead letters.
    """
    answer = api.post("spool/status")
    shown = shaped(answer, SpoolShown)
    if as_json:
        echo_json(answer)
    else:
        _echo_status(shown)
    if any(one.state == "disabled" or one.dead_letters for one in shown.reporters):
        sys.exit(1)


@spool.command()
@click.argument("reporter", default="", metavar="[REPORTER]")
@click.option(
    "--since",
    type=PastMoment(),
    metavar="WHEN",
    required=True,
    help=f"{WANTED_PAST_MOMENT[0].upper()}{WANTED_PAST_MOMENT[1:]}; UTC.",
)
@click.option("--until", type=PastMoment(), metavar="WHEN", help="Default: until now.")
@json_option
@with_api
def replay(api: AdminApi, *, reporter: str, since: str, until: str | None, as_json: bool) -> None:
    """Send a REPORTER again what was spooled in a time; without one, each of them.

    What the spool still keeps (usage.spool_retention) is sent, beside what is new. Receivers know
    by their ids the records that they have.
    """
    answer = api.post("spool/replay", **_given(reporter=reporter, since=since, until=until))
    if as_json:
        echo_json(answer)
        return
    shown = shaped(answer, SpoolReplayed)
    _echo_begun(shown.reporters, "is being sent its records again", shown.refused)


@spool.command("dead-letters")
@click.argument("reporter", default="", metavar="[REPORTER]")
@click.option("--redeliver", is_flag=True, help="Try them again.")
@json_option
@with_api
def dead_letters(api: AdminApi, *, reporter: str, redeliver: bool, as_json: bool) -> None:
    """List the batches that a REPORTER did not take and that were given up; or try them again."""
    answer = api.post("spool/dead-letters", redeliver=redeliver, **_given(reporter=reporter))
    if as_json:
        echo_json(answer)
        return
    shown = shaped(answer, DeadLetterList)
    if redeliver:
        _echo_begun(shown.redelivered, "is being sent its dead letters", shown.refused)
        return
    rows = list(map(_letter_row, shown.dead_letters))
    for line in render(_LETTER_COLUMNS, rows, width_cells=terminal_cells()):
        click.echo(line)
    if not rows:
        click.echo("\nno dead letters")


def _echo_begun(names: Iterable[str], what: str, refused: Mapping[str, str]) -> None:
    for name in names:
        click.echo(printable(f"{name} {what}"))
    for name, reason in refused.items():
        click.echo(printable(f"{name} is not: {reason}"))


def _echo_status(shown: SpoolShown) -> None:
    if not shown.reporters:
        click.echo("no reporters: usage.reporters is empty, or usage is not enabled")
        return
    rows = list(map(_reporter_row, shown.reporters))
    for line in render(_REPORTER_COLUMNS, rows, width_cells=terminal_cells()):
        click.echo(line)
    troubles = [
        f"{count:,} records {what}"
        for count, what in (
            (shown.waiting_records, "waiting for room on the disk"),
            (shown.lost_records, "lost"),
            (shown.damaged_records, "damaged"),
            (
                sum(one.skipped_records for one in shown.reporters),
                "deleted before their reporters had them",
            ),
        )
        if count
    ]
    click.echo(f"\n{', '.join([f'the spool holds {_size(shown.size_bytes)}', *troubles])}")


def _reporter_row(one: ReporterShown) -> tuple[str, ...]:
    return (
        one.name,
        one.type,
        one.state,
        f"{one.backlog_records:,}",
        _size(one.backlog_bytes) if one.backlog_records else "",
        shown_span(one.oldest_s) if one.backlog_records else "",
        f"{one.delivered_records:,}",
        f"{one.failed_tries:,}",
        f"{one.dead_letters:,}",
        one.last_error if one.resending is None else f"{one.resending:,} sent again so far",
    )


def _letter_row(one: DeadLetterShown) -> tuple[str, ...]:
    return (
        shown_second(one.given_up),
        one.reporter,
        one.id,
        f"{one.events:,}",
        _size(one.size_bytes),
        one.kind,
        one.reason,
    )


def _size(size_bytes: int) -> str:
    for unit, name in _SIZES:
        if size_bytes >= unit:
            return f"{size_bytes / unit:,.1f} {name}"
    return f"{size_bytes} B"


def _given(**fields: str | None) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}
