"""From the plain tree to the model: types, unknown keys, missing keys, what is not available yet.

The model's own declarations say everything; cattrs assembles the classes and gathers the errors of
all keys. What is wrong is recorded and replaced by the default (or by a stand-in where there is
none), so that the checks after it can still look at the rest. It knows nothing of YAML and files.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, override

from llmproxy.config import scalars
from llmproxy.config.explain import Failure, failures
from llmproxy.config.findings import Findings
from llmproxy.config.model import Config, Server
from llmproxy.config.scalars import Reader, WrongValueError, intact
from llmproxy.config.setting import Cidr, Duration, Percent, Secret, Size, Timestamp, key_name


def structure(tree: Any, findings: Findings) -> Config:
    """Make the configuration of a tree.

    Args:
        tree: A mapping; it is changed where something in it is wrong.
        findings: Takes the problems.

    Returns:
        The configuration; where a problem was recorded, defaults and stand-ins are in it.
    """
    converter = make_converter()
    repaired = False
    while True:
        try:
            return converter.structure(tree, Config)
        except cattrs.BaseValidationError as error:
            for failure in failures(error, findings):
                # A list whose items are stand-ins can still be one that is not available yet:
                # that follows from what was told, and the list goes in the next round.
                if failure.message and not (repaired and findings.suspect(failure.path)):
                    line = findings.line(failure.path)
                    findings.add(failure.shown_path or failure.path, failure.message, line=line)
                findings.mark_broken(failure.path)
                findings.mark_broken(failure.meant)
                _repair(tree, failure)
            repaired = True


def _repair(tree: Any, failure: Failure) -> None:
    """Put into the tree what lets it be structured in spite of a failure."""
    within = tree
    for step in failure.path[:-1]:
        within = within[step]
    last = failure.path[-1]
    if failure.removable:
        within.pop(last, None)
    else:
        within[last] = stand_in(failure.type)


def stand_in(kind: Any) -> Any:
    """Give the tree of a value that a type accepts, for a required key that cannot be read.

    Text is empty: a check that meets an empty name knows that it cannot say anything about it.
    """
    if attrs.has(kind):
        hints = get_type_hints(kind)
        required = [one for one in attrs.fields(kind) if one.default is attrs.NOTHING]
        return {key_name(one): stand_in(hints[one.name]) for one in required}
    origin = get_origin(kind)
    if origin is tuple:
        return []
    if origin is Literal:
        return get_args(kind)[0]
    if origin is Union:
        return stand_in(get_args(kind)[0])
    if kind is Cidr:
        return "192.0.2.0"
    if kind in (str, Secret):
        return ""
    if kind is int:
        return 0  # an item of a list
    raise TypeError(f"no stand-in for {kind!r}; give the key a default")


@functools.cache
def make_converter() -> cattrs.Converter:
    """Make the converter; it keeps nothing of what it converts."""
    converter = cattrs.Converter(detailed_validation=True, forbid_extra_keys=True)
    converter.register_structure_hook_factory(attrs.has, functools.partial(_section, converter))
    return converter


def _section(converter: cattrs.Converter, cls: type) -> Any:
    """Make cattrs' function for one class, each key with a reader of its own."""
    hints = get_type_hints(cls)
    keys: dict[str, Any] = {}
    for one in attrs.fields(cls):
        read = _key_reader(converter, cls, one, hints[one.name])
        keys[one.name] = override(rename=key_name(one), struct_hook=_as_hook(read))
    return make_dict_structure_fn(
        cls,
        converter,
        _cattrs_forbid_extra_keys=True,
        _cattrs_detailed_validation=True,
        **keys,
    )


def _as_hook(read: Reader) -> Callable[[Any, Any], Any]:
    """Give a reader the arguments of cattrs' hooks."""
    return lambda value, _: read(value)


def _key_reader(
    converter: cattrs.Converter, cls: type, one: attrs.Attribute[Any], kind: Any
) -> Reader:
    """Make the reader of one key."""
    minimum = one.metadata.get("minimum")
    read = _reader(converter, kind, minimum)
    return _one_or_more(read) if cls is Server and one.name == "listen" else read


