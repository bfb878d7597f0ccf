"""The real OpenCode through the real daemon: tools, keys, records, and errors that end quickly."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import KEY, Daemon, free_port, gateway_config
from tests.end_to_end.access_records import records
from tests.end_to_end.node_clients import Finished, OpenCode, OpenCodeHome
from tests.scripted_backend import Connection, ScriptedBackend, event

pytestmark = pytest.mark.node

BEARER = {"apiKey": "{env:LLMPROXY_API_KEY}"}
PROMPT = "Read the file notes.txt and tell me the token in it."


def write_token(client: OpenCodeHome) -> str:
    """Put a file with a new token into a client's project."""
    token = f"token-{secrets.token_hex(8)}"
    (client.project / "notes.txt").write_text(f"The token is {token}.\n")
    return token


def test_reads_a_file_with_the_demo_model(opencode_program: str, tmp_path: Path) -> None:
    """The shipped stand-in calls OpenCode's own tool and tells what came of it."""
    config = gateway_config(free_port(), [{"name": "demo", "url": "demo:"}])
    with Daemon(tmp_path, config) as daemon:
        client = OpenCode(
            opencode_program, tmp_path / "client", f"{daemon.url}/v1", ["demo"], BEARER
        )
        token = write_token(client)
        finished = client.ask("demo", PROMPT, KEY)
        assert finished.status == 0, finished.output
        assert [use["tool"] for use in finished.tool_uses()] == ["read"], finished.output
        assert token in finished.texts()
        # The small request for a title may be cut when OpenCode has what it wants.
        turns = [record for record in records(daemon) if record["bytes_in"] > 10_000]
        assert len(turns) == 2
        for record in turns:
            assert (record["outcome"], record["usage_source"]) == ("ok", "exact")
            assert record["key_name"] == "tester"
    assert KEY not in daemon.log()
    assert token not in daemon.log()


