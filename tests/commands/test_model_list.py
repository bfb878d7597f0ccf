"""Asking a running gateway for its models."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmproxy.commands.failures import Refused, Unreachable
from llmproxy.commands.model_list import ask_models
from llmproxy.values import ModelCard
from tests.commands.fake_gateway import FakeGateway, running
from tests.daemon import free_port
from tests.upstream.certificates import Authority

LISTED = [
    {"id": "plain", "object": "model", "created": 1, "owned_by": "llmproxy"},
    {
        "id": "org/whole",
        "name": "Whole",
        "max_model_len": 131072,
        "max_output_tokens": 8192,
        "input_modalities": ["text", "image"],
        "reasoning": True,
        "more": {"than": "we know"},
    },
]


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    """A gateway with two models."""
    with running(FakeGateway(body=json.dumps({"data": LISTED}).encode())) as fake:
        yield fake


def test_models(gateway: FakeGateway) -> None:
    """What is known of each."""
    assert ask_models(f"{gateway.url}/prefix", "Authorization", "sk-1") == [
        ModelCard("plain", 0),
        ModelCard("org/whole", 0, "Whole", "", 131072, 8192, images=True, reasoning=True),
    ]
    ((path, fields),) = gateway.asked
    assert path == "/prefix/v1/models"
    assert fields["Authorization"] == "Bearer sk-1"


def test_where_the_key_goes(gateway: FakeGateway) -> None:
    """Into the field that the gateway looks at; without one, nowhere."""
    ask_models(gateway.url, "X-Team-Key", "sk-1")
    ask_models(gateway.url, "X-Team-Key", "")
    (_, with_key), (_, without) = gateway.asked
    assert with_key["X-Team-Key"] == "sk-1"
    assert "Authorization" not in with_key
    assert "X-Team-Key" not in without


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_not_taken(gateway: FakeGateway, status: int) -> None:
    """It says which key, and never shows it."""
    gateway.status = status
    with pytest.raises(Refused) as caught:
        ask_models(gateway.url, "Authorization", "sk-secret")
    assert caught.value.message == f"{gateway.url} does not take the key in $LLMPROXY_API_KEY"
    with pytest.raises(Refused, match="wants a key to tell its own: set \\$LLMPROXY_API_KEY"):
        ask_models(gateway.url, "Authorization", "")


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"<html>"), (200, b"[]"), (200, b'{"data":[{"name":"x"}]}'), (404, b"{}"), (302, b"")],
)
def test_something_else_answers(gateway: FakeGateway, status: int, body: bytes) -> None:
    """Nobody is sent elsewhere with a key."""
    gateway.status, gateway.body = status, body
    with pytest.raises(Unreachable, match="but not as LLMProxy does"):
        ask_models(gateway.url, "Authorization", "sk-1")
    assert len(gateway.asked) == 1


def test_nobody_answers() -> None:
    """It says what can be done."""
    with pytest.raises(Unreachable, match=r"Connection refused\. Start the daemon, name"):
        ask_models(f"http://127.0.0.1:{free_port()}", "Authorization", "sk-1")


def test_a_key_that_no_header_can_carry(gateway: FakeGateway) -> None:
    """It is not shown."""
    with pytest.raises(Unreachable) as caught:
        ask_models(gateway.url, "Authorization", "canary\nkey")
    assert "canary" not in caught.value.message


def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    """It says so."""
    context = Authority(tmp_path, "unknown").server_context("127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            sock, _ = server.accept()
            with pytest.raises(ssl.SSLError), sock:
                context.wrap_socket(sock, server_side=True)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unreachable, match="its certificate is not trusted"):
            ask_models(f"https://127.0.0.1:{server.getsockname()[1]}", "Authorization", "sk-1")
        thread.join()
