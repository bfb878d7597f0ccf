"""The one place where an error becomes an answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from llmproxy.errors import GatewayError
from llmproxy.interfaces import IClientRequest
from llmproxy.wire.api_errors import Fields, error_answer


def answer_error(request: IClientRequest, error: GatewayError) -> None:
    """Answer a request with an error; nothing of an answer may have been written yet."""
    _, answer = prepare_answer(request, error)
    answer()


def prepare_answer(request: IClientRequest, error: GatewayError) -> tuple[int, Callable[[], None]]:
    """Prepare the answer to a request with an error.

    Returns:
        The size of its body in bytes, and what answers; nothing of an answer may have been written
        then.
    """
    fields, body = error_answer(error)
    return len(body), partial(_answer, request, error, fields, body)


def _answer(request: IClientRequest, error: GatewayError, fields: Fields, body: bytes) -> None:
    if error.close:
        request.refuse_further()
    request.begin(error.status, b"", fields)
    request.write(body)
    request.finish()
