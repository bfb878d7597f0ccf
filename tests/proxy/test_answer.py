"""An error becomes an answer, over the edge that sends it."""

from __future__ import annotations

import pytest

from llmproxy.errors import (
    BodyTooLarge,
    GatewayError,
    InvalidApiKey,
    InvalidBody,
    MethodNotAllowed,
    NoBackend,
)
from llmproxy.proxy.answer import prepare_answer
from llmproxy.site import EdgeRequest
from tests.edge import Answer, Edge, get


def answered(error: GatewayError) -> tuple[Answer, int, bool]:
    """Answer a request with an error; give the answer, the size told, and whether it closed."""
    sizes: list[int] = []

    def answer(request: EdgeRequest) -> None:
        size_bytes, answer_now = prepare_answer(request, error)
        sizes.append(size_bytes)
        answer_now()

    with Edge(answer) as edge:
        client = edge.connect().send(get())
        return client.answer(), sizes[0], client.is_closed


@pytest.mark.parametrize(
    "error", [InvalidBody(param="model"), NoBackend(), BodyTooLarge("Other words.")]
)
def test_the_body_tells_all(error: GatewayError) -> None:
    """The true status, the OpenAI shape, and a length that is right."""
    answer, size_bytes, closed = answered(error)
    assert answer.status == error.status
    assert answer.json == {
        "error": {
            "message": str(error),
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }
    assert int(answer.field(b"content-length")) == len(answer.body) == size_bytes
    assert closed is error.close
    assert (answer.field(b"connection") == b"close") is error.close


def test_when_to_come_again() -> None:
    """In both fields that clients read; a class without it has none."""
    answer, _, _ = answered(NoBackend(retry_after_s=7))
    assert answer.field(b"retry-after") == b"7"
    assert answer.field(b"retry-after-ms") == b"7000"
    answer, _, _ = answered(InvalidBody())
    assert answer.field(b"retry-after") == answer.field(b"retry-after-ms") == b""


def test_fields_of_the_error() -> None:
    """They come along."""
    assert answered(InvalidApiKey())[0].field(b"www-authenticate") == b"Bearer"
    answer, _, _ = answered(MethodNotAllowed(headers=((b"Allow", b"POST"),)))
    assert answer.field(b"allow") == b"POST"
