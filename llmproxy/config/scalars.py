"""Strict readers: from what a YAML value is to what a key's type wants it to be.

A reader takes a value of the tree and gives the model's, or raises `WrongValueError`. Nothing is
guessed: ``"true"`` is no truth value and ``8000`` is no text. Only what came from the environment,
which has nothing but text, is read as if it stood in the file. It knows nothing of keys, lines and
sections.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from llmproxy.config import units
from llmproxy.config.environment import FromEnvironment
from llmproxy.config.yaml_lines import BROKEN, plain_scalar

Reader = Callable[[Any], Any]

LARGEST_NUMBER: Final = 2**53
"""Of whole numbers; those above are not the same number everywhere (RFC 8259, section 6)."""

# Lone surrogates cannot be encoded, and no file name, header or log line can hold a NUL.
_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")


class WrongValueError(ValueError):
    """A value that its key cannot take; never shows it by itself.

    Attributes:
        value: What was seen.
        reason: What is wrong with it: "is not a whole number".
        wanted: What should stand there instead.
        quote: Whether the value would do if it stood in quotes.
        hide: Whether a secret may be in it wherever it stands.
    """

    def __init__(
        self,
        value: object,
        reason: str,
        wanted: str = "",
        *,
        quote: bool = False,
        hide: bool = False,
    ) -> None:
        super().__init__(reason)
        self.value = value
        self.reason = reason
        self.wanted = wanted
        self.quote = quote
        self.hide = hide


class AlreadyReportedError(ValueError):
    """There is a problem on record about this value."""


def intact(value: Any) -> Any:
    """Pass a value on.

    Raises:
        AlreadyReportedError: It is the mark of a value that could not be read.
    """
    if value is BROKEN:
        raise AlreadyReportedError
    return value


def _read_plain(value: Any) -> Any:
    return plain_scalar(value) if isinstance(value, FromEnvironment) else value


def text(value: Any) -> str:
    """Read a text."""
    if isinstance(value, str):
        if _NOT_TEXT.search(value):
            raise WrongValueError(value, "has characters that no text may have", "text")
        return str(value)
    scalar = value is not None and not isinstance(value, list | dict)
    raise WrongValueError(value, "is not text", "" if scalar else "text", quote=scalar)


def boolean(value: Any) -> bool:
    """Read a truth value."""
    read = _read_plain(value)
    if isinstance(read, bool):
        return read
    raise WrongValueError(value, "is not true or false", "true or false, without quotes")


def whole_number(minimum: float | None) -> Reader:
    """Make the reader of whole numbers that are not below a minimum."""
    wanted = "one of at least 0" if minimum is None else f"one of at least {minimum:g}"

    def read_whole_number(value: Any) -> int:
        read = _read_plain(value)
        if not isinstance(read, int) or isinstance(read, bool):
            raise WrongValueError(value, "is not a whole number", wanted)
        if read > LARGEST_NUMBER:
            raise WrongValueError(value, "is too large", f"at most {LARGEST_NUMBER}")
        return int(_not_below(minimum, read, value))

    return read_whole_number


def number(minimum: float | None) -> Reader:
    """Make the reader of numbers that are not below a minimum."""
    wanted = "one such as 1.5" if minimum is None else f"one of at least {minimum:g}"

    def read_number(value: Any) -> float:
        read = _read_plain(value)
        if isinstance(read, int | float) and not isinstance(read, bool):
            try:
                as_float = float(read)
            except OverflowError:
                as_float = math.inf
            if math.isfinite(as_float):
                return _not_below(minimum, as_float, value)
        raise WrongValueError(value, "is not a number", wanted)

    return read_number


def _not_below(minimum: float | None, read: float, value: Any) -> float:
    if minimum is not None and read < minimum:
        raise WrongValueError(value, "is too small", f"at least {minimum:.12g}")
    return read


def _in_units(name: str, unit: str, convert: Reader, minimum: float | None) -> Reader:
    def read_in_units(value: Any) -> Any:
        try:
            read = convert(_read_plain(value))
        except ValueError as error:
            raise WrongValueError(value, f"is not a {name}", str(error)) from None
        if minimum is not None and read < minimum:
            raise WrongValueError(value, "is too small", f"at least {minimum:.12g} {unit}")
        return read

    return read_in_units


def duration(minimum: float | None) -> Reader:
    """Make the reader of durations of at least so many seconds."""
    return _in_units("duration", "seconds", units.duration, minimum)


def size(minimum: float | None) -> Reader:
    """Make the reader of sizes of at least so many bytes."""
    return _in_units("size", "bytes", units.size, minimum)


def percent(value: Any) -> Any:
    """Read a percentage."""
    return _in_units("percentage", "", units.percent, None)(value)


def cidr(value: Any) -> Any:
    """Read an IP network."""
    return _in_units("network", "", units.cidr, None)(value)


def timestamp(value: Any) -> Any:
    """Read a point in time."""
    return _in_units("time", "", units.timestamp, None)(value)


def one_of(choices: Sequence[str]) -> Reader:
    """Make the reader of one of several words."""
    listed = ", ".join(choice or '""' for choice in choices)

    def read_one_of(value: Any) -> str:
        if isinstance(value, str) and value in choices:
            return str(value)
        if not isinstance(value, str):
            scalar = value is not None and not isinstance(value, list | dict)
            raise WrongValueError(value, "is not text", f"one of: {listed}", quote=scalar)
        near = closest(value, choices)
        guess = f'; did you mean "{near}"?' if near else ""
        raise WrongValueError(value, "cannot stand here", f"one of: {listed}{guess}")

    return read_one_of


def optional(read: Reader) -> Reader:
    """Make a reader that also takes null."""

    def read_optional(value: Any) -> Any:
        return None if _read_plain(value) is None else read(value)

    return read_optional


def either(words: Sequence[str], read: Reader) -> Reader:
    """Make a reader that also takes some words."""
    listed = " or ".join(f'"{word}"' for word in words)

    def read_either(value: Any) -> Any:
        if isinstance(value, str) and value in words:
            return str(value)
        try:
            return read(value)
        except WrongValueError as wrong:
            wrong.wanted += f", or {listed}"
            raise

    return read_either


def closest(word: str, known: Sequence[str]) -> str:
    """Find the known word that was most likely meant; empty: none is near."""
    plain = {one.lower().replace("-", "_"): one for one in known}
    bare = {one.replace("_", ""): one for one in plain}
    asked = word.lower().replace("-", "_")
    found = difflib.get_close_matches(asked, plain, n=1, cutoff=0.7)
    if found:
        return plain[found[0]]
    same = bare.get(asked.replace("_", ""))
    return plain[same] if same else ""
