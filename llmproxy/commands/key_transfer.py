"""``llmproxy keys export``, ``import`` and ``sync``: many keys at once, from and to files."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import click

from llmproxy.commands.admin_api import AdminApi, shaped
from llmproxy.commands.connection import echo_json, json_option, with_api
from llmproxy.commands.key_files import BadFile, export_line, read_entries
from llmproxy.commands.key_lookup import read_keys
from llmproxy.commands.keys import confirm
from llmproxy.commands.text_files import read_text
from llmproxy.wire.admin_keys import KeysSynced

BATCH: Final = 1000
"""How many keys one incremental synchronisation carries; a full one must carry all."""

_file = click.argument("file", metavar="FILE")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command()
@click.argument("file", metavar="[FILE]", default="-")
@json_option
@with_api
def export(api: AdminApi, *, file: str, as_json: bool) -> None:
    """Write all keys to FILE (or standard output) as JSON lines, each with its hash.

    The keys themselves are not in it, nobody has them. The hashes open nothing without the
    daemon's key secret, and fit only a daemon with the same one.
    """
    exported, _ = read_keys(api, include_hash=True)
    lines = "".join(f"{export_line(key)}\n" for key in exported)
    if file == "-":
        click.echo(lines, nl=False)
        return
    try:
        _write_private(file, lines)
    except OSError as error:
        raise click.UsageError(f"{file} cannot be written: {error.strerror}") from None
    if as_json:
        echo_json({"keys": len(exported)})
    else:
        click.echo(f"{_counted(len(exported))} written to {file}")


def _write_private(file: str, text: str) -> None:
    """Write a file that only its owner may read, and never a part of one."""
    half = f"{file}.{os.getpid()}.part"
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
    Path(half).replace(file)


@click.command("import")
@_file
@click.option(
    "--full", is_flag=True, help="Delete the keys that are not in FILE: the same as keys sync."
)
@_yes
@json_option
@with_api
def import_keys(api: AdminApi, *, file: str, full: bool, yes: bool, as_json: bool) -> None:
    """Add the keys in FILE (- is standard input), and change those that are there already.

    FILE is what keys export wrote; or JSON, a list or lines, of objects with the API's fields; or
    CSV with a heading: key, name, user_id, total_quota, expires_at, ..., the limits as columns of
    their own, metadata.NAME for metadata, lists divided by spaces.
    """
    _synchronise(api, file, full=full, yes=yes, as_json=as_json)


@click.command()
@_file
@click.option(
    "--mode",
    type=click.Choice(["full", "incremental"]),
    default="full",
    show_default=True,
    help="incremental: the same as keys import.",
)
@_yes
@json_option
@with_api
def sync(api: AdminApi, *, file: str, mode: str, yes: bool, as_json: bool) -> None:
    """Make the stored keys those in FILE: add, change, and delete all others, or nothing at all.

    FILE is as for keys import.
    """
    _synchronise(api, file, full=mode == "full", yes=yes, as_json=as_json)


def _synchronise(api: AdminApi, file: str, *, full: bool, yes: bool, as_json: bool) -> None:
    try:
        entries = read_entries(read_text(file), time.time())
    except BadFile as error:
        raise click.UsageError(f"{file}: {error}") from None
    if full and not entries:
        raise click.UsageError(f"{file} has no keys; that would delete all there are")
    if full:
        confirm(f"Delete all keys that are not among the {len(entries)} in {file}?", yes)
    counts = {"created": 0, "updated": 0, "deleted": 0}
    mode, size = ("full", len(entries)) if full else ("incremental", BATCH)
    for start in range(0, len(entries), size):
        try:
            answer = api.post("keys/sync", mode=mode, keys=entries[start : start + size])
        except click.ClickException:
            if start:
                click.echo(f"the first {_counted(start)} of {file} were taken over", err=True)
            raise
        synced = shaped(answer, KeysSynced)
        for name in counts:
            counts[name] += getattr(synced, name)
    if as_json:
        echo_json(counts)
    else:
        click.echo(", ".join(f"{_counted(count)} {name}" for name, count in counts.items()))


def _counted(count: int) -> str:
    return f"{count:,} key{'' if count == 1 else 's'}"
