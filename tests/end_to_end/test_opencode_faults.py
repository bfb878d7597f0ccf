"""Each fault behind the gateway, with the real OpenCode: what its user sees is what we document."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.daemon import KEY, ROOT, Daemon, free_port, gateway_config
from tests.end_to_end.access_records import records
from tests.end_to_end.node_clients import Finished, OpenCode
from tests.end_to_end.scripted_model import (
    ScriptedModel,
    calls,
    delta,
    refuses,
    says,
    streams,
)
from tests.scripted_backend import Connection, ScriptedBackend, event

pytestmark = pytest.mark.node

PROMPT = "Read the file notes.txt."
SPENT_KEY = "sk-budget-is-spent"
READS = {"filePath": "notes.txt"}
LARGEST_BODY_BYTES = 40_000
TOO_LONG = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens."
BROKEN_ERROR = {"error": {"message": "the model fell over", "type": "x", "code": "fell"}}


def documented(status: str, code: str) -> str:
    """Give what docs/opencode.md says that OpenCode does about an error."""
    text = (ROOT / "docs" / "opencode.md").read_text()
    rows = re.findall(r"^\| ([\w ]+) \| (.*?) \| .* \| (.*?) \|$", text, re.M)
    (does,) = [does for one, codes, does in rows if one == status and code in codes]
    return str(does)


def breaks_off(connection: Connection) -> bool:
    """Begin to speak, and be gone before the end."""
    connection.stream_head()
    connection.chunk(delta({"role": "assistant", "content": "HALF OF IT"}))
    return True


def garbles(connection: Connection) -> bool:
    """Answer with what is no HTTP."""
    connection.send(b"nonsense\r\n\r\n")
    return True


def never_begins(connection: Connection) -> bool:
    """Say nothing at all."""
    connection.wait_for_close(60)
    return True


def falls_silent(connection: Connection) -> bool:
    """Begin to speak, and say no more."""
    connection.stream_head()
    connection.chunk(delta({"role": "assistant", "content": "HALF OF IT"}))
    connection.wait_for_close(60)
    return True


TURNS = {
    # After each fault a good turn, so that one conversation meets them all.
    "stormy": [
        refuses(b"500 Broken", "it broke"),
        calls("read", **READS),
        refuses(b"429 Busy", "too many", b"retry-after-ms: 100\r\n"),
        calls("read", **READS),
        garbles,
        calls("read", **READS),
        breaks_off,
        calls("read", **READS),
        never_begins,
        calls("read", **READS),
        falls_silent,
        # Comments are no part of an answer, and nobody misses the "[DONE]".
        streams(
            b": thinking\n\n",
            delta({"role": "assistant", "content": "All is well."}),
            b": still there\n\n",
            delta({}, "stop"),
        ),
    ],
    "long": [
        refuses(b"400 Bad Request", TOO_LONG),
        calls("read", filePath="long.txt"),  # and with it the next request is too large: 413
        streams(delta({"role": "assistant", "content": "No reason to stop."})),
        says("All is well."),
    ],
    "refused": [refuses(b"400 Bad Request", "the prompt is not what I like")],
    "object": [streams(delta({"content": "Well, "}), event(json.dumps(BROKEN_ERROR)))],
    "string": [streams(event('{"error":"the model fell over"}'))],
    "spent": [],
}


@attrs.frozen
class Conversations:
    """All that were held, beside each other.

    Attributes:
        daemon: The gateway.
        model: What is behind it.
        results: By model.
    """

    daemon: Daemon
    model: ScriptedModel
    results: dict[str, Future[Finished]]

    def records(self, model: str) -> list[dict[str, Any]]:
        """Give the records of its turns, in the order in which they began."""
        made = records(self.daemon)
        turns = [one for one in made if one["model"] == model and one["bytes_in"] > 10_000]
        return sorted(turns, key=lambda one: float(one["time"]))


@pytest.fixture(scope="module")
def held(
    opencode_program: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Conversations]:
    """Hold all conversations, as many at once as there are processors."""
    folder = tmp_path_factory.mktemp("faults")
    model = ScriptedModel(TURNS)
    with ScriptedBackend(model, models=tuple(TURNS)) as backend:
        spent = {"key": SPENT_KEY, "name": "spent", "total_quota": 1, "used_quota": 1}
        config = gateway_config(
            free_port(),
            [
                {
                    "name": "gpu",
                    "url": backend.url,
                    "first_byte_timeout": "2s",
                    "stall_timeout": "2s",
                }
            ],
            admin={"db_path": str(folder / "llmproxy.db")},
        )
        config["server"]["max_body_size"] = LARGEST_BODY_BYTES
        config["auth"]["pipeline"][0]["static"]["keys"].append(spent)
        with Daemon(folder, config) as daemon, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            daemon.wait_for_log("lists", 20)

            def converse(name: str) -> Finished:
                client = OpenCode(
                    opencode_program,
                    folder / name,
                    f"{daemon.url}/v1",
                    [name],
                    {"apiKey": "{env:LLMPROXY_API_KEY}"},
                )
                (client.project / "notes.txt").write_text("a note\n")
                (client.project / "long.txt").write_text("a long note\n" * 1000)
                return client.ask(name, PROMPT, SPENT_KEY if name == "spent" else KEY)

            results = {name: pool.submit(converse, name) for name in TURNS}
            yield Conversations(daemon, model, results)
    assert backend.errors == []


def errors_shown(finished: Finished) -> list[dict[str, Any]]:
    """Give the errors before the user's eyes."""
    return [dict(one["error"]) for one in finished.events if one["type"] == "error"]


