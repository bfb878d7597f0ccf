"""The access log, byte for byte."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from llmproxy.interfaces import ILogSink, IReporter
from llmproxy.logs.access import FLUSH_AFTER_S, AccessLog, combined_line, json_line
from llmproxy.values import LogLine, TriedBackend, Usage, UsageRecord

BARE = UsageRecord(
    id="id-1",
    time=1_700_000_000.25,
    request_id="req-1",
    method="GET",
    endpoint="/v1/models",
    outcome="ok",
    status=200,
)
FULL = UsageRecord(
    id="id-2",
    time=1_700_000_000.0,
    request_id="req-2",
    endpoint="/v1/chat/completions",
    key_id="k1",
    key_name="team a",
    user_id="u1",
    model="qwen 72b",
    upstream_model="Qwen/Qwen2.5-72B",
    backend="gpu-2",
    stream=True,
    usage=Usage(10, 20, 30, 5, 6),
    usage_source="exact",
    outcome="truncated",
    status=200,
    error_code="stalled",
    finish_reason="tool_calls",
    tool_calls={"read": 2, "write": 1},
    session_id="ses_1",
    parent_session_id="ses_0",
    first_byte_ms=12.34,
    duration_ms=5678.9,
    queue_ms=1.0,
    attempts=2,
    tried=(TriedBackend("gpu-1", "connect_failed"),),
    bytes_in=100,
    bytes_out=2000,
    client_ip="192.0.2.7",
    user_agent="opencode/1.18",
    referer="https://app.example/",
)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is UTC+2 in these tests."""
    before = os.environ.get("TZ")
    monkeypatch.setenv("TZ", "XST-2")
    time.tzset()
    yield
    monkeypatch.undo()
    assert os.environ.get("TZ") == before
    time.tzset()


def test_bare_combined_line() -> None:
    """What is not known is a dash."""
    assert combined_line(BARE) == (
        '- - - [15/Nov/2023:00:13:20 +0200] "GET /v1/models HTTP/1.1" 200 - "-" "-" '
        "request_id=req-1 model=- backend=- outcome=ok stream=no first_byte_ms=- "
        "duration_ms=0.0 tokens=0+0(none)\n"
    )


def test_full_combined_line() -> None:
    """What any tool for combined logs reads, and after it the gateway's own."""
    assert combined_line(FULL) == (
        "192.0.2.7 - team\\x20a [15/Nov/2023:00:13:20 +0200] "
        '"POST /v1/chat/completions HTTP/1.1" 200 2000 "https://app.example/" "opencode/1.18" '
        "request_id=req-2 model=qwen\\x2072b backend=gpu-2 outcome=truncated stream=yes "
        "first_byte_ms=12.3 duration_ms=5678.9 tokens=10+20(exact) finish_reason=tool_calls "
        "tool_calls=read:2,write:1 session=ses_1 error=stalled tried=gpu-1:connect_failed\n"
    )


def test_key_id_stands_in_for_a_name() -> None:
    """When the key has none."""
    assert combined_line(attrs.evolve(BARE, key_id="k1")).startswith("- - k1 [")


def test_json_line() -> None:
    """Every fact of the record under its own name, on one line."""
    line = json_line(FULL)
    assert line == (
        '{"id":"id-2","time":1700000000.0,"request_id":"req-2","method":"POST",'
        '"endpoint":"/v1/chat/completions","protocol":"HTTP/1.1","key_id":"k1",'
        '"key_name":"team a","user_id":"u1","model":"qwen 72b",'
        '"upstream_model":"Qwen/Qwen2.5-72B","backend":"gpu-2","stream":true,'
        '"usage_source":"exact","outcome":"truncated","status":200,"error_code":"stalled",'
        '"finish_reason":"tool_calls","tool_calls":{"read":2,"write":1},"session_id":"ses_1",'
        '"parent_session_id":"ses_0","first_byte_ms":12.34,"duration_ms":5678.9,'
        '"queue_ms":1.0,"attempts":2,'
        '"tried":[{"backend":"gpu-1","error":"connect_failed"}],"bytes_in":100,'
        '"bytes_out":2000,"client_ip":"192.0.2.7","user_agent":"opencode/1.18",'
        '"referer":"https://app.example/","prompt_tokens":10,"completion_tokens":20,'
        '"total_tokens":30,"cached_tokens":5,"reasoning_tokens":6}\n'
    )
    assert json.loads(json_line(BARE))["first_byte_ms"] is None


FORGERIES = [
    'Mozilla" 200 1 "-" "forged',
    "agent\n192.0.2.1 - admin [forged]",
    "agent\r\nforged",
    'back\\"slash',
    "\\",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b2J",
    "next\x85line, \u2028 and \u2029",
    "del\x7f nul\0 tab\t",
    '"',
]


def changed(name: str, text: str) -> UsageRecord:
    """Give a bare record with one value of a client's in it."""
    change: dict[str, Any] = {name: text}
    return attrs.evolve(BARE, **change)


def printable(line: str) -> bool:
    """Say whether a line holds nothing but text, and one end."""
    return line.endswith("\n") and all(
        character == " " or character.isprintable() for character in line[:-1]
    )


