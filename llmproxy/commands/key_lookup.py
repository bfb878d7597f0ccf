"""Which key is meant: by its id, the start of its id, its name, or the key itself from a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from llmproxy.commands.admin_api import AdminApi
from llmproxy.commands.failures import Refused
from llmproxy.commands.key_options import read_key
from llmproxy.commands.table import CUT
from llmproxy.wire.admin_keys import LARGEST_PAGE

_SHOWN_CANDIDATES = 5


def which_key(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the arguments that name a key: ``wanted`` and ``key_file``."""
    command = click.option(
        "--key-file",
        default="",
        metavar="FILE",
        help="Instead of the ID: a file with the key itself; - is standard input.",
    )(command)
    return click.argument("wanted", metavar="[ID]", default="")(command)


def find_key(api: AdminApi, wanted: str, key_file: str) -> dict[str, Any]:
    """Find the key that is meant.

    Args:
        api: The admin API.
        wanted: Its id, the start of it, or its name; the last two when only one key fits.
        key_file: A file with the key itself; empty: none.

    Raises:
        click.UsageError: Both are given, or neither.
        Refused: No key fits, or more than one. The text is not repeated: it might be a key.
    """
    wanted = wanted.removesuffix(CUT)  # as a narrow table shows it
    if bool(wanted) is bool(key_file):
        raise click.UsageError("want an ID, or --key-file FILE")
    if key_file:
        found: dict[str, Any] = api.post("keys/get", key=read_key(key_file))
        return found
    listed, _ = read_keys(api, search=wanted)
    same = [key for key in listed if key["id"] == wanted]
    fitting = same or [
        key for key in listed if key["name"] == wanted or key["id"].startswith(wanted)
    ]
    if not fitting:
        hint = "; a key itself goes into --key-file" if wanted.startswith("sk-") else ""
        raise Refused(f"no key has that id or name{hint}", "not_found")
    if len(fitting) > 1:
        shown = ", ".join(f"{key['id']} ({key['name']})" for key in fitting[:_SHOWN_CANDIDATES])
        more = ", ..." if len(fitting) > _SHOWN_CANDIDATES else ""
        raise Refused(f"that fits {len(fitting)} keys: {shown}{more}; want an id")
    return fitting[0]


def known_key_id(api: AdminApi, wanted: str) -> str:
    """Give the id of a key; one that the store does not know may be deleted, or not from there."""
    try:
        found: str = find_key(api, wanted, "")["id"]
    except Refused as error:
        if error.code != "not_found":
            raise
        return wanted
    return found


def read_keys(
    api: AdminApi, most: int | None = None, **wanted: Any
) -> tuple[list[dict[str, Any]], int]:
    """Read the keys that fit, page by page; each once, though keys come and go meanwhile.

    Args:
        api: The admin API.
        most: How many at most; None: all.
        wanted: The fields of the request.

    Returns:
        The keys, and how many fit altogether.
    """
    keys: dict[str, dict[str, Any]] = {}
    offset = total = 0
    while True:
        limit = LARGEST_PAGE if most is None else min(LARGEST_PAGE, most - len(keys))
        page = api.post("keys/list", offset=offset, limit=limit, **wanted)
        for key in page["keys"]:
            keys.setdefault(key["id"], key)
        # Where keys were deleted, those behind them have moved up, out of the pages to come.
        moved_up = max(total - page["total"], 0)
        total = page["total"]
        if moved_up:
            offset = max(offset - moved_up, 0)
            continue
        offset += limit
        full = most is not None and len(keys) >= most
        if full or not page["keys"] or offset >= page["total"]:
            return list(keys.values()), page["total"]
