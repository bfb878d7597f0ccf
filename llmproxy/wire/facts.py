"""What the gateway reads of a request's body: the model's name and little else.

One typed look (msgspec) that skips everything it is not asked for. Only what the gateway itself
must be right about is checked; whether the rest makes sense is the backend's to say, in its own
words. This module must not know what the facts are used for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import product
from typing import Annotated, NoReturn

import msgspec

from llmproxy.errors import InvalidBody, InvalidJson
from llmproxy.values import RequestFacts

_ABSENT = msgspec.Raw(b"null")


class _Body(msgspec.Struct):
    """The keys that are read; the last of a repeated key counts, as with every backend's parser."""

    model: msgspec.Raw = _ABSENT
    stream: msgspec.Raw = _ABSENT
    stream_options: msgspec.Raw = _ABSENT
    max_tokens: msgspec.Raw = _ABSENT
    max_completion_tokens: msgspec.Raw = _ABSENT
    max_output_tokens: msgspec.Raw = _ABSENT


class _UsualOptions(msgspec.Struct):
    include_usage: bool | None = None


_MODEL = "model"
_Nothing = Annotated[int, msgspec.Meta(gt=0, lt=0)]
_Lookalikes = msgspec.defstruct(
    "_Lookalikes",
    [
        (name, _Nothing, 0)
        for name in map("".join, product(*zip(_MODEL, _MODEL.upper(), strict=True)))
        if name != _MODEL
    ],
)
"""Go's parsers (Ollama) read these as ``model`` as well: no value is right for them."""


class _Usual(_Lookalikes):  # type: ignore[misc, valid-type]
    """The same keys, as every sane client spells them: read in one go."""

    model: str = ""
    stream: bool | None = None
    stream_options: _UsualOptions | None = None
    max_tokens: msgspec.Raw = _ABSENT
    max_completion_tokens: msgspec.Raw = _ABSENT
    max_output_tokens: msgspec.Raw = _ABSENT


class _StreamOptions(msgspec.Struct):
    include_usage: msgspec.Raw = _ABSENT


_BODY = msgspec.json.Decoder(_Body)
_USUAL = msgspec.json.Decoder(_Usual)
_KEYS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_STREAM_OPTIONS = msgspec.json.Decoder(_StreamOptions)
_FLAGS = {b"true": True, b"false": False, b"null": None}
_TOKENS = re.compile(rb"[0-9]{1,15}")


def read_facts(body: bytes) -> RequestFacts:
    """Read the facts of a JSON request body.

    A 300 kB body of ASCII takes well under a millisecond. ``null`` counts as absent everywhere. A
    wrong ``max_tokens`` is read as absent: the backend refuses it better than we can.

    Args:
        body: The whole body, without any content coding.

    Returns:
        The facts; ``max_completion_tokens`` stands before the older ``max_tokens``, and both before
        ``max_output_tokens``, which is the Responses API's.

    Raises:
        InvalidJson: The body is not JSON (RFC 8259) in UTF-8.
        InvalidBody: It is not an object, one of the keys read is of the wrong kind, or a key is
            ``model`` but for the case of its letters; ``param`` names the key.
    """
    try:
        # msgspec does not look into the strings that it skips.
        if not body.isascii():
            body.decode()
        usual = _USUAL.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _read_unusual(body)
    if not usual.model:
        return _read_unusual(body)
    options = usual.stream_options
    return RequestFacts(
        usual.model,
        usual.stream or False,
        options.include_usage if options is not None else None,
        _longest(usual),
    )


def _read_unusual(body: bytes) -> RequestFacts:
    """Read what is odd but right, and say what is wrong with the rest."""
    try:
        if not body.isascii():
            body.decode()
        read = _BODY.decode(body)
        _refuse_lookalikes(_KEYS.decode(body))
    except msgspec.ValidationError:
        raise InvalidBody("The request body must be a JSON object.") from None
    except msgspec.DecodeError:
        read = _decode_leniently(body)
    except UnicodeDecodeError:
        raise InvalidJson("The request body is not valid Unicode text.") from None
    except RecursionError:
        raise InvalidBody("The request body is nested too deeply.") from None
    stream = _flag(read.stream, "stream")
    return RequestFacts(
        model=_model(read.model),
        stream=bool(stream),
        include_usage=_include_usage(read.stream_options),
        max_tokens=_longest(read),
    )


def _decode_leniently(body: bytes) -> _Body:
    r"""Read what msgspec refuses although the grammar allows it: half a surrogate pair.

    JavaScript clients that cut a text inside an emoji send ``"\ud83d"`` (RFC 8259, section 8.2).
    """
    try:
        tree = json.loads(body.decode(), parse_constant=_refuse_constant)
    except ValueError:
        raise InvalidJson from None
    except RecursionError:
        raise InvalidBody("The request body is nested too deeply.") from None
    if not isinstance(tree, dict):
        raise InvalidBody("The request body must be a JSON object.")
    _refuse_lookalikes(tree)
    fields = {name: tree[name] for name in _Body.__struct_fields__ if name in tree}
    return _Body(**{name: msgspec.Raw(json.dumps(value)) for name, value in fields.items()})


def _refuse_lookalikes(names: Iterable[str]) -> None:
    """Refuse keys that some backends would read as the model, and others would not."""
    if any(name != _MODEL and name.lower() == _MODEL for name in names):
        raise InvalidBody("Only the key in small letters may name the model.", param="model")


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


def _model(raw: msgspec.Raw) -> str:
    value = bytes(raw)
    if value == b"null":
        raise InvalidBody("The request body must name a model.", param="model")
    if not value.startswith(b'"'):
        raise InvalidBody("The model must be a string.", param="model")
    try:
        model = msgspec.json.decode(value, type=str)
    except msgspec.DecodeError:
        raise InvalidBody("The model's name is not valid text.", param="model") from None
    if not model:
        raise InvalidBody("The model's name must not be empty.", param="model")
    return model


def _flag(raw: msgspec.Raw, param: str) -> bool | None:
    try:
        return _FLAGS[bytes(raw)]
    except KeyError:
        raise InvalidBody("The value must be true or false.", param=param) from None


def _include_usage(raw: msgspec.Raw) -> bool | None:
    value = bytes(raw)
    if value == b"null":
        return None
    if not value.startswith(b"{"):
        raise InvalidBody("The stream options must be an object.", param="stream_options")
    try:
        options = _STREAM_OPTIONS.decode(value)
    except msgspec.DecodeError:
        # Only half a surrogate pair can still be in the way here.
        options = _StreamOptions(
            msgspec.Raw(json.dumps(json.loads(value).get("include_usage"))),
        )
    return _flag(options.include_usage, "stream_options.include_usage")


def _longest(read: _Body | _Usual) -> int | None:
    tokens = _tokens(read.max_completion_tokens)
    if tokens is None:
        tokens = _tokens(read.max_tokens)
    return _tokens(read.max_output_tokens) if tokens is None else tokens


def _tokens(raw: msgspec.Raw) -> int | None:
    if raw is _ABSENT:
        return None
    value = bytes(raw)
    return int(value) if _TOKENS.fullmatch(value) else None
