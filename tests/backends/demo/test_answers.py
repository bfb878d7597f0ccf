"""Tests of what the demo model says."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llmproxy.backends.demo import answers
from llmproxy.backends.demo.requests import ChatRequest, CompletionRequest, read
from llmproxy.errors import InvalidBody

READ = {
    "type": "function",
    "function": {
        "name": "read",
        "parameters": {
            "type": "object",
            "properties": {"filePath": {"type": "string"}},
            "required": ["filePath"],
        },
    },
}
ASK = {"role": "user", "content": "Read the file notes.txt and tell me the token in it."}


def chat(messages: list[dict[str, Any]], **keys: Any) -> list[answers.Answer]:
    """Answer a conversation."""
    body = msgspec.json.encode({"messages": messages, **keys})
    return answers.chat(read(body, ChatRequest), answers.digest(body))


def say(content: Any, **keys: Any) -> answers.Answer:
    """Answer one message of a user."""
    [answer] = chat([{"role": "user", "content": content}], **keys)
    return answer


def test_an_answer_is_labelled_and_repeats_the_message() -> None:
    """Who speaks is plain, and the echo is short and in one line."""
    assert say("  hello\n there ").text == f"{answers.LABEL} You wrote: hello there"
    long = say("x" * 500).text
    assert long == f"{answers.LABEL} You wrote: {'x' * answers.ECHO_LENGTH}…"
    assert say(None).text == f"{answers.LABEL} You wrote nothing."


def test_images_are_mentioned() -> None:
    """How many came is said."""
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    text = {"type": "text", "text": "look"}
    assert "one image," in say([image, text]).text
    assert "2 images," in say([image, text, image]).text
    assert "image" not in say([text]).text


def test_the_last_message_of_the_user_counts() -> None:
    """Earlier turns, and a prefilled answer, are not repeated."""
    turns = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "second"},
        {"role": "assistant", "content": "I"},
    ]
    assert chat(turns)[0].text.endswith("You wrote: second")


def test_a_user_who_asks_for_a_file_gets_a_call() -> None:
    """The loop's first half."""
    [answer] = chat([ASK], tools=[READ], tool_choice="auto")
    assert answer.text == ""
    assert answer.finish_reason == "tool_calls"
    assert answer.call is not None
    assert answer.call.name == "read"
    assert msgspec.json.decode(answer.call.arguments) == {"filePath": "notes.txt"}


@pytest.mark.parametrize(
    "keys",
    [{}, {"tools": []}, {"tools": None}, {"tools": [READ], "tool_choice": "none"}],
)
def test_without_a_tool_there_is_no_call(keys: dict[str, Any]) -> None:
    """The same question is then answered in words."""
    [answer] = chat([ASK], **keys)
    assert answer.call is None
    assert answer.finish_reason == "stop"
    assert "notes.txt" in answer.text


def test_what_a_tool_gave_is_told() -> None:
    """The loop's second half: the token that only the file knows is in the answer."""
    call = {"id": "c1", "type": "function", "function": {"name": "read", "arguments": "{}"}}
    content = "<file>\n1: the token is zebra-4711\n</file>"
    turns: list[dict[str, Any]] = [
        ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": content},
    ]
    [answer] = chat(turns, tools=[READ], tool_choice="auto")
    assert answer.call is None
    assert answer.text == f"The file says: {content}\n\n{answers.LABEL}"
    again = chat([*turns, {"role": "assistant", "content": "ok"}, ASK], tools=[READ])
    assert again[0].call is not None


def test_results_of_several_tools_are_told_in_order() -> None:
    """Only those since the last answer; other tools are named; long results are cut."""
    calls = [
        {"id": "c1", "function": {"name": "read", "arguments": "{}"}},
        {"id": "c2", "function": {"name": "bash", "arguments": "{}"}},
        {"id": "c3", "function": {"name": "read", "arguments": "{}"}},
    ]
    [answer] = chat(
        [
            {"role": "tool", "tool_call_id": "c0", "content": "old"},
            {"role": "assistant", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "one"}]},
            {"role": "tool", "tool_call_id": "c2", "content": "y" * 3000},
            {"role": "tool", "tool_call_id": "c3", "content": ""},
        ],
        tools=[READ],
    )
    cut = "y" * answers.TOOL_RESULT_LENGTH
    assert answer.text == (
        f"The file says: one\n\nThe tool bash says: {cut}…\n\n"
        f"The file says nothing.\n\n{answers.LABEL}"
    )


