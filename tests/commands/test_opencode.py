"""``llmproxy opencode-config``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from llmproxy.cli import main
from tests.commands.fake_gateway import FakeGateway, running

START = 'backends: [{name: a, url: "http://127.0.0.1:1"}]\nauth: {enabled: false}\n'
MODELS = """\
models:
  - {id: big, name: "The big one", context: 131072, output: 4096, images: true}
  - {id: small, context: 16384}
"""
HERE = 'server: {listen: "127.0.0.1:8000"}\n'


def run(tmp_path: Path, text: str, *words: str, **environ: str) -> Result:
    """Run the command with a configuration."""
    file = tmp_path / "x.yaml"
    file.write_text(START + text)
    arguments = ["opencode-config", "--config", str(file), *words]
    return CliRunner().invoke(main, arguments, env={"LLMPROXY_API_KEY": None, **environ})


def printed(tmp_path: Path, text: str, *words: str, **environ: str) -> Any:
    """Run it, and give what it printed."""
    result = run(tmp_path, text, *words, **environ)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return json.loads(result.stdout)


def test_models_of_the_configuration(tmp_path: Path) -> None:
    """All that it says of them, and no key."""
    config = printed(tmp_path, HERE + MODELS)
    provider = config["provider"]["llmproxy"]
    assert provider["models"] == {
        "big": {
            "name": "The big one",
            "limit": {"context": 131072, "output": 4096},
            "attachment": True,
            "modalities": {"input": ["text", "image"], "output": ["text"]},
        },
        "small": {"name": "small", "limit": {"context": 16384, "output": 4096}},
    }
    assert provider["options"]["baseURL"] == "http://127.0.0.1:8000/v1"
    assert provider["options"]["apiKey"] == "{env:LLMPROXY_API_KEY}"
    assert config["model"] == "llmproxy/big"


@pytest.mark.parametrize(
    ("words", "models", "default"),
    [
        (("--model", "small"), ["small"], "small"),
        (("--model", "small", "--model", "big"), ["small", "big"], "small"),
    ],
)
def test_chosen_models(
    tmp_path: Path, words: tuple[str, ...], models: list[str], default: str
) -> None:
    """Those alone, the first as the default."""
    config = printed(tmp_path, HERE + MODELS, *words)
    assert list(config["provider"]["llmproxy"]["models"]) == models
    assert config["model"] == f"llmproxy/{default}"


def test_a_model_that_there_is_not(tmp_path: Path) -> None:
    """It says which there are."""
    result = run(tmp_path, HERE + MODELS, "--model", "huge", "--model", "big")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: no model huge; there are: big, small\n"


@pytest.mark.parametrize(
    ("text", "words", "url"),
    [
        ("server: {listen: '10.0.0.7:8000'}\n", (), "http://10.0.0.7:8000"),
        ("server: {listen: [':80', '[::1]:8000']}\n", (), "http://[::1]:8000"),
        ("opencode: {url: 'https://gw.example/llm/'}\n", (), "https://gw.example/llm"),
        (HERE + "opencode: {url: 'https://gw.example'}\n", (), "https://gw.example"),
        (HERE, ("--url", "https://other.example:1/"), "https://other.example:1"),
    ],
)
def test_where_the_gateway_is(tmp_path: Path, text: str, words: tuple[str, ...], url: str) -> None:
    """As told, as configured, or where it listens."""
    config = printed(tmp_path, text + MODELS, *words)
    assert config["provider"]["llmproxy"]["options"]["baseURL"] == f"{url}/v1"


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("", (), "does not say where clients find the gateway: it listens on :8000; want --url"),
        (HERE, ("--url", "https://gw.example/v1"), "--url ends in /v1, which is appended"),
        (HERE, ("--url", "gw.example"), "--url is not a URL of http or https"),
        (HERE + "nonsense: 1\n", (), "nonsense: is an unknown key"),
    ],
)
def test_wrong_use(tmp_path: Path, text: str, words: tuple[str, ...], expected: str) -> None:
    """It prints nothing, and says what is wanted."""
    result = run(tmp_path, text + MODELS, *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert expected in result.stderr


def test_models_of_the_running_gateway(tmp_path: Path) -> None:
    """When the configuration names none; what is not known of one is told."""
    listed = {"data": [{"id": "vllm", "max_model_len": 40000}, {"id": "other"}]}
    with running(FakeGateway(body=json.dumps(listed).encode())) as gateway:
        result = run(tmp_path, "", "--url", gateway.url, LLMPROXY_API_KEY="sk-1")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["provider"]["llmproxy"]["models"] == {
        "vllm": {"name": "vllm", "limit": {"context": 40000, "output": 8192}},
        "other": {"name": "other"},
    }
    assert result.stderr.startswith("other: its context window is not known")
    assert gateway.asked[0][1]["Authorization"] == "Bearer sk-1"


def test_no_models_at_all(tmp_path: Path) -> None:
    """It is refused."""
    with running(FakeGateway()) as gateway:
        result = run(tmp_path, "", "--url", gateway.url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: there is no model\n"
