"""openai-python through the real daemon: what it asks for, and the errors that it raises."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.daemon import KEY, Daemon, free_port, gateway_config
from tests.scripted_backend import Connection, ScriptedBackend, event

HELLO: Any = [{"role": "user", "content": "Hello, ünïcode ✓"}]
READ_FILE: Any = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Read a file.",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string"}},
            "required": ["path"],
        },
    },
}
KEYS = [
    {"key": KEY, "name": "tester"},
    {"key": "sk-disabled", "status": "disabled"},
    {"key": "sk-expired", "expires_at": "2020-01-01"},
    {"key": "sk-elsewhere", "allowed_ips": ["10.0.0.0/8"]},
    {"key": "sk-other-model", "allowed_models": ["other-*"]},
]
SLOW_DOWN = b'{"error":{"message":"Slow down.","type":"rate_limit_error","code":"slow"},"n":1}'
BROKEN = b'{"error":{"message":"CUDA out of memory","type":"internal_error"}}'


def misbehave(connection: Connection) -> None:
    """Answer as the model's name says."""
    while (seen := connection.read_request()) is not None:
        match json.loads(seen.body)["model"]:
            case "busy":
                more = b"Retry-After: 17\r\nX-Backend: its own\r\n"
                connection.answer(SLOW_DOWN, b"429 Too Many Requests", more=more)
            case "broken":
                connection.answer(BROKEN, b"500 Internal Server Error")
            case "cut":
                connection.stream_head()
                delta = {"choices": [{"index": 0, "delta": {"content": "So far"}}]}
                connection.chunk(event(json.dumps(delta)) + b'data: {"choi')
                connection.sock.close()
                return
            case model:
                raise AssertionError(model)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A gateway with the demo model and with models that misbehave."""
    with ScriptedBackend(misbehave) as backend:
        config = gateway_config(
            free_port(),
            [
                {"name": "demo", "url": "demo:", "models": ["demo"]},
                {"name": "bad", "url": backend.url, "models": ["busy", "broken", "cut"]},
            ],
            models=[
                {"id": "demo", "context": 32768},
                *({"id": name} for name in ("busy", "broken", "cut")),
            ],
            auth={"pipeline": [{"name": "static", "type": "static", "static": {"keys": KEYS}}]},
        )
        with Daemon(tmp_path_factory.mktemp("sdk"), config) as running:
            yield running
    assert backend.errors == []


def client_of(daemon: Daemon, key: str = KEY) -> openai.OpenAI:
    """Make a client that neither retries nor looks at the environment's proxies."""
    return openai.OpenAI(
        base_url=f"{daemon.url}/v1",
        api_key=key,
        max_retries=0,
        timeout=20,
        http_client=openai.DefaultHttpxClient(trust_env=False),
    )


@pytest.fixture
def client(daemon: Daemon) -> Iterator[openai.OpenAI]:
    """A client with a good key."""
    with client_of(daemon) as made:
        yield made