def _reader(converter: cattrs.Converter, kind: Any, minimum: float | None = None) -> Reader:
    """Make the reader of a type, which also lets broken values out."""
    read = _reader_of_type(converter, kind, minimum)
    return lambda value: read(intact(value))


def _reader_of_type(converter: cattrs.Converter, kind: Any, minimum: float | None) -> Reader:
    by_type: Mapping[Any, Reader] = {
        str: scalars.text,
        Secret: scalars.text,
        bool: scalars.boolean,
        int: scalars.whole_number(minimum),
        float: scalars.number(minimum),
        Duration: scalars.duration(minimum),
        Size: scalars.size(minimum),
        Cidr: scalars.cidr,
        Percent: scalars.percent,
        Timestamp: scalars.timestamp,
    }
    if kind in by_type:
        return by_type[kind]
    if attrs.has(kind):
        return functools.partial(_read_section, converter, kind)
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return scalars.one_of(args)
    if origin is tuple:
        return functools.partial(_read_list, _reader(converter, args[0]), args[0])
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return functools.partial(_read_mapping, _reader(converter, args[1]), args[1])
    if origin in (Union, types.UnionType):
        return _read_union(converter, args, minimum)
    raise TypeError(f"no reader for {kind!r}")


def _read_union(
    converter: cattrs.Converter, args: tuple[Any, ...], minimum: float | None
) -> Reader:
    """Make the reader of ``X | None`` or ``X | Literal[...]``."""
    words = [word for arg in args if get_origin(arg) is Literal for word in get_args(arg)]
    (base,) = (arg for arg in args if arg is not type(None) and get_origin(arg) is not Literal)
    read = _reader(converter, base, minimum)
    if words:
        read = scalars.either(words, read)
    return scalars.optional(read) if type(None) in args else read


def _read_section(converter: cattrs.Converter, cls: type, value: Any) -> Any:
    if value is None and all(one.default is not attrs.NOTHING for one in attrs.fields(cls)):
        value = {}  # "auth:" with all its keys commented out
    if not isinstance(value, dict):
        keys = ", ".join(map(key_name, attrs.fields(cls)))
        raise WrongValueError(
            value, "is not a mapping", f"keys of: {keys}", hide=holds_secrets(cls)
        )
    return converter.structure(value, cls)


def _read_list(read: Reader, kind: Any, value: Any) -> tuple[Any, ...]:
    value = [] if value is None else value
    if not isinstance(value, list):
        raise WrongValueError(
            value, "is not a list", "one, each item after a dash", hide=holds_secrets(kind)
        )
    return tuple(_read_items(read, kind, enumerate(value), tuple).values())


def _read_mapping(read: Reader, kind: Any, value: Any) -> dict[str, Any]:
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise WrongValueError(
            value, "is not a mapping", "one, each entry as name: value", hide=holds_secrets(kind)
        )
    return _read_items(read, kind, value.items(), dict)


def _read_items(read: Reader, kind: Any, items: Any, container: type) -> dict[Any, Any]:
    """Read all items, and gather their errors the way cattrs does."""
    results: dict[Any, Any] = {}
    errors: list[Exception] = []
    for index, item in items:
        try:
            results[index] = read(item)
        except Exception as error:  # noqa: BLE001 - each goes into the group, with its place
            error.add_note(cattrs.IterableValidationNote(f"@ {index}", index, kind))
            errors.append(error)
    if errors:
        raise cattrs.IterableValidationError("items", errors, container)
    return results


def _one_or_more(read: Reader) -> Reader:
    """Make a reader of addresses that takes a single one for a list of one."""

    def read_one_or_more(value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            raise WrongValueError(value, "is not an address", f'":{value}"')
        return (scalars.text(value),) if isinstance(value, str) else read(value)

    return read_one_or_more


@functools.cache
def holds_secrets(kind: Any) -> bool:
    """Say whether a secret may stand somewhere in a value of this type."""
    if not attrs.has(kind):
        return kind is Secret or any(holds_secrets(arg) for arg in get_args(kind) if arg is not ...)
    hints = get_type_hints(kind)
    return any(
        one.metadata.get("secret") or holds_secrets(hints[one.name]) for one in attrs.fields(kind)
    )
