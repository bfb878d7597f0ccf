"""``llmproxy usage``: what was used, added up; single records and sessions are elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, get_args

import click

from llmproxy.commands.admin_api import AdminApi, shaped
from llmproxy.commands.connection import echo_json, json_option, terminal_cells, with_api
from llmproxy.commands.default_command import WithDefault
from llmproxy.commands.key_lookup import known_key_id
from llmproxy.commands.moments import WANTED_DAY, parse_day
from llmproxy.commands.table import Column, render
from llmproxy.values import UsageGroup
from llmproxy.wire.admin_usage import UsageShown, UsageSummary

_GROUPS: tuple[str, ...] = get_args(UsageGroup)
_COLUMNS = {
    "day": (Column(title="DAY"),),
    "key": (Column(title="KEY", least_cells=12), Column(title="NAME", least_cells=8)),
    "user": (Column(title="USER", least_cells=8),),
    "model": (Column(title="MODEL", least_cells=10),),
}
_NUMBERS = (
    Column(title="REQUESTS", right=True),
    Column(title="ERRORS", right=True, spare=1),
    Column(title="PROMPT", right=True, spare=2),
    Column(title="COMPLETION", right=True, spare=2),
    Column(title="TOKENS", right=True),
)


class Day(click.ParamType[str]):
    """A day, such as ``2030-12-31`` or ``7d``."""

    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read it as ``YYYY-MM-DD``."""
        try:
            return parse_day(value, time.time())
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


class Groups(click.ParamType[tuple[str, ...]]):
    """What totals are told apart by: ``day,key``."""

    name = "groups"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Read them, in their order."""
        if isinstance(value, tuple):
            return value
        groups = tuple(each.strip() for each in value.split(",") if each.strip())
        if not set(groups) <= set(_GROUPS) or len(set(groups)) < len(groups):
            self.fail(f"{value!r}: want some of {','.join(_GROUPS)}, each once", param, ctx)
        return groups


@click.group(cls=WithDefault, default="summary")
def usage() -> None:
    """What was used: summary (without a command), records, sessions."""


@usage.command()
@click.option(
    "--since",
    type=Day(),
    metavar="DAY",
    help=f"{WANTED_DAY[0].upper()}{WANTED_DAY[1:]}; UTC. Default: from the beginning.",
)
@click.option("--until", type=Day(), metavar="DAY", help="The last day. Default: until now.")
@click.option(
    "--by",
    "groups",
    type=Groups(),
    default="key",
    show_default=True,
    metavar="WHAT",
    help="Some of day,key,user,model.",
)
@click.option("--key", "key_id", metavar="ID", help="Only of this key.")
@click.option("--user", "user_id", metavar="USER", help="Only theirs.")
@click.option("--model", metavar="MODEL", help="Only of this model.")
@json_option
@with_api
def summary(
    api: AdminApi, *, groups: tuple[str, ...], key_id: str | None, as_json: bool, **options: Any
) -> None:
    """Show requests and tokens, added up."""
    wanted = {name: value for name, value in options.items() if value}
    if key_id:
        wanted["key_id"] = known_key_id(api, key_id)
    answer = api.post("usage/summary", group_by=groups, **wanted)
    if as_json:
        echo_json(answer)
        return
    for line in usage_table(groups, shaped(answer, UsageSummary), terminal_cells()):
        click.echo(line)


def usage_table(groups: Sequence[str], used: UsageSummary, width_cells: int) -> list[str]:
    """Show totals as a table; see `render`."""
    names = [column for group in groups for column in _COLUMNS[group]]
    rows = [[*_names(groups, one), *_numbers(one)] for one in used.groups]
    total = [*("total", *("",) * len(names))[: len(names)], *_numbers(used.total)]
    columns = [*names, *_NUMBERS]
    if not groups:
        return render(columns, [total], width_cells=width_cells)
    return render(columns, rows, width_cells=width_cells, total=total)


def _names(groups: Sequence[str], one: UsageShown) -> list[str]:
    texts = {
        "day": (one.day,),
        "key": (one.key_id, one.key_name),
        "user": (one.user_id,),
        "model": (one.model,),
    }
    return [text or "" for group in groups for text in texts[group]]


def _numbers(one: UsageShown) -> list[str]:
    return [
        f"{number:,}"
        for number in (
            one.requests,
            one.errors,
            one.prompt_tokens,
            one.completion_tokens,
            one.total_tokens,
        )
    ]