class FileReader:
    """A model that calls OpenCode's tool for reading files, then repeats the token in the result.

    It works with what OpenCode sends: the tool's name, its parameter, the id of the call. Its
    events are cut without regard for where they begin and end.

    Attributes:
        usages: The usage objects that it has told.
    """

    def __init__(self) -> None:
        self.usages: list[dict[str, int]] = []

    def __call__(self, connection: Connection) -> None:
        """Answer all requests of a connection."""
        while (seen := connection.read_request()) is not None:
            if seen.request_line.startswith("GET "):
                connection.answer(b'{"object":"list","data":[{"id":"qwen-72b"}]}')
                continue
            request = json.loads(seen.body)
            connection.stream_head(b"X-Served-By: the file reader\r\n")
            sizes = cycle((1, 7, 2, 64, 3, 11, 200))
            stream = b"".join(self._events(request))
            while stream:
                size = next(sizes)
                connection.chunk(stream[:size])
                stream = stream[size:]
                if size == 11:
                    time.sleep(0.002)
            connection.chunk(b"")

    def _events(self, request: Mapping[str, Any]) -> Iterator[bytes]:
        last = request["messages"][-1]
        # A count near the context window would make OpenCode compact the conversation.
        usage = {"prompt_tokens": len(str(request)) // 4, "completion_tokens": 12}
        usage["total_tokens"] = sum(usage.values())
        reason = "stop"
        yield self._event({"role": "assistant", "content": ""})
        if last["role"] == "tool":
            assert last["tool_call_id"] == "call-1"
            found = re.search(r"token-\w+", str(last["content"]))
            assert found is not None
            for piece in ("The token is ", found[0][:9], found[0][9:], ". ✓"):
                yield self._event({"content": piece})
        elif "tools" in request:
            reason = "tool_calls"
            functions = {tool["function"]["name"]: tool["function"] for tool in request["tools"]}
            parameter = functions["read"]["parameters"]["required"][0]
            arguments = json.dumps({parameter: "notes.txt"})
            named = {"name": "read", "arguments": ""}
            call = {"index": 0, "id": "call-1", "type": "function", "function": named}
            yield self._event({"tool_calls": [call]})
            for start in range(0, len(arguments), 5):
                part = {"arguments": arguments[start : start + 5]}
                yield self._event({"tool_calls": [{"index": 0, "function": part}]})
        else:
            yield self._event({"content": "A title"})
        yield self._event({}, reason)
        if request.get("stream_options", {}).get("include_usage"):
            self.usages.append(usage)
            yield event(json.dumps({"id": "x", "model": "qwen-72b", "choices": [], "usage": usage}))
        yield event("[DONE]")

    @staticmethod
    def _event(delta: Mapping[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        chunk = {"id": "x", "object": "chat.completion.chunk", "model": "qwen-72b"}
        return event(json.dumps({**chunk, "choices": [choice]}, ensure_ascii=False))


def test_the_key_stays_here_and_the_rest_goes_through(
    opencode_program: str, tmp_path: Path
) -> None:
    """With the key in a header of its own: the round trip, what the backend saw, the record."""
    key = f"sk-canary-{secrets.token_hex(12)}"
    backend_key = f"up-canary-{secrets.token_hex(12)}"
    reader = FileReader()
    with ScriptedBackend(reader, raw=True) as backend:
        config = gateway_config(
            free_port(),
            [{"name": "gpu", "url": backend.url, "api_key": backend_key}],
            auth={
                "header_names": ["X-Team-Key"],
                "pipeline": [
                    {
                        "name": "static",
                        "type": "static",
                        "static": {"keys": [{"key": key, "name": "team", "user_id": "u7"}]},
                    }
                ],
            },
            log={"level": "debug"},
        )
        with Daemon(tmp_path, config) as daemon:
            options = {"headers": {"X-Team-Key": "{env:LLMPROXY_API_KEY}"}}
            client = OpenCode(
                opencode_program, tmp_path / "client", f"{daemon.url}/v1", ["qwen-72b"], options
            )
            token = write_token(client)
            finished = client.ask("qwen-72b", PROMPT, key)
            assert finished.status == 0, finished.output
            assert [use["tool"] for use in finished.tool_uses()] == ["read"], finished.output
            assert f"The token is {token}. ✓" in finished.texts()
            daemon.wait_for_log('"finish_reason":"tool_calls"')
    assert backend.errors == []

    # What the backend saw.
    received = b"".join(seen.head + seen.body for seen in backend.seen)
    assert key.encode() not in received
    assert b"x-team-key" not in received.lower()
    asked = [seen for seen in backend.seen if seen.request_line.startswith("POST ")]
    assert len(asked) >= 2
    for seen in asked:
        assert seen.header("Authorization") == f"Bearer {backend_key}"
        assert seen.header("X-Session-Id").startswith("ses_")
        assert seen.header("User-Agent").startswith("opencode/")
        assert json.loads(seen.body)["stream_options"] == {"include_usage": True}
    sessions = {seen.header("X-Session-Id") for seen in asked}
    assert len(sessions) == 1

    # What was recorded.
    log = daemon.log()
    for secret in (key, backend_key, token):
        assert secret not in log
    made = records(daemon)
    assert len(made) == len(asked)
    told = sorted(
        (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"])
        for usage in reader.usages
    )
    assert told == sorted(
        (record["prompt_tokens"], record["completion_tokens"], record["total_tokens"])
        for record in made
    )
    for record in made:
        assert {record["session_id"]} == sessions
        assert (record["outcome"], record["usage_source"]) == ("ok", "exact")
        assert (record["key_name"], record["user_id"], record["backend"]) == ("team", "u7", "gpu")
    assert [record["tool_calls"] for record in made if record["finish_reason"] == "tool_calls"] == [
        {"read": 1}
    ]
    assert sorted(record["bytes_in"] for record in made) == sorted(len(s.body) for s in asked)


def test_refusals_are_shown_and_not_retried(opencode_program: str, tmp_path: Path) -> None:
    """A disabled key and an unknown model end at once, with our words before the user's eyes."""
    config = gateway_config(
        free_port(),
        [{"name": "demo", "url": "demo:", "models": ["demo"]}],
        auth={
            "pipeline": [
                {
                    "name": "static",
                    "type": "static",
                    "static": {
                        "keys": [
                            {"key": KEY, "name": "tester"},
                            {"key": "sk-switched-off", "name": "leaver", "status": "disabled"},
                        ]
                    },
                }
            ]
        },
    )
    with Daemon(tmp_path, config) as daemon:
        client = OpenCode(
            opencode_program, tmp_path / "client", f"{daemon.url}/v1", ["demo", "gone"], BEARER
        )
        refused = client.ask("demo", "hello", "sk-switched-off")
        assert_shown(refused, "This API key is disabled.")
        assert_each_asked_once(records(daemon), 403, "key_disabled")
        before = len(records(daemon))
        unknown = client.ask("gone", "hello", KEY)
        assert_shown(unknown, "The requested model does not exist here.")
        assert_each_asked_once(records(daemon)[before:], 404, "model_not_found")


def assert_shown(finished: Finished, message: str) -> None:
    """Assert that the user was told, and that no answer was made up."""
    errors = [event for event in finished.events if event.get("type") == "error"]
    assert any(message in json.dumps(error) for error in errors), finished.output
    assert finished.texts() == ""


def assert_each_asked_once(made: list[dict[str, Any]], status: int, code: str) -> None:
    """Assert that there was the turn, perhaps the title beside it, and no retry of either."""
    assert 1 <= len(made) <= 2, made
    for record in made:
        assert (record["status"], record["error_code"], record["outcome"]) == (
            status,
            code,
            "rejected",
        )
    sizes = [record["bytes_in"] for record in made if record["bytes_in"]]
    assert len(set(sizes)) == len(sizes), "the same request twice"