def test_a_stream_says_what_a_plain_answer_says(client: openai.OpenAI) -> None:
    """Its pieces, put together, and the usage; only with the usage chunk that was asked for."""
    plain = client.chat.completions.create(model="demo", messages=HELLO)
    text = plain.choices[0].message.content
    assert text is not None
    assert "Hello, ünïcode ✓" in text
    assert plain.usage is not None
    assert plain._request_id
    chunks = list(
        client.chat.completions.create(
            model="demo", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert len(pieces) > 5
    assert "".join(pieces) == text
    assert chunks[-1].choices == []
    assert chunks[-1].usage == plain.usage
    unasked = list(client.chat.completions.create(model="demo", messages=HELLO, stream=True))
    assert [chunk.choices for chunk in unasked] == [chunk.choices for chunk in chunks[:-1]]
    assert all(chunk.usage is None for chunk in unasked)


def test_streamed_tool_calls(client: openai.OpenAI) -> None:
    """The pieces of the arguments make JSON, and the result of the tool is taken up."""
    asked: Any = [{"role": "user", "content": "Please read the file src/main.py"}]
    with client.chat.completions.stream(model="demo", messages=asked, tools=[READ_FILE]) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.function.name == "read_file"
    assert json.loads(call.function.arguments) == {"path": "src/main.py"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "print(42)"}
    told: Any = [*asked, message.model_dump(exclude_none=True), result]
    answered = client.chat.completions.create(model="demo", messages=told, tools=[READ_FILE])
    assert "print(42)" in (answered.choices[0].message.content or "")


def test_embeddings(client: openai.OpenAI) -> None:
    """Numbers and base64 are the same vectors."""
    numbers = client.embeddings.create(model="demo", input=["a", "b"], encoding_format="float")
    coded = client.embeddings.with_raw_response.create(
        model="demo", input=["a", "b"], encoding_format="base64"
    )
    assert len(numbers.data) == 2
    assert numbers.data[0].embedding != numbers.data[1].embedding
    for one, other in zip(numbers.data, json.loads(coded.content)["data"], strict=True):
        raw = base64.b64decode(other["embedding"])
        unpacked = struct.unpack(f"<{len(raw) // 4}f", raw)
        assert unpacked == pytest.approx(one.embedding, abs=1e-6)
    # What the client does when it is not told: it asks for base64 and decodes it.
    default = client.embeddings.create(model="demo", input=["a", "b"])
    assert default.data[0].embedding == pytest.approx(numbers.data[0].embedding, abs=1e-6)


def test_completions(client: openai.OpenAI) -> None:
    """The old endpoint, plain and streamed."""
    plain = client.completions.create(model="demo", prompt="once upon")
    pieces = client.completions.create(model="demo", prompt="once upon", stream=True)
    assert "once upon" in plain.choices[0].text
    assert "".join(chunk.choices[0].text for chunk in pieces) == plain.choices[0].text


def test_models(client: openai.OpenAI) -> None:
    """The list, one of it, and one that is not in it."""
    listed = list(client.models.list())
    assert [model.id for model in listed] == ["demo", "busy", "broken", "cut"]
    demo = client.models.retrieve("demo")
    assert demo == listed[0]
    assert (demo.object, demo.owned_by) == ("model", "llmproxy")
    assert demo.model_extra is not None
    assert demo.model_extra["max_model_len"] == 32768
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nothing/of-that-name")
    assert caught.value.code == "model_not_found"


def test_a_key_sees_only_its_models(daemon: Daemon) -> None:
    """A list without what may not be used."""
    with client_of(daemon, "sk-other-model") as client:
        assert list(client.models.list()) == []


@pytest.mark.parametrize(
    ("key", "error", "code", "message"),
    [
        ("sk-unknown", openai.AuthenticationError, "invalid_api_key", "not known here"),
        ("sk-disabled", openai.PermissionDeniedError, "key_disabled", "disabled"),
        ("sk-expired", openai.PermissionDeniedError, "key_expired", "expired"),
        ("sk-elsewhere", openai.PermissionDeniedError, "ip_not_allowed", "network address"),
        ("sk-other-model", openai.PermissionDeniedError, "model_not_allowed", "requested model"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_who_may_not(
    daemon: Daemon,
    key: str,
    error: type[openai.APIStatusError],
    code: str,
    message: str,
    stream: bool,
) -> None:
    """Each refusal is its own class and code, streamed or not, with the request's id."""
    with client_of(daemon, key) as client, pytest.raises(error) as caught:
        client.chat.completions.create(
            model="demo", messages=HELLO, stream=stream, extra_headers={"X-Request-ID": "mine-7"}
        )
    assert caught.value.code == code
    assert message in caught.value.message
    assert caught.value.request_id == "mine-7"
    assert key not in str(caught.value)


def test_an_unknown_model(client: openai.OpenAI) -> None:
    """404, in words, and it reached no backend."""
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-9", messages=HELLO)
    assert caught.value.body == {
        "message": "The requested model does not exist here.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    assert caught.value.request_id


def test_a_bad_request(client: openai.OpenAI) -> None:
    """The backend's own refusal comes through as 400."""
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="demo", messages=[])


def test_a_backends_429_passes_unchanged(client: openai.OpenAI) -> None:
    """Its body, its Retry-After and its own fields."""
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="busy", messages=HELLO)
    assert caught.value.response.content == SLOW_DOWN
    assert caught.value.response.headers["retry-after"] == "17"
    assert "retry-after-ms" not in caught.value.response.headers
    assert caught.value.response.headers["x-backend"] == "its own"
    assert caught.value.code == "slow"
    assert caught.value.request_id


def test_a_backends_500_passes_unchanged(client: openai.OpenAI) -> None:
    """Its body and its status."""
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="broken", messages=HELLO)
    assert caught.value.status_code == 500
    assert caught.value.response.content == BROKEN


def test_a_stream_that_breaks_off_is_an_error(client: openai.OpenAI, daemon: Daemon) -> None:
    """What came before is given, then the client raises: nobody takes it for complete."""
    stream = client.chat.completions.create(model="cut", messages=HELLO, stream=True)
    said: list[str | None] = []
    with pytest.raises(openai.APIError) as caught:
        said.extend(chunk.choices[0].delta.content for chunk in stream)
    assert said == ["So far"]
    assert caught.value.message == "The inference server broke off its answer."
    assert caught.value.type == "server_error"
    line = daemon.wait_for_log('"model":"cut"')
    assert json.loads(line)["outcome"] == "truncated"
