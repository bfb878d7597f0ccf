"""Files of many keys: JSON lines as ``keys export`` writes them, and JSON or CSV from elsewhere.

Pure: text in, entries for ``/admin/keys/sync`` out. What stands in an entry is checked by the API;
here only what it cannot know is: which line is wrong, and what a cell of CSV means. No message
repeats a value, for it may be a key.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from llmproxy.commands.amounts import parse_amount
from llmproxy.commands.key_options import AS_EVERY_KEY, LIMITS, NO_LIMIT
from llmproxy.commands.moments import parse_moment
from llmproxy.wire.admin_keys import KeyFields

FIELDS: Final = frozenset(("id", "key", "key_hash", "prefix", *KeyFields.__struct_fields__))
"""What ``/admin/keys/sync`` takes of a key."""

ONLY_SHOWN: Final = frozenset(("status_text", "quota_resets_at", "created_at", "updated_at"))
"""What stands in answers, too, and is not for a request."""

LABEL: Final = "metadata."
"""What begins the name of a column with one of the metadata."""

_NOTHING: tuple[Any, ...] = (None, "", [], {})
_LISTS = ("allowed_models", "allowed_ips", "denied_ips")
_BETWEEN = re.compile(r"[\s,;]+")


class BadFile(ValueError):
    """A file of keys cannot be read; the message says where and why."""


def export_line(key: Mapping[str, Any]) -> str:
    """Write a key of ``/admin/keys/list`` with ``include_hash`` as a line; without the key itself.

    Args:
        key: The key.
    """
    kept = {name: key[name] for name in sorted(FIELDS & set(key)) if name != "key"}
    kept["status"] = key["status_text"]
    kept["rate_limit"] = {
        name: limit for name, limit in key["rate_limit"].items() if limit is not None
    }
    return json.dumps({name: value for name, value in kept.items() if value not in _NOTHING})


def read_entries(text: str, now_s: float) -> list[dict[str, Any]]:
    """Read a file of keys.

    Args:
        text: JSON lines; or a JSON list; or a JSON object with the list as ``keys``; or CSV whose
            first line names the columns.
        now_s: Seconds since the epoch, for spans such as ``90d`` in CSV.

    Returns:
        Entries for ``/admin/keys/sync``.

    Raises:
        BadFile: It is none of these, or an entry has no key or an unknown field.
    """
    if text.lstrip()[:1] not in ("[", "{"):
        return [_entry(where, raw) for where, raw in _csv_rows(text, now_s)]
    return [_entry(where, raw) for where, raw in _json_objects(text)]


def _json_objects(text: str) -> Iterator[tuple[str, Any]]:
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, dict) and "keys" in whole:
        whole = whole["keys"]
    if isinstance(whole, list):
        for number, raw in enumerate(whole, 1):
            yield f"key {number}", raw
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except (ValueError, RecursionError):
                raise BadFile(f"line {number}: is not JSON; want one object per line") from None


def _entry(where: str, raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise BadFile(f"{where}: is not an object; want the fields of a key")
    unknown = sorted(set(raw) - FIELDS - ONLY_SHOWN)
    if unknown:
        # A file without a heading has a key in its place: nothing of it is shown.
        raise BadFile(
            f"{where}: has {len(unknown)} unknown field{'s' if len(unknown) > 1 else ''}; "
            f"want some of: {', '.join(sorted(FIELDS))}"
        )
    entry = {name: value for name, value in raw.items() if name in FIELDS and value is not None}
    if "key_hash" in entry:
        # A list shows the beginning of a key in the key's place.
        entry.pop("key", None)
    if not entry.get("key") and not entry.get("key_hash"):
        raise BadFile(f"{where}: has no key; want key, or key_hash and prefix")
    return entry


def _csv_rows(text: str, now_s: float) -> Iterator[tuple[str, dict[str, Any]]]:
    heading = text.lstrip().partition("\n")[0]
    between = next((each for each in (",", ";", "\t") if each in heading), ",")
    reader = csv.reader(io.StringIO(text.lstrip(), newline=""), delimiter=between, strict=True)
    try:
        columns = [name.strip() for name in next(reader, [])]
        _check_columns(columns)
        for row in reader:
            where = f"line {reader.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(columns):
                raise BadFile(f"{where}: has {len(row)} cells; want {len(columns)}")
            yield where, _from_cells(where, dict(zip(columns, row, strict=True)), now_s)
    except csv.Error as error:
        raise BadFile(f"line {reader.line_num}: is not CSV: {error}") from None


def _check_columns(columns: list[str]) -> None:
    known = FIELDS | ONLY_SHOWN | set(LIMITS)
    if not {"key", "key_hash"} & set(columns):
        raise BadFile("line 1: names no column key or key_hash; want JSON, or CSV with a heading")
    unknown = [name for name in columns if name not in known and not name.startswith(LABEL)]
    if unknown or len(set(columns)) < len(columns):
        raise BadFile(
            "line 1: has columns that are unknown or there twice; want some of: "
            f"{', '.join(sorted(known - ONLY_SHOWN))}, {LABEL}NAME"
        )


def _from_cells(where: str, row: Mapping[str, str], now_s: float) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    for name, cell in row.items():
        value = cell.strip()
        if not value:
            continue
        try:
            if name in LIMITS:
                entry.setdefault("rate_limit", {})[name] = _limit(value)
            elif name.startswith(LABEL):
                entry.setdefault("metadata", {})[name.removeprefix(LABEL)] = value
            else:
                entry[name] = _CELLS.get(name, _as_it_is)(value, now_s)
        except ValueError as error:
            wanted = "want JSON" if isinstance(error, json.JSONDecodeError) else str(error)
            raise BadFile(f"{where}: {name}: {wanted}") from None
    return entry


def _limit(cell: str) -> int | None:
    if cell == AS_EVERY_KEY:
        return None
    return 0 if cell == NO_LIMIT else parse_amount(cell)


def _as_it_is(cell: str, _now_s: float) -> str:
    return cell


def _amount(cell: str, _now_s: float) -> int:
    return parse_amount(cell)


def _list(cell: str, _now_s: float) -> list[str]:
    return [each for each in _BETWEEN.split(cell) if each]


def _status(cell: str, _now_s: float) -> str | int:
    return int(cell) if cell.isascii() and cell.isdigit() else cell


def _json(cell: str, _now_s: float) -> Any:
    return json.loads(cell)


_CELLS: Mapping[str, Callable[[str, float], Any]] = {
    **dict.fromkeys(_LISTS, _list),
    **dict.fromkeys(("total_quota", "used_quota"), _amount),
    **dict.fromkeys(("starts_at", "expires_at"), parse_moment),
    **dict.fromkeys(("rate_limit", "metadata"), _json),
    "status": _status,
}
"""How the cell of a column is read; the others are text."""
