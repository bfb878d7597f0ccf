"""From cattrs' groups of exceptions to problems that an operator can mend.

It finds each error's key path, hides what may be a secret, and guesses which key was meant by one
that nobody knows. It repairs nothing, and knows nothing of YAML and files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin, get_type_hints

import attrs
import cattrs

from llmproxy.config.findings import Findings, KeyPath, hidden, quoted
from llmproxy.config.model import LATER_KEYS, LATER_SECTIONS, Config
from llmproxy.config.scalars import AlreadyReportedError, WrongValueError, closest
from llmproxy.config.setting import Secret, key_name

# A key that does not look like one, where secrets are listed, may be a secret out of its place.
_LIKE_A_KEY = re.compile(r"[A-Za-z_]{1,30}")


@attrs.frozen
class Failure:
    """One value that could not be structured.

    Attributes:
        path: Where it stands, or should stand.
        message: For the operator; empty when a problem is on record, or follows from another one.
        type: What it should have been.
        removable: Whether the key may be absent.
        meant: The path that was probably meant, when the key is unknown.
        shown_path: Where to say that it stands, when the path itself cannot be shown.
    """

    path: KeyPath
    message: str
    type: Any = None
    removable: bool = True
    meant: KeyPath = ()
    shown_path: KeyPath = ()


def failures(
    error: BaseException, findings: Findings, path: KeyPath = (), *, hide: bool = False
) -> Iterator[Failure]:
    """List what a group of exceptions is about.

    Args:
        error: What structuring raised; a group, or the error of one value.
        findings: Knows what stands in the file.
        path: Where the group's value stands.
        hide: Whether a secret may be in it.

    Raises:
        BaseException: An error that is not about a value; it is a fault of the program.
    """
    if isinstance(error, cattrs.ClassValidationError):
        yield from _class_failures(error, findings, path, hide=hide)
    elif isinstance(error, cattrs.IterableValidationError):
        placed, rest = error.group_exceptions()
        for one, note in placed:
            at = (*path, note.index)
            yield from _value_failures(one, findings, at, note.type, removable=False, hide=hide)
        for other in rest:
            raise other
    else:
        raise error


def _value_failures(
    error: Exception,
    findings: Findings,
    path: KeyPath,
    kind: Any,
    *,
    removable: bool,
    hide: bool,
) -> Iterator[Failure]:
    """List the failures of one key or item: its own, or those inside it."""
    if isinstance(error, WrongValueError):
        message = _message(error, findings.sources.get(path), hide=hide or error.hide)
    elif isinstance(error, AlreadyReportedError):
        message = ""
    else:
        yield from failures(error, findings, path, hide=hide)
        return
    yield Failure(path, message, kind, removable)


def _class_failures(
    error: cattrs.ClassValidationError, findings: Findings, path: KeyPath, *, hide: bool
) -> Iterator[Failure]:
    cls = error.cl
    hints = get_type_hints(cls)
    fields = {one.name: one for one in attrs.fields(cls)}
    placed, rest = error.group_exceptions()
    meant: set[KeyPath] = set()
    for other in rest:
        if not isinstance(other, cattrs.ForbiddenExtraKeysError):
            raise other
        for name in sorted(other.extra_fields):
            failure = _unknown_key(cls, name, path)
            meant.add(failure.meant)
            yield failure
    for one, note in placed:
        field = fields[note.name]
        at = (*path, key_name(field))
        if isinstance(one, KeyError):
            message = "" if at in meant else f"is missing; want {field.metadata['doc']}"
            yield Failure(at, message, hints[note.name], removable=False)
            continue
        yield from _value_failures(
            one,
            findings,
            at,
            hints[note.name],
            removable=field.default is not attrs.NOTHING,
            hide=hide or bool(field.metadata.get("secret")),
        )


def _message(wrong: WrongValueError, source: str | None, *, hide: bool) -> str:
    """Write the value seen, what is wrong with it, and the value wanted."""
    value = wrong.value
    shown = hidden(value) if hide else source
    if isinstance(value, list):
        shown = "a list"
    elif isinstance(value, dict):
        shown = "a mapping"
    elif value is None:
        shown = "null"
    elif shown is None:
        shown = quoted(value) if isinstance(value, str) else str(value).lower()
    message = f"{shown} {wrong.reason}"
    if wrong.quote:
        message += (
            "; put it in quotes" if hide else f"; put it in quotes: {quoted(source or str(value))}"
        )
    if wrong.wanted:
        message += f"; want {wrong.wanted}"
    return message


def _unknown_key(cls: type, name: str, path: KeyPath) -> Failure:
    """Say that a key is not available yet, or that nobody knows it and which was meant."""
    at = (*path, name)
    later = LATER_KEYS.get(cls, {}).get(name) or (LATER_SECTIONS.get(name) if cls is Config else "")
    if later:
        return Failure(at, f"is not available yet: {later}")
    known = [key_name(one) for one in attrs.fields(cls)]
    near = closest(name, known)
    if near:
        return Failure(at, f'is an unknown key; did you mean "{near}"?', meant=(*path, near))
    elsewhere = [home for key, home in _homes(Config) if key == name]
    if elsewhere:
        elsewhere.sort(key=lambda home: home.count("."))  # the least deep are the likeliest
        homes = " or ".join(f'"{home}"' for home in elsewhere[:2])
        return Failure(at, f"is an unknown key here; did you mean {homes}?")
    wanted = f"want one of: {', '.join(known)}"
    has_secret = any(kind is Secret for kind in get_type_hints(cls).values())
    if has_secret and not _LIKE_A_KEY.fullmatch(name):
        return Failure(at, f"is an unknown key; {wanted}", shown_path=path)
    return Failure(at, f"is an unknown key; {wanted}")


def _homes(cls: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """List every key of the model: its name, and where it belongs."""
    hints = get_type_hints(cls)
    for one in attrs.fields(cls):
        name, kind = key_name(one), hints[one.name]
        at = f"{prefix}{name}"
        yield name, at
        if attrs.has(kind):
            yield from _homes(kind, f"{at}.")
        for item in filter(attrs.has, get_args(kind)):
            yield from _homes(item, f"{at}[]." if get_origin(kind) is tuple else f"{at}.*.")
