"""The JSON of the demo model's answers: whole, and as the events of a stream.

The shapes are vLLM's, as recorded, and so OpenAI's; reasoning is ``reasoning_content``. It must
not know how an answer was found, nor when its events are sent.

A stream is an iterator of *beats*: the events that go out together, one word further.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import attrs
import msgspec

from llmproxy.backends.demo import tokens
from llmproxy.backends.demo.answers import Answer
from llmproxy.backends.demo.requests import MODEL

CREATED = 1767225600
"""When every answer was made, seconds since the epoch: the same request gives the same bytes."""

FINGERPRINT = "llmproxy-demo"
"""The ``system_fingerprint`` that labels every answer."""

CONTEXT = 32768
"""The context window that the model claims, in tokens; nothing is refused for its length."""

Beats = Iterator[Sequence[bytes]]

_DONE = b"data: [DONE]\n\n"


@attrs.frozen
class Frame:
    """What all answers to one request share.

    Attributes:
        id: The answer's.
        model: The name that the client used.
        prompt_tokens: The prompt's length.
        include_usage: Whether a stream tells the usage.
    """

    id: str
    model: str
    prompt_tokens: int
    include_usage: bool = False

    def usage(self, answers: Iterable[Answer]) -> dict[str, Any]:
        """Add up the tokens of all choices."""
        kept = list(answers)
        completion_tokens = sum(answer.completion_tokens for answer in kept)
        reasoning_tokens = sum(answer.reasoning_tokens for answer in kept)
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
            "completion_tokens": completion_tokens,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
        }

    def body(self, kind: str, choices: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
        """Put choices into the object that holds them."""
        return {
            "id": self.id,
            "object": kind,
            "created": CREATED,
            "model": self.model,
            "choices": choices,
            "system_fingerprint": FINGERPRINT,
            **more,
        }


def chat(frame: Frame, answers: Sequence[Answer]) -> bytes:
    """Give the answers to a conversation as one object."""
    choices = [
        {
            "index": index,
            "message": _message(answer),
            "logprobs": None,
            "finish_reason": answer.finish_reason,
            "stop_reason": answer.stop_reason,
        }
        for index, answer in enumerate(answers)
    ]
    return msgspec.json.encode(frame.body("chat.completion", choices, usage=frame.usage(answers)))


def _message(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.call is not None:
        call = answer.call
        function = {"name": call.name, "arguments": call.arguments}
        message["content"] = None
        message["tool_calls"] = [{"id": call.id, "type": "function", "function": function}]
    return message


def chat_stream(frame: Frame, answers: Sequence[Answer]) -> Beats:
    """Give the answers to a conversation as a stream.

    Each choice begins with its role and ends with an event of its own for the finish reason.
    """
    kind = "chat.completion.chunk"
    return _stream(frame, kind, [_chat_choices(*each) for each in enumerate(answers)], answers)


def _chat_choices(index: int, answer: Answer) -> Iterator[dict[str, Any]]:
    def choice(delta: Mapping[str, Any]) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    yield choice({"role": "assistant", "content": ""})
    for piece in tokens.pieces(answer.reasoning):
        yield choice({"reasoning_content": piece})
    for piece in tokens.pieces(answer.text):
        yield choice({"content": piece})
    if answer.call is not None:
        call = answer.call
        named: dict[str, Any] = {"id": call.id, "type": "function", "index": 0}
        named["function"] = {"name": call.name, "arguments": ""}
        yield choice({"tool_calls": [named]})
        for piece in tokens.pieces(call.arguments):
            yield choice({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    ended = {"finish_reason": answer.finish_reason, "stop_reason": answer.stop_reason}
    yield {**choice({}), **ended}


def completion(frame: Frame, answers: Sequence[Answer]) -> bytes:
    """Give the continuations of prompts as one object."""
    choices = [
        {
            "index": index,
            "text": answer.text,
            "logprobs": None,
            "finish_reason": answer.finish_reason,
            "stop_reason": answer.stop_reason,
        }
        for index, answer in enumerate(answers)
    ]
    return msgspec.json.encode(frame.body("text_completion", choices, usage=frame.usage(answers)))


def completion_stream(frame: Frame, answers: Sequence[Answer]) -> Beats:
    """Give the continuations of prompts as a stream; the last piece has the finish reason."""
    choices = [_completion_choices(*each) for each in enumerate(answers)]
    return _stream(frame, "text_completion", choices, answers)


def _completion_choices(index: int, answer: Answer) -> Iterator[dict[str, Any]]:
    *said, last = tokens.pieces(answer.text) or [""]
    for piece in said:
        yield {
            "index": index,
            "text": piece,
            "logprobs": None,
            "finish_reason": None,
            "stop_reason": None,
        }
    yield {
        "index": index,
        "text": last,
        "logprobs": None,
        "finish_reason": answer.finish_reason,
        "stop_reason": answer.stop_reason,
    }


def _stream(
    frame: Frame,
    kind: str,
    choices: Sequence[Iterator[dict[str, Any]]],
    answers: Sequence[Answer],
) -> Beats:
    """Interleave the choices, then end the stream."""
    for beat in zip_longest(*choices):
        yield [_event(frame.body(kind, [choice])) for choice in beat if choice is not None]
    if frame.include_usage:
        yield [_event(frame.body(kind, [], usage=frame.usage(answers))), _DONE]
    else:
        yield [_DONE]


def _event(body: Mapping[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def embeddings(model: str, vectors: Sequence[list[float] | str], prompt_tokens: int) -> bytes:
    """Give vectors, or their base64 texts, as a list in the order of the inputs."""
    listed = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    body = {"object": "list", "data": listed, "model": model, "usage": usage}
    return msgspec.json.encode(body)


def model_card() -> dict[str, Any]:
    """Describe the one model."""
    return {
        "id": MODEL,
        "object": "model",
        "created": CREATED,
        "owned_by": "llmproxy",
        "max_model_len": CONTEXT,
    }


def error(message: str, kind: str, param: str | None, code: str) -> bytes:
    """Give an error in OpenAI's shape."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return msgspec.json.encode(body)
