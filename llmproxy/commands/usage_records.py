"""``llmproxy usage records`` and ``llmproxy usage sessions``: each request, and conversations."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, get_args

import click

from llmproxy.commands.admin_api import AdminApi, shaped
from llmproxy.commands.connection import echo_json, json_option, terminal_cells, with_api
from llmproxy.commands.key_lookup import known_key_id
from llmproxy.commands.moments import (
    WANTED_PAST_MOMENT,
    parse_past_moment,
    shown_second,
    shown_span,
)
from llmproxy.commands.table import Column, printable, render
from llmproxy.values import Outcome
from llmproxy.wire.admin_keys import LARGEST_PAGE
from llmproxy.wire.admin_sessions import SessionShown
from llmproxy.wire.usage_record import UsageRecordJson

_RECORD_COLUMNS = (
    Column(title="TIME"),
    Column(title="USER", least_cells=6, spare=2),
    Column(title="KEY", least_cells=8),
    Column(title="MODEL", least_cells=8),
    Column(title="BACKEND", least_cells=8, spare=3),
    Column(title="STATUS", right=True),
    Column(title="OUTCOME"),
    Column(title="PROMPT", right=True),
    Column(title="COMPLETION", right=True),
    Column(title="TOOK", right=True),
    Column(title="SESSION", least_cells=8, spare=1),
    Column(title="REQUEST", least_cells=8, spare=4),
)
_SESSION_COLUMNS = (
    Column(title="LAST SEEN"),
    Column(title="SESSION", least_cells=10),
    Column(title="USER", least_cells=6, spare=1),
    Column(title="KEY", least_cells=8, spare=3),
    Column(title="MODELS", least_cells=8, spare=2),
    Column(title="REQUESTS", right=True),
    Column(title="ERRORS", right=True, spare=4),
    Column(title="PROMPT", right=True),
    Column(title="CACHED", right=True, spare=5),
    Column(title="COMPLETION", right=True),
    Column(title="TOOL CALLS", right=True),
    Column(title="LASTED", right=True),
)


class PastMoment(click.ParamType[str]):
    """A moment, such as ``2030-12-31`` or ``12h`` (ago)."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read it as RFC 3339."""
        try:
            return parse_past_moment(value, time.time())
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


def filter_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that records and sessions share."""
    for option in reversed(
        (
            click.option(
                "--since",
                type=PastMoment(),
                metavar="WHEN",
                help=f"{WANTED_PAST_MOMENT[0].upper()}{WANTED_PAST_MOMENT[1:]}; UTC.",
            ),
            click.option("--until", type=PastMoment(), metavar="WHEN", help="Default: until now."),
            click.option("--key", "key_id", metavar="ID", help="Only of this key."),
            click.option("--user", "user_id", metavar="USER", help="Only theirs."),
            click.option(
                "--limit",
                type=click.IntRange(min=1),
                default=20,
                show_default=True,
                help="How many, at most.",
            ),
        )
    ):
        command = option(command)
    return command


@click.command()
@filter_options
@click.option("--model", metavar="MODEL", help="Only of this model.")
@click.option("--backend", metavar="NAME", help="Only of this backend.")
@click.option("--session", "session_id", metavar="ID", help="Only of this session.")
@click.option("--request", "request_id", metavar="ID", help="Only of this request.")
@click.option("--outcome", type=click.Choice(get_args(Outcome)), help="Only those that ended so.")
@json_option
@with_api
def records(api: AdminApi, *, limit: int, as_json: bool, **options: Any) -> None:
    """Show the records of single requests, the newest first.

    They are kept by a reporter of type builtin, for its retention_days.
    """
    answer = _read(api, "usage/query", "records", limit, options)
    if as_json:
        echo_json(answer)
        return
    rows = [_record_row(shaped(one, UsageRecordJson)) for one in answer["records"]]
    _echo_table(_RECORD_COLUMNS, rows, "records", answer)


@click.command()
@click.argument("session_id", metavar="[ID]", default="")
@filter_options
@click.option("--children-of", "parent_session_id", metavar="ID", help="Only those begun from it.")
@json_option
@with_api
def sessions(api: AdminApi, *, limit: int, as_json: bool, **options: Any) -> None:
    """Show conversations, the last seen first: what their requests come to.

    With an ID: that one, and how often it called each function.
    """
    answer = _read(api, "usage/sessions", "sessions", limit, options)
    if as_json:
        echo_json(answer)
        return
    shown = [shaped(one, SessionShown) for one in answer["sessions"]]
    _echo_table(_SESSION_COLUMNS, list(map(_session_row, shown)), "sessions", answer)
    if options["session_id"]:
        for one in shown:
            click.echo()
            for line in _session_lines(one):
                click.echo(printable(line))


def _read(
    api: AdminApi, path: str, what: str, limit: int, options: dict[str, Any]
) -> dict[str, Any]:
    """Read page by page; the answer is as one page would be."""
    wanted = {name: value for name, value in options.items() if value}
    if "key_id" in wanted:
        wanted["key_id"] = known_key_id(api, wanted["key_id"])
    found: list[Any] = []
    while True:
        page = api.post(path, limit=min(limit - len(found), LARGEST_PAGE), **wanted)
        found += page[what]
        wanted["cursor"] = page["next_cursor"]
        if not page["next_cursor"] or len(found) >= limit:
            return {what: found, "next_cursor": page["next_cursor"]}


def _echo_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], what: str, answer: dict[str, Any]
) -> None:
    for line in render(columns, rows, width_cells=terminal_cells()):
        click.echo(line)
    if not rows:
        click.echo(f"\nno {what}")
    elif answer["next_cursor"]:
        click.echo(f"\nthere are more {what}: --limit shows more, --until older ones")


def _record_row(one: UsageRecordJson) -> tuple[str, ...]:
    return (
        one.time[:19].replace("T", " "),
        one.user_id,
        one.key_name or one.key_id,
        one.model,
        one.backend,
        str(one.status),
        one.outcome,
        f"{one.prompt_tokens:,}",
        f"{one.completion_tokens:,}",
        shown_span(one.duration_ms / 1000),
        one.session_id,
        one.request_id,
    )


def _session_row(one: SessionShown) -> tuple[str, ...]:
    return (
        shown_second(one.last_seen),
        one.session_id,
        one.user_id,
        one.key_id,
        ", ".join(one.models),
        f"{one.requests:,}",
        f"{one.errors:,}",
        f"{one.prompt_tokens:,}",
        f"{one.cached_tokens:,}",
        f"{one.completion_tokens:,}",
        f"{one.tool_calls_total:,}",
        shown_span(one.duration_s),
    )


def _session_lines(one: SessionShown) -> list[str]:
    calls = sorted(one.tool_calls.items(), key=lambda call: (-call[1], call[0]))
    lines = [
        f"session     {one.session_id} of key {one.key_id}",
        f"models      {', '.join(one.models) or '-'}",
        f"first seen  {shown_second(one.first_seen)}",
        f"tool calls  {', '.join(f'{name} {count:,}' for name, count in calls) or '-'}",
    ]
    if one.parent_session_id:
        lines.insert(1, f"begun from  {one.parent_session_id}")
    return lines
