"""``llmproxy keys``: keys made, found, changed, switched off and deleted, one at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from llmproxy.commands.admin_api import AdminApi, shaped
from llmproxy.commands.connection import echo_json, json_option, terminal_cells, with_api
from llmproxy.commands.key_lookup import find_key, read_keys, which_key
from llmproxy.commands.key_options import (
    Amount,
    fields_of,
    key_options,
    labelled,
    read_key,
)
from llmproxy.commands.key_views import key_lines, keys_table
from llmproxy.commands.table import printable
from llmproxy.wire.admin_keys import Key

_CLEARED: tuple[tuple[str, str, Any, str], ...] = (
    ("--no-quota", "total_quota", None, "No budget."),
    ("--no-start", "starts_at", None, "It may be used from now on."),
    ("--no-expiry", "expires_at", None, "It does not expire."),
    ("--any-model", "allowed_models", [], "It may use all models."),
    ("--no-allow-ip", "allowed_ips", [], "It may be used from everywhere."),
    ("--no-deny-ip", "denied_ips", [], "No network is denied."),
    ("--no-metadata", "metadata", {}, "Nothing else is known of it."),
)
"""Options of ``update`` that empty a field: its name, the field, what is put there, the help."""


@click.group()
def keys() -> None:
    """Keys of the daemon's own key store (a source of the type builtin).

    An ID is a key's id, the start of it, or the key's name, if only one key fits.
    """


@keys.command()
@key_options
@click.option(
    "--key-file",
    default="",
    metavar="FILE",
    help="A key that exists already, to be taken over: 6 to 4096 visible ASCII characters; - is "
    "standard input.",
)
@click.option("--quiet", is_flag=True, help="Print the key alone.")
@json_option
@with_api
def create(api: AdminApi, *, key_file: str, quiet: bool, as_json: bool, **options: Any) -> None:
    """Make a key and print it, once."""
    fields = fields_of(options)
    if options["metadata"]:
        fields["metadata"] = labelled({}, options["metadata"])
    if key_file:
        fields["key"] = read_key(key_file)
    answer = api.post("keys/create", **fields)
    # Whatever else is in the answer, the key must come out: it is not shown again.
    if as_json:
        echo_json(answer)
    elif quiet:
        click.echo(answer["key"])
    else:
        key = shaped(answer, Key)
        whole, key.key = key.key, "taken over" if key_file else "below"
        _echo_key(key)
        if not key_file:
            click.echo(
                f"\n{whole}\n\nThis key is not shown again: the gateway keeps only a hash of it. "
                "Who uses it sets\nLLMPROXY_API_KEY to it, and the gateway's URL with /v1 as the "
                "base URL."
            )


@keys.command("list")
@click.option("--user", "user_id", default="", metavar="USER", help="Only theirs.")
@click.option("--status", type=click.Choice(["active", "disabled"]), help="As it was set.")
@click.option(
    "--search", default="", metavar="TEXT", help="Found in the id, name, user or beginning."
)
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many, at most."
)
@click.option("--all", "every", is_flag=True, help="All of them.")
@json_option
@with_api
def list_keys(
    api: AdminApi,
    *,
    user_id: str,
    status: str | None,
    search: str,
    limit: int,
    every: bool,
    as_json: bool,
) -> None:
    """List keys, the newest first."""
    wanted: dict[str, Any] = {"user_id": user_id, "search": search}
    if status:
        wanted["status"] = status
    shown, total = read_keys(api, None if every else limit, **wanted)
    if as_json:
        echo_json({"keys": shown, "total": total, "offset": 0, "limit": len(shown)})
        return
    for line in keys_table([shaped(key, Key) for key in shown], terminal_cells()):
        click.echo(line)
    if len(shown) < total and not every:
        click.echo(f"\n{len(shown)} of {total} keys; --all shows all")
    elif not shown:
        click.echo("\nno keys")


@keys.command()
@which_key
@json_option
@with_api
def get(api: AdminApi, *, wanted: str, key_file: str, as_json: bool) -> None:
    """Show what is known of a key; the key itself is not."""
    _show(find_key(api, wanted, key_file), as_json)


def _clearing_options(command: Callable[..., None]) -> Callable[..., None]:
    for flag, _, _, text in reversed(_CLEARED):
        command = click.option(flag, is_flag=True, help=text)(command)
    return command


@keys.command()
@which_key
@key_options
@_clearing_options
@click.option(
    "--used", "used_quota", type=Amount(), metavar="N", help="Tokens used in the running period."
)
@json_option
@with_api
def update(api: AdminApi, *, wanted: str, key_file: str, as_json: bool, **options: Any) -> None:
    """Change a key. What is not named stays; a list that is named is replaced.

    Metadata are added to those there; NAME= alone takes one out.
    """
    fields = fields_of(options)
    if options["used_quota"] is not None:
        fields["used_quota"] = options["used_quota"]
    for flag, field, empty, _ in _CLEARED:
        if options[flag.removeprefix("--").replace("-", "_")]:
            if field in fields or (field == "metadata" and options["metadata"]):
                raise click.UsageError(f"{flag} contradicts another option")
            fields[field] = empty
    if not fields and not options["metadata"]:
        raise click.UsageError("nothing to change; see --help")
    key = shaped(find_key(api, wanted, key_file), Key)
    if options["metadata"]:
        fields["metadata"] = labelled(key.metadata, options["metadata"])
    _show(api.post("keys/update", id=key.id, **fields), as_json)


@keys.command()
@which_key
@json_option
@with_api
def disable(api: AdminApi, *, wanted: str, key_file: str, as_json: bool) -> None:
    """Switch a key off: its requests are refused within a second.

    Those that run end or are cut, as auth.on_revoke says.
    """
    _set_status(api, find_key(api, wanted, key_file), "disabled", as_json)


@keys.command()
@which_key
@json_option
@with_api
def enable(api: AdminApi, *, wanted: str, key_file: str, as_json: bool) -> None:
    """Switch a key on again."""
    _set_status(api, find_key(api, wanted, key_file), "active", as_json)


def _set_status(api: AdminApi, found: Any, status: str, as_json: bool) -> None:
    answer = api.post("keys/update", id=found["id"], status=status)
    if as_json:
        echo_json(answer)
        return
    key = shaped(answer, Key)
    click.echo(f"{_called(key)} is {key.status_text}")
    if status == "active" and key.status_text != "active":
        click.echo("It is switched on, but that does not mend its end or its budget: keys update.")


@keys.command()
@which_key
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@with_api
def delete(api: AdminApi, *, wanted: str, key_file: str, yes: bool, as_json: bool) -> None:
    """Delete a key for good; its usage stays."""
    key = shaped(find_key(api, wanted, key_file), Key)
    confirm(f"Delete {_called(key)} for good?", yes)
    answer = api.post("keys/delete", id=key.id)
    if as_json:
        echo_json(answer)
    else:
        click.echo(f"{_called(key)} is deleted")


def confirm(question: str, yes: bool) -> None:
    """Ask at the terminal; end the command when the answer is no.

    Raises:
        click.UsageError: There is no terminal to ask at, and it was not said in advance.
        click.Abort: The answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask at; --yes does it without asking")
    click.confirm(question, abort=True, err=True)


def _called(key: Key) -> str:
    return printable(f"{key.id} ({key.name})" if key.name else key.id)


def _show(answer: Any, as_json: bool) -> None:
    if as_json:
        echo_json(answer)
    else:
        _echo_key(shaped(answer, Key))


def _echo_key(key: Key) -> None:
    for line in key_lines(key):
        click.echo(line)
