"""The one place where an error becomes an answer."""

from __future__ import annotations

from llmproxy.errors import GatewayError
from llmproxy.interfaces import IClientRequest
from llmproxy.wire.api_errors import error_answer


def answer_error(request: IClientRequest, error: GatewayError) -> int:
    """Answer a request with an error; nothing of an answer may have been written yet.

    Returns:
        The size of the body in bytes.
    """
    fields, body = error_answer(error)
    if error.close:
        request.refuse_further()
    request.begin(error.status, b"", fields)
    request.write(body)
    request.finish()
    return len(body)
