"""``llmproxy backends``: the inference servers as the daemon sees them, and taking one out."""

from __future__ import annotations

import click

from llmproxy.commands.admin_api import AdminApi, shaped
from llmproxy.commands.connection import echo_json, json_option, terminal_cells, with_api
from llmproxy.commands.default_command import WithDefault
from llmproxy.commands.table import Column, printable, render
from llmproxy.wire.admin import BackendList, BackendShown

_COLUMNS = (
    Column(title="NAME", least_cells=8),
    Column(title="STATE"),
    Column(title="BREAKER"),
    Column(title="IN FLIGHT", right=True),
    Column(title="WEIGHT", right=True, spare=2),
    Column(title="URL", least_cells=12),
    Column(title="MODELS", least_cells=10, spare=1),
    Column(title="REASON", least_cells=12),
)


@click.group(cls=WithDefault, default="list")
def backends() -> None:
    """Backends: list them (without a command), drain one, enable it again."""


@backends.command("list")
@json_option
@with_api
def list_backends(api: AdminApi, *, as_json: bool) -> None:
    """List the backends and their states."""
    answer = api.get("backends")
    if as_json:
        echo_json(answer)
        return
    listed = shaped(answer, BackendList).backends
    for line in render(_COLUMNS, [_row(one) for one in listed], width_cells=terminal_cells()):
        click.echo(line)


@backends.command()
@click.argument("name")
@json_option
@with_api
def drain(api: AdminApi, *, name: str, as_json: bool) -> None:
    """Give a backend no further requests; those that run go on.

    It holds until enable, or until the daemon is restarted.
    """
    _set(api, "drain", name, as_json)


@backends.command()
@click.argument("name")
@json_option
@with_api
def enable(api: AdminApi, *, name: str, as_json: bool) -> None:
    """Undo drain."""
    _set(api, "enable", name, as_json)


def _set(api: AdminApi, what: str, name: str, as_json: bool) -> None:
    answer = api.post(f"backends/{what}", name=name)
    if as_json:
        echo_json(answer)
        return
    one = shaped(answer, BackendShown)
    running = f", {one.in_flight} in flight" if one.in_flight else ""
    click.echo(printable(f"{one.name} is {one.state}{running}"))


def _row(one: BackendShown) -> tuple[str, ...]:
    return (
        one.name,
        one.state,
        _breaker(one),
        f"{one.in_flight:,}",
        f"{one.weight:,}" + (f" at {one.share_percent}%" if one.share_percent < 100 else ""),
        one.url,
        ", ".join(one.models),
        one.reason,
    )


def _breaker(one: BackendShown) -> str:
    """Say what requests showed of it, and whether it gets some all the same."""
    if one.breaker == "closed":
        return one.breaker
    state = one.breaker.replace("_", "-")
    return f"{state}, ejected" if one.ejected else state
