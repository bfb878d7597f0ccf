"""Which columns of a table are which fields of a key: ``auth.pipeline[].database``.

The rules of what may stand in a statement are here, so that who writes statements need not doubt
them. It knows nothing of databases, nor of what the fields mean.
"""

from __future__ import annotations

import re
from typing import Final

KEY_FIELDS: Final = (
    "id",
    "name",
    "user_id",
    "status",
    "allowed_models",
    "allowed_ips",
    "denied_ips",
    "starts_at",
    "expires_at",
    "total_quota",
    "used_quota",
    "quota_reset_period",
    "requests_per_second",
    "requests_per_minute",
    "tokens_per_minute",
    "max_concurrent",
    "burst_size",
    "metadata",
)
"""What a source may know of a key."""

WANTED_IDENTIFIER: Final = "letters, digits and underscores, not first a digit, at most 63"

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}", re.ASCII)
_AS = re.compile(r"\s*(\S+)(?:\s+as\s+(\S+))?\s*", re.ASCII | re.IGNORECASE)


def is_identifier(text: str) -> bool:
    """Say whether a text may be the name of a column, a table or a schema."""
    return _IDENTIFIER.fullmatch(text) is not None


def parse_table(text: str) -> tuple[str, ...]:
    """Read the name of a table: ``name`` or ``schema.name``.

    Returns:
        Its parts, one or two.

    Raises:
        ValueError: It is none; the message says what is wanted.
    """
    parts = tuple(text.split("."))
    if len(parts) > 2 or not all(map(is_identifier, parts)):
        raise ValueError(
            f"is not the name of a table; want NAME or SCHEMA.NAME, each of {WANTED_IDENTIFIER}"
        )
    return parts


def parse_field(text: str) -> tuple[str, str]:
    """Read which column is which field: ``COLUMN as FIELD``, or one name that is both.

    Returns:
        The column and the field.

    Raises:
        ValueError: It is none; the message says what is wrong and what is wanted.
    """
    found = _AS.fullmatch(text)
    if found is None:
        raise ValueError('is not a column; want "COLUMN" or "COLUMN as FIELD"')
    column, field = found[1], found[2] or found[1]
    if not is_identifier(column):
        raise ValueError(f"has no name of a column; want {WANTED_IDENTIFIER}")
    if field not in KEY_FIELDS:
        what = "names no field of a key" if found[2] else "is no field of a key by that name"
        wanted = "one of" if found[2] else '"COLUMN as FIELD", FIELD being one of'
        raise ValueError(f"{what}; want {wanted}: {', '.join(KEY_FIELDS)}")
    return column, field
