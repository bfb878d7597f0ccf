"""The JSON of the admin API: what all its requests and answers share, and those of backends.

Requests are read with one typed look (msgspec); whatever is wrong with one is said with the
field's name and what is wanted there, never with what was sent: that may be a key. The shapes of
keys are in ``admin_keys``, those of usage in ``admin_usage``. Who asks, and what becomes of it, is
not known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from msgspec import Meta, Struct

from llmproxy.errors import InvalidBody, InvalidJson

TOKEN_HEADER = b"X-Admin-Token"
"""The field that carries the administrator's token."""

LARGEST_NUMBER = 2**53
"""Greater ones are not exact in every reader of JSON (RFC 8259, section 6)."""

FailureCode = Literal[
    "invalid_request",
    "unauthorized",
    "not_found",
    "method_not_allowed",
    "request_timeout",
    "already_exists",
    "request_too_large",
    "too_many_attempts",
    "internal_error",
    "unavailable",
]
"""What ``code`` may say of a failure."""

T = TypeVar("T")


class Request(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of a request; each kind of request is a class below this one."""

    def check(self, at: str) -> None:
        """Check what types cannot say.

        Args:
            at: The path of this object in the body, with a dot at its end; empty: it is the body.

        Raises:
            InvalidBody: A field is not what is wanted; ``param`` is its path.
        """


class Success(Struct, Generic[T], kw_only=True):
    """The answer to a request that was done."""

    success: Annotated[bool, Meta(extra_json_schema={"const": True})] = True
    message: str
    data: T


class Failure(Struct, kw_only=True):
    """The answer to a request that was refused; ``param`` is the field that is wrong, or empty."""

    success: Annotated[bool, Meta(extra_json_schema={"const": False})] = False
    error: str
    code: FailureCode
    param: str = ""


BackendState = Literal["up", "down", "loading", "drained"]
BreakerState = Literal["closed", "open", "half_open"]
Count = Annotated[
    int,
    Meta(ge=0, le=LARGEST_NUMBER, description=f"a whole number from 0 to {LARGEST_NUMBER}"),
]
BackendName = Annotated[
    str, Meta(min_length=1, max_length=256, description="the name of a backend")
]


class BackendNamed(Request, kw_only=True, forbid_unknown_fields=True):
    """``/admin/backends/drain`` and ``/admin/backends/enable``: which."""

    name: BackendName


class BackendShown(Struct, kw_only=True):
    """A backend and its state."""

    name: str
    url: str
    state: BackendState
    in_flight: Count
    reason: str
    weight: Count
    models: tuple[str, ...]
    breaker: BreakerState
    ejected: bool
    times_opened: Count
    share_percent: Count
    latency_ms: Count | None


class BackendList(Struct, kw_only=True):
    """``/admin/backends``."""

    backends: tuple[BackendShown, ...]


class ConfigShown(Struct, kw_only=True):
    """``/admin/config``: the configuration, its secrets hidden."""

    config: Mapping[str, Any]


R = TypeVar("R", bound=Request)

_PLACE = re.compile(r" - at `\$\.?(.*)`\Z", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`\Z", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(\w+)`\Z")
_LIKE_A_FIELD = re.compile(r"[a-z][a-z_]{0,31}")
_STEPS = re.compile(r"\w+|\[")


def read_request(body: bytes, kind: type[R]) -> R:
    """Read the body of a request.

    Args:
        body: The whole body.
        kind: What it is to be.

    Raises:
        InvalidJson: It is not JSON in UTF-8.
        InvalidBody: It is not what is wanted; ``param`` names the field.
    """
    try:
        if not body.isascii():
            body.decode()  # msgspec does not look into all strings that it skips
        request = msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _explained(str(error), kind) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidJson("The request body is not valid JSON in UTF-8.") from None
    except RecursionError:
        raise InvalidBody("The request body is nested too deeply.") from None
    request.check("")
    return request


def wrong(at: str, field: str, wanted: str) -> InvalidBody:
    """Make the error of a field that is not what is wanted.

    Args:
        at: The path of its object, as in `Request.check`.
        field: Its name.
        wanted: What is, to follow "must be".
    """
    return InvalidBody(f"{at}{field} must be {wanted}.", param=f"{at}{field}")


def _explained(message: str, kind: type[Request]) -> InvalidBody:
    """Say in our words what msgspec found; its own quote what was sent."""
    placed = _PLACE.search(message)
    path = placed[1].partition("[...]")[0] if placed else ""
    what = message[: placed.start()] if placed else message
    at = f"{path}." if path else ""
    here = _at_path(kind, _STEPS.findall(path))
    unknown = _UNKNOWN.match(what)
    if unknown:
        # A client that mixed up names and values may have put a key there.
        plain = _LIKE_A_FIELD.fullmatch(unknown[1]) is not None
        shown = f'"{unknown[1]}"' if plain else "a name"
        known = ", ".join(_fields_of(here))
        return InvalidBody(
            f"{shown} is not a field{f' of {path}' if path else ''}; there are: {known}.",
            param=f"{at}{unknown[1]}" if plain else path,
        )
    missing = _MISSING.match(what)
    if missing:
        wanted = _wanted(_at_path(here, [missing[1]]))
        return InvalidBody(
            f"{at}{missing[1]} is missing; it must be {wanted}.", param=f"{at}{missing[1]}"
        )
    if not path:
        return InvalidBody("The request body must be a JSON object.")
    return InvalidBody(f"{path} must be {_wanted(here)}.", param=path)


def _fields_of(kind: Any) -> Iterable[str]:
    for part in _parts(kind):
        if isinstance(part, type) and issubclass(part, Struct):
            return part.__struct_fields__
    return ()


def _at_path(kind: Any, steps: Iterable[str]) -> Any:
    """Give the type of what a path leads to; the way ends at what has no more parts."""
    for step in steps:
        for part in _parts(kind):
            if step == "[" and get_origin(part) is tuple:
                kind = get_args(part)[0]
                break
            if isinstance(part, type) and issubclass(part, Struct):
                hints = get_type_hints(part, include_extras=True)
                if step in hints:
                    kind = hints[step]
                    break
    return kind


def _parts(kind: Any) -> Iterator[Any]:
    """Give the members of a union, without their annotations."""
    if get_origin(kind) is Annotated:
        yield from _parts(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for member in get_args(kind):
            yield from _parts(member)
    else:
        yield kind


def _wanted(kind: Any) -> str:
    """Give what the type's description says that it is; empty: it says nothing."""
    if get_origin(kind) is Annotated:
        return next(
            (note.description for note in get_args(kind)[1:] if getattr(note, "description", "")),
            "",
        )
    if get_origin(kind) in (Union, UnionType):
        return next(filter(None, map(_wanted, get_args(kind))), "")
    return "an object" if isinstance(kind, type) and issubclass(kind, Struct) else ""
