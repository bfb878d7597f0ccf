"""What a declaration of a configuration key is made of: the types of values, and `setting`.

It knows nothing of any section, of YAML or of files.
"""

from __future__ import annotations

from typing import Any, NewType

import attrs

Duration = NewType("Duration", float)
"""Seconds. In YAML: ``500ms``, ``30s``, ``5m``, ``1h``, or a number of seconds; 0 is "none"."""

Size = NewType("Size", int)
"""Bytes. In YAML: ``64MiB``, ``10MB``, or a number of bytes."""

Secret = NewType("Secret", str)
"""A value that no log, error or ``repr`` may show. ``NAME_file`` beside it reads it from a file."""

Cidr = NewType("Cidr", str)
"""An IP network or address: ``10.0.0.0/8``, ``fd00::/8``, ``192.0.2.7``."""

Percent = NewType("Percent", float)
"""A part of a hundred, 0 to 100. In YAML: ``50%``."""

Timestamp = NewType("Timestamp", float)
"""Seconds since the epoch. In YAML: an ISO 8601 date or time; without a zone it is UTC."""

MiB = 1024 * 1024
GiB = 1024 * MiB


def setting(
    doc: str,
    default: Any = attrs.NOTHING,
    *,
    factory: Any = None,
    secret: bool = False,
    minimum: float | None = None,
    key: str = "",
) -> Any:
    """Declare one configuration key.

    Args:
        doc: One line for the operator.
        default: The value when the key is absent; without one the key is required.
        factory: Makes the default when it is mutable or a nested section.
        secret: Never shown.
        minimum: The smallest number allowed.
        key: The key's name in YAML where Python keeps it for itself; empty: the attribute's own.
    """
    metadata = {
        "doc": doc,
        "secret": secret,
        "minimum": minimum,
        "key": key,
    }
    if factory is not None:
        return attrs.field(factory=factory, metadata=metadata, repr=not secret)
    return attrs.field(default=default, metadata=metadata, repr=not secret)


def key_name(field: attrs.Attribute[Any]) -> str:
    """Give the name that a declared key has in YAML."""
    return str(field.metadata.get("key") or field.name)
