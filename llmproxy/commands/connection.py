"""What every command has in common: how it finds the admin API, and ``--json``.

It knows the options, not what any command does.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable
from typing import Any

import click

from llmproxy.commands.admin_api import AdminApi
from llmproxy.commands.target import TOKEN_VARIABLE, find_target

_OPTIONS = (
    click.option(
        "--config",
        "config_file",
        default="",
        metavar="FILE",
        help="The daemon's configuration, with the admin API's address and token. Default: "
        "$LLMPROXY_CONFIG, /etc/llmproxy/llmproxy.yaml, or etc/llmproxy.yaml.",
    ),
    click.option(
        "--url", default="", metavar="URL", help="The admin API's address, instead of the file's."
    ),
    click.option(
        "--token-file",
        default="",
        metavar="FILE",
        help=f"A file with the admin token; ${TOKEN_VARIABLE} may hold it instead.",
    ),
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
"""Adds ``--json``, as the argument ``as_json``."""


def with_api(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command whose first argument is the admin API that its options name.

    Nothing is sent before the command does it.
    """

    @functools.wraps(command)
    def connected(config_file: str, url: str, token_file: str, **options: Any) -> None:
        target = find_target(
            config_file=config_file, url=url, token_file=token_file, environ=os.environ
        )
        command(AdminApi(target), **options)

    decorated: Callable[..., None] = connected
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def echo_json(value: Any) -> None:
    """Print a value as JSON, in plain ASCII: no terminal obeys anything in it."""
    click.echo(json.dumps(value, indent=2))


def terminal_cells() -> int:
    """Say how wide the terminal is; 0 when the output goes elsewhere and ``$COLUMNS`` is unset."""
    return shutil.get_terminal_size((0, 0)).columns
