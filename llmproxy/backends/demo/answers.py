"""What the demo model says: a pure function of the request.

It must not know how answers are sent.
"""

from __future__ import annotations

import hashlib

import attrs
import msgspec

from llmproxy.backends.demo import tokens, tools
from llmproxy.backends.demo.requests import ChatRequest, CompletionRequest, Message, prompts

LABEL = "I am the demo model inside LLMProxy, not a real one."
"""What every answer in words says."""

ECHO_LENGTH = 200
"""The longest echo of a message, in characters."""

TOOL_RESULT_LENGTH = 2000
"""How much of a tool's result is told, in characters."""

_MESSAGE_TOKENS = 4  # what a chat template adds around each message
_IMAGE_TOKENS = 256


@attrs.frozen
class ToolCall:
    """A tool that the model calls.

    Attributes:
        id: Unique in the conversation.
        name: The function's name.
        arguments: JSON, or its beginning when the answer was cut.
    """

    id: str
    name: str
    arguments: str


@attrs.frozen
class Answer:
    """One choice.

    Attributes:
        text: What it says; empty beside a call.
        reasoning: What it thought before.
        call: The tool that it calls.
        finish_reason: ``stop``, ``length`` or ``tool_calls``.
        stop_reason: The stop sequence that ended it.
    """

    text: str = ""
    reasoning: str = ""
    call: ToolCall | None = None
    finish_reason: str = "stop"
    stop_reason: str | None = None

    @property
    def reasoning_tokens(self) -> int:
        """How long the reasoning is, in tokens."""
        return tokens.count(self.reasoning)

    @property
    def completion_tokens(self) -> int:
        """How long all of it is, in tokens: a call counts by its name and its arguments."""
        called = self.call.name + self.call.arguments if self.call else ""
        return self.reasoning_tokens + tokens.count(self.text) + tokens.count(called)


def digest(body: bytes) -> str:
    """Make the part of the ids that is the same for the same request."""
    return hashlib.sha256(body).hexdigest()[:16]


def chat_prompt_tokens(request: ChatRequest) -> int:
    """Count a conversation's tokens.

    Its texts, four for each message, 256 for each image, and the tools as JSON.
    """
    texts = sum(
        tokens.count(message.text) + _MESSAGE_TOKENS + _IMAGE_TOKENS * message.images
        for message in request.messages
    )
    offered = msgspec.json.encode(request.functions).decode() if request.functions else ""
    return texts + tokens.count(offered)


def chat(request: ChatRequest, seed: str) -> list[Answer]:
    """Answer a conversation.

    Args:
        request: The conversation.
        seed: What the ids of calls are made of.

    Returns:
        As many answers as ``n`` asks for. All but the first say which they are.

    Raises:
        InvalidBody: ``tool_choice`` cannot be met.
    """
    return [_chat(request, f"{seed}{index}", index) for index in range(request.n or 1)]


def _chat(request: ChatRequest, seed: str, index: int) -> Answer:
    last = request.messages[-1]
    path = tools.asked_path(_last_user(request).text)
    function = tools.forced(request.functions, request.tool_choice)
    if last.role == "user" and path and request.tool_choice in (None, "auto", "required"):
        function = tools.find_reader(request.functions) or function
    if function is not None:
        made = msgspec.json.encode(tools.arguments(function, path)).decode()
        call = ToolCall(f"chatcmpl-tool-{seed}", function.name, made)
        reasoning = f"There is a tool for this: {function.name}. I call it."
        answer = Answer(reasoning=reasoning, call=call, finish_reason="tool_calls")
    else:
        if last.role == "tool":
            text = _tool_results(request)
            reasoning = "A tool has answered. I tell what it said."
        else:
            text = _echo(_last_user(request))
            reasoning = "I am a stand-in and cannot think, so I say that and repeat what I read."
        answer = _stop(Answer(_numbered(text, index), reasoning), request.stop)
    if not request.wants_reasoning:
        answer = attrs.evolve(answer, reasoning="")
    return _cut(answer, request.token_limit)


def completions(request: CompletionRequest) -> tuple[list[Answer], int]:
    """Continue each prompt of a request.

    Returns:
        ``n`` answers for each prompt, in order; and the tokens of all prompts.

    Raises:
        InvalidBody: ``prompt`` is not what the API takes.
    """
    answers = []
    prompt_tokens = 0
    for prompt in prompts(request.prompt, "prompt"):
        if isinstance(prompt, str):
            text = _echo(Message("user", prompt))
            prompt_tokens += tokens.count(prompt)
        else:
            text = f"{LABEL} You sent token ids, which I cannot read."
            prompt_tokens += len(prompt)
        for index in range(request.n or 1):
            answer = _stop(Answer(_numbered(text, index)), request.stop)
            answers.append(_cut(answer, request.token_limit))
    return answers, prompt_tokens


def _last_user(request: ChatRequest) -> Message:
    said = (message for message in reversed(request.messages) if message.role == "user")
    return next(said, Message("user"))


def _echo(message: Message) -> str:
    text = " ".join(message.text.split())
    if len(text) > ECHO_LENGTH:
        text = f"{text[:ECHO_LENGTH]}…"
    said = f"You wrote: {text}" if text else "You wrote nothing."
    if message.images:
        images = "one image" if message.images == 1 else f"{message.images} images"
        said = f"You also sent {images}, which I cannot see. {said}"
    return f"{LABEL} {said}"


def _tool_results(request: ChatRequest) -> str:
    """Tell what came back from the tools since the last answer."""
    results: list[Message] = []
    for message in reversed(request.messages):
        if message.role != "tool":
            break
        results.insert(0, message)
    names = {
        call.id: call.function.name
        for message in request.messages
        for call in message.tool_calls or ()
    }
    reader = tools.find_reader(request.functions)
    told = []
    for result in results:
        name = names.get(result.tool_call_id or "", "")
        source = f"tool {name}" if name and (reader is None or name != reader.name) else "file"
        text = result.text
        if len(text) > TOOL_RESULT_LENGTH:
            text = f"{text[:TOOL_RESULT_LENGTH]}…"
        told.append(f"The {source} says: {text}" if text else f"The {source} says nothing.")
    return "\n\n".join([*told, LABEL])


def _numbered(text: str, index: int) -> str:
    return f"{text} (choice {index + 1})" if index else text


def _stop(answer: Answer, stop: str | list[str] | None) -> Answer:
    """End the text before the first of the stop sequences in it."""
    sequences = [stop] if isinstance(stop, str) else stop or []
    found = [(at, one) for one in sequences if one and (at := answer.text.find(one)) >= 0]
    if not found:
        return answer
    at, sequence = min(found)
    return attrs.evolve(answer, text=answer.text[:at], stop_reason=sequence)


def _cut(answer: Answer, limit: int | None) -> Answer:
    """Cut an answer to so many tokens; a call whose name has no room is left out."""
    if limit is None or answer.completion_tokens <= limit:
        return answer
    reasoning = tokens.first(answer.reasoning, limit)
    left = limit - tokens.count(reasoning)
    call = answer.call
    if call is not None:
        called = tokens.first(call.name + call.arguments, left)
        if len(called) < len(call.name):
            call = None
        else:
            call = attrs.evolve(call, arguments=called.removeprefix(call.name))
    return Answer(tokens.first(answer.text, left), reasoning, call, finish_reason="length")