def test_a_forced_tool_is_called_whatever_was_said() -> None:
    """By name, or the first; a reader where a file is asked for."""
    write = {"type": "function", "function": {"name": "write"}}
    both = [write, READ]
    forced = say("hi", tools=both, tool_choice={"type": "function", "function": {"name": "read"}})
    assert forced.call is not None
    assert (forced.call.name, forced.call.arguments) == ("read", '{"filePath":""}')
    first = say("hi", tools=both, tool_choice="required")
    assert first.call is not None
    assert (first.call.name, first.call.arguments) == ("write", "{}")
    [reader] = chat([ASK], tools=both, tool_choice="required")
    assert reader.call is not None
    assert reader.call.name == "read"
    with pytest.raises(InvalidBody):
        say("hi", tool_choice="required")


def test_the_same_request_has_the_same_answer() -> None:
    """Ids and all; another request has other ids."""
    first, again = chat([ASK], tools=[READ]), chat([ASK], tools=[READ])
    assert first == again
    other = chat([ASK], tools=[READ], n=2)
    ids = {answer.call.id for answer in [*first, *other] if answer.call}
    assert len(ids) == 3


def test_choices_differ() -> None:
    """Each but the first says which it is."""
    texts = [answer.text for answer in chat([{"role": "user", "content": "hi"}], n=3)]
    assert len(set(texts)) == 3
    assert texts[2].endswith("(choice 3)")


@pytest.mark.parametrize("reasoning", [False, True])
@pytest.mark.parametrize("with_tools", [False, True])
def test_an_answer_is_never_longer_than_asked(reasoning: bool, with_tools: bool) -> None:
    """Exactly so many tokens, whatever it is made of, and the reason says so."""
    keys: dict[str, Any] = {"reasoning_effort": "low"} if reasoning else {}
    keys |= {"tools": [READ]} if with_tools else {}
    [whole] = chat([ASK], **keys)
    assert bool(whole.reasoning) is reasoning
    assert bool(whole.call) is with_tools
    for limit in range(1, whole.completion_tokens):
        [cut] = chat([ASK], max_tokens=limit, **keys)
        assert cut.finish_reason == "length"
        assert cut.completion_tokens == limit
        assert whole.text.startswith(cut.text)
        assert whole.reasoning.startswith(cut.reasoning)
        if cut.call is not None:
            assert whole.call is not None
            assert whole.call.arguments.startswith(cut.call.arguments)
    [fitting] = chat([ASK], max_tokens=whole.completion_tokens, **keys)
    assert fitting.finish_reason == whole.finish_reason
    assert fitting.completion_tokens == whole.completion_tokens


@pytest.mark.parametrize("stop", ["not", ["zzz", " real", "not"], ["", "not"]])
def test_a_stop_sequence_ends_the_text_before_it(stop: Any) -> None:
    """The first that occurs counts."""
    answer = say("hi", stop=stop)
    assert answer.text == "I am the demo model inside LLMProxy, "
    assert (answer.finish_reason, answer.stop_reason) == ("stop", "not")
    assert say("hi", stop="zzz").stop_reason is None


def test_prompt_tokens_count_messages_images_and_tools() -> None:
    """The documented rule; what an image weighs in bytes does not matter."""

    def prompt_tokens(content: Any, **keys: Any) -> int:
        body = msgspec.json.encode({"messages": [{"role": "user", "content": content}], **keys})
        return answers.chat_prompt_tokens(read(body, ChatRequest))

    assert prompt_tokens("one two") == 6
    image = {"type": "image_url", "image_url": {"url": "data:," + "A" * 9999}}
    assert prompt_tokens([image]) == 260
    assert prompt_tokens("one two", tools=[READ]) > 20


def test_completions_answer_each_prompt() -> None:
    """``n`` for each, in order, labelled, and the prompts' tokens are summed."""
    request = CompletionRequest(["one two", "three"], n=2, max_tokens=99)
    given, prompt_tokens = answers.completions(request)
    assert prompt_tokens == 3
    assert [answer.text for answer in given] == [
        f"{answers.LABEL} You wrote: one two",
        f"{answers.LABEL} You wrote: one two (choice 2)",
        f"{answers.LABEL} You wrote: three",
        f"{answers.LABEL} You wrote: three (choice 2)",
    ]


def test_completions_are_cut_stopped_and_take_token_ids() -> None:
    """The limit and the stop sequences hold; token ids are counted, not read."""
    [cut], _ = answers.completions(CompletionRequest("a", max_tokens=2))
    assert (cut.text, cut.finish_reason) == ("I am", "length")
    [stopped], _ = answers.completions(CompletionRequest("a", stop=" am"))
    assert (stopped.text, stopped.stop_reason) == ("I", " am")
    [blind], prompt_tokens = answers.completions(CompletionRequest([5, 6, 7], max_tokens=99))
    assert prompt_tokens == 3
    assert "token ids" in blind.text
    with pytest.raises(InvalidBody):
        answers.completions(CompletionRequest([]))
