"""A configuration as it may be shown: everything under its YAML name, and no secret.

It knows nothing of who looks at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, get_args, get_type_hints

import attrs

from llmproxy.config.addresses import shown_url
from llmproxy.config.model import Config
from llmproxy.config.setting import Secret, Timestamp, key_name

HIDDEN: Final = "(hidden)"
"""Stands for every secret that is set; one that is not set is an empty text."""


def shown(config: Config) -> dict[str, Any]:
    """Give the whole configuration, defaults included, as values that JSON has.

    Durations are seconds, sizes bytes, times ISO 8601 in UTC. Of secrets it can only be seen
    whether they are set; of secret header fields, their names; of URLs, neither user nor query.
    """
    return _section(config)


def _section(section: Any) -> dict[str, Any]:
    hints = get_type_hints(type(section))
    return {
        key_name(one): _value(getattr(section, one.name), one, hints[one.name])
        for one in attrs.fields(type(section))
    }


def _value(value: Any, field: attrs.Attribute[Any], kind: Any) -> Any:
    """Show one value; the field says whether it is a secret, even if its type does not."""
    if field.metadata.get("secret") or kind is Secret:
        return _hidden(value)
    if attrs.has(type(value)):
        return _section(value)
    if isinstance(value, tuple):
        (item_kind, *_) = get_args(kind)
        return [_value(item, field, item_kind) for item in value]
    if isinstance(value, Mapping):
        return {name: _value(item, field, get_args(kind)[-1]) for name, item in value.items()}
    if isinstance(value, float) and Timestamp in (kind, *get_args(kind)):
        return _moment(value)
    if isinstance(value, str) and key_name(field) == "url":
        return shown_url(value)
    return value


def _hidden(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _hidden(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_hidden(item) for item in value]
    return HIDDEN if value else ""


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