@pytest.mark.parametrize("text", FORGERIES)
@pytest.mark.parametrize("name", ["user_agent", "referer", "endpoint", "method"])
def test_quoted_fields_cannot_be_forged(text: str, name: str) -> None:
    """Whatever a client writes stays one field of one line, and can be told from it."""
    line = combined_line(changed(name, text))
    assert printable(line)
    assert line.splitlines() == [line[:-1]]
    assert line.replace("\\\\", "").count('"') == 6
    expected = combined_line(changed(name, "@"))
    assert [part.count(" ") for part in shlex.split(line)][-8:] == [0] * 8
    start, end = expected.split("@")
    assert line.startswith(start)
    assert line.endswith(end)


@pytest.mark.parametrize("text", [*FORGERIES, "a b outcome=ok", " "])
@pytest.mark.parametrize("name", ["model", "session_id", "finish_reason", "key_name"])
def test_bare_fields_cannot_be_forged(text: str, name: str) -> None:
    """Nor what stands outside quotes: no space of theirs begins a new field."""
    line = combined_line(changed(name, text))
    assert printable(line)
    usual = combined_line(changed(name, "@"))
    assert len(line.split(" ")) == len(usual.split(" "))
    assert line.count('"') == 6


def test_tool_names_cannot_be_forged() -> None:
    """They come from models, which write anything."""
    line = combined_line(attrs.evolve(BARE, tool_calls={'a b"\n': 1}))
    assert line.endswith(" tool_calls=a\\x20b\\x22\\x0a:1\n")


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_json_lines_hold_anything(text: str) -> None:
    """One line, whatever stands in it, and it reads back as it was."""
    line = json_line(attrs.evolve(BARE, user_agent=text, model=text))
    assert line.count("\n") == 1
    assert json.loads(line)["user_agent"] == text


@implementer(ILogSink)
class FakeSink:
    """Takes lines.

    Attributes:
        written: What was written, by call.
        full: Whether it fails as a full disk does.
    """

    def __init__(self) -> None:
        self.written: list[list[LogLine]] = []
        self.full = False

    def write(self, lines: Sequence[LogLine]) -> None:
        """Take lines, or fail."""
        if self.full:
            raise OSError(28, "No space left on device")
        self.written.append(list(lines))


class Written(SynchronousTestCase):
    """The reporter around the lines."""

    def test_it_is_a_reporter(self) -> None:
        """It provides the interface."""
        self.assertTrue(verifyObject(IReporter, AccessLog(FakeSink(), "json", Clock())))

    def test_formats(self) -> None:
        """Each record is a line; those of a short while go out together."""
        formats: tuple[Literal["combined", "json"], ...] = ("combined", "json")
        for line_format in formats:
            encode = json_line if line_format == "json" else combined_line
            clock, sink = Clock(), FakeSink()
            log = AccessLog(sink, line_format, clock)
            log.report(BARE)
            clock.advance(FLUSH_AFTER_S / 2)
            log.report(FULL)
            self.assertEqual(sink.written, [])
            clock.advance(FLUSH_AFTER_S / 2)
            both = [
                LogLine(encode(BARE), 6, "req-1", "access"),
                LogLine(encode(FULL), 6, "req-2", "access"),
            ]
            self.assertEqual(sink.written, [both])
            self.assertEqual(clock.getDelayedCalls(), [])
            log.report(BARE)
            log.close()
            self.assertEqual(sink.written, [both, both[:1]])
            self.assertEqual(clock.getDelayedCalls(), [])

    def test_a_full_disk(self) -> None:
        """It costs lines, never a request; the log tells of it once per outage."""
        sink, clock = FakeSink(), Clock()
        log = AccessLog(sink, "json", clock)
        with capturedLogs() as told:
            for _ in range(2):
                sink.full = True
                for _ in range(2):
                    log.report(BARE)
                    clock.advance(FLUSH_AFTER_S)
                sink.full = False
                log.report(FULL)
                clock.advance(FLUSH_AFTER_S)
        self.assertEqual(
            [[line.request_id for line in call] for call in sink.written], [["req-2"]] * 2
        )
        self.assertEqual(len(told), 2)
        self.assertIn("No space left on device", formatEvent(told[0]))

    def test_switching(self) -> None:
        """What was reported before goes where it was, all that comes to the new one."""
        clock, old, new = Clock(), FakeSink(), FakeSink()
        log = AccessLog(old, "json", clock)
        log.report(BARE)
        log.switch(new, "combined")
        self.assertEqual(
            [[line.text for line in call] for call in old.written], [[json_line(BARE)]]
        )
        log.report(FULL)
        clock.advance(FLUSH_AFTER_S)
        self.assertEqual(
            [[line.text for line in call] for call in new.written], [[combined_line(FULL)]]
        )
        self.assertEqual(len(old.written), 1)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_a_line_that_cannot_be_encoded(self) -> None:
        """It costs that line, and is told."""
        sink, clock = FakeSink(), Clock()
        log = AccessLog(sink, "json", clock)
        with capturedLogs() as told:
            log.report(attrs.evolve(BARE, model="\ud800"))
            log.report(FULL)
            clock.advance(FLUSH_AFTER_S)
        self.assertEqual([line.request_id for line in sink.written[0]], ["req-2"])
        self.assertEqual(len(told), 1)
