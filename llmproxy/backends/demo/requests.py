"""What the demo model reads of a request's body.

Keys that are not named here are accepted and change nothing. It must not know what is answered.

The shapes are those of the OpenAI API reference; ``chat_template_kwargs`` is vLLM's.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from llmproxy.errors import InvalidBody, InvalidJson

MODEL = "demo"
"""The model that is listed, and the name in answers to requests that name none."""

AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]

_COMPLETION_MAX_TOKENS = 16  # the API's default for /v1/completions
_INDEX = re.compile(r"\[\d+\]")
_MISSING = re.compile(r"missing required field `([^`]*)`")
_AT = re.compile(r" - at `\$\.?([^`]*)`$")


class Part(msgspec.Struct, frozen=True):
    """One part of a message's content; images and other parts are known by their type only."""

    type: str = "text"
    text: str | None = None


class CalledFunction(msgspec.Struct, frozen=True):
    """The name in a call that an earlier answer made."""

    name: str = ""


class MadeCall(msgspec.Struct, frozen=True):
    """A tool call that an earlier answer made."""

    id: str = ""
    function: CalledFunction = CalledFunction()


class Message(msgspec.Struct, frozen=True):
    """One message of a conversation."""

    role: str
    content: str | list[Part] | None = None
    tool_calls: list[MadeCall] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """All of its text, parts on lines of their own."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content or () if part.text)

    @property
    def images(self) -> int:
        """How many images it carries."""
        if not isinstance(self.content, list):
            return 0
        return sum(part.type in ("image_url", "input_image", "image") for part in self.content)


class Function(msgspec.Struct, frozen=True):
    """A function that the client offers; ``parameters`` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct, frozen=True):
    """A tool that the client offers; only functions can be called."""

    function: Function | None = None
    type: str = "function"


class StreamOptions(msgspec.Struct, frozen=True):
    """``stream_options``."""

    include_usage: bool | None = None


class ChatRequest(msgspec.Struct, frozen=True):
    """The body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    model: str = MODEL
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=8)] | None = None
    max_tokens: AtLeastOne | None = None
    max_completion_tokens: AtLeastOne | None = None
    stop: str | list[str] | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def functions(self) -> list[Function]:
        """The functions offered."""
        return [tool.function for tool in self.tools or () if tool.function is not None]

    @property
    def token_limit(self) -> int | None:
        """The longest answer, in tokens; the newer key wins."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def wants_reasoning(self) -> bool:
        """Whether reasoning is to come before the answer."""
        if self.reasoning_effort is not None:
            return self.reasoning_effort != "none"
        return (self.chat_template_kwargs or {}).get("enable_thinking") is True


class CompletionRequest(msgspec.Struct, frozen=True):
    """The body of ``POST /v1/completions``."""

    prompt: str | list[Any]
    model: str = MODEL
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=8)] | None = None
    max_tokens: AtLeastOne | None = None
    stop: str | list[str] | None = None

    @property
    def token_limit(self) -> int:
        """The longest text of one choice, in tokens."""
        return _COMPLETION_MAX_TOKENS if self.max_tokens is None else self.max_tokens


class EmbeddingRequest(msgspec.Struct, frozen=True):
    """The body of ``POST /v1/embeddings``."""

    input: str | list[Any]
    model: str = MODEL
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=4096)] | None = None
    encoding_format: Literal["float", "base64"] | None = None


_Body = TypeVar("_Body", ChatRequest, CompletionRequest, EmbeddingRequest)


def read(body: bytes, kind: type[_Body]) -> _Body:
    """Read a request's body.

    Raises:
        InvalidJson: It is not JSON.
        InvalidBody: It is JSON, but not such a request; ``param`` is the key at fault.
    """
    try:
        request = msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        said = _INDEX.sub("[]", str(error))  # clients match on numbers in errors
        raise InvalidBody(f"{said}.", param=_param(said)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidJson from error
    if not isinstance(request, EmbeddingRequest) and request.stream_options and not request.stream:
        raise InvalidBody("stream_options is only for streams.", param="stream_options")
    return request


def _param(said: str) -> str | None:
    """Find the key at fault in what msgspec says, such as ``... - at `$.messages[].role```."""
    at = _AT.search(said)
    missing = _MISSING.search(said)
    return ".".join(found[1] for found in (at, missing) if found and found[1]) or None


def prompts(given: str | list[Any], param: str) -> list[str | list[int]]:
    """Give the prompts or inputs of a request: one or several texts, or lists of token ids.

    Args:
        given: The value of the key.
        param: The key, for the error.

    Raises:
        InvalidBody: It is something else, or nothing.
    """
    if isinstance(given, str):
        return [given]
    if given and all(isinstance(item, str) for item in given):
        return given
    if _are_tokens(given):
        return [given]
    if given and all(isinstance(item, list) and _are_tokens(item) for item in given):
        return given
    message = f"{param} takes a text, a list of token ids, or a list of either, and none empty."
    raise InvalidBody(message, param=param)


def _are_tokens(given: list[Any]) -> bool:
    return bool(given) and all(type(item) is int for item in given)
