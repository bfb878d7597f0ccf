"""The AI SDK, which OpenCode is built on, through the real daemon."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from tests.daemon import KEY, Daemon, free_port, gateway_config
from tests.end_to_end.node_clients import CLIENTS, Finished, run

pytestmark = pytest.mark.node


def call_tool(node: str, daemon: Daemon, file: Path, key: str) -> Finished:
    """Run tool_call.mjs."""
    environ = {
        "PATH": os.environ["PATH"],
        "BASE_URL": f"{daemon.url}/v1",
        "API_KEY": key,
        "MODEL": "demo",
    }
    return run([node, str(CLIENTS / "tool_call.mjs"), str(file)], CLIENTS, environ)


def test_a_tool_call(node_program: str, tmp_path: Path) -> None:
    """The call is streamed, its result goes back, the text tells it; every step has its usage."""
    token = f"token-{secrets.token_hex(8)}"
    file = tmp_path / "notes.txt"
    file.write_text(f"The token is {token}.\n")
    config = gateway_config(free_port(), [{"name": "demo", "url": "demo:"}])
    with Daemon(tmp_path, config) as daemon:
        finished = call_tool(node_program, daemon, file, KEY)
    assert finished.status == 0, finished.output
    parts = finished.events
    kinds = [part["type"] for part in parts]
    assert "error" not in kinds, finished.output
    assert kinds.count("tool-input-delta") > 1
    (call,) = (part for part in parts if part["type"] == "tool-call")
    assert (call["toolName"], call["input"]) == ("read", {"path": str(file)})
    (result,) = (part for part in parts if part["type"] == "tool-result")
    assert token in result["output"]
    text = "".join(part["text"] for part in parts if part["type"] == "text-delta")
    assert token in text
    steps = [part for part in parts if part["type"] == "finish-step"]
    assert [step["finishReason"] for step in steps] == ["tool-calls", "stop"]
    assert all(step["usage"]["inputTokens"] > 0 for step in steps)
    assert all(step["usage"]["outputTokens"] > 0 for step in steps)


def test_a_refusal(node_program: str, tmp_path: Path) -> None:
    """An unknown key is an error that is not to be retried, in our words."""
    config = gateway_config(free_port(), [{"name": "demo", "url": "demo:"}])
    with Daemon(tmp_path, config) as daemon:
        finished = call_tool(node_program, daemon, tmp_path / "none.txt", "sk-unknown")
    (error,) = (part["error"] for part in finished.events if part["type"] == "error")
    assert error["status"] == 401
    assert error["retryable"] is False
    assert error["message"] == "The API key is missing or not known here."
