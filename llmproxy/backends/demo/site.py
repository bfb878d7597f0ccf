"""The demo model's HTTP server: what it serves, on stock `twisted.web`.

Each path has a Resource; everything else is answered 404, plainly, in the shape of OpenAI's
errors. It must not know of sockets or of the gateway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from llmproxy.backends.demo import answers, embeddings, shapes
from llmproxy.backends.demo.pacing import Pacer
from llmproxy.backends.demo.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    prompts,
    read,
)
from llmproxy.errors import GatewayError, MethodNotAllowed, ModelNotFound, UnknownUrl

SERVER = b"llmproxy-demo"
"""The ``Server`` field that labels every answer."""


class DemoSite(Site):
    """The server's factory; the gateway's access log tells of its requests already."""

    displayTracebacks = False
    noisy = False

    def __init__(self, reactor: IReactorTime, pacer: Pacer) -> None:
        super().__init__(root(pacer), reactor=reactor)

    def log(self, request: Any) -> None:
        """Write no access log."""


def root(pacer: Pacer) -> Resource:
    """Build the tree of all that is served."""
    chat = NotServed()
    chat.putChild(b"completions", ChatCompletions(pacer))
    v1 = NotServed()
    v1.putChild(b"chat", chat)
    v1.putChild(b"completions", Completions(pacer))
    v1.putChild(b"embeddings", Embeddings())
    v1.putChild(b"models", Models())
    top = NotServed()
    top.putChild(b"health", Health())
    top.putChild(b"v1", v1)
    return top


class Answering(Resource):
    """A Resource whose answers are JSON, errors too, and carry the label."""

    def __init__(self) -> None:
        super().__init__()

    def getChild(self, _path: bytes, _request: Request) -> Resource:
        """Serve nothing below."""
        return NotServed()

    def render(self, request: Any) -> bytes | int:
        """Answer, or give the error in OpenAI's shape; HEAD gets what GET does, without the body.

        Twisted's own would answer HEAD with an exception where there is no GET.
        """
        request.setHeader(b"server", SERVER)
        request.setHeader(b"content-type", b"application/json")
        try:
            rendered = self.rendering(request)(request)
        except GatewayError as error:
            request.setResponseCode(error.status)
            for name, value in error.headers:
                request.setHeader(name, value)
            rendered = shapes.error(str(error), error.type, error.param, error.code)
        if isinstance(rendered, bytes) and request.method == b"HEAD":
            request.setHeader(b"content-length", b"%d" % len(rendered))
            return b""
        return rendered

    def rendering(self, request: Any) -> Callable[[Request], bytes | int]:
        """Choose what answers the request's method: ``render_GET`` or ``render_POST``.

        Raises:
            MethodNotAllowed: There is none for it.
        """
        served: dict[bytes, Callable[[Request], bytes | int]] = {}
        if get := getattr(self, "render_GET", None):
            served = {b"GET": get, b"HEAD": get}
        if post := getattr(self, "render_POST", None):
            served[b"POST"] = post
        if request.method not in served:
            raise MethodNotAllowed(headers=((b"Allow", b", ".join(served)),))
        return served[request.method]


class NotServed(Answering):
    """A path that the demo model does not serve, whatever the method."""

    def rendering(self, _request: Any) -> Callable[[Request], bytes | int]:
        """Say so.

        Raises:
            UnknownUrl: Always.
        """
        raise UnknownUrl(
            "The demo model inside LLMProxy does not serve this path: it knows chat completions,"
            " completions and embeddings. Configure a real inference server for more."
        )


class Health(Answering):
    """``GET /health``."""

    def render_GET(self, _request: Request) -> bytes:
        """Be well."""
        return msgspec.json.encode({"status": "ok", "system_fingerprint": shapes.FINGERPRINT})


class Models(Answering):
    """``GET /v1/models``, and below it the one model."""

    def getChild(self, path: bytes, _request: Request) -> Resource:
        """Find a model."""
        return OneModel(path)

    def render_GET(self, _request: Request) -> bytes:
        """List the one model."""
        return msgspec.json.encode({"object": "list", "data": [shapes.model_card()]})


class OneModel(Answering):
    """``GET /v1/models/ID``."""

    def __init__(self, name: bytes) -> None:
        super().__init__()
        self._name = name

    def render_GET(self, _request: Request) -> bytes:
        """Describe it if it is there; requests may use any other name all the same."""
        card = shapes.model_card()
        if self._name != card["id"].encode():
            raise ModelNotFound
        return msgspec.json.encode(card)


class ChatCompletions(Answering):
    """``POST /v1/chat/completions``, plain and streamed."""

    def __init__(self, pacer: Pacer) -> None:
        super().__init__()
        self._pacer = pacer

    def render_POST(self, request: Request) -> bytes | int:
        """Answer a conversation."""
        body = _body(request)
        asked = read(body, ChatRequest)
        seed = answers.digest(body)
        given = answers.chat(asked, seed)
        frame = shapes.Frame(
            id=f"chatcmpl-{seed}",
            model=asked.model,
            prompt_tokens=answers.chat_prompt_tokens(asked),
            include_usage=_wants_usage(asked),
        )
        if not asked.stream:
            return shapes.chat(frame, given)
        return _send(request, self._pacer, shapes.chat_stream(frame, given))


class Completions(Answering):
    """``POST /v1/completions``, plain and streamed."""

    def __init__(self, pacer: Pacer) -> None:
        super().__init__()
        self._pacer = pacer

    def render_POST(self, request: Request) -> bytes | int:
        """Continue the prompts."""
        body = _body(request)
        asked = read(body, CompletionRequest)
        given, prompt_tokens = answers.completions(asked)
        frame = shapes.Frame(
            id=f"cmpl-{answers.digest(body)}",
            model=asked.model,
            prompt_tokens=prompt_tokens,
            include_usage=_wants_usage(asked),
        )
        if not asked.stream:
            return shapes.completion(frame, given)
        return _send(request, self._pacer, shapes.completion_stream(frame, given))


class Embeddings(Answering):
    """``POST /v1/embeddings``."""

    def render_POST(self, request: Request) -> bytes:
        """Give a vector for each input."""
        asked = read(_body(request), EmbeddingRequest)
        inputs = prompts(asked.input, "input")
        dimensions = asked.dimensions or embeddings.DIMENSIONS
        vectors = [embeddings.vector(given, dimensions) for given in inputs]
        listed: list[list[float] | str] = [*vectors]
        if asked.encoding_format == "base64":
            listed = [embeddings.as_base64(numbers) for numbers in vectors]
        prompt_tokens = sum(embeddings.count(given) for given in inputs)
        return shapes.embeddings(asked.model, listed, prompt_tokens)


def _wants_usage(asked: ChatRequest | CompletionRequest) -> bool:
    return asked.stream_options is not None and asked.stream_options.include_usage is True


def _body(request: Any) -> bytes:
    body: bytes = request.content.read()
    return body


def _send(request: Any, pacer: Pacer, beats: shapes.Beats) -> int:
    request.setHeader(b"content-type", b"text/event-stream; charset=utf-8")
    pacer.send(request, beats)
    return NOT_DONE_YET
