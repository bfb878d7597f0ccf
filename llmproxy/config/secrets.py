"""Which values of a configuration are secrets, for those who keep them out of what is written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs

from llmproxy.config.model import Config
from llmproxy.config.setting import Secret, key_name

_CONNINFO_PASSWORD = re.compile(r"\bpassword\s*=\s*(?:'((?:[^'\\]|\\.)*)'|(\S+))")


def secrets_of(config: Config) -> frozenset[str]:
    """Give every secret that a configuration holds, and the secret parts of what it holds.

    These are keys, tokens, passwords, the values of secret header fields, and in URLs and
    connection strings the password and the query.
    """
    return frozenset(secret for secret in _within(config) if secret)


def _within(section: Any) -> Iterator[str]:
    hints = get_type_hints(type(section))
    for field in attrs.fields(type(section)):
        value = getattr(section, field.name)
        if field.metadata.get("secret") or hints[field.name] is Secret:
            for text in _texts(value):
                yield text
                yield from _parts(text)
        elif isinstance(value, str) and key_name(field) == "url":
            yield from _parts(value)
        else:
            for one in _sections(value):
                yield from _within(one)


def _sections(value: Any) -> Iterator[Any]:
    if attrs.has(type(value)):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _sections(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from _sections(item)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    for item in value if isinstance(value, tuple) else (value,):
        yield str(item)


def _parts(text: str) -> Iterator[str]:
    """Give what is secret in a URL or a connection string."""
    for quoted, plain in _CONNINFO_PASSWORD.findall(text):
        yield plain or re.sub(r"\\(.)", r"\1", quoted)
    try:
        parts = urlsplit(text)
    except ValueError:
        return
    if parts.scheme and parts.netloc:
        yield parts.password or ""
        yield unquote(parts.password or "")
        for _, value in parse_qsl(parts.query):
            yield value