def test_what_is_tried_again(held: Conversations) -> None:
    """The user waits, and sees a whole answer: nothing of what broke, and no error."""
    finished = held.results["stormy"].result()
    assert finished.status == 0, finished.output
    assert finished.texts() == "All is well."
    assert errors_shown(finished) == []
    assert [use["tool"] for use in finished.tool_uses()] == ["read"] * 5
    assert held.model.left().get("stormy") is None
    made = held.records("stormy")
    expected = [
        (500, "", "the backend's"),
        (429, "", "the backend's"),
        (502, "bad_response", "bad_response"),
        (200, "connection_lost", "connection_lost"),
        (504, "first_byte_timeout", "first_byte_timeout"),
        (200, "stall_timeout", "stall_timeout"),
    ]
    failed, good = made[::2], made[1::2]
    assert [(one["status"], one["error_code"]) for one in failed] == [one[:2] for one in expected]
    for one, again, (status, _, code) in zip(failed, good, expected, strict=True):
        assert (again["status"], again["outcome"]) == (200, "ok")
        assert one["bytes_in"] == again["bytes_in"], "not the same request"
        assert documented(str(status), code).startswith("tries again")


def test_what_is_too_long(held: Conversations) -> None:
    """The conversation is made shorter, and goes on."""
    finished = held.results["long"].result()
    assert held.model.left().get("long") is None, finished.output
    shown = errors_shown(finished)
    assert [one["name"] for one in shown] == ["ContextOverflowError"] * 2, finished.output
    assert [one["data"]["message"] for one in shown] == [
        TOO_LONG,
        "The request body is larger than server.max_body_size allows.",
    ]
    assert finished.texts().endswith("All is well.")
    for status, code in (("400", "maximum context length"), ("413", "request_too_large")):
        assert documented(status, code).startswith("compacts the conversation")
    # An answer without a reason for its end is taken for a step, and the next is asked for at once.
    assert "No reason to stop." in finished.texts()
    *_, unfinished, last = held.records("long")
    assert (unfinished["status"], unfinished["finish_reason"]) == (200, "")
    assert last["finish_reason"] == "stop"
    assert documented("200", "no `finish_reason`").startswith("asks again at once")


@pytest.mark.parametrize(
    ("model", "status", "code", "message"),
    [
        ("refused", "400", "the backend's", "the prompt is not what I like"),
        ("spent", "402", "quota_exceeded", "The budget of this API key is spent."),
        ("object", "200", "an `error` object", "the model fell over"),
        ("string", "200", "an `error` text", "Type validation failed"),
    ],
)
def test_what_is_shown(
    held: Conversations, model: str, status: str, code: str, message: str
) -> None:
    """The user reads why, once, and is not kept waiting."""
    finished = held.results[model].result()
    assert finished.status == 1
    (error,) = errors_shown(finished)
    assert message in error["data"]["message"], finished.output
    assert documented(status, code).startswith("shows")
    turns = [one for one in records(held.daemon) if one["key_name"] == "spent"]
    if model != "spent":
        turns = held.records(model)
        assert len(turns) == 1, "it was tried again"
    assert all(str(one["status"]) == status for one in turns)


def test_the_user_gives_up(opencode_program: str, tmp_path: Path) -> None:
    """Ctrl-C ends the work of the backend at once."""
    begun, ended = threading.Event(), threading.Event()

    def talks_on(connection: Connection) -> bool:
        connection.stream_head()
        connection.chunk(delta({"role": "assistant", "content": "Once upon a time"}))
        begun.set()
        connection.wait_for_close(60)
        ended.set()
        return True

    with ScriptedBackend(ScriptedModel({"m": [talks_on]})) as backend:
        config = gateway_config(free_port(), [{"name": "gpu", "url": backend.url}])
        with Daemon(tmp_path, config) as daemon:
            client = OpenCode(
                opencode_program,
                tmp_path / "client",
                f"{daemon.url}/v1",
                ["m"],
                {"apiKey": "{env:LLMPROXY_API_KEY}"},
            )
            process = subprocess.Popen(
                [opencode_program, "run", "--format", "json", "-m", "llmproxy/m", "Tell me."],
                cwd=client.project,
                env=client.environ(KEY),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                assert begun.wait(60)
                os.killpg(process.pid, signal.SIGINT)
                assert ended.wait(10)
                process.wait(30)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            daemon.wait_for_log('"outcome":"client_abort"', 10)
    (turn,) = [one for one in records(daemon) if one["bytes_in"] > 10_000]
    assert (turn["status"], turn["outcome"]) == (499, "client_abort")
