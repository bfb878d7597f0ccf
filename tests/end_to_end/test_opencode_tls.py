"""The real OpenCode over TLS with an internal CA: tools, an image, thoughts and a subagent.

Its configuration is the one that ``llmproxy opencode-config`` prints.
"""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.daemon import BIN, KEY, Daemon, free_port, gateway_config
from tests.end_to_end.access_records import records
from tests.end_to_end.node_clients import OpenCodeHome
from tests.end_to_end.scripted_model import ScriptedModel, calls, says, texts_of
from tests.end_to_end.test_opencode import write_token
from tests.scripted_backend import ScriptedBackend
from tests.upstream.certificates import Authority

pytestmark = pytest.mark.node

# One red pixel.
IMAGE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)


def test_a_whole_conversation(opencode_program: str, tmp_path: Path) -> None:
    """Every request comes through: three turns with tools, of which one is a subagent's work."""
    authority = Authority(tmp_path, "internal-ca")
    cert_file, key_file = authority.issue("127.0.0.1", "localhost")
    model = ScriptedModel(
        {
            "qwen-72b": [
                calls("read", filePath="notes.txt"),
                calls("task", description="Look", prompt="Look for more.", subagent_type="general"),
                calls("write", filePath="found.txt", content="found it\n"),
                says("All three are done.", thinking="That was the last one."),
            ],
            "qwen-72b/subagent": [
                calls("read", filePath="notes.txt"),
                says("The subagent is done."),
            ],
        }
    )
    with ScriptedBackend(model, models=("qwen-72b",)) as backend:
        port = free_port()
        config = gateway_config(
            port,
            [{"name": "gpu", "url": backend.url}],
            models=[
                {
                    "id": "qwen-72b",
                    "name": "Qwen 72B",
                    "context": 131072,
                    "output": 8192,
                    "images": True,
                    "reasoning": True,
                }
            ],
        )
        config["server"]["tls"] = {"enabled": True, "cert_file": cert_file, "key_file": key_file}
        with Daemon(tmp_path, config) as daemon:
            printed = subprocess.run(
                [BIN / "llmproxy", "opencode-config", "--config", tmp_path / "llmproxy.yaml"],
                capture_output=True,
                timeout=60,
                check=True,
            )
            told = json.loads(printed.stdout)
            assert told["provider"]["llmproxy"]["options"]["baseURL"] == (
                f"https://127.0.0.1:{port}/v1"
            )
            home = OpenCodeHome(
                opencode_program,
                tmp_path / "client",
                told | {"permission": {"*": "allow"}},
                {"NODE_EXTRA_CA_CERTS": authority.cert_file},
            )
            token = write_token(home)
            (home.project / "red.png").write_bytes(IMAGE)
            finished = home.ask("", "What is in the image?", KEY, "--file", "red.png")
            assert finished.status == 0, finished.output
            assert [use["tool"] for use in finished.tool_uses()] == ["read", "task", "write"]
            assert finished.texts() == "All three are done."
            assert (home.project / "found.txt").read_text() == "found it\n"
            assert model.left() == {}
            daemon.wait_for_log('"outcome":"ok"')
    assert backend.errors == []

    # What the model was sent: the image, the results of each tool, the subagent's too.
    turns = model.turns_of("qwen-72b")
    own = [request for seen, request in turns if not seen.header("X-Parent-Session-Id")]
    assert len(own) == 4
    image = f"data:image/png;base64,{base64.b64encode(IMAGE).decode()}"
    assert all(image in text for text in texts_of(own[0]["messages"], "user")[-1:])
    results = texts_of(own[-1]["messages"], "tool")
    for expected, result in zip((token, "The subagent is done.", "success"), results, strict=True):
        assert expected in result

    # What was recorded: the subagent has a session of its own, and names its parent.
    made = [one for one in records(daemon) if one["bytes_in"] > 10_000]
    assert len(made) == 6
    assert {(one["status"], one["outcome"]) for one in made} == {(200, "ok")}
    (parent,) = {one["session_id"] for one in made if not one["parent_session_id"]}
    children = [one for one in made if one["parent_session_id"]]
    assert len(children) == 2
    assert {one["parent_session_id"] for one in children} == {parent}
    called = sorted(name for one in made for name in one["tool_calls"])
    assert called == ["read", "read", "task", "write"]


def test_models_that_only_the_running_gateway_knows(tmp_path: Path) -> None:
    """The command asks it over TLS, with a key; without the CA it says what is wrong."""
    authority = Authority(tmp_path, "internal-ca")
    cert_file, key_file = authority.issue("127.0.0.1")
    with ScriptedBackend(ScriptedModel({}), models=("a", "b")) as backend:
        config = gateway_config(free_port(), [{"name": "gpu", "url": backend.url}])
        config["server"]["tls"] = {"enabled": True, "cert_file": cert_file, "key_file": key_file}
        file = tmp_path / "asked.yaml"
        file.write_text(yaml.safe_dump(config))
        with Daemon(tmp_path, config) as daemon:
            daemon.wait_for_log("lists 2 models", 20)

            def ask(**environ: str) -> subprocess.CompletedProcess[str]:
                return subprocess.run(
                    [BIN / "llmproxy", "opencode-config", "--config", file],
                    capture_output=True,
                    text=True,
                    timeout=60,
                    env={"PATH": "/usr/bin:/bin", **environ},
                )

            told = ask(LLMPROXY_API_KEY=KEY, SSL_CERT_FILE=authority.cert_file)
            assert list(json.loads(told.stdout)["provider"]["llmproxy"]["models"]) == ["a", "b"]
            assert "its certificate is not trusted" in ask(LLMPROXY_API_KEY=KEY).stderr
            refused = ask(SSL_CERT_FILE=authority.cert_file)
            assert "set $LLMPROXY_API_KEY to one" in refused.stderr
            assert refused.returncode == 1
