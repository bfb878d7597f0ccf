"""Which tool the demo model calls, and with which arguments.

It calls a tool when it must (``tool_choice``), and when the user asks to read a file and a tool
can: enough to show an assistant's tool loop. Arguments come from the tool's own JSON schema. It
must not know what is done with the call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmproxy.backends.demo.requests import Function
from llmproxy.errors import InvalidBody

_VERBS = frozenset(("cat", "display", "file", "files", "open", "print", "read", "show", "view"))
_READER_NAMES = frozenset(("read", "readfile"))
_PATH_NAMES = ("filepath", "path", "file", "filename", "absolutepath", "targetfile")
_ROOTED = re.compile(r"(?:/|\.{1,2}/|~/).")
_EXTENSION = re.compile(r"[A-Za-z]\w{0,7}")
_MAX_DEPTH = 5  # a schema may refer to itself, several times over


def asked_path(text: str) -> str | None:
    """Find the file that a text asks to read.

    It must hold a word such as *read*, *open* or *file*, and beside it a word that looks like a
    path: rooted, or with an extension, or at least with a slash, the first of the best. Paths with
    spaces in them are not seen.
    """
    words = [word.strip("\"'`<>()[]{},;:!?*@").rstrip(".") for word in text.split()]
    if not any(word.lower() in _VERBS for word in words):
        return None
    ranked = [(rank, at, word) for at, word in enumerate(words) if (rank := _rank(word))]
    return min(ranked)[2] if ranked else None


def _rank(word: str) -> int:
    """Say how much a word looks like a path: 1 is best, 0 is not at all."""
    if "://" in word:
        return 0
    if _ROOTED.match(word):
        return 1
    stem, dot, extension = word.rpartition("/")[2].rpartition(".")
    named = len(stem + extension) > 2 and not stem.endswith(".")  # neither "e.g" nor "so...what"
    if dot and named and _EXTENSION.fullmatch(extension):
        return 2
    return 3 if "/" in word.strip("/") else 0


def find_reader(functions: Sequence[Function]) -> Function | None:
    """Find the function that reads files; None when there is none."""
    for function in functions:
        if _plain(function.name) in _READER_NAMES and _path_parameter(function, strict=False):
            return function
    for function in functions:
        if "read" in function.name.lower() and _path_parameter(function, strict=True):
            return function
    return None


def forced(
    functions: Sequence[Function], tool_choice: str | Mapping[str, Any] | None
) -> Function | None:
    """Give the function that the client insists on; None when it does not.

    ``"required"`` insists on any: the first.

    Raises:
        InvalidBody: ``tool_choice`` is none of the API's values, or names no tool of the request.
    """
    if tool_choice is None or tool_choice in ("auto", "none"):
        return None
    if not functions:
        raise InvalidBody("tool_choice asks for a tool, but there are none.", param="tool_choice")
    if tool_choice == "required":
        return functions[0]
    if isinstance(tool_choice, Mapping):
        chosen = tool_choice.get("function")
        name = chosen.get("name") if isinstance(chosen, Mapping) else tool_choice.get("name")
        for function in functions:
            if function.name == name:
                return function
        raise InvalidBody("tool_choice names a tool that is not in tools.", param="tool_choice")
    message = 'tool_choice takes "auto", "none", "required" or an object that names a function.'
    raise InvalidBody(message, param="tool_choice")


def arguments(function: Function, path: str | None) -> dict[str, Any]:
    """Make up arguments that the function's schema allows.

    Args:
        function: What is called.
        path: The file that the user asked for, given to the parameter that takes one.

    Returns:
        The required ones, each by its default, first allowed value, or the emptiest value of its
        type; and the path.
    """
    schema = function.parameters or {}
    made = _object(schema, schema, 0)
    if path is not None:
        strict = _plain(function.name) not in _READER_NAMES
        if name := _path_parameter(function, strict=strict):
            made[name] = path
    return made


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _path_parameter(function: Function, *, strict: bool) -> str | None:
    """Name the parameter that takes a path.

    Args:
        function: Whose parameter.
        strict: Whether only its name can tell; else any text will do, required ones first.
    """
    schema = function.parameters or {}
    properties = _mapping(schema.get("properties"))
    texts = [name for name, its in properties.items() if _type(_mapping(its)) in ("string", "")]
    for wanted in _PATH_NAMES:
        for name in texts:
            if _plain(name) == wanted:
                return name
    if strict:
        return None
    required = _required(schema)
    return min(texts, key=lambda name: name not in required, default=None)


def _object(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> dict[str, Any]:
    properties = _mapping(schema.get("properties"))
    return {
        name: _value(_mapping(properties.get(name)), root, depth + 1) for name in _required(schema)
    }


def _value(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    """Make the emptiest value that a schema allows; schemas nested too deep give null."""
    if depth > _MAX_DEPTH:
        return None
    for told in ("default", "const"):
        if told in schema:
            return schema[told]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    if isinstance(schema.get("$ref"), str):
        return _value(_resolve(schema["$ref"], root), root, depth + 1)
    for several in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(several), list) and schema[several]:
            return _value(_mapping(schema[several][0]), root, depth + 1)
    match _type(schema):
        case "integer" | "number":
            return _least_number(schema)
        case "boolean":
            return False
        case "null":
            return None
        case "array":
            fewest = _whole(schema.get("minItems"))
            items = _mapping(schema.get("items"))
            return [_value(items, root, depth + 1) for _ in range(fewest)]
        case "object":
            return _object(schema, root, depth)
        case _:
            return "demo"[: _whole(schema.get("minLength"))]


def _least_number(schema: Mapping[str, Any]) -> int | float:
    """Give zero, or the number next to it that the bounds allow."""
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high = schema.get("maximum")
    if isinstance(low, int | float) and low > 0:
        return low
    if isinstance(above, int | float) and not isinstance(above, bool) and above >= 0:
        return above + 1
    return high if isinstance(high, int | float) and high < 0 else 0


def _type(schema: Mapping[str, Any]) -> str:
    """Name a schema's type: the first that is not null of several; empty when it has none."""
    told = schema.get("type")
    if isinstance(told, list):
        told = next((one for one in told if one != "null"), "null")
    if isinstance(told, str):
        return told
    return "object" if "properties" in schema else ""


def _resolve(ref: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a reference into the same schema, such as ``#/$defs/Path`` (RFC 6901, section 6)."""
    found: Any = root
    for step in ref.removeprefix("#").split("/")[1:]:
        found = _mapping(found).get(step.replace("~1", "/").replace("~0", "~"))
    return _mapping(found)


def _required(schema: Mapping[str, Any]) -> list[str]:
    told = schema.get("required")
    return [name for name in told if isinstance(name, str)] if isinstance(told, list) else []


def _whole(value: Any) -> int:
    """Give a small bound of a schema, 0 when it has none."""
    return min(max(value, 0), 4) if isinstance(value, int) else 0


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
