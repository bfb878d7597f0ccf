"""Tests of what the demo model serves, over its real socket."""

from __future__ import annotations

import base64
import struct
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, gatherResults

from tests.backends.demo.loopback import LoopbackTestCase

HI = {"role": "user", "content": "hi there"}


class SiteTests(LoopbackTestCase):
    """Each path, and all that is refused."""

    async def test_health_and_models(self) -> None:
        """Both are served without a body, labelled as the demo."""
        response, _ = await self.ask("GET", "/health")
        self.assertEqual(response.code, 200)
        self.assertEqual(response.headers.getRawHeaders("server"), ["llmproxy-demo"])
        response, body = await self.ask("GET", "/v1/models")
        listed = msgspec.json.decode(body)
        self.assertEqual(listed["object"], "list")
        [model] = listed["data"]
        self.assertEqual((model["id"], model["object"]), ("demo", "model"))
        self.assertEqual(model["max_model_len"], 32768)
        response, body = await self.ask("GET", "/v1/models/demo")
        self.assertEqual(msgspec.json.decode(body), model)
        response, body = await self.ask("GET", "/v1/models/other")
        self.assertEqual(response.code, 404)
        self.assertEqual(msgspec.json.decode(body)["error"]["code"], "model_not_found")

    async def test_head_is_get_without_the_body(self) -> None:
        """A health check may use it."""
        _, body = await self.ask("GET", "/health")
        response, nothing = await self.ask("HEAD", "/health")
        self.assertEqual((response.code, nothing), (200, b""))
        length = response.headers.getRawHeaders("content-length")
        self.assertEqual(length, [str(len(body))])

    async def test_a_plain_chat(self) -> None:
        """The same request has the same bytes, and the model's name is the client's."""
        request = {"model": "any/name", "messages": [HI]}
        response, body = await self.ask("POST", "/v1/chat/completions", request)
        self.assertEqual(response.code, 200)
        self.assertEqual(response.headers.getRawHeaders("content-type"), ["application/json"])
        _, again = await self.ask("POST", "/v1/chat/completions", request)
        self.assertEqual(body, again)
        answer = msgspec.json.decode(body)
        self.assertEqual(answer["model"], "any/name")
        self.assertEqual(answer["system_fingerprint"], "llmproxy-demo")
        self.assertIn("not a real one", answer["choices"][0]["message"]["content"])

    async def test_a_streamed_chat_says_the_same_as_the_plain_one(self) -> None:
        """Chunked, as an event stream, to its ``[DONE]``."""
        plain = await self.chat(messages=[HI])
        request = {"messages": [HI], "stream": True, "stream_options": {"include_usage": True}}
        response, body = await self.ask("POST", "/v1/chat/completions", request)
        kinds = response.headers.getRawHeaders("content-type")
        self.assertEqual(kinds, ["text/event-stream; charset=utf-8"])
        self.assertFalse(response.headers.hasHeader("content-length"))
        events = body.removesuffix(b"\n\n").split(b"\n\n")
        self.assertEqual(events.pop(), b"data: [DONE]")
        chunks = [msgspec.json.decode(event.removeprefix(b"data: ")) for event in events]
        self.assertEqual(chunks.pop()["usage"], plain["usage"])
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        self.assertEqual(text, plain["choices"][0]["message"]["content"])

    async def test_an_assistant_reads_a_file(self) -> None:
        """The whole loop: ask, be called, give the result, and the answer has the token."""
        schema = {
            "type": "object",
            "properties": {"filePath": {"type": "string"}},
            "required": ["filePath"],
        }
        tools = [{"type": "function", "function": {"name": "read", "parameters": schema}}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": "Read the file n.txt"}]
        called = await self.chat(messages=messages, tools=tools, tool_choice="auto")
        choice = called["choices"][0]
        self.assertEqual(choice["finish_reason"], "tool_calls")
        [call] = choice["message"]["tool_calls"]
        self.assertEqual(msgspec.json.decode(call["function"]["arguments"]), {"filePath": "n.txt"})
        result = {"role": "tool", "tool_call_id": call["id"], "content": "token zebra-4711"}
        messages += [choice["message"], result]
        told = await self.chat(messages=messages, tools=tools, tool_choice="auto")
        self.assertEqual(told["choices"][0]["finish_reason"], "stop")
        self.assertIn("zebra-4711", told["choices"][0]["message"]["content"])

    async def test_completions_plain_and_streamed(self) -> None:
        """Two prompts give two choices either way."""
        request: dict[str, Any] = {"prompt": ["one", "two"], "max_tokens": 50}
        _, body = await self.ask("POST", "/v1/completions", request)
        plain = msgspec.json.decode(body)
        self.assertTrue(plain["id"].startswith("cmpl-"))
        _, body = await self.ask("POST", "/v1/completions", {**request, "stream": True})
        events = body.removesuffix(b"\n\n").split(b"\n\n")
        self.assertEqual(events.pop(), b"data: [DONE]")
        texts = ["", ""]
        for event in events:
            for choice in msgspec.json.decode(event.removeprefix(b"data: "))["choices"]:
                texts[choice["index"]] += choice["text"]
        self.assertEqual(texts, [choice["text"] for choice in plain["choices"]])

    async def test_embeddings_in_both_encodings(self) -> None:
        """Sixty-four dimensions unless told otherwise."""
        request: dict[str, Any] = {"model": "e", "input": ["a", "b c"]}
        _, body = await self.ask("POST", "/v1/embeddings", request)
        answer = msgspec.json.decode(body)
        self.assertEqual([len(one["embedding"]) for one in answer["data"]], [64, 64])
        self.assertEqual(answer["usage"], {"prompt_tokens": 3, "total_tokens": 3})
        short = {"input": "a", "dimensions": 4}
        _, body = await self.ask("POST", "/v1/embeddings", short)
        numbers = msgspec.json.decode(body)["data"][0]["embedding"]
        _, body = await self.ask("POST", "/v1/embeddings", {**short, "encoding_format": "base64"})
        packed = base64.b64decode(msgspec.json.decode(body)["data"][0]["embedding"])
        self.assertEqual(list(struct.unpack("<4f", packed)), numbers)

    async def test_what_is_not_served_is_said_plainly(self) -> None:
        """Known and unknown paths alike, whatever the method."""
        paths = ["/", "/v1", "/v1/chat", "/v1/chat/completions/", "/health/x", "/tokenize"]
        paths += ["/v1/responses", "/v1/messages", "/v1/rerank", "/v1/score", "/detokenize"]
        for path in paths:
            for method in ("GET", "POST", "DELETE", "PATCH"):
                response, body = await self.ask(method, path, {})
                self.assertEqual(response.code, 404, path)
                error = msgspec.json.decode(body)["error"]
                self.assertEqual(set(error), {"message", "type", "param", "code"})
                self.assertEqual(error["code"], "unknown_url")
                self.assertIn("demo model", error["message"])

    async def test_other_methods_are_refused(self) -> None:
        """And those that are taken are told."""
        for method, path, allowed in [
            ("GET", "/v1/chat/completions", "POST"),
            ("PUT", "/v1/embeddings", "POST"),
            ("HEAD", "/v1/completions", "POST"),
            ("POST", "/v1/models", "GET, HEAD"),
        ]:
            response, body = await self.ask(method, path)
            self.assertEqual(response.code, 405)
            self.assertEqual(response.headers.getRawHeaders("allow"), [allowed])
            if method != "HEAD":
                self.assertEqual(msgspec.json.decode(body)["error"]["code"], "method_not_allowed")

    async def test_bad_requests_are_refused(self) -> None:
        """As plain JSON even where a stream was asked for."""
        for path, body, code, param in [
            ("/v1/chat/completions", b"{", "invalid_json", None),
            ("/v1/chat/completions", b"", "invalid_json", None),
            ("/v1/chat/completions", b'{"stream":true}', "invalid_body", "messages"),
            ("/v1/completions", b"{}", "invalid_body", "prompt"),
            ("/v1/completions", b'{"prompt":[]}', "invalid_body", "prompt"),
            ("/v1/embeddings", b"{}", "invalid_body", "input"),
            ("/v1/embeddings", b'{"input":"a","dimensions":0}', "invalid_body", "dimensions"),
        ]:
            response, answer = await self.ask("POST", path, body)
            self.assertEqual(response.code, 400, body)
            error = msgspec.json.decode(answer)["error"]
            self.assertEqual((error["code"], error["param"]), (code, param))
            self.assertEqual(error["type"], "invalid_request_error")
            kinds = response.headers.getRawHeaders("content-type")
            self.assertEqual(kinds, ["application/json"])

    async def test_fifty_streams_at_once(self) -> None:
        """Each gets its own answer, whole."""
        asked = [
            Deferred.fromCoroutine(
                self.ask(
                    "POST",
                    "/v1/chat/completions",
                    {"stream": True, "messages": [{"role": "user", "content": f"n{number}."}]},
                )
            )
            for number in range(50)
        ]
        for number, (response, body) in enumerate(await gatherResults(asked)):
            self.assertEqual(response.code, 200)
            self.assertIn(f'"content":" n{number}."'.encode(), body)
            self.assertTrue(body.endswith(b"data: [DONE]\n\n"))
        self.assertEqual(self.server.open_streams, 0)
