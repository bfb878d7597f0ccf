"""What backends say as JSON, read without trust: whole answers, and events of streamed ones.

Nothing here ever raises over what a backend sent: what cannot be read is None, empty or zero. The
module must not know which API it is reading.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Final, TypeVar

import msgspec

_LONGEST_ERROR: Final = 500

S = TypeVar("S", bound=msgspec.Struct)


def read_object(decoder: msgspec.json.Decoder[S], payload: bytes) -> S | None:
    """Read an object's fields.

    Args:
        decoder: Of a struct whose fields may be absent and are of any type.
        payload: JSON, or what should be.

    Returns:
        The struct; None when it is no JSON object.
    """
    try:
        return decoder.decode(payload)
    except (msgspec.ValidationError, RecursionError):
        return None
    except (msgspec.DecodeError, UnicodeDecodeError):
        struct: Any = decoder.type  # of which stubs say different things
        return _read_leniently(struct, payload)


def _read_leniently(struct: type[S], payload: bytes) -> S | None:
    """Read what msgspec refuses: lone surrogates (valid JSON), and bytes that are not UTF-8."""
    try:
        tree = json.loads(payload.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(tree, dict):
        return None
    return struct(*(tree.get(key) for key in struct.__struct_fields__))


def objects(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list; nothing of anything else."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def fields_of(value: object) -> dict[str, Any]:
    """Return an object's fields; none of anything else."""
    return value if isinstance(value, dict) else {}


def text_of(value: object) -> str:
    """Return a string; an empty one for anything else."""
    return value if isinstance(value, str) else ""


def index_of(entry: dict[str, Any], key: str, otherwise: int) -> int:
    """Return an index that an object names, or another where it names none."""
    index = entry.get(key)
    return index if isinstance(index, int) else otherwise


def error_text(error: object, *flat: object) -> str:
    """Return what an error says.

    Args:
        error: What stands under ``error``: an object or a plain string.
        flat: Where the whole object is the error: its message, type and code.

    Returns:
        The first of message, type and code that says something; empty when it is no error.
    """
    if isinstance(error, dict):
        parts: tuple[object, ...] = (error.get("message"), error.get("type"), error.get("code"))
    elif error:
        parts = (error,)
    elif flat:
        parts = flat
    else:
        return ""
    said = [str(part) for part in parts if isinstance(part, (str, int)) and part]
    return said[0][:_LONGEST_ERROR] if said else "error"


def text_bytes(tree: object, keys: Collection[str]) -> int:
    """Add up the sizes of the texts that stand under these keys, however deep, in UTF-8."""
    total = 0
    rest = [tree]
    while rest:
        part = rest.pop()
        if isinstance(part, list):
            rest.extend(part)
        elif isinstance(part, dict):
            for key, value in part.items():
                if not isinstance(value, str):
                    rest.append(value)
                elif key in keys:
                    total += len(value.encode("utf-8", "surrogatepass"))
    return total
